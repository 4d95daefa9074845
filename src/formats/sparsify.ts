/**
 * EleutherAI's sparsify: `cfg.json` + `sae.safetensors`, encoder.weight [F, D], W_dec [F, D]. Its SAEs subtract b_dec from the
 * input, its transcoders do not; both are top-k. (SAELens' own reader of this format turns W_dec; the files do not.)
 */
import * as path from "node:path";
import { brief, inputError, writeJson } from "../util/index.ts";
import { hookOfModule, moduleOfHook } from "./hook-names.ts";
import { type FloatDType, fromFloat32 } from "./named-array.ts";
import {
  biasOf,
  checkSize,
  checkUnitRows,
  Fields,
  flagOf,
  type Losses,
  objectOf,
  type PlainSae,
  placeOf,
  type ReadSaeOptions,
  type SaeSource,
  textOf,
  wholeOf,
  withCentring,
  withFactor,
} from "./plain-sae.ts";
import { writeSafetensors } from "./safetensors.ts";

export function readSparsify({ path: place, weights, config }: SaeSource, options: ReadSaeOptions): PlainSae {
  const { file, json } = config!;
  const fields = new Fields(weights);
  const { data: wEnc, rows: features, columns: dIn } = fields.matrix("encoder.weight");
  checkSize(file, json, "d_in", dIn);
  const latents = json.num_latents;
  if (latents) checkSize(file, json, "num_latents", features);
  else if (typeof json.expansion_factor === "number" && json.expansion_factor * dIn !== features) {
    throw inputError(
      `${file}: d_in ${dIn} × expansion_factor ${json.expansion_factor} is not the ${features} features of the tensors`,
    );
  }
  const activation = json.activation ?? "topk";
  if (activation !== "topk") {
    throw inputError(
      `${file}: activation ${brief(activation)} is not supported: only topk is; groupmax keeps one feature of each group`,
    );
  }
  if (flagOf(file, json, "signed", false)) {
    throw inputError(
      `${file}: signed=true is not supported: it keeps negative features, which an Sae does not have`,
    );
  }
  const k = wholeOf(file, json, "k");
  if (k > features) throw inputError(`${file}: k=${k} is more than the ${features} features`);
  const transcoder = flagOf(file, json, "transcode", false);
  const skip = flagOf(file, json, "skip_connection", false);
  if (skip !== fields.has("W_skip"))
    throw inputError(`${file}: skip_connection=${skip}, but the tensors say otherwise (W_skip)`);
  if (skip && !transcoder)
    throw inputError(`${file}: skip_connection without transcode: an autoencoder's would copy its input`);
  const { data: wDec, columns: dOut } = fields.matrix("W_dec", features, transcoder ? undefined : dIn);
  const normal = flagOf(file, json, "normalize_decoder", true) && !transcoder;
  const warnings = normal ? checkUnitRows(weights.path, wDec, features, dOut) : [];
  const bEnc = fields.vector("encoder.bias", features);
  const bDec = fields.vector("b_dec", dOut);
  const wSkip = skip ? fields.matrix("W_skip", dOut, dIn).data : undefined;
  fields.done("sparsify's");
  // The hook point is the folder's name, here or (of one of several seeds) a level higher.
  const folders = path.resolve(place).split(path.sep).reverse().slice(0, 3);
  const module = folders.find((name) => hookOfModule(name) !== undefined);
  const sae: PlainSae = {
    dIn,
    dOut,
    features,
    activation: { kind: "topk", k },
    applyBDecToInput: !transcoder,
    transcoder,
    skip,
    wEnc,
    bEnc,
    wDec,
    bDec,
    ...(wSkip && { wSkip }),
    metadata: placeOf(options, module !== undefined && !transcoder ? { hook: hookOfModule(module) } : {}),
    origin: { format: "sparsify", config: json },
    warnings: [...warnings, ...fields.warnings],
  };
  return withFactor(sae, options);
}

/** Writes `cfg.json` and `sae.safetensors`. */
export async function writeSparsify(
  folder: string,
  given: PlainSae,
  { losses, dtype }: { readonly losses: Losses; readonly dtype: FloatDType },
): Promise<string[]> {
  const { activation } = given;
  if (activation.kind !== "topk")
    return losses.refuse(`the format is for topk; this is a ${activation.kind} SAE`);
  if (given.dOut !== given.dIn)
    losses.refuse(`the format has one width; this transcoder has ${given.dIn} and ${given.dOut}`);
  const sae = withCentring(given, !given.transcoder, losses);
  const { dIn, dOut, features, transcoder, skip, metadata } = sae;
  const bDec = biasOf(sae, losses);
  const before = sae.origin.format === "sparsify" ? objectOf(sae.origin, "config") : undefined;
  const hook = textOf(metadata, "hook_name");
  if (hook !== undefined)
    losses.note(
      `the hook point ${hook}: sparsify keeps it as the folder's name${moduleOfHook(hook) ? `, ${moduleOfHook(hook)}` : ""}`,
    );
  losses.metadata(metadata, ["hook_name"]);
  losses.list();
  const { k } = activation;
  const config = {
    ...before,
    activation: "topk",
    expansion_factor: before?.expansion_factor ?? Math.max(1, Math.round(features / dIn)), // num_latents decides
    normalize_decoder: before?.normalize_decoder ?? isNormal(sae),
    num_latents: features,
    k,
    multi_topk: before?.multi_topk ?? false,
    skip_connection: skip,
    transcode: transcoder,
    d_in: dIn,
  };
  await writeSafetensors(path.join(folder, "sae.safetensors"), {
    "encoder.weight": fromFloat32(sae.wEnc, [features, dIn], dtype),
    "encoder.bias": fromFloat32(sae.bEnc, [features], dtype),
    W_dec: fromFloat32(sae.wDec, [features, dOut], dtype),
    b_dec: fromFloat32(bDec, [dOut], dtype),
    ...(sae.wSkip && { W_skip: fromFloat32(sae.wSkip, [dOut, dIn], dtype) }),
  });
  await writeJson(path.join(folder, "cfg.json"), config);
  return ["cfg.json", "sae.safetensors"];
}

function isNormal({ wDec, features, dOut }: PlainSae): boolean {
  for (let f = 0; f < features; f++) {
    let square = 0;
    for (let e = 0; e < dOut; e++) square += wDec[f * dOut + e] ** 2;
    if (Math.abs(Math.sqrt(square) - 1) > 0.01) return false;
  }
  return true;
}
