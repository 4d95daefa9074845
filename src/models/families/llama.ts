/**
 * The Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU, tied or untied head. Its names and most of its
 * keys are also those of the models made after it.
 */
import type { BlockRole, ParamNames } from "../params.ts";
import type { ModelSpec, RopeSpec } from "../spec.ts";
import { type ConfigReader, specialTokens, specReader } from "./config.ts";
import type { Family } from "./family.ts";
import { type RopeKeys, ropeSpec } from "./rope.ts";

/** A name for every parameter that a spec can ask for, also where no model of Llama's has it. */
export const llamaNames = {
  embed: "model.embed_tokens.weight",
  posEmbed: "model.embed_positions.weight",
  lnFinal: "model.norm.weight",
  lnFinalBias: "model.norm.bias",
  head: "lm_head.weight",
  block: (layer) => {
    const at = `model.layers.${layer}`;
    return {
      ln1: `${at}.input_layernorm.weight`,
      ln1Bias: `${at}.input_layernorm.bias`,
      wQ: `${at}.self_attn.q_proj.weight`,
      wK: `${at}.self_attn.k_proj.weight`,
      wV: `${at}.self_attn.v_proj.weight`,
      bQ: `${at}.self_attn.q_proj.bias`,
      bK: `${at}.self_attn.k_proj.bias`,
      bV: `${at}.self_attn.v_proj.bias`,
      qNorm: `${at}.self_attn.q_norm.weight`,
      kNorm: `${at}.self_attn.k_norm.weight`,
      router: `${at}.self_attn.lime_router.static_weights`,
      routeNorm: `${at}.self_attn.lime_router.norm.weight`,
      routeLogits: `${at}.self_attn.lime_router.static_logits`,
      routeMask: `${at}.self_attn.lime_router.static_mask`,
      routeOf: `${at}.self_attn.lime_router.dynamic_proj.weight`,
      wO: `${at}.self_attn.o_proj.weight`,
      bO: `${at}.self_attn.o_proj.bias`,
      ln1Post: `${at}.attention_output_layernorm.weight`,
      ln1PostBias: `${at}.attention_output_layernorm.bias`,
      ln2: `${at}.post_attention_layernorm.weight`,
      ln2Bias: `${at}.post_attention_layernorm.bias`,
      wGate: `${at}.mlp.gate_proj.weight`,
      bGate: `${at}.mlp.gate_proj.bias`,
      wUp: `${at}.mlp.up_proj.weight`,
      bUp: `${at}.mlp.up_proj.bias`,
      wDown: `${at}.mlp.down_proj.weight`,
      bDown: `${at}.mlp.down_proj.bias`,
      ln2Post: `${at}.mlp_output_layernorm.weight`,
      ln2PostBias: `${at}.mlp_output_layernorm.bias`,
      depth: `${at}.depth_average.weight`,
      attnAlpha: `${at}.attn_connections.alpha`,
      attnBeta: `${at}.attn_connections.beta`,
      attnAlphaOf: `${at}.attn_connections.alpha_proj.weight`,
      attnBetaOf: `${at}.attn_connections.beta_proj.weight`,
      attnAlphaScale: `${at}.attn_connections.alpha_scale`,
      attnBetaScale: `${at}.attn_connections.beta_scale`,
      mlpAlpha: `${at}.mlp_connections.alpha`,
      mlpBeta: `${at}.mlp_connections.beta`,
      mlpAlphaOf: `${at}.mlp_connections.alpha_proj.weight`,
      mlpBetaOf: `${at}.mlp_connections.beta_proj.weight`,
      mlpAlphaScale: `${at}.mlp_connections.alpha_scale`,
      mlpBetaScale: `${at}.mlp_connections.beta_scale`,
    } satisfies Record<BlockRole, string>;
  },
} satisfies ParamNames;

/** Prefix and buffers of checkpoints that are named like Llama's. */
export const llamaFiles = {
  prefix: "model.",
  buffers: /^(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$/,
} as const;

/** Defaults that the relatives of Llama do not share. */
export interface LlamaDefaults extends RopeKeys {
  readonly context: number;
  readonly headDim?: number;
  readonly tiedHead?: boolean;
  /** Positions that the family has read in its own way. */
  readonly positions?: RopeSpec;
}

/** The keys that Llama shares with its relatives, who then say what is different. */
export function llamaLike(c: ConfigReader, defaults: LlamaDefaults): ModelSpec {
  const nHeads = c.number("num_attention_heads");
  const dModel = c.number("hidden_size");
  const headDim = c.number("head_dim", defaults.headDim ?? dModel / nHeads);
  const nLayers = c.number("num_hidden_layers");
  return {
    vocabSize: c.number("vocab_size"),
    dModel,
    nLayers,
    nHeads,
    nKvHeads: c.number("num_key_value_heads", nHeads),
    headDim,
    dMlp: c.number("intermediate_size"),
    contextLength: c.number("max_position_embeddings", defaults.context),
    norm: { kind: "rms", eps: c.number("rms_norm_eps", 1e-6), offset: 0 },
    positions: defaults.positions ?? ropeSpec(c, defaults),
    mlp: { kind: "gated", activation: "silu" },
    attnScale: headDim ** -0.5,
    attnSoftcap: 0,
    windowPattern: new Array<number>(nLayers).fill(0),
    qkvBias: false,
    tiedHead: c.flag("tie_word_embeddings", defaults.tiedHead ?? false),
    ...specialTokens(c),
  };
}

/** The keys of Llama itself. */
export function llamaKeys(c: ConfigReader): ModelSpec {
  c.only("hidden_act", "silu");
  c.only("attention_bias", false);
  c.only("mlp_bias", false);
  c.only("rope_interleaved", false);
  c.only("is_llama_config", true);
  c.ignore("pretraining_tp");
  return llamaLike(c, { context: 2048 });
}

export const llama: Family = { names: llamaNames, spec: specReader("llama", llamaKeys), ...llamaFiles };
