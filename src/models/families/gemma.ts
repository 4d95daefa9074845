/**
 * Gemma 2 and 3 (text): norms around attention and MLP with gains stored minus one, a scaled embedding, a gated MLP with
 * tanh GELU, layers with and without a window. Gemma 2 caps scores and logits; Gemma 3 norms queries and keys and turns
 * the layers with a window by another theta.
 */
import type { BlockRole, ParamNames } from "../params.ts";
import type { ModelSpec } from "../spec.ts";
import { type ConfigReader, specReader, windowPattern } from "./config.ts";
import type { Family } from "./family.ts";
import { llamaFiles, llamaLike, llamaNames } from "./llama.ts";
import { ropeByLayerType } from "./rope.ts";

const gemmaNames: ParamNames = {
  ...llamaNames,
  block: (layer): Partial<Record<BlockRole, string>> => ({
    ...llamaNames.block(layer),
    ln1Post: `model.layers.${layer}.post_attention_layernorm.weight`,
    ln2: `model.layers.${layer}.pre_feedforward_layernorm.weight`,
    ln2Post: `model.layers.${layer}.post_feedforward_layernorm.weight`,
  }),
};

/** What both share, given the keys that they read in their own way. */
function gemmaLike(c: ConfigReader, base: ModelSpec): ModelSpec {
  c.only("hidden_act", "gelu_pytorch_tanh");
  c.only("hidden_activation", "gelu_pytorch_tanh");
  c.only("attention_bias", false);
  c.only("use_bidirectional_attention", false);
  return {
    ...base,
    norm: { kind: "rms", eps: base.norm.eps, offset: 1 },
    normPlacement: "around",
    mlp: { kind: "gated", activation: "geluTanh" },
    embedScale: Math.sqrt(base.dModel),
    attnScale: c.number("query_pre_attn_scalar", 256) ** -0.5,
  };
}

export const gemma2: Family = {
  names: gemmaNames,
  ...llamaFiles,
  spec: specReader("gemma2", (c) => {
    const base = llamaLike(c, { context: 8192, headDim: 256, tiedHead: true });
    const window = c.optional("sliding_window", 4096);
    return {
      ...gemmaLike(c, base),
      attnSoftcap: c.optional("attn_logit_softcapping", 50) ?? 0,
      logitSoftcap: c.optional("final_logit_softcapping", 30) ?? 0,
      windowPattern: windowPattern(c, base.nLayers, window, (l) => l % 2 === 0),
    };
  }),
};

export const gemma3: Family = {
  names: gemmaNames,
  ...llamaFiles,
  spec: specReader("gemma3_text", (c) => {
    const positions = ropeByLayerType(c, 1e6, 1e4);
    const base = llamaLike(c, { context: 131072, headDim: 256, tiedHead: true, positions });
    c.only("attn_logit_softcapping", null);
    const window = c.optional("sliding_window", 4096);
    const every = c.number("sliding_window_pattern", c.number("_sliding_window_pattern", 6));
    return {
      ...gemmaLike(c, base),
      qkNorm: true,
      logitSoftcap: c.optional("final_logit_softcapping") ?? 0,
      windowPattern: windowPattern(c, base.nLayers, window, (l) => (l + 1) % every !== 0),
    };
  }),
};
