/**
 * SAELens v6 folders: cfg.json + sae_weights.safetensors, W_enc [D, F], W_dec [F, D]. Our own keys stand under "sluice",
 * which SAELens ignores. Reading also takes the flat cfg.json from before version 6.
 * A key that changes the meaning of the numbers and is not supported is refused by name, never ignored.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { inputError, ioError, usageError, writeAtomic } from "../util/index.ts";
import { openArrays } from "./array-file.ts";
import { describeArray, type FloatDType, fromFloat32, toFloat32 } from "./named-array.ts";
import { Fields, readConfig, refuseScaling } from "./plain-sae.ts";
import { parseConfig, type SaeLensConfig, saeLensDtype, saeLensTraits } from "./sae-lens-config.ts";
import { writeSafetensors } from "./safetensors.ts";

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
  const config = parseConfig(configFile, readConfig(configFile));
  const weights = openArrays(weightsFile);
  try {
    const fields = new Fields(weights);
    const { required, optional } = layout(config);
    const tensors: Partial<SaeLensTensors> = {};
    for (const [name, key, shape] of [...required, ...optional.filter(([name]) => fields.has(name))])
      tensors[key] = toFloat32(fields.weights(name, shape, `d_in and d_sae of ${configFile}`));
    refuseScaling(fields, config.dSae);
    fields.done(`a ${config.architecture} SAE`);
    const warnings = [...config.warnings, ...fields.warnings.map((text) => `${weightsFile}: ${text}`)];
    return { ...config, ...(tensors as SaeLensTensors), warnings };
  } finally {
    weights.close();
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
    metadata: { sae_lens_training_version: null, ...sae.metadata, sae_lens_version: versionOf(sae.metadata) },
    ...(sae.sluice ? { sluice: { schema: 1, ...sae.sluice } } : {}),
  };
  await writeSafetensors(path.join(folder, WEIGHTS), tensors, { format: "pt" });
  await writeAtomic(path.join(folder, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
}

/** What SAELens reads the file by: that of a file from before 6 would make it look for the flat layout. */
function versionOf({ sae_lens_version: version }: Readonly<Record<string, unknown>>): string {
  return typeof version === "string" && Number.parseInt(version, 10) >= 6 ? version : "6.0.0";
}
