/**
 * Windows on the same buffer: no number moves. Also the two copies that views need, `contiguous` and `cast`.
 */
import { usageError } from "../util/errors.ts";
import { dispatch } from "./dispatch.ts";
import { requireExtents } from "./ops/check.ts";
import { castOp, contiguousOp, expandGrad, unsliceOp } from "./ops/shape.ts";
import { Tensor } from "./tensor.ts";
import { type DType, describe, rowMajor, type Shape, sizeOf } from "./types.ts";

/** A second handle on the same elements. */
export function alias(x: Tensor): Tensor {
  return new Tensor(x.device, x.storage, x.dtype, x.shape, x.strides, x.offset);
}

/** The same elements, cut off from the tape: no gradient flows back. */
export function stopGradient(x: Tensor): Tensor {
  return alias(x);
}

/** Row-major copy, or the tensor itself when it is row-major already. */
export function contiguous(x: Tensor): Tensor {
  return x.isContiguous ? x : dispatch(contiguousOp, [x], {})[0];
}

/** Row-major copy in a buffer of its own. */
export function copy(x: Tensor): Tensor {
  return dispatch(contiguousOp, [x], {})[0];
}

/** Converted to `dtype` (round to nearest even), or the tensor itself. */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : dispatch(castOp, [x], { dtype })[0];
}

/** The same elements in row-major order under another shape; one extent may be -1. Copies only a strided input. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const full = shape.map((d) => (d === -1 ? x.size / Math.max(known, 1) : d));
  if (sizeOf(full) !== x.size || full.some((d) => !(Number.isInteger(d) && d >= 0))) {
    throw usageError(`reshape: ${describe(x)} has ${x.size} elements, which do not fill [${shape}]`);
  }
  const dense = contiguous(x);
  const y = new Tensor(x.device, dense.storage, x.dtype, full, rowMajor(full), dense.offset);
  x.device.tape?.record("reshape", [dense], [y], ([g]) => [g && reshape(g, dense.shape)]);
  if (dense !== x && !x.device.tape?.tracks(dense)) dense.dispose();
  return y;
}

/** Axes in a new order. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const order = axes.length === x.rank && x.shape.every((_, a) => axes.includes(a));
  if (!order) {
    throw usageError(`permute: [${axes}] is not an order of the ${x.rank} axes of ${describe(x)}`);
  }
  const y = new Tensor(
    x.device,
    x.storage,
    x.dtype,
    axes.map((a) => x.shape[a]),
    axes.map((a) => x.strides[a]),
    x.offset,
  );
  const inverse = axes.map((_, i) => axes.indexOf(i));
  x.device.tape?.record("permute", [x], [y], ([g]) => [g && permute(g, inverse)]);
  return y;
}

/** The last two axes swapped. */
export function transpose(x: Tensor): Tensor {
  const n = x.rank;
  if (n < 2) throw usageError(`transpose: ${describe(x)} has no two axes`);
  return permute(x, [...Array.from({ length: n - 2 }, (_, i) => i), n - 1, n - 2]);
}

/** Elements from `starts` (inclusive) on, `sizes` of them along each axis. */
export function slice(x: Tensor, starts: readonly number[], sizes: readonly number[]): Tensor {
  requireExtents("slice", sizes);
  if (starts.length !== x.rank || sizes.length !== x.rank) {
    throw usageError(`slice: [${starts}] + [${sizes}] must name every axis of ${describe(x)}`);
  }
  for (let a = 0; a < x.rank; a++) {
    if (!(Number.isInteger(starts[a]) && starts[a] >= 0 && starts[a] + sizes[a] <= x.shape[a])) {
      throw usageError(`slice: [${starts}] + [${sizes}] leaves ${describe(x)} on axis ${a}`);
    }
  }
  const offset = starts.reduce((at, s, a) => at + s * x.strides[a], x.offset);
  const y = new Tensor(x.device, x.storage, x.dtype, [...sizes], x.strides, offset);
  x.device.tape?.record("slice", [x], [y], ([g]) => [
    g && dispatch(unsliceOp, [g], { shape: x.shape, starts })[0],
  ]);
  return y;
}

/** Extents of 1 repeated, and new leading axes, up to `shape`; no copy. */
export function expand(x: Tensor, shape: Shape): Tensor {
  requireExtents("expand", shape);
  const lead = shape.length - x.rank;
  const fits = lead >= 0 && x.shape.every((d, i) => d === shape[lead + i] || d === 1);
  if (!fits) throw usageError(`expand: ${describe(x)} cannot be repeated to [${shape}]`);
  const strides = shape.map((d, i) => (i < lead || x.shape[i - lead] !== d ? 0 : x.strides[i - lead]));
  const y = new Tensor(x.device, x.storage, x.dtype, [...shape], strides, x.offset);
  x.device.tape?.record("expand", [x], [y], ([g]) => [g && expandGrad(g, x.shape)]);
  return y;
}
