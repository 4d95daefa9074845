/**
 * Gemma Scope: JumpReLU SAEs. The first one is `params.npz` (W_enc [D, F], W_dec [F, D], thresholds; rows of unit length;
 * nothing subtracted from the input), the second `params.safetensors` with small letters, and transcoders with a skip
 * connection. Model and hook point come from the config, which only the second one has, and not always, else from the path.
 */
import * as path from "node:path";
import { brief, inputError } from "../util/index.ts";
import { type Gemma2Place, gemmaScope2Place, gemmaScopePlace, hookOfGemma3 } from "./hook-names.ts";
import { type FloatDType, fromFloat32, transpose2d } from "./named-array.ts";
import { writeNpz } from "./npz.ts";
import {
  biasOf,
  checkSize,
  checkUnitRows,
  Fields,
  flagOf,
  type Losses,
  type PlainSae,
  placeOf,
  type ReadSaeOptions,
  refuseScaling,
  type SaeSource,
  textOf,
  thresholdsFor,
  withCentring,
  withFactor,
} from "./plain-sae.ts";

export function readGemmaScope({ path: given, weights }: SaeSource, options: ReadSaeOptions): PlainSae {
  const fields = new Fields(weights);
  const name = (upper: string, lower: string): string => (fields.has(upper) ? upper : lower);
  const { data: wEnc, rows: features, columns: dIn } = fields.turned(name("W_enc", "w_enc"));
  const { data: wDec, columns: dOut } = fields.matrix(name("W_dec", "w_dec"), features);
  const bEnc = fields.vector("b_enc", features);
  const bDec = fields.vector("b_dec", dOut);
  const threshold = fields.vector("threshold", features);
  refuseScaling(fields, features);
  fields.done("Gemma Scope's");
  const warnings = [...checkUnitRows(weights.path, wDec, features, dOut), ...fields.warnings];
  const place = gemmaScopePlace(path.resolve(weights.path));
  const transcoder = dOut !== dIn || place.hookOut !== undefined || options.hookOut !== undefined;
  const sae: PlainSae = {
    dIn,
    dOut,
    features,
    activation: { kind: "jumprelu" },
    applyBDecToInput: false,
    transcoder,
    skip: false,
    wEnc,
    bEnc,
    wDec,
    bDec,
    threshold,
    metadata: placeOf(options, place),
    origin: {
      format: "gemma-scope",
      ...(place.width && { width: place.width }),
      ...(place.l0 !== undefined && { average_l0: place.l0 }),
    },
    warnings,
  };
  if (place.embedding && options.normFactor === undefined) return scaledEmbedding(sae, given);
  return withFactor(sae, options);
}

/** SAEs of embeddings were made before the model multiplies them by √D: W_enc/√D, W_dec·√D. */
function scaledEmbedding(sae: PlainSae, file: string): PlainSae {
  const root = Math.sqrt(sae.dIn);
  return {
    ...sae,
    wEnc: sae.wEnc.map((v) => v / root),
    wDec: sae.wDec.map((v) => v * root),
    origin: { ...sae.origin, embedding_scale: root },
    warnings: [
      ...sae.warnings,
      `${file}: an SAE of embeddings: W_enc was divided and W_dec multiplied by √${sae.dIn}, as the model scales them`,
    ],
  };
}

export function readGemmaScope2({ weights, config }: SaeSource, options: ReadSaeOptions): PlainSae {
  const fields = new Fields(weights);
  const { data: wEnc, rows: features, columns: dIn } = fields.turned("w_enc");
  const { data: wDec, columns: dOut } = fields.matrix("w_dec", features);
  const bEnc = fields.vector("b_enc", features);
  const bDec = fields.vector("b_dec", dOut);
  const threshold = fields.vector("threshold", features);
  const skip = fields.has("affine_skip_connection");
  // stored for x @ A, [D, E]
  const wSkip = skip ? fields.turned("affine_skip_connection", dIn, dOut).data : undefined;
  fields.done("Gemma Scope 2's");
  const place = placeOfGemma2(path.resolve(weights.path), config);
  if (config) checkGemma2(config, { features, skip });
  const transcoder = skip || dOut !== dIn || place.transcoder || options.hookOut !== undefined;
  const sae: PlainSae = {
    dIn,
    dOut,
    features,
    activation: { kind: "jumprelu" },
    applyBDecToInput: false,
    transcoder,
    skip,
    wEnc,
    bEnc,
    wDec,
    bDec,
    threshold,
    ...(wSkip && { wSkip }),
    metadata: placeOf(options, place),
    origin: { format: "gemma-scope-2", ...(config && { config: config.json }) },
    warnings: fields.warnings,
  };
  return withFactor(sae, options);
}

/** What the config says, which some folders have, else the path. */
function placeOfGemma2(file: string, config: SaeSource["config"]): Gemma2Place {
  const said = gemmaScope2Place(file);
  if (!config) return said;
  const [reads, gives] = [textOf(config.json, "hf_hook_point_in"), textOf(config.json, "hf_hook_point_out")];
  const model = textOf(config.json, "model_name")?.replace(/^google\//, "") ?? said.model;
  const hook = reads === undefined ? said.hook : hookOfGemma3(reads);
  const transcoder = config.json.type === "transcoder" || (gives !== undefined && gives !== reads);
  const hookOut = gives === undefined ? said.hookOut : hookOfGemma3(gives);
  return {
    ...(model && { model }),
    ...(hook && { hook }),
    ...(transcoder && hookOut && { hookOut }),
    transcoder,
  };
}

function checkGemma2(
  { file, json }: NonNullable<SaeSource["config"]>,
  { features, skip }: { features: number; skip: boolean },
): void {
  checkSize(file, json, "width", features);
  for (const [key, known] of [
    ["architecture", ["jump_relu"]],
    ["type", ["sae", "transcoder"]],
  ] as const) {
    const value = json[key] ?? known[0];
    if (!(known as readonly unknown[]).includes(value))
      throw inputError(`${file}: ${key} ${brief(value)} is not supported; supported: ${known.join(", ")}`);
  }
  if (flagOf(file, json, "affine_connection", skip) !== skip)
    throw inputError(`${file}: affine_connection=${!skip}, but the tensors say otherwise`);
}

/** Writes `params.npz`, as the first Gemma Scope has it. */
export async function writeGemmaScope(
  folder: string,
  given: PlainSae,
  { losses, dtype }: { readonly losses: Losses; readonly dtype: FloatDType },
): Promise<string[]> {
  const threshold = thresholdsFor(given, losses);
  if (given.skip) losses.refuse("the format has no skip connections");
  if (given.transcoder && given.dOut === given.dIn)
    losses.note("that it is a transcoder: only the path of such a file can say so");
  if (dtype === "bf16") losses.refuse("numpy has no bf16; write f32 or f16");
  const sae = withCentring(given, false, losses);
  const { dIn, dOut, features } = sae;
  losses.metadata(sae.metadata, []);
  const bDec = biasOf(sae, losses);
  losses.list();
  await writeNpz(path.join(folder, "params.npz"), {
    W_enc: fromFloat32(transpose2d(sae.wEnc, features, dIn), [dIn, features], dtype),
    W_dec: fromFloat32(sae.wDec, [features, dOut], dtype),
    b_enc: fromFloat32(sae.bEnc, [features], dtype),
    b_dec: fromFloat32(bDec, [dOut], dtype),
    threshold: fromFloat32(threshold, [features], dtype),
  });
  return ["params.npz"];
}
