/**
 * The Llama family: RMSNorm, rotary positions, grouped queries, SwiGLU, tied or untied head. Its `config.json`, in the
 * keys of transformers 5 and of 4.x, becomes a spec; anything in it that would change a number and is not known is refused.
 */
import { isDeepStrictEqual } from "node:util";
import { inputError, usageError } from "../../util/index.ts";
import type { ParamNames } from "../params.ts";
import { checkSpec, type Llama3Scaling, type ModelSpec, type RopeSpec } from "../spec.ts";

type Json = Readonly<Record<string, unknown>>;

export const llamaNames: ParamNames = {
  embed: "model.embed_tokens.weight",
  lnFinal: "model.norm.weight",
  head: "lm_head.weight",
  block: (layer) => {
    const at = `model.layers.${layer}`;
    return {
      ln1: `${at}.input_layernorm.weight`,
      wQ: `${at}.self_attn.q_proj.weight`,
      wK: `${at}.self_attn.k_proj.weight`,
      wV: `${at}.self_attn.v_proj.weight`,
      bQ: `${at}.self_attn.q_proj.bias`,
      bK: `${at}.self_attn.k_proj.bias`,
      bV: `${at}.self_attn.v_proj.bias`,
      wO: `${at}.self_attn.o_proj.weight`,
      ln2: `${at}.post_attention_layernorm.weight`,
      wGate: `${at}.mlp.gate_proj.weight`,
      wUp: `${at}.mlp.up_proj.weight`,
      wDown: `${at}.mlp.down_proj.weight`,
    };
  },
};

/** Keys that change no number of the forward pass. */
const IRRELEVANT = new Set([
  "architectures",
  "model_type",
  "dtype",
  "torch_dtype",
  "transformers_version",
  "use_cache",
  "pad_token_id",
  "initializer_range",
  "pretraining_tp",
  "attention_dropout",
  "_name_or_path",
  "name_or_path",
  "torchscript",
]);
/** Keys whose only supported value is the one given. */
const FIXED: Record<string, unknown> = { hidden_act: "silu", attention_bias: false, mlp_bias: false };
const USED = new Set([
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "num_key_value_heads",
  "head_dim",
  "intermediate_size",
  "max_position_embeddings",
  "rms_norm_eps",
  "rope_theta",
  "rope_scaling",
  "rope_parameters",
  "tie_word_embeddings",
  "bos_token_id",
  "eos_token_id",
]);

/** Spec of a Llama `config.json`. */
export function llamaSpec(config: Json): ModelSpec {
  for (const [key, value] of Object.entries(config)) {
    if (USED.has(key) || IRRELEVANT.has(key) || value === null) continue;
    if (!(key in FIXED))
      throw inputError(`config.json: ${key} = ${JSON.stringify(value)} is not known for a llama model`);
    if (value !== FIXED[key]) {
      throw inputError(
        `config.json: ${key} = ${JSON.stringify(value)} is not supported, only ${JSON.stringify(FIXED[key])}`,
      );
    }
  }
  const nHeads = number(config, "num_attention_heads");
  const dModel = number(config, "hidden_size");
  const headDim = number(config, "head_dim", dModel / nHeads);
  const nLayers = number(config, "num_hidden_layers");
  const eos = config.eos_token_id ?? [];
  return checkSpec({
    vocabSize: number(config, "vocab_size"),
    dModel,
    nLayers,
    nHeads,
    nKvHeads: number(config, "num_key_value_heads", nHeads),
    headDim,
    dMlp: number(config, "intermediate_size"),
    contextLength: number(config, "max_position_embeddings", 2048),
    norm: { kind: "rms", eps: number(config, "rms_norm_eps", 1e-6), offset: 0 },
    positions: ropeSpec(config),
    mlp: { kind: "gated", activation: "silu" },
    attnScale: headDim ** -0.5,
    attnSoftcap: 0,
    windowPattern: new Array<number>(nLayers).fill(0),
    qkvBias: false,
    tiedHead: config.tie_word_embeddings === true,
    bosToken: typeof config.bos_token_id === "number" ? config.bos_token_id : undefined,
    eosTokens: (Array.isArray(eos) ? eos : [eos]) as number[],
  });
}

function ropeSpec(config: Json): RopeSpec {
  const parameters = (config.rope_parameters ?? {}) as Json;
  const scaling = (config.rope_parameters ?? config.rope_scaling ?? {}) as Json;
  const theta = number(parameters, "rope_theta", number(config, "rope_theta", 10000));
  const kind = scaling.rope_type ?? scaling.type ?? "default";
  const base = { kind: "rope", theta, fraction: 1 } as const;
  switch (kind) {
    case "default":
      return base;
    case "linear":
      return { ...base, scaling: { kind: "linear", factor: number(scaling, "factor") } };
    case "llama3":
      return { ...base, scaling: llama3(scaling) };
    default:
      throw inputError(
        `config.json: rope type ${JSON.stringify(kind)} is not supported; known are default, linear, llama3`,
      );
  }
}

function llama3(scaling: Json): Llama3Scaling {
  return {
    kind: "llama3",
    factor: number(scaling, "factor"),
    lowFreqFactor: number(scaling, "low_freq_factor"),
    highFreqFactor: number(scaling, "high_freq_factor"),
    originalContext: number(scaling, "original_max_position_embeddings"),
  };
}

function number(config: Json, key: string, otherwise?: number): number {
  const value = config[key] ?? otherwise;
  if (typeof value !== "number")
    throw inputError(`config.json: ${key} is ${JSON.stringify(config[key])}, expected a number`);
  return value;
}

/** The `config.json` of a spec, in the keys that transformers 4.x and 5 both read. Throws if it would be read as another one. */
export function llamaConfig(spec: ModelSpec): Record<string, unknown> {
  const config = configOf(spec);
  const read = llamaSpec(config);
  const differ = ([...new Set([...Object.keys(spec), ...Object.keys(read)])] as (keyof ModelSpec)[]).filter(
    (key) => !isDeepStrictEqual(plain(spec[key]), plain(read[key])),
  );
  if (differ.length === 0) return config;
  const list = differ.map(
    (key) => `${key} ${JSON.stringify(spec[key])} would be read as ${JSON.stringify(read[key])}`,
  );
  throw usageError(
    `a llama config.json cannot describe this model: ${list.join("; ")}; give the spec these values to save it`,
  );
}

/** As JSON gives it back; numbers to 12 digits, so that 1 / √d and d ** -0.5 are one. */
const plain = (value: unknown): unknown =>
  value === undefined
    ? undefined
    : JSON.parse(JSON.stringify(value, (_, v) => (typeof v === "number" ? Number(v.toPrecision(12)) : v)));

function configOf(spec: ModelSpec): Record<string, unknown> {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: spec.vocabSize,
    hidden_size: spec.dModel,
    intermediate_size: spec.dMlp,
    num_hidden_layers: spec.nLayers,
    num_attention_heads: spec.nHeads,
    num_key_value_heads: spec.nKvHeads,
    head_dim: spec.headDim,
    hidden_act: "silu",
    max_position_embeddings: spec.contextLength,
    rms_norm_eps: spec.norm.eps,
    rope_theta: spec.positions.theta,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: spec.tiedHead,
    bos_token_id: spec.bosToken ?? null,
    eos_token_id: spec.eosTokens.length === 1 ? spec.eosTokens[0] : spec.eosTokens,
    torch_dtype: "float16",
  };
}
