/**
 * A sparse autoencoder is data: a config, its tensors, and what is known of its origin. Functions of it stand here.
 * f = act((x − b_dec) W_encᵀ + b_enc), x̂ = f W_dec + b_dec; both matrices have features (or pre-latents) as rows.
 * B tokens · D input width · E output width · F features · R encoder rows · K active features.
 */
import {
  add,
  exp,
  greater,
  kronScores,
  linear,
  linearKronTopK,
  linearTopK,
  matmul,
  max,
  mul,
  relu,
  sparseDecode,
  sub,
  sum,
  type Tensor,
  topk,
  transpose,
} from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import { keepBatch } from "./batch-topk.ts";
import { checkK, encoderRows, type SaeConfig, TRAITS } from "./config.ts";

export interface SaeParams {
  /** [R, D]; SAELens' W_enc transposed. */
  readonly wEnc: Tensor;
  /** [R]; a gated SAE's b_gate. */
  readonly bEnc: Tensor;
  /** [F, E] */
  readonly wDec: Tensor;
  /** [E]; absent from the residual part of a boosted SAE. */
  readonly bDec?: Tensor;
  /** [F], of jumprelu. */
  readonly threshold?: Tensor;
  /** [F], of jumprelu in training: the logarithm of the thresholds. */
  readonly logThreshold?: Tensor;
  /** [F], of gated: logarithm of the magnitudes' scale. */
  readonly rMag?: Tensor;
  /** [F], of gated: bias of the magnitudes. */
  readonly bMag?: Tensor;
  /** [E, D], of a skip transcoder. */
  readonly wSkip?: Tensor;
}

export type ParamName = keyof SaeParams;
export const PARAM_NAMES = [
  "wEnc",
  "bEnc",
  "wDec",
  "bDec",
  "threshold",
  "logThreshold",
  "rMag",
  "bMag",
  "wSkip",
] as const satisfies readonly ParamName[];

/** One value per parameter that an SAE has. */
export type PerParam<T> = { readonly [name in "wEnc" | "bEnc" | "wDec"]: T } & {
  readonly [name in ParamName]?: T;
};

/** The parameters as numbers, read back. */
export async function hostParams(params: PerParam<Tensor>): Promise<PerParam<Float32Array>> {
  const waiting = mapParams(params, (t) => t.floats());
  const names = Object.keys(waiting) as ParamName[];
  const arrays = await Promise.all(names.map((name) => waiting[name] as Promise<Float32Array>));
  return Object.fromEntries(names.map((name, i) => [name, arrays[i]])) as unknown as PerParam<Float32Array>;
}

/** Those parameters of a dense SAE that have a row for each feature. */
export function featureRows<T>({ bDec: _, wSkip: __, ...rows }: PerParam<T>): PerParam<T> {
  return rows;
}

/** Notes that are saved with an SAE; nothing is computed from them. */
export type Notes = Readonly<Record<string, unknown>>;

export interface Sae {
  readonly config: SaeConfig;
  readonly params: SaeParams;
  /** What it reads, spelled as SAELens does: model_name, hook_name, context_size, prepend_bos, dataset_path … */
  readonly metadata: Notes;
  /** How it was made: training options, tokens, the input scale that was folded in. */
  readonly provenance?: Notes;
}

/** The active features of each token: values [B, K] descending, indices i32 [B, K]. Unused slots have value 0. */
export interface SparseCodes {
  readonly kind: "sparse";
  readonly values: Tensor;
  readonly indices: Tensor;
  /** Pre-latents u and v of each slot's product, [B, K]: kron encoders only. */
  readonly parents?: { readonly base: Tensor; readonly extension: Tensor };
}

/** All features of each token, [B, F]: of activations that set no bound on how many are active. */
export interface DenseCodes {
  readonly kind: "dense";
  readonly values: Tensor;
}

export type Codes = SparseCodes | DenseCodes;

/** The shape of every parameter that an SAE of this config has. */
export function paramShapes(config: SaeConfig): PerParam<readonly number[]> {
  const { dIn, dOut, features, activation, decoderBias, skip } = config;
  const rows = encoderRows(config);
  return {
    wEnc: [rows, dIn],
    bEnc: [rows],
    wDec: [features, dOut],
    ...(decoderBias && { bDec: [dOut] }),
    ...(activation.kind === "jumprelu" && { [activation.log ? "logThreshold" : "threshold"]: [features] }),
    ...(activation.kind === "gated" && { rMag: [features], bMag: [features] }),
    ...(skip && { wSkip: [dOut, dIn] }),
  };
}

/** The same function of every parameter that `like` has. */
export function mapParams<A, B>(like: PerParam<A>, fn: (value: A, name: ParamName) => B): PerParam<B> {
  const out: Partial<Record<ParamName, B>> = {};
  for (const name of PARAM_NAMES) {
    const value = like[name];
    if (value !== undefined) out[name] = fn(value, name);
  }
  return out as PerParam<B>;
}

/** Frees the parameters. */
export function disposeSae(sae: Sae): void {
  mapParams(sae.params, (t) => t.dispose());
}

function checkInput(sae: Sae, x: Tensor): void {
  if (x.rank !== 2 || x.shape[1] !== sae.config.dIn) {
    throw usageError(`sae: the input is [${x.shape.join(", ")}], expected [tokens, ${sae.config.dIn}]`);
  }
}

/** What the encoder sees: x − b_dec, or x itself. */
export function encoderInput({ config, params }: Sae, x: Tensor): Tensor {
  return config.applyBDecToInput && params.bDec ? sub(x, params.bDec) : x;
}

/** The k largest relu'd pre-activations of encoder inputs z [B, D]. */
export function strongest({ config, params }: Sae, z: Tensor, k: number): SparseCodes {
  const { encoder } = config;
  if (encoder.kind === "dense") {
    return { kind: "sparse", ...linearTopK(z, params.wEnc, params.bEnc, { k }) };
  }
  const { m, n, product } = encoder;
  const { values, indices, base, extension } = linearKronTopK(z, params.wEnc, params.bEnc, {
    m,
    n,
    k,
    product,
  });
  return { kind: "sparse", values, indices, parents: { base, extension } };
}

/** Pre-activations of all features, [B, F]. */
export function preActivations({ config, params }: Sae, z: Tensor): Tensor {
  const pre = linear(z, params.wEnc, { bias: params.bEnc });
  return config.encoder.kind === "kron" ? kronScores(pre, config.encoder) : pre;
}

/** Thresholds of a jumprelu SAE, [F]. */
export function thresholdsOf({ params }: Sae): Tensor {
  if (params.threshold) return params.threshold;
  if (params.logThreshold) return exp(params.logThreshold);
  throw new Error("sae: no thresholds");
}

/** Codes of encoder inputs z [B, D] by the SAE's activation. */
export function activate(sae: Sae, z: Tensor, k?: number): Codes {
  const { activation, features } = sae.config;
  if (k !== undefined) {
    if (!TRAITS[activation.kind].ranked) {
      throw usageError(
        `sae: k=${k} is for topk; how many features a ${activation.kind} SAE uses is its own matter`,
      );
    }
    checkK(k, features);
  }
  switch (activation.kind) {
    case "topk":
      return strongest(sae, z, k ?? activation.k);
    case "batchtopk":
      return keepBatch(strongest(sae, z, features), activation.k).codes;
    case "relu":
      return { kind: "dense", values: relu(preActivations(sae, z)) };
    case "jumprelu": {
      const pre = preActivations(sae, z);
      return { kind: "dense", values: mul(relu(pre), greater(pre, thresholdsOf(sae))) };
    }
    case "gated": {
      const { gate, magnitude } = gatedParts(sae, z);
      return { kind: "dense", values: mul(relu(magnitude), greater(gate, 0)) };
    }
    default:
      return activation satisfies never;
  }
}

/** Pre-activations of gate and magnitude of a gated SAE, [B, F]: s + b_gate and s · exp(r_mag) + b_mag. */
export function gatedParts({ params }: Sae, z: Tensor): { gate: Tensor; magnitude: Tensor } {
  const { wEnc, bEnc, rMag, bMag } = params;
  if (!rMag || !bMag) throw new Error("sae: not gated");
  const s = linear(z, wEnc);
  return { gate: add(s, bEnc), magnitude: add(mul(s, exp(rMag)), bMag) };
}

/** Codes of x [B, D]. `k` sets the number of active features of a topk SAE; any k ≤ K of a hierarchical one is trained. */
export function encode(sae: Sae, x: Tensor, { k }: { readonly k?: number } = {}): Codes {
  checkInput(sae, x);
  return x.device.scope(() => activate(sae, encoderInput(sae, x), k));
}

/** The same codes as slots [B, K], descending; K is what the fullest row needs. Frees what it was given. */
export async function sparseCodes(codes: Codes): Promise<SparseCodes> {
  if (codes.kind === "sparse") return codes;
  const { values } = codes;
  const { device } = values;
  const counts = device.scope(() => max(sum(greater(values, 0), { axes: [1] })));
  const most = values.shape[0] === 0 ? 0 : await counts.item();
  counts.dispose();
  const slots = device.scope(() => topk(values, { k: Math.max(1, most) }));
  values.dispose();
  return { kind: "sparse", ...slots };
}

/** Frees codes. */
export function disposeCodes(codes: Codes): void {
  codes.values.dispose();
  if (codes.kind === "dense") return;
  codes.indices.dispose();
  codes.parents?.base.dispose();
  codes.parents?.extension.dispose();
}

/** Reconstruction of codes: [B, E]. A skip transcoder also needs its input x. */
export function decode({ config, params }: Sae, codes: Codes, x?: Tensor): Tensor {
  const { wDec, bDec, wSkip } = params;
  const plain =
    codes.kind === "sparse"
      ? sparseDecode(codes.values, codes.indices, wDec, bDec)
      : linear(codes.values, transpose(wDec), bDec && { bias: bDec });
  if (!config.skip || !wSkip) return plain;
  if (!x) throw usageError("sae: decoding with a skip transcoder needs the input as well as the codes");
  return add(plain, matmul(x, transpose(wSkip)));
}

/** decode(encode(x)): [B, E]. */
export function reconstruct(sae: Sae, x: Tensor, options: { readonly k?: number } = {}): Tensor {
  return x.device.scope(() => decode(sae, encode(sae, x, options), x));
}

/**
 * The SAE of raw inputs x, given one that was trained on scale · x: x̂ is the same in raw units. relu, top-k and thresholds
 * commute with a positive factor, so only biases and thresholds change and features shrink by `scale`; the products u·v of a
 * kron encoder without a root shrink by its square, which the decoder makes up for. A transcoder's target may have another
 * scale. New tensors; the given SAE stays.
 */
export function foldInput(sae: Sae, scale: number, targetScale = scale): Sae {
  for (const s of [scale, targetScale]) {
    if (!(s > 0 && Number.isFinite(s))) throw usageError(`foldInput: scale=${s} must be a positive number`);
  }
  const { encoder } = sae.config;
  const degree = encoder.kind === "kron" && encoder.product !== "mand" ? 2 : 1;
  const feature = scale ** degree;
  const factors: Record<ParamName, number> = {
    wEnc: 1,
    bEnc: 1 / scale,
    wDec: feature / targetScale,
    bDec: 1 / targetScale,
    threshold: 1 / feature,
    logThreshold: 1, // see below
    rMag: 1,
    bMag: 1 / scale,
    wSkip: scale / targetScale,
  };
  const params = mapParams(sae.params, (t, name) => {
    const folded = name === "logThreshold" ? add(t, -Math.log(feature)) : mul(t, factors[name]);
    return folded.keep();
  });
  return { ...sae, params };
}
