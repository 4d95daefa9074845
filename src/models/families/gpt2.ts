/**
 * GPT-2: LayerNorm, learned positions, biases everywhere, tanh GELU, tied head. Matrices are stored [in, out], queries, keys
 * and values in one. The Hub's files leave out `transformer.` and hold the mask of each layer.
 */
import type { ParamNames, StoredAs } from "../params.ts";
import { GELUS, specialTokens, specReader } from "./config.ts";
import type { Family } from "./family.ts";

const names: ParamNames = {
  embed: "transformer.wte.weight",
  posEmbed: "transformer.wpe.weight",
  lnFinal: "transformer.ln_f.weight",
  lnFinalBias: "transformer.ln_f.bias",
  head: "lm_head.weight",
  block: (layer) => {
    const at = `transformer.h.${layer}`;
    const turned = (name: string): StoredAs => ({ name: `${at}.${name}.weight`, transposed: true });
    const part = (index: number, kind: "weight" | "bias"): StoredAs => ({
      name: `${at}.attn.c_attn.${kind}`,
      transposed: true,
      part: { index, of: 3, perHead: false },
    });
    return {
      ln1: `${at}.ln_1.weight`,
      ln1Bias: `${at}.ln_1.bias`,
      wQ: part(0, "weight"),
      wK: part(1, "weight"),
      wV: part(2, "weight"),
      bQ: part(0, "bias"),
      bK: part(1, "bias"),
      bV: part(2, "bias"),
      wO: turned("attn.c_proj"),
      bO: `${at}.attn.c_proj.bias`,
      ln2: `${at}.ln_2.weight`,
      ln2Bias: `${at}.ln_2.bias`,
      wUp: turned("mlp.c_fc"),
      bUp: `${at}.mlp.c_fc.bias`,
      wDown: turned("mlp.c_proj"),
      bDown: `${at}.mlp.c_proj.bias`,
    };
  },
};

export const gpt2: Family = {
  names,
  prefix: "transformer.",
  buffers: /^h\.\d+\.attn\.(bias|masked_bias)$/,
  spec: specReader("gpt2", (c) => {
    c.only("scale_attn_by_inverse_layer_idx", false);
    c.only("reorder_and_upcast_attn", false);
    c.only("add_cross_attention", false);
    c.ignore("attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx", "gradient_checkpointing", "_num_labels");
    c.ignore("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type");
    c.ignore("summary_use_proj");
    const dModel = c.number("n_embd");
    const nHeads = c.number("n_head");
    const nLayers = c.number("n_layer");
    const headDim = dModel / nHeads;
    return {
      vocabSize: c.number("vocab_size"),
      dModel,
      nLayers,
      nHeads,
      nKvHeads: nHeads,
      headDim,
      dMlp: c.number("n_inner", 4 * dModel),
      contextLength: c.number("n_positions", 1024),
      norm: { kind: "layer", eps: c.number("layer_norm_epsilon", 1e-5) },
      positions: { kind: "learned" },
      mlp: { kind: "plain", activation: c.choice("activation_function", GELUS, "gelu_new") },
      mlpBias: true,
      attnScale: c.flag("scale_attn_weights", true) ? headDim ** -0.5 : 1,
      attnSoftcap: 0,
      windowPattern: new Array<number>(nLayers).fill(0),
      qkvBias: true,
      outBias: true,
      tiedHead: c.flag("tie_word_embeddings", true),
      ...specialTokens(c),
    };
  }),
};
