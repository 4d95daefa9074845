/**
 * A sparse autoencoder is data: a config, four tensors, and what is known of its origin.
 * f = act((x − b_dec) W_encᵀ + b_enc), x̂ = f W_dec + b_dec; both matrices are stored [F, D], a feature is a row.
 * B tokens · D input width · F features · K active features.
 */
import {
  type Device,
  linearTopK,
  mul,
  normalizeRows,
  sparseDecode,
  sub,
  type Tensor,
} from "../tensor/index.ts";
import { type Rng, usageError } from "../util/index.ts";
import { checkK, type SaeConfig, saeConfig } from "./config.ts";

export interface SaeParams {
  /** [F, D]; SAELens' W_enc transposed. */
  readonly wEnc: Tensor;
  /** [F] */
  readonly bEnc: Tensor;
  /** [F, D] */
  readonly wDec: Tensor;
  /** [D] */
  readonly bDec: Tensor;
}

export type ParamName = keyof SaeParams;
export const PARAM_NAMES = ["wEnc", "bEnc", "wDec", "bDec"] as const satisfies readonly ParamName[];

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
export interface Codes {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** The shape of every parameter. */
export function paramShapes({ dIn, features }: SaeConfig): Record<ParamName, readonly number[]> {
  return { wEnc: [features, dIn], bEnc: [features], wDec: [features, dIn], bDec: [dIn] };
}

/** The same function of every parameter's name. */
export function mapParams<T>(fn: (name: ParamName) => T): Record<ParamName, T> {
  return { wEnc: fn("wEnc"), bEnc: fn("bEnc"), wDec: fn("wDec"), bDec: fn("bDec") };
}

export interface CreateSaeOptions {
  readonly rng: Rng;
  /** Initial decoder bias, [D]; zeros without it. See `initialBias`. */
  readonly bDec?: Float32Array;
  readonly metadata?: Notes;
}

/** A fresh SAE: random decoder rows of unit length, W_enc = W_dec, b_enc = 0. Its tensors live until `disposeSae`. */
export function createSae(
  device: Device,
  config: SaeConfig,
  { rng, bDec, metadata = {} }: CreateSaeOptions,
): Sae {
  const checked = saeConfig(config);
  const { dIn, features } = checked;
  if (bDec && bDec.length !== dIn) {
    throw usageError(`createSae: bDec has ${bDec.length} numbers, but the input width is ${dIn}`);
  }
  const rows = rng.fork("decoder").fillNormal(new Float32Array(features * dIn));
  const wDec = device.tensor(rows, [features, dIn]).keep();
  normalizeRows(wDec);
  const wEnc = mul(wDec, 1).keep();
  const params = {
    wEnc,
    bEnc: device.zeros([features]).keep(),
    wDec,
    bDec: device.tensor(bDec ?? new Float32Array(dIn)).keep(),
  };
  return { config: checked, params, metadata };
}

/** Frees the parameters. */
export function disposeSae(sae: Sae): void {
  for (const name of PARAM_NAMES) sae.params[name].dispose();
}

function checkInput(sae: Sae, x: Tensor): void {
  if (x.rank !== 2 || x.shape[1] !== sae.config.dIn) {
    throw usageError(`sae: the input is [${x.shape.join(", ")}], expected [tokens, ${sae.config.dIn}]`);
  }
}

/** What the encoder sees: x − b_dec, or x itself. */
export function encoderInput(sae: Sae, x: Tensor): Tensor {
  return sae.config.applyBDecToInput ? sub(x, sae.params.bDec) : x;
}

/** Codes of encoder inputs [B, D] by the SAE's activation. */
export function activate(sae: Sae, centred: Tensor, k?: number): Codes {
  const { wEnc, bEnc } = sae.params;
  const { activation, features } = sae.config;
  switch (activation.kind) {
    case "topk":
      if (k !== undefined) checkK(k, features);
      return linearTopK(centred, wEnc, bEnc, { k: k ?? activation.k });
    default:
      return activation.kind satisfies never;
  }
}

/** Sparse codes of x [B, D]. `k` overrides the number of active features. */
export function encode(sae: Sae, x: Tensor, { k }: { readonly k?: number } = {}): Codes {
  checkInput(sae, x);
  return x.device.scope(() => activate(sae, encoderInput(sae, x), k));
}

/** Reconstruction of codes: [B, D]. */
export function decode(sae: Sae, { values, indices }: Codes): Tensor {
  return sparseDecode(values, indices, sae.params.wDec, sae.params.bDec);
}

/** decode(encode(x)): [B, D]. */
export function reconstruct(sae: Sae, x: Tensor, options: { readonly k?: number } = {}): Tensor {
  return x.device.scope(() => decode(sae, encode(sae, x, options)));
}

/**
 * The SAE of raw inputs x, given one that was trained on scale · x: x̂ is the same in raw units and each feature's value
 * is divided by `scale`. relu and top-k commute with a positive factor, so only the biases change
 * (b_enc / scale, b_dec / scale) and decoder rows keep unit length. New tensors; the given SAE stays.
 */
export function foldInput(sae: Sae, scale: number): Sae {
  if (!(scale > 0 && Number.isFinite(scale)))
    throw usageError(`foldInput: scale=${scale} must be a positive number`);
  const { wEnc, bEnc, wDec, bDec } = sae.params;
  const params = {
    wEnc: mul(wEnc, 1).keep(),
    bEnc: mul(bEnc, 1 / scale).keep(),
    wDec: mul(wDec, 1).keep(),
    bDec: mul(bDec, 1 / scale).keep(),
  };
  return { ...sae, params };
}
