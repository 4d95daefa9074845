/**
 * SAEs on disk. Ours is SAELens' layout (version 6): on disk W_enc is [D, R], in memory [R, D]. What SAELens has no name for is
 * written under the architecture `sluice`, with its config under our own key, so that SAELens refuses it by name. Files of other
 * libraries are read by what they hold; see io-plain.ts.
 */
import { z } from "zod";
import {
  type FloatDType,
  findSae,
  foldNormalization,
  fromFloat32,
  objectOf,
  optionHint,
  placeOf,
  type ReadSaeOptions,
  readSaeFiles,
  readSaeLensFiles,
  type SaeFormat,
  type SaeLensArchitecture,
  type SaeLensSae,
  saeFormatTitle,
  toFloat32,
  transpose2d,
  type WritableSaeFormat,
  writeSaeLens,
} from "../formats/index.ts";
import type { Device } from "../tensor/index.ts";
import { inputError, SluiceError, usageError } from "../util/index.ts";
import { type Activation, type SaeConfig, saeConfig } from "./config.ts";
import { fromPlain, writePlain } from "./io-plain.ts";
import { hostParams, mapParams, type Notes, type ParamName, paramShapes, type Sae } from "./sae.ts";

export interface SaveSaeOptions {
  /** Layout of the files; `sae-lens` is ours. */
  readonly format?: WritableSaeFormat;
  /** Storage type of the weights (f32); arithmetic is always f32. */
  readonly dtype?: FloatDType;
  /** Lets numbers change where the format cannot hold the SAE exactly; without it that is refused. */
  readonly lossy?: boolean;
}

export interface SavedSae {
  /** What the format had no place for, as sentences without a subject; empty if the SAE comes back as it is. */
  readonly lost: readonly string[];
}

/** Writes an SAE into a folder; in our layout, provenance goes under our own key. Refuses what would not be exact. */
export async function saveSae(
  folder: string,
  sae: Sae,
  { format = "sae-lens", dtype = "f32", lossy = false }: SaveSaeOptions = {},
): Promise<SavedSae> {
  const { activation } = sae.config;
  if (activation.kind === "batchtopk" || (activation.kind === "jumprelu" && activation.log)) {
    throw usageError(`saveSae: ${activation.kind} as it is trained has no file; save what trainSae returns`);
  }
  const rounded = await roundingOf(sae, dtype);
  if (format !== "sae-lens") {
    return { lost: [...rounded, ...(await writePlain(folder, sae, { format, dtype, lossy }))] };
  }
  await writeOwn(folder, sae, dtype);
  const own = saeLensName(sae.config) === "sluice";
  return { lost: [...rounded, ...(own ? ["other readers: SAELens has no architecture of this kind"] : [])] };
}

/** What a narrower type loses of the weights; numbers that would become infinite are refused. */
async function roundingOf({ params }: Sae, dtype: FloatDType): Promise<string[]> {
  if (dtype === "f32" || dtype === "f64") return [];
  let rounds = false;
  for (const [name, values] of Object.entries(await hostParams(params))) {
    const stored = toFloat32(fromFloat32(values, [values.length], dtype));
    const i = stored.findIndex((v, j) => !Number.isFinite(v) && Number.isFinite(values[j]));
    if (i >= 0) {
      throw usageError(
        `saveSae: ${dtype} has no number as large as ${values[i]}, which is in ${name}; write f32${dtype === "f16" ? " or bf16" : ""}`,
      );
    }
    rounds ||= stored.some((v, j) => v !== values[j] && !Number.isNaN(v));
  }
  return rounds ? [`the weights beyond the precision of ${dtype}`] : [];
}

async function writeOwn(folder: string, sae: Sae, dtype: FloatDType): Promise<void> {
  const { config, params, metadata, provenance } = sae;
  const { dIn, dOut, features, activation, applyBDecToInput } = config;
  const architecture = saeLensName(config);
  const data = await hostParams(params);
  const { origin, ...notes } = provenance ?? {};
  const before = objectOf(provenance, "origin");
  const extra = before?.format === "sae-lens" ? objectOf(before, "extra") : undefined;
  const own = {
    ...notes,
    ...(origin !== undefined && !extra && { origin }),
    ...(architecture === "sluice" && { config }),
  };
  const heads = typeof metadata.hook_name === "string" && metadata.hook_name.endsWith(".hook_z");
  await writeSaeLens(
    folder,
    {
      architecture,
      dIn,
      dOut,
      dSae: features,
      ...("k" in activation && { k: activation.k }),
      applyBDecToInput,
      normalizeActivations: "none",
      reshapeActivations: heads ? "hook_z" : "none",
      metadata,
      ...(Object.keys(own).length > 0 && { sluice: own }),
      ...(extra && { extra }),
      ...data,
      wEnc: transpose2d(data.wEnc, params.wEnc.shape[0], dIn),
    },
    { dtype },
  );
}

/** What SAELens calls it, or `sluice`. */
function saeLensName({ encoder, activation, transcoder, skip, decoderBias }: SaeConfig): SaeLensArchitecture {
  if (encoder.kind !== "dense" || !decoderBias) return "sluice";
  const { kind } = activation;
  if (!transcoder) return kind === "relu" ? "standard" : kind === "batchtopk" ? "sluice" : kind;
  if (kind === "relu") return skip ? "skip_transcoder" : "transcoder";
  if (kind === "jumprelu") return skip ? "jumprelu_skip_transcoder" : "jumprelu_transcoder";
  return "sluice";
}

export interface LoadedSae {
  readonly sae: Sae;
  /** What the reader left aside. */
  readonly warnings: readonly string[];
  readonly format: SaeFormat;
}

/** What the files leave open, or what is to be taken instead of what they say. */
export type LoadSaeOptions = ReadSaeOptions;

/**
 * Reads an SAE of ours, of SAELens or of another library from a folder or a file of weights; the format is told by what is in
 * it. Its tensors live until `disposeSae`.
 */
export async function loadSae(
  device: Device,
  folder: string,
  options: LoadSaeOptions = {},
): Promise<LoadedSae> {
  const files = findSae(folder);
  const { format } = files;
  if (format !== "sae-lens") {
    const plain = readSaeFiles(folder, files, options);
    checkOptions(folder, options, { format, transcoder: plain.transcoder });
    return { sae: fromPlain(device, plain), warnings: plain.warnings, format };
  }
  const file = scaled(folder, await readSaeLensFiles(files.config!, files.weights), options);
  const config = configOf(folder, file);
  checkOptions(folder, options, { format, transcoder: config.transcoder });
  const { dIn } = config;
  const data = (name: ParamName, shape: readonly number[]): Float32Array => {
    const found = name === "logThreshold" ? undefined : file[name];
    if (!found) throw inputError(`${folder}: ${name} is missing`);
    if (found.length !== shape.reduce((a, b) => a * b, 1)) {
      throw inputError(
        `${folder}: ${name} has ${found.length} numbers, but the config says [${shape.join(", ")}]`,
      );
    }
    return found;
  };
  const shapes = paramShapes(config);
  mapParams(shapes, (shape, name) => data(name, shape)); // all is there before the first tensor is made
  if (file.bDec && !config.decoderBias) {
    throw inputError(`${folder}: it has a b_dec, but its config says that it has none`);
  }
  const params = mapParams(shapes, (shape, name) => {
    const values = data(name, shape);
    return device.tensor(name === "wEnc" ? transpose2d(values, dIn, shape[0]) : values, shape).keep();
  });
  const { config: _, ...own } = file.sluice ?? {};
  const unknown = file.extra && { origin: { format, extra: file.extra } };
  const provenance: Notes | undefined = (file.sluice || unknown) && { ...own, ...unknown };
  const metadata = placeOf(options, {}, file.metadata);
  return { sae: { config, params, metadata, provenance }, warnings: file.warnings, format };
}

/** An option that decides nothing about these files is a misunderstanding, and is never ignored. */
function checkOptions(
  folder: string,
  { dictClass, threshold, hookOut, normFactor, normFactorOut }: LoadSaeOptions,
  { format, transcoder }: { format: SaeFormat; transcoder: boolean },
): void {
  const dictionary = format !== "dictionary-learning" && `and this is ${saeFormatTitle(format)}`;
  const none = !transcoder && "and this is none";
  const unused: readonly (readonly [name: keyof LoadSaeOptions, given: unknown, why: string])[] = [
    ["dictClass", dictionary && dictClass, `is for dictionary_learning, ${dictionary}`],
    ["threshold", dictionary && threshold, `is for BatchTopK of dictionary_learning, ${dictionary}`],
    ["hookOut", none && hookOut, `is for transcoders, ${none}`],
    ["normFactorOut", none && normFactorOut, `is for transcoders, ${none}`],
    ["normFactorOut", normFactor === undefined && normFactorOut, "goes with normFactor"],
  ];
  for (const [name, given, why] of unused) {
    if (given !== undefined && given !== false)
      throw usageError(`${folder}: ${optionHint(name)} ${why}; leave it away`);
  }
}

/** SAELens has no run-time code for this normalisation: its factor is in the weights, or only the user knows it. */
function scaled(folder: string, file: SaeLensSae, { normFactor, normFactorOut }: LoadSaeOptions): SaeLensSae {
  if (normFactor === undefined) {
    if (file.normalizeActivations === "none") return file;
    throw inputError(
      `${folder}: normalize_activations=${file.normalizeActivations}, and the factor is not in the file (some releases have it only ` +
        `in SAELens' registry, as norm_scaling_factor); give ${optionHint("normFactor")}, or 1 if the weights have it already`,
    );
  }
  if (file.architecture === "sluice" && normFactor !== 1)
    throw usageError(`${folder}: is an SAE of ours, which takes raw activations; leave normFactor away`);
  const warnings = file.warnings.filter((w) => !w.includes("normalize_activations"));
  return foldNormalization(
    { ...file, warnings, normalizeActivations: "none" as const },
    normFactor,
    normFactorOut,
  );
}

/** `SAELens`, `dictionary_learning` … of what was loaded. */
export const formatTitle = ({ format }: LoadedSae): string => saeFormatTitle(format);

function configOf(folder: string, file: SaeLensSae): SaeConfig {
  const { architecture, dIn, dOut, dSae: features, applyBDecToInput } = file;
  if (architecture !== "sluice") {
    const rest = saeLensConfig(architecture, file.k);
    return checked(folder, () => saeConfig({ dIn, dOut, features, applyBDecToInput, ...rest }));
  }
  const own = savedConfig.safeParse(file.sluice?.config);
  if (!own.success) {
    const [{ path, message }] = own.error.issues;
    throw inputError(
      `${folder}: ${["sluice.config", ...path].join(".")} of cfg.json: ${message.slice(0, 200)}`,
    );
  }
  const config = checked(folder, () => saeConfig(own.data));
  if (config.dIn !== dIn || config.dOut !== dOut || config.features !== features) {
    throw inputError(`${folder}: sluice.config is of another size than d_in, d_out and d_sae`);
  }
  return config;
}

/** A file that says what no SAE can be is bad input, whatever a caller would have done wrong. */
function checked<T>(folder: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof SluiceError) throw inputError(`${folder}: ${error.message}`, error);
    throw error;
  }
}

/** A config under our own key; activations that exist in training only are never saved. */
const savedConfig = z.strictObject({
  dIn: z.number(),
  dOut: z.number().optional(),
  features: z.number(),
  encoder: z
    .discriminatedUnion("kind", [
      z.strictObject({ kind: z.literal("dense") }),
      z.strictObject({
        kind: z.literal("kron"),
        m: z.number(),
        n: z.number(),
        product: z.enum(["mand", "relu", "raw"]),
      }),
    ])
    .optional(),
  activation: z.discriminatedUnion("kind", [
    z.strictObject({ kind: z.enum(["relu", "jumprelu", "gated"]), log: z.literal(false).optional() }),
    z.strictObject({ kind: z.literal("topk"), k: z.number() }),
  ]),
  applyBDecToInput: z.boolean().optional(),
  decoderBias: z.boolean().optional(),
  transcoder: z.boolean().optional(),
  skip: z.boolean().optional(),
});

function saeLensConfig(
  architecture: Exclude<SaeLensArchitecture, "sluice">,
  k: number | undefined,
): Pick<SaeConfig, "activation" | "transcoder" | "skip"> {
  const relu: Activation = { kind: "relu" };
  const jumprelu: Activation = { kind: "jumprelu" };
  const own = { transcoder: false, skip: false };
  switch (architecture) {
    case "standard":
      return { ...own, activation: relu };
    case "topk":
      return { ...own, activation: { kind: "topk", k: k as number } }; // the reader has checked it
    case "jumprelu":
      return { ...own, activation: jumprelu };
    case "gated":
      return { ...own, activation: { kind: "gated" } };
    case "transcoder":
      return { activation: relu, transcoder: true, skip: false };
    case "skip_transcoder":
      return { activation: relu, transcoder: true, skip: true };
    case "jumprelu_transcoder":
      return { activation: jumprelu, transcoder: true, skip: false };
    case "jumprelu_skip_transcoder":
      return { activation: jumprelu, transcoder: true, skip: true };
    default:
      return architecture satisfies never;
  }
}
