import assert from "node:assert/strict";
import { test } from "node:test";
import { forwardPacked, KvCache, type ModelSpec, type Transformer } from "../../src/models/index.ts";
import { type Device, slice, type Tensor } from "../../src/tensor/index.ts";
import { assertNear, BACKENDS, someIds, tinyModel, tinySpec, withDevice } from "./helpers.ts";

const V = tinySpec.vocabSize;

function tokensOf(device: Device, rows: readonly ArrayLike<number>[]): Tensor {
  const data = rows.flatMap((r) => Array.from(r));
  return device.tensor(data, [rows.length, rows[0].length], "i32");
}

/** Logits of each position, by one forward pass without a cache. */
async function fullLogits(model: Transformer, rows: readonly ArrayLike<number>[]): Promise<Float32Array> {
  const logits = model.device.scope(() => model.forward(tokensOf(model.device, rows)).logits!);
  return await logits.floats().finally(() => logits.dispose());
}

/** The same through a cache, fed in pieces of the given lengths. */
async function cachedLogits(
  model: Transformer,
  cache: KvCache,
  rows: readonly Int32Array[],
  pieces: readonly number[],
): Promise<Float32Array[]> {
  const out: Float32Array[] = [];
  let at = 0;
  for (const length of pieces) {
    const part = rows.map((r) => r.slice(at, at + length));
    const logits = model.device.scope(() => model.forward(tokensOf(model.device, part), { cache }).logits!);
    out.push(await logits.floats());
    logits.dispose();
    at += length;
  }
  return out;
}

for (const backend of BACKENDS) {
  test(`decoding through the cache gives the logits of the whole pass on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const model = tinyModel(device);
      const row = someIds(12);
      const full = await fullLogits(model, [row]);
      for (const pieces of [[12], [5, 1, 1, 1, 4], new Array<number>(12).fill(1)]) {
        const cache = new KvCache(device, model.spec, { batch: 1, capacity: 12 });
        const parts = await cachedLogits(model, cache, [row], pieces);
        assert.equal(cache.length, 12);
        assertNear(
          parts.flatMap((p) => [...p]),
          full,
          `in pieces of ${pieces}`,
          { absolute: 1e-5, relative: 1e-5 },
        );
        cache.dispose();
      }
      model.dispose();
    }));

  test(`left padding changes no logit on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const model = tinyModel(device);
      const rows = [someIds(9, 1), someIds(4, 2), someIds(7, 3)];
      const starts = rows.map((r) => 9 - r.length);
      const padded = rows.map((r, b) => Int32Array.from([...new Array<number>(starts[b]).fill(5), ...r]));
      const cache = new KvCache(device, model.spec, { batch: 3, capacity: 9, starts });
      const parts = await cachedLogits(model, cache, padded, [6, 1, 2]);
      for (const [b, row] of rows.entries()) {
        const full = await fullLogits(model, [row]);
        const mine = parts.flatMap((p) => {
          const T = p.length / (3 * V);
          return [...p.subarray(b * T * V, (b + 1) * T * V)];
        });
        assertNear(mine.slice(starts[b] * V), full, `row ${b}`, { absolute: 1e-5, relative: 1e-5 });
      }
      cache.dispose();
      model.dispose();
    }));
}

/** Shapes of block that no test of the Llama shape reaches. */
const KINDS: Readonly<Record<string, Partial<ModelSpec>>> = {
  "learned positions": {
    norm: { kind: "layer", eps: 1e-5 },
    positions: { kind: "learned" },
    mlp: { kind: "plain", activation: "geluTanh" },
    mlpBias: true,
  },
  "a parallel residual and partial rotation": {
    norm: { kind: "layer", eps: 1e-5 },
    positions: { kind: "rope", theta: 10000, fraction: 0.5 },
    mlp: { kind: "plain", activation: "gelu" },
    parallelResidual: true,
  },
  "windows with a rotation of their own": {
    positions: { kind: "rope", theta: 10000, fraction: 1, windowed: { theta: 100 } },
    windowPattern: [3, 0, 2],
    qkNorm: true,
    normPlacement: "around",
    attnSoftcap: 4,
    logitSoftcap: 6,
  },
};

for (const [kind, changes] of Object.entries(KINDS)) {
  test(`${kind}: the cache and left padding change no logit`, () =>
    withDevice("native", async (device) => {
      const model = tinyModel(device, changes);
      const rows = [someIds(9, 1), someIds(4, 2), someIds(7, 3)];
      const starts = rows.map((r) => 9 - r.length);
      const padded = rows.map((r, b) => Int32Array.from([...new Array<number>(starts[b]).fill(5), ...r]));
      for (const pieces of [[9], [6, 1, 2], new Array<number>(9).fill(1)]) {
        const cache = new KvCache(device, model.spec, { batch: 3, capacity: 9, starts });
        const parts = await cachedLogits(model, cache, padded, pieces);
        for (const [b, row] of rows.entries()) {
          const mine = parts.flatMap((p) => {
            const n = p.length / 3;
            return [...p.subarray(b * n, (b + 1) * n)];
          });
          const full = await fullLogits(model, [row]);
          assertNear(mine.slice(starts[b] * V), full, `row ${b}`, { absolute: 1e-5, relative: 1e-5 });
        }
        cache.dispose();
      }
      model.dispose();
    }));
}

test("learned positions end with the context, padding not counted; rotary ones go on", () =>
  withDevice("native", async (device) => {
    const { contextLength } = tinySpec;
    const [learned, rotary] = [tinyModel(device, { positions: { kind: "learned" } }), tinyModel(device)];
    const long = tokensOf(device, [someIds(contextLength + 1)]);
    device.scope(() => void rotary.forward(long));
    assert.throws(() => device.scope(() => learned.forward(long)), {
      code: "input",
      message: /forward: 25 tokens, but the model has learned only 24 positions/,
    });
    const cache = new KvCache(device, learned.spec, { batch: 1, capacity: 25, starts: [1] });
    device.scope(() => void learned.forward(long, { cache }));
    cache.dispose();
    long.dispose();
    learned.dispose();
    rotary.dispose();
  }));

test("documents of one window are as they would be alone, with learned positions too", () =>
  withDevice("native", async (device) => {
    for (const changes of [{ positions: { kind: "learned" } }, {}] as Partial<ModelSpec>[]) {
      const model = tinyModel(device, changes);
      const [a, b] = [someIds(5, 1), someIds(7, 2)];
      const batch = {
        tokens: Int32Array.from([...a, ...b]),
        segments: Int32Array.from([...a.map(() => 0), ...b.map(() => 1)]),
      };
      const packed = device.scope(() => forwardPacked(model, batch, 12).logits!);
      const alone = [...(await fullLogits(model, [a])), ...(await fullLogits(model, [b]))];
      assertNear(await packed.floats(), alone, "logits", { absolute: 1e-5, relative: 1e-5 });
      packed.dispose();
      if (changes.positions) {
        assert.throws(
          () =>
            device.scope(() =>
              model.forward(device.tensor(batch.tokens, [1, 12], "i32"), {
                segments: device.tensor(batch.segments, [1, 12], "i32"),
              }),
            ),
          /learned positions, which begin anew in each document; give positions with the segments/,
        );
      }
      model.dispose();
    }
  }));

test("a window limits what a cached query sees, as in the whole pass", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { windowPattern: [0, 3, 2] });
    const row = someIds(10);
    const cache = new KvCache(device, model.spec, { batch: 1, capacity: 10 });
    const parts = await cachedLogits(model, cache, [row], [4, 1, 1, 1, 1, 1, 1]);
    const full = await fullLogits(model, [row]);
    assertNear(
      parts.flatMap((p) => [...p]),
      full,
      "logits",
      { absolute: 1e-5, relative: 1e-5 },
    );
    cache.dispose();
    model.dispose();
  }));

test("a cache in f16 is close and half the size", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device);
    const row = someIds(12);
    const before = device.memory().bytes;
    const wide = new KvCache(device, model.spec, { batch: 1, capacity: 64 });
    const wideBytes = device.memory().bytes - before;
    const half = new KvCache(device, model.spec, { batch: 1, capacity: 64, dtype: "f16" });
    assert.ok(device.memory().bytes - before - wideBytes < 0.6 * wideBytes);
    const parts = await cachedLogits(model, half, [row], [11, 1]);
    const full = await fullLogits(model, [row]);
    assertNear(parts[1], full.slice(11 * V), "last logits", { absolute: 2e-2, relative: 2e-2 });
    wide.dispose();
    half.dispose();
    model.dispose();
  }));

test("a full cache refuses another position, and a pattern cannot be hooked while decoding", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device);
    const tokens = tokensOf(device, [someIds(4)]);
    const cache = new KvCache(device, model.spec, { batch: 1, capacity: 5 });
    device.scope(() => void model.forward(tokens, { cache }));
    assert.throws(
      () => device.scope(() => model.forward(tokens, { cache })),
      /4 \+ 4 positions do not fit into 5/,
    );
    const capture = ["blocks.0.attn.hook_pattern"];
    assert.throws(
      () => device.scope(() => model.forward(slice(tokens, [0, 0], [1, 1]), { cache, capture })),
      /not available while decoding/,
    );
    tokens.dispose();
    cache.dispose();
    model.dispose();
  }));
