/**
 * Mistral: Llama with a window over the keys in every layer, or in none.
 */
import { specReader, windowPattern } from "./config.ts";
import type { Family } from "./family.ts";
import { llamaFiles, llamaLike, llamaNames } from "./llama.ts";

export const mistral: Family = {
  names: llamaNames,
  ...llamaFiles,
  spec: specReader("mistral", (c) => {
    c.only("hidden_act", "silu");
    c.only("attention_bias", false);
    const base = llamaLike(c, { context: 131072 });
    const window = c.optional("sliding_window", 4096);
    return { ...base, windowPattern: windowPattern(c, base.nLayers, window, () => window !== undefined) };
  }),
};
