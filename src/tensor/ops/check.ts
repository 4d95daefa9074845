/**
 * Checks that the shape rules of several ops share. Each throws a usage error that names the op and what it was given.
 */
import { usageError } from "../../util/errors.ts";
import { describe, type Shape, type TensorType } from "../types.ts";

export const f32 = (shape: Shape): TensorType => ({ dtype: "f32", shape });

export function equalShapes(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

/** The shape that all of `xs` have. */
export function sameShape(name: string, xs: readonly TensorType[]): Shape {
  for (const x of xs) {
    if (!equalShapes(x.shape, xs[0].shape))
      throw usageError(`${name}: ${describe(xs[0])} and ${describe(x)} differ in shape`);
  }
  return xs[0].shape;
}

/** Fails unless `x`, the op's `what`, has that shape; extents left undefined are free. */
export function requireShape(
  name: string,
  what: string,
  x: TensorType,
  shape: readonly (number | undefined)[],
): void {
  if (x.shape.length === shape.length && shape.every((d, i) => d === undefined || d === x.shape[i])) return;
  throw usageError(`${name}: ${what} is ${describe(x)}, expected [${shape.map((d) => d ?? "·").join(", ")}]`);
}

export function requireMatrix(name: string, x: TensorType): void {
  if (x.shape.length !== 2) throw usageError(`${name}: expected a matrix, got ${describe(x)}`);
}

/** Fails unless the shape is made of integers of at least 0. */
export function requireExtents(name: string, shape: Shape): void {
  if (!shape.every((d) => Number.isSafeInteger(d) && d >= 0))
    throw usageError(`${name}: [${shape}] is no shape; extents are integers of at least 0`);
}

/** True when a window of `shape` at `starts` lies inside `outer`. */
export function windowFits(shape: Shape, starts: readonly number[], outer: Shape): boolean {
  return (
    shape.length === outer.length &&
    starts.length === outer.length &&
    starts.every((s, a) => Number.isInteger(s) && s >= 0 && s + shape[a] <= outer[a])
  );
}
