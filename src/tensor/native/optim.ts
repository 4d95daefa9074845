/**
 * Bindings of native/src/optim.inl: in-place passes over parameters, and the sum of squares.
 */
import type { AdamAttrs, AdamRowsAttrs } from "../ops/optim.ts";
import { type KernelTensor, sizeOf } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** What the kernels read of an AdamW step: decay factor, betas, eps, step size, scale of the root, gradient scale. */
function adamNumbers({ lr, beta1, beta2, eps, weightDecay, step, gradScale }: AdamAttrs): number[] {
  const size = lr / (1 - beta1 ** step);
  const root = 1 / Math.sqrt(1 - beta2 ** step);
  return [1 - lr * weightDecay, beta1, beta2, eps, size, root, gradScale];
}

/** The kernels of this family by op. */
export function optimKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const adam = call("adam");
  const adamRows = call("adamRows");
  const sumSquares = call("sumSquares");
  const normalizeRows = call("normalizeRows");
  const projectRows = call("projectRows");

  return {
    /** param, grad, m, v; param, m and v in place */
    adam: (inputs: Tensors, _: Tensors, attrs: AdamAttrs): void =>
      adam(...inputs.map(addressOf), sizeOf(inputs[0].shape), ...adamNumbers(attrs)),
    /** The same on [F, D], with projection before and normalisation after. */
    adamRows: (inputs: Tensors, _: Tensors, attrs: AdamRowsAttrs): void => {
      const [F, D] = inputs[0].shape;
      const flags = [Number(attrs.project), Number(attrs.normalize), attrs.normEps];
      adamRows(...inputs.map(addressOf), F, ...adamNumbers(attrs), D, ...flags);
    },
    sumSquares: ([x]: Tensors, [y]: Tensors): void => sumSquares(addressOf(x), addressOf(y), sizeOf(x.shape)),
    /** w [F, D] in place */
    normalizeRows: ([w]: Tensors, _: Tensors, { eps }: { eps: number }): void =>
      normalizeRows(addressOf(w), w.shape[0], w.shape[1], eps),
    /** grad [F, D] in place, w [F, D] */
    projectRows: ([grad, w]: Tensors): void =>
      projectRows(addressOf(grad), addressOf(w), w.shape[0], w.shape[1]),
  };
}
