/**
 * Adam on all parameters: clipped by the common norm, decoder rows kept at unit length in the same pass.
 */
import { adam, adamRows, type Device, type Tensor } from "../tensor/index.ts";
import { mapParams, type PerParam, paramShapes, type Sae, type SaeParams } from "./sae.ts";
import type { SaeTrainConfig } from "./train-config.ts";

/** First and second moments of every parameter. */
export interface Moments {
  readonly m: PerParam<Tensor>;
  readonly v: PerParam<Tensor>;
}

export function createMoments(device: Device, sae: Sae): Moments {
  const zeros = () => mapParams(paramShapes(sae.config), (shape) => device.zeros(shape).keep());
  return { m: zeros(), v: zeros() };
}

export function disposeMoments({ m, v }: Moments): void {
  for (const moments of [m, v]) mapParams(moments, (t) => t.dispose());
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
  grads: PerParam<Tensor>,
  { m, v }: Moments,
  train: Pick<SaeTrainConfig, "beta1" | "beta2" | "eps" | "removeParallelGradient" | "unitDecoder">,
  { lr, step, gradScale }: AdamStep,
): void {
  const { beta1, beta2, eps, removeParallelGradient: project, unitDecoder: normalize } = train;
  const attrs = { lr, beta1, beta2, eps, weightDecay: 0, step, gradScale };
  mapParams(params, (p, name) => {
    const [grad, first, second] = [grads[name], m[name], v[name]];
    if (!grad || !first || !second) throw new Error(`adam: no gradient or moments of ${name}`);
    if (name === "wDec" && (project || normalize)) {
      adamRows(p, grad, first, second, { ...attrs, project, normalize, normEps: 1e-8 });
    } else {
      adam(p, grad, first, second, attrs);
    }
  });
}
