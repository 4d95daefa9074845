/**
 * Ready-made edits for hook points.
 */
import { add, expand, mul, type Tensor, where } from "../tensor/index.ts";
import { inputError } from "../util/index.ts";
import type { Edit } from "./hooks.ts";

/** Applies `edit` at the chosen positions only (negative ones count from the end); others keep their value. */
export function atPositions(positions: readonly number[], edit: Edit): Edit {
  return (x, context) => {
    const T = x.shape[1];
    const mask = new Float32Array(T);
    for (const p of positions) {
      const at = p < 0 ? p + T : p;
      if (!(at >= 0 && at < T))
        throw inputError(`hook ${context.point}: position ${p} is outside a sequence of ${T}`);
      mask[at] = 1;
    }
    const shape = x.shape.map((_, axis) => (axis === 1 ? T : 1));
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
