/**
 * Bindings of native/src/kron.inl: the encoder of a KronSAE. B tokens · D width · h heads of m + n pre-latents · K active.
 */
import type { KronAttrs, KronProduct } from "../ops/kron.ts";
import { type KernelTensor, sizeOf } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** As coded in the argument block. */
const productCode: Readonly<Record<KronProduct, number>> = { mand: 0, relu: 1, raw: 2 };

/** The kernels of this family by op. */
export function kronKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const topK = call("linearKronTopK");
  const spread = call("kronSpread");
  const scores = call("kronScores");
  const addresses = (...lists: Tensors[]): number[] => lists.flat().map(addressOf);

  return {
    /** x [B, D], w [h (m + n), D], bias -> values, indices, base, extension [B, K] */
    linearKronTopK: (inputs: Tensors, outputs: Tensors, attrs: KronAttrs & { k: number }): void => {
      const [rows, D] = inputs[1].shape;
      const { m, n, k, product } = attrs;
      const sizes = [inputs[0].shape[0], rows / (m + n), m, n, D, k];
      topK(...addresses(inputs, outputs), ...sizes, productCode[product]);
    },
    /** dValues, values, indices, base, extension [B, K] -> values, indices [B, 2 K] */
    kronSpread: (inputs: Tensors, outputs: Tensors, { m, n, product }: KronAttrs): void => {
      const [B, K] = inputs[0].shape;
      spread(...addresses(inputs, outputs), B, K, m, n, productCode[product]);
    },
    /** pre [B, h (m + n)] -> [B, h m n] */
    kronScores: (inputs: Tensors, outputs: Tensors, { m, n, product }: KronAttrs): void => {
      const heads = sizeOf(inputs[0].shape) / (m + n);
      scores(...addresses(inputs, outputs), heads, m, n, productCode[product]);
    },
  };
}
