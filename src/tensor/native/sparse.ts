/**
 * Bindings of native/src/sparse.inl: the passes of a TopK step over [B, K] codes.
 * B tokens · K active features · D width · F features. Everything is contiguous.
 */
import { type KernelTensor, sizeOf } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** The kernels of this family by op. */
export function sparseKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const decode = call("sparseDecode");
  const decodeLoss = call("sparseDecodeLoss");
  const dot = call("sparseDot");
  const outer = call("sparseOuter");
  const outerPair = call("sparseOuterPair");
  const sum = call("sparseSum");
  const scatterAddRows = call("scatterAddRows");
  const markFired = call("markFired");
  const addresses = (...lists: Tensors[]): number[] => lists.flat().map(addressOf);

  /** -> loss [], error [B, D], and, when a third output is there, dots [B, K] = error_b · w_idx. */
  function sparseDecodeLoss([values, indices, w, bias, target]: Tensors, [loss, error, dots]: Tensors): void {
    const [B, K] = values.shape;
    const [F, D] = w.shape;
    const inputs = [values, indices, w, bias, target].map(addressOf);
    decodeLoss(...inputs, addressOf(loss), addressOf(error), addressOf(dots), B, K, D, F);
  }

  return {
    sparseDecode: ([values, indices, w, bias]: Tensors, [y]: Tensors): void => {
      const [B, K] = values.shape;
      const [F, D] = w.shape;
      decode(addressOf(values), addressOf(indices), addressOf(w), addressOf(bias), addressOf(y), B, K, D, F);
    },
    sparseDecodeLoss,
    /** x [B, D], w [F, D], indices [B, K], values [B, K] or none -> [B, K] */
    sparseDot: ([x, w, indices, values]: Tensors, [y]: Tensors): void => {
      const [B, K] = indices.shape;
      const [F, D] = w.shape;
      dot(...[x, w, indices, values, y].map(addressOf), B, K, D, F);
    },
    /** values, indices [B, K], x [B, D] -> [rows, D] */
    sparseOuter: (inputs: Tensors, outputs: Tensors, { rows }: { rows: number }): void => {
      const [values, , x] = inputs;
      const [B, K] = values.shape;
      outer(...addresses(inputs, outputs), B, K, x.shape[1], rows);
    },
    /** valuesA, xA, valuesB, xB, indices -> outA, outB [rows, D], sumB [rows], squares [3] */
    sparseOuterPair: (inputs: Tensors, outputs: Tensors, { rows }: { rows: number }): void => {
      const [values, xA, , xB] = inputs;
      const [B, K] = values.shape;
      outerPair(...addresses(inputs, outputs), B, K, xA.shape[1], xB.shape[1], rows);
    },
    sparseSum: (inputs: Tensors, outputs: Tensors, { rows }: { rows: number }): void =>
      sum(...addresses(inputs, outputs), sizeOf(inputs[0].shape), rows),
    /** src [M, D], indices [M] -> [rows, D] */
    scatterAddRows: (inputs: Tensors, outputs: Tensors, { rows }: { rows: number }): void => {
      const [M, D] = inputs[0].shape;
      scatterAddRows(...addresses(inputs, outputs), M, D, rows);
    },
    /** lastFired i32 [F] in place, values, indices [B, K] */
    markFired: (inputs: Tensors, _: Tensors, { tokens }: { tokens: number }): void => {
      const [lastFired, values] = inputs;
      markFired(...addresses(inputs), sizeOf(lastFired.shape), sizeOf(values.shape), tokens);
    },
  };
}
