/**
 * Adam on all parameters: clipped by the common norm, decoder rows kept at unit length in the same pass.
 */
import { adam, adamRows, type Device, slice, type Tensor } from "../tensor/index.ts";
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

/** One step in place. Gradients of fewer rows than the parameter are those of its last rows; without one it stays as it is. */
export function applyAdam(
  params: SaeParams,
  grads: PerParam<Tensor>,
  { m, v }: Moments,
  train: Pick<SaeTrainConfig, "beta1" | "beta2" | "eps" | "removeParallelGradient" | "unitDecoder">,
  { lr, step, gradScale }: AdamStep,
): void {
  const { beta1, beta2, eps, removeParallelGradient: project, unitDecoder: normalize } = train;
  const attrs = { lr, beta1, beta2, eps, weightDecay: 0, step, gradScale };
  mapParams(params, (whole, name) => {
    const grad = grads[name];
    if (!grad) return;
    const [p, first, second] = [whole, m[name], v[name]].map((t) => lastRows(t, grad.shape[0]));
    if (name === "wDec" && (project || normalize)) {
      adamRows(p, grad, first, second, { ...attrs, project, normalize, normEps: 1e-8 });
    } else {
      adam(p, grad, first, second, attrs);
    }
  });
}

function lastRows(t: Tensor | undefined, rows: number): Tensor {
  if (!t) throw new Error("adam: a parameter without moments");
  const [all, ...rest] = t.shape;
  return rows === all ? t : slice(t, [all - rows, ...rest.map(() => 0)], [rows, ...rest]);
}
