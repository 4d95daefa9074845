/**
 * Bindings of native/src/lm.inl: softmax, cross-entropy, rmsNorm, layerNorm, rope and swiglu, with their gradients.
 * Inputs are contiguous f32 (indices i32); outputs are fresh.
 */
import { type KernelTensor, sizeOf } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** Extent of the last axis, and the number of rows before it. */
function rowsOf(t: KernelTensor): [rows: number, width: number] {
  const width = t.shape.at(-1) ?? 1;
  return [width === 0 ? 0 : sizeOf(t.shape) / width, width];
}

/** The kernels of this family by op; `isa` picks an instruction set other than the best. */
export function lmKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const addresses = (inputs: Tensors, outputs: Tensors) => [...inputs, ...outputs].map(addressOf);

  const softmax = call("softmax");
  const logSoftmax = call("logSoftmax");
  const softmaxCrossEntropy = call("softmaxCrossEntropy");
  const softmaxCrossEntropyGrad = call("softmaxCrossEntropyGrad");
  const rmsNorm = call("rmsNorm");
  const rmsNormGrad = call("rmsNormGrad");
  const layerNorm = call("layerNorm");
  const layerNormGrad = call("layerNormGrad");
  const rope = call("rope");
  const swiglu = call("swiglu");
  const swigluGrad = call("swigluGrad");

  return {
    /** x [..., n] -> y. */
    softmax: (inputs: Tensors, outputs: Tensors) =>
      softmax(...addresses(inputs, outputs), ...rowsOf(inputs[0])),
    /** x [..., n] -> y. */
    logSoftmax: (inputs: Tensors, outputs: Tensors) =>
      logSoftmax(...addresses(inputs, outputs), ...rowsOf(inputs[0])),
    /** logits [N, V], targets [N] -> loss [N], lse [N]. */
    softmaxCrossEntropy: (inputs: Tensors, outputs: Tensors) =>
      softmaxCrossEntropy(...addresses(inputs, outputs), ...rowsOf(inputs[0])),
    /** dloss [N], logits [N, V], targets [N], lse [N] -> dlogits. */
    softmaxCrossEntropyGrad: (inputs: Tensors, outputs: Tensors) =>
      softmaxCrossEntropyGrad(...addresses(inputs, outputs), ...rowsOf(inputs[1])),
    /** x [..., D], weight [D] -> y, rstd [...]. */
    rmsNorm: (inputs: Tensors, outputs: Tensors, attrs: { eps: number; offset: number }) =>
      rmsNorm(...addresses(inputs, outputs), ...rowsOf(inputs[0]), attrs.eps, attrs.offset),
    /** dy, x, weight, rstd -> dx, dweight. */
    rmsNormGrad: (inputs: Tensors, outputs: Tensors, attrs: { offset: number }) =>
      rmsNormGrad(...addresses(inputs, outputs), ...rowsOf(inputs[1]), attrs.offset),
    /** x [..., D], weight [D], bias [D] or none -> y, mean [...], rstd [...]. */
    layerNorm: ([x, weight, bias]: Tensors, outputs: Tensors, attrs: { eps: number }) =>
      layerNorm(...[x, weight, bias, ...outputs].map(addressOf), ...rowsOf(x), attrs.eps),
    /** dy, x, weight, mean, rstd -> dx, dweight, dbias. */
    layerNormGrad: (inputs: Tensors, outputs: Tensors) =>
      layerNormGrad(...addresses(inputs, outputs), ...rowsOf(inputs[1])),
    /** x [B, T, H, D], cos [P, R/2], sin [P, R/2], positions [B, T] -> y. */
    rope: (inputs: Tensors, outputs: Tensors, attrs: { inverse: boolean }) => {
      const [B, T, H, D] = inputs[0].shape;
      rope(
        ...addresses(inputs, outputs),
        B * T,
        H,
        D,
        inputs[1].shape[1],
        attrs.inverse ? 1 : 0,
        inputs[1].shape[0],
      );
    },
    /** gate, up -> y. */
    swiglu: (inputs: Tensors, outputs: Tensors) =>
      swiglu(...addresses(inputs, outputs), sizeOf(inputs[0].shape)),
    /** dy, gate, up -> dgate, dup. */
    swigluGrad: (inputs: Tensors, outputs: Tensors) =>
      swigluGrad(...addresses(inputs, outputs), sizeOf(inputs[0].shape)),
  };
}
