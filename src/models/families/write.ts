/**
 * Describing a model that came with no config.
 */
import { isDeepStrictEqual } from "node:util";
import { usageError } from "../../util/index.ts";
import type { ModelSpec } from "../spec.ts";
import { lime, routingKeys } from "./lime.ts";
import { llama } from "./llama.ts";
import { residualLlama } from "./residual.ts";

/**
 * The `config.json` of a spec: a llama's in the keys that transformers 4.x and 5 both read, or that of a llama with another
 * attention or residual. Throws if it would be read as another spec.
 */
export function llamaConfig(spec: ModelSpec): Record<string, unknown> {
  const config = configOf(spec);
  const read = (spec.kvRouting ? lime : spec.residual ? residualLlama : llama).spec(config);
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

function kindOf({ kvRouting, residual }: ModelSpec): Record<string, unknown> {
  if (kvRouting) {
    const routing = { kv_routing: routingKeys(kvRouting) };
    return { architectures: ["LimeForCausalLM"], model_type: "lime", ...routing };
  }
  if (residual)
    return { architectures: ["LlamaResidualForCausalLM"], model_type: "llama_residual", residual };
  return { architectures: ["LlamaForCausalLM"], model_type: "llama" };
}

function configOf(spec: ModelSpec): Record<string, unknown> {
  return {
    ...kindOf(spec),
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
    rope_theta: spec.positions.kind === "rope" ? spec.positions.theta : null,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: spec.tiedHead,
    bos_token_id: spec.bosToken ?? null,
    eos_token_id: spec.eosTokens.length === 1 ? spec.eosTokens[0] : spec.eosTokens,
    torch_dtype: "float16",
  };
}
