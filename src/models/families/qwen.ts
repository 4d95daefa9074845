/**
 * Qwen 2 and 2.5: Llama with biases on queries, keys and values. Qwen 3: norms on queries and keys instead. The layers
 * from `max_window_layers` on may have a window.
 */
import type { ModelSpec } from "../spec.ts";
import { type ConfigReader, specReader, windowPattern } from "./config.ts";
import type { Family } from "./family.ts";
import { type LlamaDefaults, llamaFiles, llamaLike, llamaNames } from "./llama.ts";

function qwenLike(c: ConfigReader, defaults: LlamaDefaults): ModelSpec {
  c.only("hidden_act", "silu");
  c.only("use_mrope", false);
  const base = llamaLike(c, defaults);
  const width = c.optional("sliding_window", 4096);
  const window = c.flag("use_sliding_window", false) ? width : undefined;
  const first = c.number("max_window_layers", 28);
  const slides = (layer: number) => window !== undefined && layer >= first;
  return { ...base, windowPattern: windowPattern(c, base.nLayers, window, slides) };
}

export const qwen2: Family = {
  names: llamaNames,
  ...llamaFiles,
  spec: specReader("qwen2", (c) => {
    c.only("attention_bias", true);
    return { ...qwenLike(c, { context: 32768 }), qkvBias: true };
  }),
};

export const qwen3: Family = {
  names: llamaNames,
  ...llamaFiles,
  spec: specReader("qwen3", (c) => {
    c.only("attention_bias", false);
    return { ...qwenLike(c, { context: 32768, headDim: 128 }), qkNorm: true };
  }),
};
