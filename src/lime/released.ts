/**
 * The layout of LIMe's released code, for reading checkpoints that were made with it.
 */
import { usageError } from "../util/index.ts";

/**
 * Keys' and values' matrices [G·Dh, d] out of the one that holds both, [2·Dh·G, d]: there row c·G + g is channel c of head g,
 * and channels Dh and up are the values'.
 */
export function splitFusedKv(
  fused: Float32Array,
  { heads, headDim, width }: { readonly heads: number; readonly headDim: number; readonly width: number },
): { readonly k: Float32Array; readonly v: Float32Array } {
  const size = heads * headDim * width;
  if (fused.length !== 2 * size) {
    throw usageError(
      `splitFusedKv: ${fused.length} numbers, expected [${2 * heads * headDim}, ${width}] for ${heads} heads of ${headDim}`,
    );
  }
  const part = (first: number): Float32Array => {
    const out = new Float32Array(size);
    for (let head = 0; head < heads; head++) {
      for (let channel = 0; channel < headDim; channel++) {
        const row = ((first + channel) * heads + head) * width;
        out.set(fused.subarray(row, row + width), (head * headDim + channel) * width);
      }
    }
    return out;
  };
  return { k: part(0), v: part(headDim) };
}
