/**
 * SAELens v6 folders: cfg.json + sae_weights.safetensors, W_enc [D, F], W_dec [F, D]. Our own keys stand under "sluice",
 * which SAELens ignores. Reading also takes the flat cfg.json from before version 6.
 * A key that changes the meaning of the numbers and is not supported is refused by name, never ignored.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { inputError, ioError, readJson, usageError, writeAtomic } from "../util/index.ts";
import { describeArray, type FloatDType, fromFloat32, toFloat32 } from "./named-array.ts";
import { parseConfig, type SaeLensConfig, saeLensDtype, saeLensTraits } from "./sae-lens-config.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";

const CONFIG = "cfg.json";
const WEIGHTS = "sae_weights.safetensors";

/** Tensors of an SAE by what they are called in the file. D input · E output width, F features, R encoder rows (F or fewer). */
export interface SaeLensTensors {
  /** [D, R] */
  wEnc: Float32Array;
  /** [R]; a gated SAE's b_gate. */
  bEnc: Float32Array;
  /** [F, E], one row per feature. */
  wDec: Float32Array;
  /** [E] */
  bDec?: Float32Array;
  /** [F] */
  threshold?: Float32Array;
  /** [F] */
  rMag?: Float32Array;
  /** [F] */
  bMag?: Float32Array;
  /** [E, D] */
  wSkip?: Float32Array;
}

/** A sparse autoencoder as plain data. */
export interface SaeLensSae extends SaeLensConfig, SaeLensTensors {}

type Layout = readonly (readonly [
  name: string,
  key: keyof SaeLensTensors,
  shape: readonly (number | undefined)[],
])[];

/** What the tensors are called and how large they must be; `undefined`: our own keys say. */
function layout({
  architecture,
  dIn,
  dOut,
  dSae,
}: Pick<SaeLensConfig, "architecture" | "dIn" | "dOut" | "dSae">) {
  const { threshold, gated, skip, free } = saeLensTraits(architecture);
  const rows = free ? undefined : dSae;
  const required: Layout = [
    ["W_enc", "wEnc", [dIn, rows]],
    [gated ? "b_gate" : "b_enc", "bEnc", [rows]],
    ["W_dec", "wDec", [dSae, dOut]],
  ];
  const further: Layout = [
    ["b_dec", "bDec", [dOut]],
    ["threshold", "threshold", [dSae]],
    ["r_mag", "rMag", [dSae]],
    ["b_mag", "bMag", [dSae]],
    ["W_skip", "wSkip", [dOut, dIn]],
  ];
  const has: Partial<Record<keyof SaeLensTensors, boolean>> = {
    bDec: true,
    threshold,
    rMag: gated,
    bMag: gated,
    wSkip: skip,
  };
  return {
    required: free ? required : [...required, ...further.filter(([, key]) => has[key])],
    optional: free ? further : [],
  };
}

/** True when the folder looks like a SAELens SAE. */
export const isSaeLensFolder = (folder: string): boolean =>
  fs.existsSync(path.join(folder, CONFIG)) && fs.existsSync(path.join(folder, WEIGHTS));

/** Reads and checks a folder. `warnings` lists what was left aside. */
export async function readSaeLens(folder: string): Promise<SaeLensSae> {
  if (!fs.existsSync(folder)) throw ioError(`open the SAE ${folder}`, { code: "ENOENT" });
  const configFile = path.join(folder, CONFIG);
  for (const file of [CONFIG, WEIGHTS]) {
    if (!fs.existsSync(path.join(folder, file))) {
      throw inputError(`${folder}: no ${file}; an SAE folder has ${CONFIG} and ${WEIGHTS}`);
    }
  }
  return readSaeLensFiles(configFile, path.join(folder, WEIGHTS));
}

/** The same of two files, whatever they are called. */
export async function readSaeLensFiles(configFile: string, weightsFile: string): Promise<SaeLensSae> {
  const config = parseConfig(configFile, readJson(configFile));
  const weights = openSafetensors(weightsFile);
  try {
    const { required, optional } = layout(config);
    const present = weights.names();
    const known = [...required, ...optional.filter(([name]) => present.includes(name))];
    for (const name of present) {
      if (name === "scaling_factor") checkScaling(weightsFile, toFloat32(weights.readSync(name)));
      else if (!known.some(([k]) => k === name)) {
        throw inputError(`${weightsFile}: tensor "${name}" is not part of a ${config.architecture} SAE`);
      }
    }
    const tensors: Partial<SaeLensTensors> = {};
    for (const [name, key, shape] of known) {
      const array = await weights.read(name);
      checkShape(weightsFile, name, array.shape, shape);
      tensors[key] = toFloat32(array);
    }
    return { ...config, ...(tensors as SaeLensTensors) };
  } finally {
    weights.close();
  }
}

function checkShape(
  file: string,
  name: string,
  got: readonly number[],
  want: readonly (number | undefined)[],
): void {
  if (got.length === want.length && got.every((d, i) => want[i] === undefined || d === want[i])) return;
  const turned = got.length === 2 && got[0] === want[1] && got[1] === want[0];
  const hint = turned ? "; it is transposed, so this is not the SAELens layout" : "";
  throw inputError(
    `${file}: ${name} is [${got.join(", ")}], but d_in and d_sae of ${CONFIG} say [${want.map((d) => d ?? "any").join(", ")}]${hint}`,
  );
}

function checkScaling(file: string, factors: Float32Array): void {
  if (factors.some((v) => Math.abs(v - 1) > 1e-5)) {
    throw inputError(`${file}: scaling_factor is not all ones; fine-tuning scales are not supported`);
  }
}

export interface WriteSaeLensOptions {
  /** Storage type of the weights; arithmetic is always f32. */
  dtype?: FloatDType;
}

/** Writes a folder that SAELens v6 loads. The weights go first, so a folder with cfg.json is complete. */
export async function writeSaeLens(
  folder: string,
  sae: Omit<SaeLensSae, "warnings" | "dtype">,
  { dtype = "f32" }: WriteSaeLensOptions = {},
): Promise<void> {
  const tensors: Record<string, ReturnType<typeof fromFloat32>> = {};
  const { required, optional } = layout(sae);
  for (const [name, key, expected] of [...required, ...optional.filter(([, key]) => sae[key])]) {
    const data = sae[key];
    if (!data) throw usageError(`writeSaeLens: a ${sae.architecture} SAE needs ${key}`);
    const others = expected.reduce<number>((a, b) => a * (b ?? 1), 1);
    const shape = expected.map((d) => d ?? data.length / others);
    if (!shape.every(Number.isInteger) || data.length !== shape.reduce((a, b) => a * b, 1)) {
      throw usageError(
        `writeSaeLens: ${key} has ${data.length} elements, but must be ${describeArray({ dtype: "f32", shape })}`,
      );
    }
    tensors[name] = fromFloat32(data, shape, dtype);
  }
  const { k: hasK, transcoder, free } = saeLensTraits(sae.architecture);
  const config = {
    architecture: sae.architecture,
    d_in: sae.dIn,
    ...((transcoder || free) && { d_out: sae.dOut }),
    d_sae: sae.dSae,
    ...(hasK && { k: sae.k }),
    dtype: saeLensDtype(dtype),
    device: "cpu",
    apply_b_dec_to_input: sae.applyBDecToInput,
    normalize_activations: sae.normalizeActivations,
    reshape_activations: sae.reshapeActivations,
    rescale_acts_by_decoder_norm: false,
    ...sae.extra,
    metadata: { sae_lens_version: "6.0.0", sae_lens_training_version: null, ...sae.metadata },
    ...(sae.sluice ? { sluice: { schema: 1, ...sae.sluice } } : {}),
  };
  await writeSafetensors(path.join(folder, WEIGHTS), tensors, { format: "pt" });
  await writeAtomic(path.join(folder, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
}

/**
 * Folds an input scale into the weights: an SAE trained on factor·x becomes one that takes x and returns x's scale.
 * f = act((s·x − b_dec·a) W_enc + b_enc) keeps its value with W_enc·s and b_dec/s; the output (f W_dec + b_dec)/s with
 * W_dec/s and b_dec/s. Pure: new arrays.
 */
export function foldNormalization<T extends Pick<SaeLensTensors, "wEnc" | "wDec" | "bDec">>(
  sae: T,
  factor: number,
): T {
  if (!(factor > 0 && Number.isFinite(factor))) {
    throw usageError(`foldNormalization: factor=${factor} must be a positive number`);
  }
  return {
    ...sae,
    wEnc: sae.wEnc.map((v) => v * factor),
    wDec: sae.wDec.map((v) => v / factor),
    bDec: sae.bDec?.map((v) => v / factor),
  };
}
