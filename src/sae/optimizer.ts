/**
 * Adam on the four parameters: clipped by the common norm, decoder rows kept at unit length in the same pass.
 */
import { adam, adamRows, type Device, type Tensor } from "../tensor/index.ts";
import type { SaeTrainConfig } from "./config.ts";
import { mapParams, PARAM_NAMES, type ParamName, paramShapes, type Sae, type SaeParams } from "./sae.ts";

/** First and second moments of every parameter. */
export interface Moments {
  readonly m: Record<ParamName, Tensor>;
  readonly v: Record<ParamName, Tensor>;
}

export function createMoments(device: Device, sae: Sae): Moments {
  const shapes = paramShapes(sae.config);
  const zeros = () => mapParams((name) => device.zeros(shapes[name]).keep());
  return { m: zeros(), v: zeros() };
}

export function disposeMoments({ m, v }: Moments): void {
  for (const name of PARAM_NAMES) {
    m[name].dispose();
    v[name].dispose();
  }
}

export interface AdamStep {
  readonly lr: number;
  /** 1 for the first step. */
  readonly step: number;
  /** Multiplies every gradient. */
  readonly gradScale: number;
}

/** One step in place. */
export function applyAdam(
  params: SaeParams,
  grads: SaeParams,
  { m, v }: Moments,
  train: Pick<SaeTrainConfig, "beta1" | "beta2" | "eps" | "removeParallelGradient">,
  { lr, step, gradScale }: AdamStep,
): void {
  const { beta1, beta2, eps } = train;
  const attrs = { lr, beta1, beta2, eps, weightDecay: 0, step, gradScale };
  for (const name of ["wEnc", "bEnc", "bDec"] as const) {
    adam(params[name], grads[name], m[name], v[name], attrs);
  }
  adamRows(params.wDec, grads.wDec, m.wDec, v.wDec, {
    ...attrs,
    project: train.removeParallelGradient,
    normalize: true,
    normEps: 1e-8,
  });
}
