/**
 * Ops that move numbers without changing them: copies, conversion, joining, and the reverse of a slice.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { type Layout, primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, type DType, describe, isContiguous, rowMajor, type Shape, sizeOf } from "../types.ts";
import { cast, reshape, slice } from "../views.ts";
import { windowFits } from "./check.ts";
import { sum } from "./reduce.ts";

type None = Record<string, never>;

/** Row-major copy of a strided tensor, any dtype. */
export const contiguousOp = primitive<None>({
  name: "contiguous",
  anyType: true,
  infer: ([x]) => [{ dtype: x.dtype, shape: x.shape }],
  accepts: () => true,
  ref: ([x], [y]) => y.data.set(x.data),
  vjp: ({ grads: [g] }) => [g],
  cases: [
    { inputs: [{ shape: [3, 4] }], attrs: {} },
    { inputs: [{ shape: [2, 0] }], attrs: {}, note: "empty" },
  ],
});

/** Conversion between storage types; f16 and bf16 round to nearest even, floats truncate to i32. */
export const castOp = primitive<{ dtype: DType }>({
  name: "cast",
  anyType: true,
  infer: ([x], { dtype }) => [{ dtype, shape: x.shape }],
  accepts: isDense,
  ref: ([x], [y]) => y.data.set(x.data),
  vjp: ({ inputs: [x], grads: [g] }) => [g && (x.dtype === "i32" ? undefined : cast(g, "f32"))],
  cases: [
    { inputs: [{ shape: [5] }], attrs: { dtype: "f32" } },
    { inputs: [{ shape: [2, 7], kind: "index", below: 9, constant: true }], attrs: { dtype: "i32" } },
    { inputs: [{ shape: [0, 2] }], attrs: { dtype: "f32" }, note: "empty" },
  ],
});

function isDense(x: Layout): boolean {
  return sizeOf(x.shape) === 0 || isContiguous(x.shape, x.strides);
}

/** Joins tensors along `axis`; the other extents must agree. */
export const concatOp = primitive<{ axis: number }>({
  name: "concat",
  anyType: true,
  variadic: true,
  infer: (xs, { axis }) => {
    const [first] = xs;
    if (!(Number.isInteger(axis) && axis >= 0 && axis < first.shape.length))
      throw usageError(`concat: ${describe(first)} has no axis ${axis}`);
    for (const x of xs) {
      const fits = x.shape.length === first.shape.length && x.dtype === first.dtype;
      if (!fits || x.shape.some((d, a) => a !== axis && d !== first.shape[a])) {
        throw usageError(`concat: ${describe(first)} and ${describe(x)} do not join along axis ${axis}`);
      }
    }
    const extent = xs.reduce((n, x) => n + x.shape[axis], 0);
    return [{ dtype: first.dtype, shape: first.shape.map((d, a) => (a === axis ? extent : d)) }];
  },
  accepts: isDense,
  ref: (xs, [y], { axis }) => {
    const inner = sizeOf(y.shape.slice(axis + 1));
    const outer = sizeOf(y.shape.slice(0, axis));
    let at = 0;
    for (const x of xs) {
      const run = x.shape[axis] * inner;
      for (let o = 0; o < outer; o++) {
        y.data.set(x.data.subarray(o * run, (o + 1) * run), o * y.shape[axis] * inner + at);
      }
      at += run;
    }
  },
  vjp: ({ inputs, grads: [g], attrs: { axis } }) => {
    let at = 0;
    return inputs.map((x) => {
      const starts = x.shape.map((_, a) => (a === axis ? at : 0));
      at += x.shape[axis];
      return g && slice(g, starts, x.shape);
    });
  },
  cases: [
    { inputs: [{ shape: [2, 3] }, { shape: [2, 1] }], attrs: { axis: 1 } },
    { inputs: [{ shape: [1, 4] }, { shape: [3, 4] }, { shape: [0, 4] }], attrs: { axis: 0 } },
  ],
});

/** Zeros of `shape` with x written at `starts`: the gradient of a slice. */
export const unsliceOp = primitive<{ shape: Shape; starts: readonly number[] }>({
  name: "unslice",
  infer: ([x], { shape, starts }) => {
    if (!windowFits(x.shape, starts, shape))
      throw usageError(`unslice: ${describe(x)} at [${starts}] leaves [${shape}]`);
    return [{ dtype: "f32", shape }];
  },
  ref: ([x], [y], { starts }) => {
    y.data.fill(0);
    writeWindow(y, x, starts);
  },
  vjp: ({ inputs: [x], grads: [g], attrs: { starts } }) => [g && slice(g, starts, x.shape)],
  cases: [
    { inputs: [{ shape: [2, 2] }], attrs: { shape: [4, 3], starts: [1, 1] } },
    { inputs: [{ shape: [0, 3] }], attrs: { shape: [2, 3], starts: [1, 0] }, note: "empty: zeros" },
  ],
});

/** Writes `src` into `dst` at `starts`, in place; equal dtypes. Used for key-value caches. */
export const assignOp = primitive<{ starts: readonly number[] }>({
  name: "assign",
  anyType: true,
  mutates: [0],
  infer: ([dst, src], { starts }) => {
    const fits = dst.dtype === src.dtype && windowFits(src.shape, starts, dst.shape);
    if (!fits) throw usageError(`assign: ${describe(src)} at [${starts}] does not fit into ${describe(dst)}`);
    return [];
  },
  accepts: isDense,
  ref: ([dst, src], _, { starts }) => writeWindow(dst, src, starts),
  cases: [
    { inputs: [{ shape: [4, 3] }, { shape: [2, 2] }], attrs: { starts: [1, 1] } },
    { inputs: [{ shape: [4, 3] }, { shape: [0, 3] }], attrs: { starts: [4, 0] }, note: "empty" },
  ],
});

/** A constant tensor. */
export const fillOp = primitive<{ shape: Shape; value: number; dtype: DType }>({
  name: "fill",
  infer: (_, { shape, dtype }) => [{ dtype, shape }],
  ref: (_, [y], { value }) => {
    y.data.fill(value);
  },
  cases: (["f32", "f16", "bf16", "i32"] as const).flatMap((dtype) => [
    { inputs: [], attrs: { shape: [2, 3], value: 3, dtype } },
    { inputs: [], attrs: { shape: [0, 3], value: 3, dtype }, note: "empty" },
  ]),
});

function writeWindow(dst: Dense, src: Dense, starts: readonly number[]): void {
  const strides = rowMajor(dst.shape);
  const index = new Array<number>(src.shape.length).fill(0);
  for (let i = 0; i < src.data.length; i++) {
    let at = 0;
    for (let a = 0; a < index.length; a++) at += (index[a] + starts[a]) * strides[a];
    dst.data[at] = src.data[i];
    for (let a = index.length - 1; a >= 0; a--) {
      if (++index[a] < src.shape[a]) break;
      index[a] = 0;
    }
  }
}

/** Joins tensors along `axis`. */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  const from = axis < 0 ? axis + xs[0].rank : axis;
  return dispatch(concatOp, xs, { axis: from })[0];
}

/** Overwrites the window of `dst` that begins at `starts` with `src`. */
export function assign(dst: Tensor, src: Tensor, starts: readonly number[]): void {
  dispatch(assignOp, [dst, src], { starts });
}

/** Sums a gradient back over the axes that `expand` repeated. */
export function expandGrad(g: Tensor, shape: Shape): Tensor {
  const lead = g.rank - shape.length;
  const axes = g.shape.flatMap((d, i) => (i < lead || (shape[i - lead] === 1 && d !== 1) ? [i] : []));
  return axes.length === 0 ? g : reshape(sum(g, { axes }), shape);
}
