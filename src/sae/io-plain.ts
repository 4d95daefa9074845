/**
 * Between an `Sae` and the plain form that files of other libraries are read into and written from. Both have the same
 * orientation, so numbers go over as they are.
 */
import {
  type FloatDType,
  Losses,
  type PlainActivation,
  type PlainSae,
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
      ...(provenance?.origin as PlainSae["origin"] | undefined),
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
  await WRITERS[format](folder, await toPlain(sae, format), { losses, dtype });
  return losses.list();
}
