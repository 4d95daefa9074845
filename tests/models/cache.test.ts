import assert from "node:assert/strict";
import { test } from "node:test";
import { KvCache, type Transformer } from "../../src/models/index.ts";
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
