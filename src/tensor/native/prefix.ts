/**
 * Bindings of native/src/prefix.inl: choosing and ordering the slots of codes [B, K]. Everything is contiguous.
 */
import { usageError } from "../../util/errors.ts";
import type { KernelTensor } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** As many as the argument block has room for. */
const MAX_BOUNDS = 48;

/** The kernels of this family by op. */
export function prefixKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const prefixLoss = call("prefixLoss");
  const keepLargest = call("keepLargest");
  const groupPrefixes = call("groupPrefixes");
  const addresses = (...lists: Tensors[]): number[] => lists.flat().map(addressOf);

  return {
    /** values, indices [B, K], w, bias, target, weights -> loss [], error [B, D], dValues [B, K], dW [F, D], pull [B, D] */
    prefixLoss: (inputs: Tensors, outputs: Tensors): void => {
      const [values, , w, , , weights] = inputs;
      const [B, K] = values.shape;
      const [F, D] = w.shape;
      prefixLoss(...addresses(inputs, outputs), B, K, D, F, Number(weights.shape.length === 1));
    },
    /** values [B, K] -> kept [B, K], least [], full [] */
    keepLargest: (inputs: Tensors, outputs: Tensors, { count }: { count: number }): void => {
      const [B, K] = inputs[0].shape;
      keepLargest(...addresses(inputs, outputs), B, K, Math.min(count, B * K));
    },
    /** values, indices [B, K] -> values, indices, weights [B, K + 1], from */
    groupPrefixes: (inputs: Tensors, outputs: Tensors, { bounds }: { bounds: readonly number[] }): void => {
      if (bounds.length > MAX_BOUNDS) {
        throw usageError(`groupPrefixes: ${bounds.length} bounds, at most ${MAX_BOUNDS} are possible`);
      }
      const [B, K] = inputs[0].shape;
      groupPrefixes(...addresses(inputs, outputs), B, K, bounds.length, ...bounds);
    },
  };
}
