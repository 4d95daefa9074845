import assert from "node:assert/strict";
import { test } from "node:test";
import { type ForwardOptions, KvCache, type Transformer } from "../../src/models/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { someTokens, tinyModel, withDevice } from "./helpers.ts";

function withModel(body: (model: Transformer, tokens: Tensor) => Promise<void>): Promise<void> {
  return withDevice("native", async (device) => {
    const model = tinyModel(device);
    const tokens = someTokens(device, 2, 5);
    await body(model, tokens).finally(() => {
      tokens.dispose();
      model.dispose();
    });
  });
}

async function logits(model: Transformer, tokens: Tensor, options: ForwardOptions = {}) {
  const out = model.device.scope(() => model.forward(tokens, options).logits!);
  return await out.floats().finally(() => out.dispose());
}

test("given positions stand for the default ones, and must lie in the context", () =>
  withModel(async (model, tokens) => {
    const row = [0, 1, 2, 3, 4];
    assert.deepEqual(
      await logits(model, tokens, { positions: [...row, ...row] }),
      await logits(model, tokens),
    );
    for (const strange of [24, -1, 1.5]) {
      await assert.rejects(
        logits(model, tokens, { positions: [...row, 0, 1, 2, 3, strange] }),
        new RegExp(
          `position ${strange} is not in the model's context of 24; give whole numbers from 0 to 23`,
        ),
      );
    }
    await assert.rejects(logits(model, tokens, { positions: row }), /5 positions for tokens \[2, 5\]/);
  }));

test("segments and a cache are not taken together", () =>
  withModel(async (model, tokens) => {
    const cache = new KvCache(model.device, model.spec, { batch: 2, capacity: 8 });
    const segments = model.device.tensor(new Int32Array(10), [2, 5], "i32");
    await assert.rejects(logits(model, tokens, { cache, segments }), {
      code: "usage",
      message: /segments and a cache cannot go together/,
    });
    assert.equal(cache.length, 0);
    segments.dispose();
    cache.dispose();
  }));
