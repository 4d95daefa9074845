/**
 * OpenMOSS: Llama Scope 1 (`hyperparams.json` + `checkpoints/final.safetensors`, encoder.weight [F, D], decoder.weight [D, F]),
 * the R1-distill series (the same tensors, thresholds as logarithms) and llamascopium 2 (W_E [D, F], W_D [F, D]).
 * Their input is scaled by √D / its average norm; the factor goes into the weights, features keep their values. (SAELens
 * multiplies the threshold of Llama Scope 1 by it as well; here the threshold is one of the features' own values.)
 */
import * as path from "node:path";
import { brief, inputError, writeJson } from "../util/index.ts";
import { type FloatDType, fromFloat32, transpose2d } from "./named-array.ts";
import {
  biasOf,
  checkSize,
  Fields,
  flagOf,
  foldFactor,
  type JsonObject,
  type Losses,
  objectOf,
  optionHint,
  type PlainActivation,
  type PlainSae,
  placeOf,
  type ReadSaeOptions,
  type SaeSource,
  textOf,
  thresholdsFor,
  wholeOf,
  withCentring,
} from "./plain-sae.ts";
import { writeSafetensors } from "./safetensors.ts";

const NORM = "dataset_average_activation_norm";

/** Names that a tensor may have, with and without the module that holds it. */
const LOG_THRESHOLD = ["log_jumprelu_threshold", "activation_function.log_jumprelu_threshold"];

export const hasLogThreshold = (names: readonly string[]): boolean =>
  LOG_THRESHOLD.some((name) => names.includes(name));

/** Reads Llama Scope 1 and the R1-distill series. */
export function readLlamaScope(source: SaeSource, options: ReadSaeOptions): PlainSae {
  const { weights, config } = source;
  const { file, json } = config!;
  checkKind(file, json);
  const fields = new Fields(weights);
  const { data: wEnc, rows: features, columns: dIn } = fields.matrix("encoder.weight");
  const { data: wDec, columns: dOut } = fields.turned("decoder.weight", undefined, features);
  const bEnc = fields.vector("encoder.bias", features);
  const bDec = decoderBias(fields, "decoder.bias", dOut, usesDecoderBias(file, json));
  const format = hasLogThreshold(weights.names()) ? "llama-scope-r1" : "llama-scope";
  return finish(source, options, fields, {
    format,
    tensors: { wEnc, bEnc, wDec, bDec },
    sizes: { dIn, dOut, features },
  });
}

export function readLlamascopium(source: SaeSource, options: ReadSaeOptions): PlainSae {
  const { weights, config } = source;
  const { file, json } = config!;
  checkKind(file, json);
  const fields = new Fields(weights);
  const { data: wEnc, rows: features, columns: dIn } = fields.turned("W_E");
  const { data: wDec, columns: dOut } = fields.matrix("W_D", features);
  const bEnc = fields.vector("b_E", features);
  const bDec = decoderBias(fields, "b_D", dOut, usesDecoderBias(file, json));
  return finish(source, options, fields, {
    format: "llamascopium",
    tensors: { wEnc, bEnc, wDec, bDec },
    sizes: { dIn, dOut, features },
  });
}

const usesDecoderBias = (file: string, json: JsonObject): boolean =>
  flagOf(file, json, "use_decoder_bias", true);

/** Refuses what computes otherwise than an autoencoder. */
function checkKind(file: string, json: JsonObject): void {
  const kind = json.sae_type ?? "sae";
  if (kind !== "sae") throw inputError(`${file}: sae_type ${brief(kind)} is not supported; only sae is`);
  if (flagOf(file, json, "use_glu_encoder", false))
    throw inputError(`${file}: a GLU encoder is not supported: it multiplies two encoders`);
}

/** Where `use_decoder_bias` is false there is none, and zeros compute the same. */
function decoderBias(fields: Fields, name: string, width: number, used: boolean): Float32Array {
  if (used) return fields.vector(name, width);
  fields.skip(name);
  return new Float32Array(width);
}

interface Found {
  readonly format: "llama-scope" | "llama-scope-r1" | "llamascopium";
  readonly tensors: { wEnc: Float32Array; bEnc: Float32Array; wDec: Float32Array; bDec: Float32Array };
  readonly sizes: { dIn: number; dOut: number; features: number };
}

/** What the three have in common: sizes, activation, scale, place. */
function finish(
  { weights, config }: SaeSource,
  options: ReadSaeOptions,
  fields: Fields,
  { format, tensors, sizes }: Found,
): PlainSae {
  const { file, json } = config!;
  const { dIn, dOut, features } = sizes;
  checkSize(file, json, "d_model", dIn);
  checkSize(file, json, "d_sae", features);
  const hookIn = textOf(json, "hook_point_in");
  const hookOut = textOf(json, "hook_point_out");
  const transcoder = dIn !== dOut || (hookOut !== undefined && hookOut !== hookIn);
  const centred =
    flagOf(file, json, "apply_decoder_bias_to_pre_encoder", false) && usesDecoderBias(file, json);
  if (centred && transcoder)
    throw inputError(
      `${file}: apply_decoder_bias_to_pre_encoder=true, but a transcoder's bias belongs to its output`,
    );
  const { activation, threshold } = activationOf(file, json, fields, features);
  const [factor, factorOut] = factorsOf(file, json, fields, { dIn, dOut, options, hookIn, hookOut });
  for (const name of weights.names()) if (name.startsWith(NORM)) fields.skip(name);
  fields.done(`a ${format} SAE`);
  let sae: PlainSae = {
    ...sizes,
    ...tensors,
    ...(threshold && { threshold }),
    activation,
    applyBDecToInput: centred,
    transcoder,
    skip: false,
    metadata: placeOf(options, {
      ...(hookIn && { hook: hookIn }),
      ...(transcoder && hookOut && { hookOut }),
      ...(textOf(json, "model_name") && { model: textOf(json, "model_name") }),
    }),
    origin: { format, config: json },
    warnings: fields.warnings,
  };
  // where a config does not say, the library's own default
  if (flagOf(file, json, "sparsity_include_decoder_norm", true)) sae = withDecoderNorm(sae, file);
  return foldFactor(sae, factor, factorOut);
}

function activationOf(
  file: string,
  json: JsonObject,
  fields: Fields,
  features: number,
): { activation: PlainActivation; threshold?: Float32Array } {
  const name = LOG_THRESHOLD.find((n) => fields.has(n));
  const given = json.act_fn ?? "jumprelu";
  const act = typeof given === "string" ? given.toLowerCase() : "";
  if (act === "jumprelu" && name !== undefined) {
    return { activation: { kind: "jumprelu" }, threshold: fields.vector(name, features).map(Math.exp) };
  }
  if (name !== undefined) fields.skip(name);
  if (act === "jumprelu") {
    const threshold = json.jump_relu_threshold;
    if (typeof threshold !== "number" || !Number.isFinite(threshold))
      throw inputError(`${file}: jump_relu_threshold must be a number, not ${brief(threshold)}`);
    return { activation: { kind: "jumprelu" }, threshold: new Float32Array(features).fill(threshold) };
  }
  if (act === "relu") return { activation: { kind: "relu" } };
  if (act === "topk") {
    const k = wholeOf(file, json, "top_k");
    if (k > features) throw inputError(`${file}: top_k=${k} is more than the ${features} features`);
    return { activation: { kind: "topk", k } };
  }
  const batch = act.includes("batch") || act.includes("layer");
  const why = batch ? ": it needs a batch or all layers; convert it to jumprelu with llamascopium first" : "";
  throw inputError(`${file}: act_fn ${brief(given)} is not supported${why}`);
}

/** √D / average norm of input and output. */
function factorsOf(
  file: string,
  json: JsonObject,
  fields: Fields,
  more: {
    readonly dIn: number;
    readonly dOut: number;
    readonly options: ReadSaeOptions;
    readonly hookIn?: string;
    readonly hookOut?: string;
  },
): [number, number] {
  const { dIn, dOut, options, hookIn, hookOut } = more;
  const { normFactor, normFactorOut } = options;
  if (normFactor !== undefined) return [normFactor, normFactorOut ?? normFactor];
  const mode = json.norm_activation ?? (hasNorms(json, fields) ? "dataset-wise" : "inference");
  if (mode === "inference" || mode === "none") return [1, 1];
  if (mode !== "dataset-wise") {
    throw inputError(
      `${file}: norm_activation ${brief(mode)} scales every token or batch by its own norm, which an Sae cannot do`,
    );
  }
  const norms = objectOf(json, NORM);
  const norm = (side: "in" | "out", hook: string | undefined): number => {
    const tensor = [`${NORM}.${side}`, `${NORM}.${hook}`].find((name) => fields.has(name));
    const value =
      norms?.[side] ?? (hook === undefined ? undefined : norms?.[hook]) ?? (tensor && fields.scalar(tensor));
    if (value === undefined && side === "out" && (hookOut === undefined || hookOut === hookIn))
      return norm("in", hookIn);
    if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value)) {
      throw inputError(
        `${file}: the input is scaled by √${dIn} / its average norm, but ${NORM} of ${hook ?? side} is ${brief(value)}; give ${optionHint("normFactor")}`,
      );
    }
    return value;
  };
  return [Math.sqrt(dIn) / norm("in", hookIn), Math.sqrt(dOut) / norm("out", hookOut)];
}

const hasNorms = (json: JsonObject, fields: Fields): boolean =>
  objectOf(json, NORM) !== undefined || fields.file.names().some((name) => name.startsWith(NORM));

/**
 * Which features are kept was decided by pre · ‖decoder row‖. Rows become unit length, and features and thresholds are
 * measured accordingly: the same are kept, and the output is the same.
 */
function withDecoderNorm(sae: PlainSae, file: string): PlainSae {
  const { features, dIn, dOut } = sae;
  const norms = new Float64Array(features);
  sae.wDec.forEach((v, i) => {
    norms[Math.floor(i / dOut)] += v * v;
  });
  for (let f = 0; f < features; f++) norms[f] = Math.sqrt(norms[f]);
  if (norms.every((n) => Math.abs(n - 1) < 1e-6)) return sae;
  const wEnc = sae.wEnc.map((v, i) => v * norms[Math.floor(i / dIn)]);
  const bEnc = sae.bEnc.map((v, f) => v * norms[f]);
  const wDec = sae.wDec.map((v, i) =>
    norms[Math.floor(i / dOut)] === 0 ? v : v / norms[Math.floor(i / dOut)],
  );
  return {
    ...sae,
    wEnc,
    bEnc,
    wDec,
    warnings: [
      ...sae.warnings,
      `${file}: sparsity_include_decoder_norm: decoder rows were brought to length 1 and features multiplied by what they had; the output is the same up to rounding`,
    ],
  };
}

/** Writes `hyperparams.json` and `checkpoints/final.safetensors`. */
export async function writeLlamaScope(
  folder: string,
  given: PlainSae,
  { losses, dtype }: { readonly losses: Losses; readonly dtype: FloatDType },
): Promise<string[]> {
  const thresholds = thresholdsFor(given, losses);
  if (given.skip) losses.refuse("the format has no skip connections");
  if (given.dIn !== given.dOut)
    losses.refuse(`the format has one width; this transcoder has ${given.dIn} and ${given.dOut}`);
  if (!thresholds.every((v) => v === thresholds[0])) {
    losses.refuse(
      "the format has one jump_relu_threshold for all features, and this SAE's differ; write gemma-scope or sae-lens",
    );
  }
  if (!Number.isFinite(thresholds[0]))
    losses.refuse(`the format has no word for a threshold of ${thresholds[0]}`);
  const sae = withCentring(given, false, losses);
  const { dIn, dOut, features, metadata } = sae;
  const bDec = biasOf(sae, losses);
  const hook = textOf(metadata, "hook_name");
  const hookOut = textOf(metadata, "hook_name_out");
  if (sae.transcoder && hookOut === undefined)
    losses.refuse(
      "a transcoder of this format is known by its output's hook point; give hookOut (--hook-out)",
    );
  losses.metadata(metadata, ["hook_name", "model_name", ...(sae.transcoder ? ["hook_name_out"] : [])]);
  losses.list();
  const root = Math.sqrt(dIn); // the factor √D / norm is exactly 1
  await writeSafetensors(path.join(folder, "checkpoints", "final.safetensors"), {
    "encoder.weight": fromFloat32(sae.wEnc, [features, dIn], dtype),
    "encoder.bias": fromFloat32(sae.bEnc, [features], dtype),
    "decoder.weight": fromFloat32(transpose2d(sae.wDec, features, dOut), [dOut, features], dtype),
    "decoder.bias": fromFloat32(bDec, [dOut], dtype),
  });
  await writeJson(path.join(folder, "hyperparams.json"), {
    ...(sae.origin.format === "llama-scope" && objectOf(sae.origin, "config")),
    d_model: dIn,
    d_sae: features,
    act_fn: "jumprelu",
    jump_relu_threshold: thresholds[0],
    use_decoder_bias: true,
    apply_decoder_bias_to_pre_encoder: false,
    norm_activation: "dataset-wise",
    dataset_average_activation_norm: { in: root, out: root },
    sparsity_include_decoder_norm: false,
    ...(hook && { hook_point_in: hook }),
    ...((hookOut ?? hook) && { hook_point_out: sae.transcoder ? hookOut : hook }),
    ...(textOf(metadata, "model_name") && { model_name: metadata.model_name }),
  });
  return ["hyperparams.json", "checkpoints/final.safetensors"];
}
