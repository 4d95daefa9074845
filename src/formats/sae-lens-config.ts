/**
 * cfg.json of SAELens: version 6 (nested metadata) and the flat one before it, into one plain object.
 */
import { brief, inputError } from "../util/index.ts";
import type { FloatDType } from "./named-array.ts";

/**
 * SAELens' own architectures, and `sluice`: what SAELens has no name for (kron encoders, residual parts without b_dec, topk
 * transcoders). Readers that do not know it refuse it by name instead of computing something else.
 */
export const SAE_LENS_ARCHITECTURES = {
  standard: {},
  topk: { k: true },
  jumprelu: { threshold: true },
  gated: { gated: true },
  transcoder: { transcoder: true },
  skip_transcoder: { transcoder: true, skip: true },
  jumprelu_transcoder: { transcoder: true, threshold: true },
  jumprelu_skip_transcoder: { transcoder: true, threshold: true, skip: true },
  sluice: { free: true },
} as const satisfies Record<string, SaeLensTraits>;

interface SaeLensTraits {
  /** cfg.json has k. */
  readonly k?: boolean;
  /** There is a threshold per feature. */
  readonly threshold?: boolean;
  /** b_gate, b_mag and r_mag in place of b_enc. */
  readonly gated?: boolean;
  /** cfg.json has d_out. */
  readonly transcoder?: boolean;
  /** There is W_skip. */
  readonly skip?: boolean;
  /** Its tensors are described under our own keys. */
  readonly free?: boolean;
}

export type SaeLensArchitecture = keyof typeof SAE_LENS_ARCHITECTURES;

export const saeLensTraits = (architecture: SaeLensArchitecture): SaeLensTraits =>
  SAE_LENS_ARCHITECTURES[architecture];

export interface SaeLensConfig {
  architecture: SaeLensArchitecture;
  dIn: number;
  /** Width of what is reconstructed; that of the input but for transcoders. */
  dOut: number;
  dSae: number;
  /** Of topk. */
  k?: number;
  /** Whether b_dec is subtracted from the input before the encoder. */
  applyBDecToInput: boolean;
  /** `expected_average_only_in` has no run-time code in SAELens: the factor is taken to be folded in. */
  normalizeActivations: "none" | "expected_average_only_in";
  /** `hook_z`: the input is [heads, head width] flattened. */
  reshapeActivations: "none" | "hook_z";
  /** Storage type that cfg.json names. */
  dtype: FloatDType;
  /** hook_name, model_name, prepend_bos, context_size … as SAELens spells them. */
  metadata: Readonly<Record<string, unknown>>;
  /** Our own keys; `schema` is theirs. */
  sluice?: Readonly<Record<string, unknown>>;
  /** Keys of cfg.json that neither SAELens v6 nor we know; written back as they were. */
  extra?: Readonly<Record<string, unknown>>;
  warnings: string[];
}

const DTYPES: Readonly<Record<string, FloatDType>> = {
  float32: "f32",
  float16: "f16",
  bfloat16: "bf16",
  float64: "f64",
};

export function saeLensDtype(dtype: FloatDType): string {
  return Object.entries(DTYPES).find(([, ours]) => ours === dtype)![0];
}

const SCHEMA = 1;

/** Keys that this reader understands at the top of a v6 cfg.json. */
const KNOWN = new Set(
  (
    "architecture d_in d_out d_sae k dtype device apply_b_dec_to_input normalize_activations reshape_activations " +
    "rescale_acts_by_decoder_norm metadata sluice"
  ).split(" "),
);

type Raw = Record<string, unknown>;

export function parseConfig(file: string, value: unknown): SaeLensConfig {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw inputError(`${file}: must be a JSON object`);
  }
  const given = value as Raw;
  const cfg = isVersion6(given) ? given : upgrade(file, given);
  const { architecture } = cfg;
  if (!isArchitecture(architecture)) {
    throw inputError(
      `${file}: architecture ${brief(architecture)} is not supported; supported: ${Object.keys(SAE_LENS_ARCHITECTURES).join(", ")}`,
    );
  }
  const traits = saeLensTraits(architecture);
  if (flag(file, cfg, "rescale_acts_by_decoder_norm", false)) {
    throw inputError(
      `${file}: rescale_acts_by_decoder_norm=true is not supported: it changes which features are kept`,
    );
  }
  const dIn = whole(file, cfg, "d_in");
  const dSae = whole(file, cfg, "d_sae");
  const dOut = traits.transcoder || traits.free ? whole(file, { d_out: dIn, ...cfg }, "d_out") : dIn;
  const k = traits.k ? whole(file, cfg, "k") : undefined;
  if (k !== undefined && k > dSae) throw inputError(`${file}: k=${k} is more than d_sae=${dSae}`);
  const applyBDecToInput = flag(file, cfg, "apply_b_dec_to_input", !traits.transcoder);
  if (traits.transcoder && applyBDecToInput) {
    throw inputError(`${file}: apply_b_dec_to_input=true, but a transcoder's b_dec belongs to its output`);
  }
  const warnings: string[] = [];
  const extra: Raw = {};
  for (const [key, v] of Object.entries(cfg)) {
    if (KNOWN.has(key)) continue;
    extra[key] = v;
    warnings.push(`${file}: the key ${brief(key)} is unknown and was not looked at`);
  }
  const normalizeActivations = oneOf(file, cfg, "normalize_activations", [
    "none",
    "expected_average_only_in",
  ]);
  if (normalizeActivations !== "none") {
    warnings.push(
      `${file}: normalize_activations=${normalizeActivations}: its factor is taken to be folded in`,
    );
  }
  return {
    architecture,
    dIn,
    dOut,
    dSae,
    ...(k !== undefined && { k }),
    applyBDecToInput,
    normalizeActivations,
    reshapeActivations: oneOf(file, cfg, "reshape_activations", ["none", "hook_z"]),
    dtype: dtypeOf(file, cfg.dtype),
    metadata: object(file, cfg, "metadata") ?? {},
    ...sluiceKeys(file, cfg),
    ...(Object.keys(extra).length > 0 ? { extra } : {}),
    warnings,
  };
}

const isArchitecture = (value: unknown): value is SaeLensArchitecture =>
  typeof value === "string" && Object.hasOwn(SAE_LENS_ARCHITECTURES, value);

function sluiceKeys(file: string, cfg: Raw): { sluice?: Raw } {
  const sluice = object(file, cfg, "sluice");
  if (!sluice) return {};
  if (typeof sluice.schema === "number" && sluice.schema > SCHEMA) {
    throw inputError(
      `${file}: sluice.schema=${sluice.schema} is of a newer version of sluice; this one reads ${SCHEMA}`,
    );
  }
  return { sluice };
}

function isVersion6(cfg: Raw): boolean {
  const metadata = cfg.metadata as Raw | undefined;
  const version = cfg.sae_lens_version ?? metadata?.sae_lens_version;
  return typeof version === "string" && Number.parseInt(version, 10) >= 6;
}

/** Settings of the flat cfg.json that described the language model or the data, now under metadata. */
const OLD_METADATA = new Set(
  (
    "model_name hook_name hook_name_out hook_head_index hook_head_index_out model_class_name hook_layer " +
    "model_from_pretrained_kwargs prepend_bos exclude_special_tokens sequence_separator_token " +
    "disable_concat_sequences context_size seqpos_slice dataset_path neuronpedia_id dataset_trust_remote_code " +
    "sae_lens_version sae_lens_training_version"
  ).split(" "),
);
const OLD_NAMES: Readonly<Record<string, string>> = {
  hook_point: "hook_name",
  hook_point_head_index: "hook_head_index",
  activation_fn_str: "activation_fn",
};
/** Keys of the flat layout that are used here or say nothing about the SAE's arithmetic. */
const OLD_USED = new Set(["activation_fn", "activation_fn_kwargs", "finetuning_scaling_factor"]);

/** The flat cfg.json before version 6, in the form of version 6. */
function upgrade(file: string, flat: Raw): Raw {
  const metadata: Raw = { ...(object(file, flat, "metadata") ?? {}) };
  const cfg: Raw = {};
  const old: Raw = {};
  for (const [key, value] of Object.entries(flat)) {
    const name = OLD_NAMES[key] ?? key;
    if (OLD_METADATA.has(name)) metadata[name] = value;
    else if (OLD_USED.has(name)) old[name] = value;
    else if (name !== "metadata") cfg[name] = value;
  }
  if (flag(file, old, "finetuning_scaling_factor", false)) {
    throw inputError(
      `${file}: finetuning_scaling_factor=true is not supported: the weights alone give another SAE`,
    );
  }
  const activation = old.activation_fn ?? "relu";
  const kwargs = (old.activation_fn_kwargs ?? {}) as Raw;
  cfg.architecture ??= "standard";
  if (activation === "topk" && (cfg.architecture === "standard" || cfg.architecture === "topk")) {
    cfg.architecture = "topk";
    cfg.k ??= kwargs.k;
    for (const key of Object.keys(kwargs)) {
      if (key !== "k") throw inputError(`${file}: activation_fn_kwargs.${key} is not supported`);
    }
  } else if (cfg.architecture !== "topk" && activation !== "relu") {
    throw inputError(`${file}: activation_fn ${brief(activation)} is not supported; supported: relu, topk`);
  }
  if (cfg.architecture === "topk") cfg.k ??= kwargs.k;
  if (typeof cfg.normalize_activations === "boolean") {
    cfg.normalize_activations = cfg.normalize_activations ? "expected_average_only_in" : "none";
  }
  const hook = metadata.hook_name;
  cfg.reshape_activations ??= typeof hook === "string" && hook.includes("hook_z") ? "hook_z" : "none";
  return { ...cfg, metadata };
}

function whole(file: string, cfg: Raw, key: string): number {
  const value = cfg[key];
  if (!Number.isSafeInteger(value) || (value as number) < 1) {
    throw inputError(`${file}: ${key} must be a positive whole number, not ${brief(value)}`);
  }
  return value as number;
}

function flag(file: string, cfg: Raw, key: string, missing: boolean): boolean {
  const value = cfg[key] ?? missing;
  if (typeof value !== "boolean")
    throw inputError(`${file}: ${key} must be true or false, not ${brief(value)}`);
  return value;
}

function oneOf<T extends string>(file: string, cfg: Raw, key: string, allowed: readonly T[]): T {
  const value = cfg[key] ?? "none";
  if (!allowed.includes(value as T)) {
    throw inputError(`${file}: ${key}=${brief(value)} is not supported; supported: ${allowed.join(", ")}`);
  }
  return value as T;
}

function object(file: string, cfg: Raw, key: string): Raw | undefined {
  const value = cfg[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "object" || Array.isArray(value))
    throw inputError(`${file}: ${key} must be an object`);
  return value as Raw;
}

function dtypeOf(file: string, value: unknown): FloatDType {
  const name =
    typeof value === "string" ? value.replace(/^torch\./, "") : value === undefined ? "float32" : "";
  if (!Object.hasOwn(DTYPES, name)) throw inputError(`${file}: dtype ${brief(value)} is not supported`);
  return DTYPES[name];
}
