/**
 * AdamW over groups of parameters (Loshchilov & Hutter 2019), with clipping by the global norm of all gradients.
 */
import { adam, type Device, sumSquares, type Tensor } from "../tensor/index.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
}

export interface AdamWParam {
  /** Names the moments in checkpoints. */
  readonly name: string;
  readonly tensor: Tensor;
  /** Decoupled weight decay of this parameter; 0 for norms and biases. */
  readonly weightDecay: number;
  /** Multiplies the learning rate of every step; default 1. */
  readonly lrScale?: number;
}

export class AdamW {
  readonly params: readonly AdamWParam[];
  readonly options: AdamWOptions;
  /** First and second moments, one a parameter. */
  readonly moments: readonly { readonly m: Tensor; readonly v: Tensor }[];
  #step = 0;

  constructor(device: Device, params: readonly AdamWParam[], options: AdamWOptions) {
    this.params = params;
    this.options = options;
    this.moments = params.map(({ tensor }) => ({
      m: device.zeros(tensor.shape).keep(),
      v: device.zeros(tensor.shape).keep(),
    }));
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#step;
  }

  /** Continues after `steps` steps; the moments must have been restored too. */
  restore(steps: number): void {
    this.#step = steps;
  }

  /** One step in place. `gradScale` multiplies every gradient first. */
  step(grads: readonly Tensor[], { lr, gradScale = 1 }: { lr: number; gradScale?: number }): void {
    this.#step++;
    this.params.forEach(({ tensor, weightDecay, lrScale = 1 }, i) => {
      const { m, v } = this.moments[i];
      const own = { lr: lr * lrScale, weightDecay, gradScale, step: this.#step };
      adam(tensor, grads[i], m, v, { ...this.options, ...own });
    });
  }

  dispose(): void {
    for (const { m, v } of this.moments) {
      m.dispose();
      v.dispose();
    }
  }
}

/** Norm of all tensors together, summed in f64 from per-tensor sums. */
export async function globalNorm(tensors: readonly Tensor[]): Promise<number> {
  let total = 0;
  for (const t of tensors) {
    const squares = sumSquares(t);
    total += await squares.item();
    squares.dispose();
  }
  return Math.sqrt(total);
}

/** Factor that brings a gradient of `norm` down to at most `max`; 1 when it is within. */
export function clipFactor(norm: number, max: number): number {
  return norm > max ? max / (norm + 1e-6) : 1;
}
