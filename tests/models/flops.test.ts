/**
 * Operations of a forward pass, against numbers that can be done by head and against LIMe's table of overheads.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { forwardFlops, type ModelSpec, parameterCount, trainingFlops } from "../../src/models/index.ts";
import { tinySpec } from "./helpers.ts";

/** The language model of arXiv 2502.09245, table 3. */
const paper: ModelSpec = {
  ...tinySpec,
  vocabSize: 50_257,
  dModel: 2048,
  nLayers: 16,
  nHeads: 32,
  headDim: 64,
  dMlp: 8192,
  contextLength: 2048,
  windowPattern: new Array<number>(16).fill(0),
};

const LEARNED = { kind: "learned" } as const;
const HYPER = { kind: "hyper", streams: 4 } as const;

for (const [nKvHeads, plain, routed, streams] of [
  [8, "2.7615", "2.7638", "2.7701"],
  [32, "2.9679", "3.0041", "2.9764"],
] as const) {
  test(`in the convention of LIMe's code, ${nKvHeads} key-value heads cost what its table says`, () => {
    const tera = (more: Partial<ModelSpec> = {}): string =>
      ((2048 * forwardFlops({ ...paper, nKvHeads, ...more }, { convention: "lime" }).total) / 1e12).toFixed(
        4,
      );
    assert.equal(tera(), plain);
    assert.equal(tera({ kvRouting: LEARNED }), routed);
    assert.equal(tera({ residual: HYPER }), streams);
  });
}

test("a product costs 2 for each weight and token: matrices of parameterCount, and nothing else outside attention", () => {
  const { attention, unembedding, total } = forwardFlops(tinySpec);
  const { blocks } = parameterCount(tinySpec);
  const gains = 3 * 2 * 16;
  assert.equal(total - attention - unembedding, 2 * (blocks - gains));
  assert.equal(unembedding, 2 * 31 * 16);
  assert.equal(trainingFlops(tinySpec), 3 * total);
});

test("attention counts all keys of the window, or those that a query sees", () => {
  // 3 layers of 4 heads of 4: 64 a key and layer, scores and values, 2 each.
  const attention = (spec: ModelSpec, keys: "all" | "seen", window: number) =>
    forwardFlops(spec, { keys, window }).attention;
  assert.equal(attention(tinySpec, "all", 8), 3 * 64 * 8);
  assert.equal(attention(tinySpec, "seen", 8), 3 * 64 * 4.5);
  const windowed = { ...tinySpec, windowPattern: [0, 2, 100] };
  // With 2 keys at most, 8 queries see 1 + 7 · 2.
  assert.equal(attention(windowed, "seen", 8), 64 * (4.5 + 15 / 8 + 4.5));
  assert.equal(attention(windowed, "all", 8), 3 * 64 * 8);
});

test("routing costs 4 · Dh · G · G for each source of a layer that has several", () => {
  const routing = (kvRouting: ModelSpec["kvRouting"]) => forwardFlops({ ...tinySpec, kvRouting }).routing;
  const each = 4 * 4 * 2 * 2;
  assert.equal(routing(LEARNED), each * (2 + 3));
  assert.equal(routing({ kind: "average" }), each * (2 + 3));
  assert.equal(routing({ kind: "learned", last: 2 }), each * (2 + 2));
  assert.equal(routing({ kind: "learned", last: 1 }), 0);
  assert.equal(routing({ kind: "hidden-static" }), 2 * 16 * 2 * (2 + 3));
  assert.equal(routing({ kind: "hidden-dynamic", from: 2 }), 2 * 2 * 16 * 2 * 3);
  assert.equal(routing(undefined), 0);
});

test("DenseFormer's sums cost 2 · d for each of l + 2 terms, streams 4 · d · n · (n + 2) a module", () => {
  const dense = forwardFlops({ ...tinySpec, residual: { kind: "dense" } });
  assert.equal(dense.depth, 2 * 16 * (2 + 3 + 4));
  const hyper = forwardFlops({ ...tinySpec, residual: HYPER });
  assert.equal(hyper.connections, 6 * 4 * 16 * 4 * 6);
  for (const { total } of [dense, hyper]) assert.ok(total > forwardFlops(tinySpec).total);
});

test("what cannot be counted is refused", () => {
  assert.throws(() => forwardFlops(tinySpec, { window: 0 }), /a window of 0 tokens/);
  assert.throws(() => forwardFlops(tinySpec, { convention: "lime", keys: "seen" }), /leave keys out/);
  const dense: ModelSpec = { ...tinySpec, residual: { kind: "dense" } };
  const hidden: ModelSpec = { ...tinySpec, kvRouting: { kind: "hidden-static" } };
  for (const spec of [dense, hidden])
    assert.throws(() => forwardFlops(spec, { convention: "lime" }), /count this model with "products"/);
});
