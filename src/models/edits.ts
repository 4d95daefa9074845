/**
 * Ready-made edits for hook points.
 */
import { add, expand, mul, type Tensor, where } from "../tensor/index.ts";
import { inputError } from "../util/index.ts";
import type { Edit } from "./hooks.ts";

/**
 * Applies `edit` at the chosen positions only; others keep their value. They count from each row's first token, padding left
 * out, or from the end if negative (-1 is the last). While decoding with a cache they count over the prompt and what was
 * written since; those that are not in the value at hand wait for the call that brings them, and negative ones count from the
 * newest token of each call. Elsewhere a position outside the sequence is an error.
 */
export function atPositions(positions: readonly number[], edit: Edit): Edit {
  return (x, context) => {
    const { positionAxis: axis, decoding } = context;
    const T = x.shape[axis];
    const rows = decoding?.padding ?? [0];
    const mask = new Float32Array(rows.length * T);
    for (const [b, padding] of rows.entries()) {
      const first = padding - (decoding?.seen ?? 0);
      for (const p of positions) {
        const at = p < 0 ? T + p : first + p;
        if (at >= Math.max(first, 0) && at < T) mask[b * T + at] = 1;
        else if (!decoding)
          throw inputError(`hook ${context.point}: position ${p} is outside a sequence of ${T}`);
      }
    }
    const shape = x.shape.map((_, i) => (i === 0 ? rows.length : i === axis ? T : 1));
    return where(x.device.tensor(mask, shape), edit(x, context), x);
  };
}

/** Replaces the value by a constant that broadcasts to it: zero ablation with 0, mean ablation with the mean [d]. */
export function replaceWith(value: Tensor | number): Edit {
  return (x) => expand(typeof value === "number" ? x.device.full([], value) : value, x.shape);
}

/** Adds a vector [d] times `strength`. */
export function addVector(vector: Tensor, strength = 1): Edit {
  return (x) => add(x, strength === 1 ? vector : mul(vector, strength));
}
