/**
 * Keys and values as LIMe's released code stores them, against the golden pair of layouts.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { splitFusedKv } from "../../src/lime/index.ts";
import { golden, goldenJson } from "../golden.ts";

test("the fused matrices hold the same keys and values as the checkpoint", () => {
  const config = goldenJson<Record<string, number>>("lime", "config.json");
  const sizes = { heads: config.num_key_value_heads, headDim: config.head_dim, width: config.hidden_size };
  const [fused, weights] = [golden("lime", "kv_fused.safetensors"), golden("lime", "weights.safetensors")];
  assert.equal(fused.names().length, config.num_hidden_layers);
  for (const name of fused.names()) {
    const layer = name.split(".").at(-1);
    const { k, v } = splitFusedKv(fused.floats(name), sizes);
    assert.deepEqual(k, weights.floats(`model.layers.${layer}.self_attn.k_proj.weight`), name);
    assert.deepEqual(v, weights.floats(`model.layers.${layer}.self_attn.v_proj.weight`), name);
  }
  assert.throws(() => splitFusedKv(new Float32Array(10), sizes), /10 numbers, expected/);
});
