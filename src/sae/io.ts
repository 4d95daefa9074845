/**
 * SAEs on disk, in SAELens' layout (version 6). On disk W_enc is [D, R], in memory [R, D]. What SAELens has no name for is
 * written under the architecture `sluice`, with its config under our own key, so that SAELens refuses it by name.
 */
import {
  readSaeLens,
  type SaeLensArchitecture,
  type SaeLensSae,
  transpose2d,
  type WriteSaeLensOptions,
  writeSaeLens,
} from "../formats/index.ts";
import type { Device } from "../tensor/index.ts";
import { inputError, usageError } from "../util/index.ts";
import { type Activation, type SaeConfig, saeConfig } from "./config.ts";
import { mapParams, type Notes, paramShapes, type Sae } from "./sae.ts";

/** Writes cfg.json and sae_weights.safetensors; provenance goes under our own key. */
export async function saveSae(folder: string, sae: Sae, options: WriteSaeLensOptions = {}): Promise<void> {
  const { config, params, metadata, provenance } = sae;
  const { dIn, dOut, features, activation, applyBDecToInput } = config;
  if (activation.kind === "batchtopk" || (activation.kind === "jumprelu" && activation.log)) {
    throw usageError(`saveSae: ${activation.kind} as it is trained has no file; save what trainSae returns`);
  }
  const architecture = saeLensName(config);
  const arrays = mapParams(params, (t) => t.floats());
  const data: Record<string, Float32Array> = {};
  for (const [name, promise] of Object.entries(arrays)) data[name] = await promise;
  const own = { ...provenance, ...(architecture === "sluice" && { config }) };
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
      reshapeActivations: "none",
      metadata,
      ...(Object.keys(own).length > 0 && { sluice: own }),
      ...(data as Pick<SaeLensSae, "wEnc" | "bEnc" | "wDec">),
      wEnc: transpose2d(data.wEnc, params.wEnc.shape[0], dIn),
    },
    options,
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
}

/** Reads an SAE of ours or of SAELens. Its tensors live until `disposeSae`. */
export async function loadSae(device: Device, folder: string): Promise<LoadedSae> {
  const file = await readSaeLens(folder);
  const config = configOf(folder, file);
  const { dIn } = config;
  const params = mapParams(paramShapes(config), (shape, name) => {
    const data = name === "logThreshold" ? undefined : file[name];
    if (!data) throw inputError(`${folder}: ${name} is missing`);
    if (data.length !== shape.reduce((a, b) => a * b, 1)) {
      throw inputError(
        `${folder}: ${name} has ${data.length} numbers, but the config says [${shape.join(", ")}]`,
      );
    }
    return device.tensor(name === "wEnc" ? transpose2d(data, dIn, shape[0]) : data, shape).keep();
  });
  if (file.bDec && !config.decoderBias) {
    throw inputError(`${folder}: it has a b_dec, but its config says that it has none`);
  }
  const { config: _, ...own } = file.sluice ?? {};
  const provenance: Notes | undefined = file.sluice && own;
  return { sae: { config, params, metadata: file.metadata, provenance }, warnings: file.warnings };
}

function configOf(folder: string, file: SaeLensSae): SaeConfig {
  const { architecture, dIn, dOut, dSae: features, applyBDecToInput } = file;
  if (architecture !== "sluice") {
    return saeConfig({ dIn, dOut, features, applyBDecToInput, ...saeLensConfig(architecture, file.k) });
  }
  const own = file.sluice?.config as SaeConfig | undefined;
  if (!own) throw inputError(`${folder}: architecture sluice without sluice.config`);
  const config = saeConfig(own);
  if (config.dIn !== dIn || config.dOut !== dOut || config.features !== features) {
    throw inputError(`${folder}: sluice.config is of another size than d_in, d_out and d_sae`);
  }
  return config;
}

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
