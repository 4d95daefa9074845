/**
 * A fresh SAE. Dense: random decoder rows of unit length and W_enc = W_dec (Gao et al. 2024, appendix A.1). Kron: encoder
 * N(0, 1)/√(2F), decoder row of (head, i, j) the unit vector along P_i + Q_j (KronSAE, appendix A.1 and H).
 * A transcoder's two sides live in different spaces, so there both are random unit rows: our choice.
 */
import { type Device, mul, normalizeRows, type Tensor } from "../tensor/index.ts";
import { type Rng, usageError } from "../util/index.ts";
import { type KronEncoder, type SaeConfig, type SaeConfigInput, saeConfig } from "./config.ts";
import { mapParams, type Notes, type ParamName, paramShapes, type Sae } from "./sae.ts";

export interface CreateSaeOptions {
  readonly rng: Rng;
  /** Initial decoder bias, [E]; zeros without it. See `initialBias`. */
  readonly bDec?: Float32Array;
  /** Where jumprelu's thresholds start (0.01). */
  readonly threshold?: number;
  readonly metadata?: Notes;
}

/** Its tensors live until `disposeSae`. */
export function createSae(
  device: Device,
  given: SaeConfigInput,
  { rng, bDec, threshold = 0.01, metadata = {} }: CreateSaeOptions,
): Sae {
  const config = saeConfig(given);
  if (bDec && bDec.length !== config.dOut) {
    throw usageError(`createSae: bDec has ${bDec.length} numbers, but the output width is ${config.dOut}`);
  }
  const matrices = initialMatrices(device, config, rng);
  const constant: Partial<Record<ParamName, number>> = {
    threshold,
    logThreshold: Math.log(threshold),
  };
  const params = mapParams(paramShapes(config), (shape, name) => {
    if (name === "wEnc" || name === "wDec") return matrices[name];
    if (name === "bDec" && bDec) return device.tensor(bDec).keep();
    return device.full(shape, constant[name] ?? 0).keep();
  });
  return { config, params, metadata };
}

function initialMatrices(device: Device, config: SaeConfig, rng: Rng): { wEnc: Tensor; wDec: Tensor } {
  const { dIn, dOut, features, encoder, transcoder } = config;
  if (encoder.kind === "kron") return kronMatrices(device, config, encoder, rng);
  const unitRows = (name: string, width: number): Tensor => {
    const rows = rng.fork(name).fillNormal(new Float32Array(features * width));
    const t = device.tensor(rows, [features, width]).keep();
    normalizeRows(t);
    return t;
  };
  const wDec = unitRows("decoder", dOut);
  return { wDec, wEnc: transcoder ? unitRows("encoder", dIn) : mul(wDec, 1).keep() };
}

function kronMatrices(device: Device, config: SaeConfig, kron: KronEncoder, rng: Rng) {
  const { dIn, dOut, features, transcoder } = config;
  const [rows] = paramShapes(config).wEnc;
  const encoder = rng
    .fork("encoder")
    .fillNormal(new Float32Array(rows * dIn), 0, 1 / Math.sqrt(2 * features));
  const decoder = transcoder
    ? rng.fork("decoder").fillNormal(new Float32Array(features * dOut))
    : kronDecoderRows(encoder, dIn, kron);
  const wDec = device.tensor(decoder, [features, dOut]).keep();
  normalizeRows(wDec);
  return { wEnc: device.tensor(encoder, [rows, dIn]).keep(), wDec };
}

/** P_i + Q_j of every feature, [F, D], not yet of unit length. `encoder` [heads · (m + n), D]. */
export function kronDecoderRows(encoder: Float32Array, width: number, { m, n }: KronEncoder): Float32Array {
  const heads = encoder.length / width / (m + n);
  const out = new Float32Array(heads * m * n * width);
  let to = 0;
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < m; i++) {
      const base = (h * (m + n) + i) * width;
      for (let j = 0; j < n; j++) {
        const extension = (h * (m + n) + m + j) * width;
        for (let d = 0; d < width; d++) out[to++] = encoder[base + d] + encoder[extension + d];
      }
    }
  }
  return out;
}
