/**
 * Reductions over one run of adjacent axes: an input is seen as [outer, n, inner]. Sums accumulate in f64 or in blocks.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { describe, type Shape, sizeOf, type TensorType } from "../types.ts";
import { expand, permute, reshape } from "../views.ts";
import { equal, mul } from "./elementwise.ts";

export interface ReduceAttrs {
  /** Adjacent axes, ascending. */
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reducedShape(name: string, x: TensorType, { axes, keepDims }: ReduceAttrs): number[] {
  axes.forEach((a, i) => {
    if (!Number.isInteger(a) || a < 0 || a >= x.shape.length || (i > 0 && a !== axes[i - 1] + 1)) {
      throw usageError(`${name}: axes [${axes}] of ${describe(x)} are not adjacent and ascending`);
    }
  });
  return x.shape.flatMap((d, a) => (axes.includes(a) ? (keepDims ? [1] : []) : [d]));
}

/** The [outer, n, inner] view of a reduction. */
export function runs(shape: Shape, axes: readonly number[]): [number, number, number] {
  if (axes.length === 0) return [sizeOf(shape), 1, 1];
  const first = axes[0];
  const last = axes[axes.length - 1];
  return [sizeOf(shape.slice(0, first)), sizeOf(shape.slice(first, last + 1)), sizeOf(shape.slice(last + 1))];
}

const cases = [
  { inputs: [{ shape: [2, 3, 4] }], attrs: { axes: [1], keepDims: false } },
  { inputs: [{ shape: [2, 3, 4] }], attrs: { axes: [2], keepDims: true } },
  { inputs: [{ shape: [5, 33] }], attrs: { axes: [0], keepDims: false } },
  { inputs: [{ shape: [3, 4, 2] }], attrs: { axes: [0, 1, 2], keepDims: false } },
  { inputs: [{ shape: [0, 3] }], attrs: { axes: [1], keepDims: false }, note: "empty" },
];

/** Puts the reduced axes back as extents of 1 and repeats. */
function spread(g: Tensor, x: Tensor, axes: readonly number[]): Tensor {
  const kept = x.shape.map((d, a) => (axes.includes(a) ? 1 : d));
  return expand(reshape(g, kept), x.shape);
}

export const sumOp = primitive<ReduceAttrs>({
  name: "sum",
  infer: ([x], attrs) => [{ dtype: "f32", shape: reducedShape("sum", x, attrs) }],
  ref: ([x], [y], { axes }) => {
    const [outer, n, inner] = runs(x.shape, axes);
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) {
        let total = 0;
        for (let j = 0; j < n; j++) total += x.data[(o * n + j) * inner + i];
        y.data[o * inner + i] = total;
      }
    }
  },
  vjp: ({ inputs: [x], grads: [g], attrs }) => [g && spread(g, x, attrs.axes)],
  cases: [
    ...cases,
    { inputs: [{ shape: [2, 0] }], attrs: { axes: [1], keepDims: false }, note: "empty sum is 0" },
  ],
});

/** Largest element; NaN wins. The gradient goes to every element that equals the maximum. */
export const maxOp = primitive<ReduceAttrs>({
  name: "max",
  infer: ([x], attrs) => {
    const shape = reducedShape("max", x, attrs);
    if (runs(x.shape, attrs.axes)[1] === 0)
      throw usageError(`max: axes [${attrs.axes}] of ${describe(x)} are empty`);
    return [{ dtype: "f32", shape }];
  },
  ref: ([x], [y], { axes }) => {
    const [outer, n, inner] = runs(x.shape, axes);
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) {
        let best = Number.NEGATIVE_INFINITY;
        for (let j = 0; j < n; j++) {
          const v = x.data[(o * n + j) * inner + i];
          if (v > best || Number.isNaN(v)) best = v;
          if (Number.isNaN(v)) break;
        }
        y.data[o * inner + i] = best;
      }
    }
  },
  vjp: ({ inputs: [x], outputs: [y], grads: [g], attrs: { axes } }) => [
    g && mul(spread(g, x, axes), equal(x, spread(y, x, axes))),
  ],
  cases,
});

/** Index of the largest element of the last axis; the first on ties, NaN counts as largest. */
export const argmaxOp = primitive<Record<string, never>>({
  name: "argmax",
  infer: ([x]) => {
    if (!x.shape.length || x.shape.at(-1) === 0)
      throw usageError(`argmax: ${describe(x)} has no last axis to search`);
    return [{ dtype: "i32", shape: x.shape.slice(0, -1) }];
  },
  ref: ([x], [y]) => {
    const n = x.shape[x.shape.length - 1];
    for (let r = 0; r < y.data.length; r++) {
      let best = 0;
      for (let j = 1; j < n; j++) {
        const v = x.data[r * n + j];
        const b = x.data[r * n + best];
        if (v > b || (Number.isNaN(v) && !Number.isNaN(b))) best = j;
      }
      y.data[r] = best;
    }
  },
  cases: [
    { inputs: [{ shape: [4, 9] }], attrs: {} },
    { inputs: [{ shape: [7], values: [1, 5, 2, 5, 5, 0, 1] }], attrs: {}, note: "the first on ties" },
    { inputs: [{ shape: [0, 5] }], attrs: {}, note: "empty" },
  ],
});

export interface ReduceOptions {
  /** Axes to reduce (negative ones count from the end); all by default. */
  axes?: readonly number[];
  keepDims?: boolean;
}

function reduce(op: typeof sumOp, x: Tensor, { axes, keepDims = false }: ReduceOptions): Tensor {
  const wanted = (axes ?? x.shape.map((_, i) => i))
    .map((a) => (a < 0 ? a + x.rank : a))
    .sort((a, b) => a - b);
  const adjacent = wanted.every((a, i) => i === 0 || a === wanted[i - 1] + 1);
  if (adjacent) return dispatch(op, [x], { axes: wanted, keepDims })[0];
  const rest = x.shape.map((_, i) => i).filter((i) => !wanted.includes(i));
  const shape = x.shape.flatMap((d, i) => (wanted.includes(i) ? (keepDims ? [1] : []) : [d]));
  return x.device.scope(() => {
    const moved = permute(x, [...rest, ...wanted]);
    const last = wanted.map((_, i) => rest.length + i);
    return reshape(dispatch(op, [moved], { axes: last, keepDims: false })[0], shape);
  });
}

export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce(sumOp, x, options);
}

/** Largest element over `axes`. */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  return reduce(maxOp, x, options);
}

export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  return x.device.scope(() => {
    const y = sum(x, options);
    return mul(y, y.size / x.size);
  });
}

/** Index of the largest element of the last axis, i32. */
export function argmax(x: Tensor): Tensor {
  return dispatch(argmaxOp, [x], {})[0];
}
