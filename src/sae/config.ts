/**
 * What an SAE is, as plain data with one place of validation. How it is trained stands in train-config.ts.
 * D input width · E output width · F features · K active features · m, n base and extension size of a kron head.
 */
import { usageError } from "../util/index.ts";

/**
 * How the F pre-activations come about. `dense`: one row of W_enc per feature. `kron` (KronSAE, arXiv 2505.22255): F/(m·n)
 * heads of m base and n extension rows; the feature (head, i, j), at (head·m + i)·n + j, is the product of its two pre-latents.
 */
export type Encoder = { readonly kind: "dense" } | KronEncoder;

export interface KronEncoder {
  readonly kind: "kron";
  readonly m: number;
  readonly n: number;
  readonly product: KronProduct;
}

/** `mand`: √(uv) where u, v > 0. The ablations of the paper: `relu`, relu(u)·relu(v), and `raw`, u·v. */
export type KronProduct = "mand" | "relu" | "raw";

/**
 * Which pre-activations survive.
 * relu: the positive ones. topk: the k largest of relu(pre) of each token (Gao et al. 2024). batchtopk: the k·B largest of a
 * batch (Bussmann et al. 2024); exists in training only, and is saved as jumprelu. jumprelu: those above the feature's
 * threshold (Rajamanoharan et al. 2024b); `log` in training, where thresholds are held as logarithms. gated: magnitude
 * relu(s·exp(r_mag) + b_mag) where the gate s + b_gate > 0, with s = x W_enc (Rajamanoharan et al. 2024a); b_enc is b_gate.
 */
export type Activation =
  | { readonly kind: "relu" }
  | { readonly kind: "topk"; readonly k: number }
  | { readonly kind: "batchtopk"; readonly k: number }
  | { readonly kind: "jumprelu"; readonly log?: boolean }
  | { readonly kind: "gated" };

export type Architecture = Activation["kind"];
export const ARCHITECTURES = [
  "topk",
  "batchtopk",
  "jumprelu",
  "relu",
  "gated",
] as const satisfies readonly Architecture[];

/** What is true of every SAE with that activation. */
interface Traits {
  /** A token's codes are its strongest features in order, as many as a budget says. */
  readonly ranked: boolean;
  /** k of the config says how many features are active. */
  readonly counted: boolean;
  /** Default of `applyBDecToInput` with a dense encoder, as in the library or paper that made it known. */
  readonly centred: boolean;
}

export const TRAITS: Readonly<Record<Architecture, Traits>> = {
  topk: { ranked: true, counted: true, centred: true },
  batchtopk: { ranked: false, counted: true, centred: true },
  jumprelu: { ranked: false, counted: false, centred: false },
  relu: { ranked: false, counted: false, centred: false },
  gated: { ranked: false, counted: false, centred: true },
};

export interface SaeConfig {
  /** D, width of the activations. */
  readonly dIn: number;
  /** E, width of what is reconstructed: D, or that of a transcoder's target. */
  readonly dOut: number;
  /** F, number of features. */
  readonly features: number;
  readonly encoder: Encoder;
  readonly activation: Activation;
  /** Subtract b_dec from the input before the encoder: Gao et al.'s pre-bias, and SAELens' default for TopK. */
  readonly applyBDecToInput: boolean;
  /** Whether there is a b_dec; the residual part of a boosted SAE has none. */
  readonly decoderBias: boolean;
  /** Reconstructs another hook point than it reads. */
  readonly transcoder: boolean;
  /** Adds x W_skipᵀ to a transcoder's output (skip transcoder, Paulo et al. 2025). */
  readonly skip: boolean;
}

/** What must be given; the rest has defaults. */
export type SaeConfigInput = Pick<SaeConfig, "dIn" | "features" | "activation"> & Partial<SaeConfig>;

const whole = (value: number): boolean => Number.isSafeInteger(value) && value >= 1;

/** Checks an SAE's numbers and their combination, and fills in the defaults. */
export function saeConfig(given: SaeConfigInput): SaeConfig {
  const { dIn, features, activation, encoder = { kind: "dense" } } = given;
  const { dOut = dIn, transcoder = dOut !== dIn, decoderBias = true, skip = false } = given;
  for (const [name, value] of Object.entries({ dIn, dOut, features })) {
    if (!whole(value)) throw usageError(`sae: ${name}=${value} must be a whole number of at least 1`);
  }
  checkActivation(activation, features);
  checkEncoder(encoder, activation, features);
  const own = !transcoder && decoderBias;
  const { applyBDecToInput = own && encoder.kind === "dense" && TRAITS[activation.kind].centred } = given;
  if (applyBDecToInput && !own) {
    const why = decoderBias ? "a transcoder's b_dec belongs to its output" : "it has no b_dec";
    throw usageError(`sae: b_dec cannot be subtracted from the input: ${why}`);
  }
  if (dOut !== dIn && !transcoder)
    throw usageError(`sae: dOut=${dOut} is not dIn=${dIn}; only a transcoder's may differ`);
  if (skip && !transcoder) {
    throw usageError(
      "sae: a skip connection is for transcoders; that of an autoencoder would copy its input",
    );
  }
  return { dIn, dOut, features, encoder, activation, applyBDecToInput, decoderBias, transcoder, skip };
}

function checkActivation(activation: Activation, features: number): void {
  if (!Object.hasOwn(TRAITS, activation.kind)) {
    throw usageError(
      `sae: activation ${JSON.stringify(activation.kind)} is unknown; there are: ${ARCHITECTURES.join(", ")}`,
    );
  }
  if ("k" in activation) checkK(activation.k, features);
}

function checkEncoder(encoder: Encoder, activation: Activation, features: number): void {
  if (encoder.kind === "dense") return;
  const { m, n } = encoder;
  if (!whole(m) || !whole(n))
    throw usageError(`sae: kron heads of m=${m} × n=${n}; both must be whole and at least 1`);
  if (features % (m * n) !== 0) {
    throw usageError(
      `sae: ${features} features are not whole kron heads of m·n = ${m * n}; choose a multiple`,
    );
  }
  if (activation.kind === "gated") {
    throw usageError(
      "sae: a gated activation needs a dense encoder: its gate and magnitude share one row per feature, and kron has none",
    );
  }
}

/** Rows of W_enc: one per feature, or m + n per kron head. */
export function encoderRows({ encoder, features }: Pick<SaeConfig, "encoder" | "features">): number {
  if (encoder.kind === "dense") return features;
  const { m, n } = encoder;
  return (features / (m * n)) * (m + n);
}

/** Throws unless 1 <= k <= features. */
export function checkK(k: number, features: number): void {
  if (!whole(k)) throw usageError(`sae: k=${k} must be a whole number of at least 1`);
  if (k > features)
    throw usageError(`sae: k=${k} is more than the ${features} features; lower k or raise features`);
}

/** `auxK 32 instead of 64`, for every field in which two plain objects differ; nested fields by their path. */
export function differences(saved: unknown, wanted: unknown, path = ""): string[] {
  if (Object.is(saved, wanted)) return [];
  if (!isObject(saved) || !isObject(wanted)) {
    return [`${path} ${JSON.stringify(saved)} instead of ${JSON.stringify(wanted)}`];
  }
  const keys = [...new Set([...Object.keys(saved), ...Object.keys(wanted)])];
  return keys.flatMap((key) => differences(saved[key], wanted[key], path ? `${path}.${key}` : key));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
