/**
 * GPT-NeoX (Pythia): LayerNorm, attention and MLP side by side, rotary positions on part of each head. Queries, keys and
 * values of a head lie together in one matrix.
 */
import type { ParamNames, StoredAs } from "../params.ts";
import { GELUS, specialTokens, specReader } from "./config.ts";
import type { Family } from "./family.ts";
import { ropeSpec } from "./rope.ts";

const names: ParamNames = {
  embed: "gpt_neox.embed_in.weight",
  lnFinal: "gpt_neox.final_layer_norm.weight",
  lnFinalBias: "gpt_neox.final_layer_norm.bias",
  head: "embed_out.weight",
  block: (layer) => {
    const at = `gpt_neox.layers.${layer}`;
    const part = (index: number, kind: "weight" | "bias"): StoredAs => ({
      name: `${at}.attention.query_key_value.${kind}`,
      part: { index, of: 3, perHead: true },
    });
    return {
      ln1: `${at}.input_layernorm.weight`,
      ln1Bias: `${at}.input_layernorm.bias`,
      wQ: part(0, "weight"),
      wK: part(1, "weight"),
      wV: part(2, "weight"),
      bQ: part(0, "bias"),
      bK: part(1, "bias"),
      bV: part(2, "bias"),
      wO: `${at}.attention.dense.weight`,
      bO: `${at}.attention.dense.bias`,
      ln2: `${at}.post_attention_layernorm.weight`,
      ln2Bias: `${at}.post_attention_layernorm.bias`,
      wUp: `${at}.mlp.dense_h_to_4h.weight`,
      bUp: `${at}.mlp.dense_h_to_4h.bias`,
      wDown: `${at}.mlp.dense_4h_to_h.weight`,
      bDown: `${at}.mlp.dense_4h_to_h.bias`,
    };
  },
};

export const gptNeox: Family = {
  names,
  prefix: "gpt_neox.",
  buffers: /^layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$|^rotary_emb\.inv_freq$/,
  spec: specReader("gpt_neox", (c) => {
    c.ignore("hidden_dropout", "classifier_dropout", "gradient_checkpointing");
    const dModel = c.number("hidden_size");
    const nHeads = c.number("num_attention_heads");
    const nLayers = c.number("num_hidden_layers");
    const headDim = dModel / nHeads;
    const biased = c.flag("attention_bias", true);
    return {
      vocabSize: c.number("vocab_size"),
      dModel,
      nLayers,
      nHeads,
      nKvHeads: nHeads,
      headDim,
      dMlp: c.number("intermediate_size"),
      contextLength: c.number("max_position_embeddings", 2048),
      norm: { kind: "layer", eps: c.number("layer_norm_eps", 1e-5) },
      positions: ropeSpec(c, {
        theta: "rotary_emb_base",
        fraction: { key: "rotary_pct", otherwise: 0.25 },
      }),
      mlp: { kind: "plain", activation: c.choice("hidden_act", GELUS, "gelu") },
      mlpBias: true,
      parallelResidual: c.flag("use_parallel_residual", true),
      attnScale: headDim ** -0.5,
      attnSoftcap: 0,
      windowPattern: new Array<number>(nLayers).fill(0),
      qkvBias: biased,
      outBias: biased,
      tiedHead: c.flag("tie_word_embeddings", false),
      ...specialTokens(c),
    };
  }),
};
