/**
 * Between an `Sae` and the plain form that files of other libraries are read into and written from. Both have the same
 * orientation, so numbers go over as they are.
 */
import {
  type FloatDType,
  Losses,
  objectOf,
  type PlainActivation,
  type PlainSae,
  SAE_FORMATS,
  type SaeFormat,
  saeFormatTitle,
  type WritableSaeFormat,
  writeDictionaryLearning,
  writeGemmaScope,
  writeLlamaScope,
  writeSparsify,
} from "../formats/index.ts";
import type { Device } from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import { type SaeConfig, saeConfig } from "./config.ts";
import { hostParams, mapParams, paramShapes, type Sae } from "./sae.ts";

/** Its tensors live until `disposeSae`. */
export function fromPlain(device: Device, plain: PlainSae): Sae {
  const { dIn, dOut, features, activation, applyBDecToInput, transcoder, skip, metadata, origin } = plain;
  const config = saeConfig({ dIn, dOut, features, activation, applyBDecToInput, transcoder, skip });
  const params = mapParams(paramShapes(config), (shape, name) => {
    const data = name === "logThreshold" ? undefined : plain[name];
    if (!data) throw new Error(`sae: ${name} was not read`);
    return device.tensor(data, shape).keep();
  });
  return { config, params, metadata, provenance: { origin } };
}

async function toPlain(sae: Sae, format: string): Promise<PlainSae> {
  const { config, params, metadata, provenance } = sae;
  const { dIn, dOut, features, encoder, applyBDecToInput, transcoder, skip } = config;
  if (encoder.kind !== "dense") {
    throw usageError(
      `${format}: a ${encoder.kind} encoder has no row of its own for every feature; only sae-lens holds it`,
    );
  }
  const data = await hostParams(params);
  const before = provenance?.trained_as as { kind?: unknown; k?: unknown } | undefined;
  return {
    dIn,
    dOut,
    features,
    activation: plainActivation(config),
    applyBDecToInput,
    transcoder,
    skip,
    ...data,
    metadata,
    origin: {
      ...(before?.kind === "batchtopk" && { k: before.k }),
      ...objectOf(provenance, "origin"),
    },
    warnings: [],
  };
}

function plainActivation({ activation }: SaeConfig): PlainActivation {
  if (activation.kind === "batchtopk") throw usageError("saveSae: batchtopk exists in training only");
  return activation.kind === "jumprelu" ? { kind: "jumprelu" } : activation;
}

const WRITERS = {
  "dictionary-learning": writeDictionaryLearning,
  sparsify: writeSparsify,
  "gemma-scope": writeGemmaScope,
  "llama-scope": writeLlamaScope,
} as const satisfies Record<Exclude<WritableSaeFormat, "sae-lens">, unknown>;

/** Notes of how it was made: another library's files keep those that are its own. */
function notesLost({ provenance = {} }: Sae, { origin }: PlainSae, format: SaeFormat): string[] {
  const own = Object.keys(provenance).filter((key) => key !== "origin" && key !== "schema");
  const before = SAE_FORMATS.find((name) => name === origin.format && name !== format);
  const theirs = before ? Object.keys(origin).filter((key) => key !== "format") : [];
  return [
    ...(own.length > 0 ? [`what sluice noted of it: ${own.join(", ")}`] : []),
    ...(before && theirs.length > 0
      ? [`what only ${saeFormatTitle(before)} has a word for: ${theirs.join(", ")}`]
      : []),
  ];
}

/** Writes the files of another library; returns what was lost. */
export async function writePlain(
  folder: string,
  sae: Sae,
  {
    format,
    dtype,
    lossy,
  }: {
    readonly format: Exclude<WritableSaeFormat, "sae-lens">;
    readonly dtype: FloatDType;
    readonly lossy: boolean;
  },
): Promise<string[]> {
  const losses = new Losses(format, lossy);
  const plain = await toPlain(sae, format);
  for (const text of notesLost(sae, plain, format)) losses.note(text);
  await WRITERS[format](folder, plain, { losses, dtype });
  return losses.list();
}
