/**
 * SAEs on disk, in SAELens' layout (version 6). On disk W_enc is [D, F], in memory [F, D].
 */
import { readSaeLens, transpose2d, type WriteSaeLensOptions, writeSaeLens } from "../formats/index.ts";
import type { Device } from "../tensor/index.ts";
import { saeConfig } from "./config.ts";
import type { Notes, Sae } from "./sae.ts";

/** Writes cfg.json and sae_weights.safetensors; provenance goes under our own key. */
export async function saveSae(folder: string, sae: Sae, options: WriteSaeLensOptions = {}): Promise<void> {
  const { config, params, metadata, provenance } = sae;
  const { dIn, features, activation, applyBDecToInput } = config;
  const [wEnc, bEnc, wDec, bDec] = await Promise.all(
    [params.wEnc, params.bEnc, params.wDec, params.bDec].map((t) => t.floats()),
  );
  await writeSaeLens(
    folder,
    {
      architecture: activation.kind,
      dIn,
      dSae: features,
      k: activation.k,
      applyBDecToInput,
      normalizeActivations: "none",
      reshapeActivations: "none",
      metadata,
      sluice: provenance,
      wEnc: transpose2d(wEnc, features, dIn),
      bEnc,
      wDec,
      bDec,
    },
    options,
  );
}

export interface LoadedSae {
  readonly sae: Sae;
  /** What the reader left aside. */
  readonly warnings: readonly string[];
}

/** Reads an SAE of ours or of SAELens. Its tensors live until `disposeSae`. */
export async function loadSae(device: Device, folder: string): Promise<LoadedSae> {
  const file = await readSaeLens(folder);
  const { dIn, dSae: F } = file;
  const config = saeConfig({
    dIn,
    features: F,
    activation: { kind: file.architecture, k: file.k },
    applyBDecToInput: file.applyBDecToInput,
  });
  const params = {
    wEnc: device.tensor(transpose2d(file.wEnc, dIn, F), [F, dIn]).keep(),
    bEnc: device.tensor(file.bEnc).keep(),
    wDec: device.tensor(file.wDec, [F, dIn]).keep(),
    bDec: device.tensor(file.bDec).keep(),
  };
  const provenance: Notes | undefined = file.sluice;
  return { sae: { config, params, metadata: file.metadata, provenance }, warnings: file.warnings };
}
