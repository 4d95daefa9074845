/**
 * Reading and writing by index. Indices are i32; kernels refuse those out of range.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, isContiguous, sizeOf } from "../types.ts";
import { reshape } from "../views.ts";
import { equalShapes, requireMatrix } from "./check.ts";

type None = Record<string, never>;

/** The index itself; throws unless 0 <= index < below. */
export function checkIndex(name: string, index: number, below: number): number {
  if (index < 0 || index >= below) throw usageError(`${name}: index ${index} is outside [0, ${below})`);
  return index;
}

/** table [N, ...], indices [...] -> [..., ...]: whole rows, e.g. embeddings. The table may be f16 or bf16. */
export const gatherRowsOp = primitive<None>({
  name: "gatherRows",
  ints: [1],
  infer: ([table, indices]) => {
    if (!table.shape.length || indices.dtype !== "i32") {
      throw usageError(`gatherRows: rows of ${describe(table)} by ${describe(indices)}; indices must be i32`);
    }
    return [{ dtype: "f32", shape: [...indices.shape, ...table.shape.slice(1)] }];
  },
  accepts: (x) => isContiguous(x.shape, x.strides),
  ref: ([table, indices], [y]) => {
    const width = sizeOf(table.shape.slice(1));
    for (let i = 0; i < indices.data.length; i++) {
      const row = checkIndex("gatherRows", indices.data[i], table.shape[0]);
      y.data.set(table.data.subarray(row * width, (row + 1) * width), i * width);
    }
  },
  vjp: ({ inputs: [table, indices], grads: [g] }) => {
    if (!g) return [];
    const width = sizeOf(table.shape.slice(1));
    const flat = scatterAddRows(reshape(g, [-1, width]), reshape(indices, [-1]), table.shape[0]);
    return [reshape(flat, table.shape)];
  },
  cases: [
    { inputs: [{ shape: [5, 3] }, { shape: [2, 4], kind: "index", below: 5, constant: true }], attrs: {} },
    {
      inputs: [{ shape: [3, 20] }, { shape: [0], kind: "index", below: 3, constant: true }],
      attrs: {},
      note: "empty",
    },
  ],
});

/** src [M, D], indices [M] -> [rows, D]: rows of equal index are summed in the order of M. */
export const scatterAddRowsOp = primitive<{ rows: number }>({
  name: "scatterAddRows",
  ints: [1],
  infer: ([src, indices], { rows }) => {
    requireMatrix("scatterAddRows", src);
    if (indices.shape.length !== 1 || indices.shape[0] !== src.shape[0] || indices.dtype !== "i32") {
      throw usageError(
        `scatterAddRows: ${describe(src)} needs one i32 index a row, got ${describe(indices)}`,
      );
    }
    return [{ dtype: "f32", shape: [rows, src.shape[1]] }];
  },
  ref: ([src, indices], [y], { rows }) => {
    const width = src.shape[1];
    y.data.fill(0);
    for (let i = 0; i < indices.data.length; i++) {
      const row = checkIndex("scatterAddRows", indices.data[i], rows);
      for (let d = 0; d < width; d++) y.data[row * width + d] += src.data[i * width + d];
    }
  },
  vjp: ({ inputs: [, indices], grads: [g] }) => [g && gatherRows(g, indices)],
  cases: [
    {
      inputs: [{ shape: [6, 3] }, { shape: [6], kind: "index", below: 4, constant: true }],
      attrs: { rows: 4 },
    },
    {
      inputs: [{ shape: [0, 3] }, { shape: [0], kind: "index", below: 4, constant: true }],
      attrs: { rows: 4 },
      note: "no source: zeros",
    },
  ],
});

/** x [R, n], indices [R, k] -> [R, k] */
export const takeLastOp = primitive<None>({
  name: "takeLast",
  ints: [1],
  infer: ([x, indices]) => {
    requireMatrix("takeLast", x);
    requireMatrix("takeLast", indices);
    if (x.shape[0] !== indices.shape[0]) {
      throw usageError(`takeLast: ${describe(x)} and ${describe(indices)} differ in rows`);
    }
    return [{ dtype: "f32", shape: indices.shape }];
  },
  ref: ([x, indices], [y]) => {
    const [rows, k] = indices.shape;
    const n = x.shape[1];
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < k; j++)
        y.data[r * k + j] = x.data[r * n + checkIndex("takeLast", indices.data[r * k + j], n)];
    }
  },
  vjp: ({ inputs: [x, indices], grads: [g] }) => [g && scatterLast(g, indices, x.shape[1])],
  cases: [
    { inputs: [{ shape: [3, 7] }, { shape: [3, 2], kind: "index", below: 7, constant: true }], attrs: {} },
    {
      inputs: [{ shape: [0, 7] }, { shape: [0, 2], kind: "index", below: 7, constant: true }],
      attrs: {},
      note: "empty",
    },
  ],
});

/** values [R, k], indices [R, k] -> [R, n]: adds into zeros. */
export const scatterLastOp = primitive<{ n: number }>({
  name: "scatterLast",
  ints: [1],
  infer: ([values, indices], { n }) => {
    requireMatrix("scatterLast", values);
    if (!equalShapes(values.shape, indices.shape)) {
      throw usageError(`scatterLast: values ${describe(values)} and indices ${describe(indices)} differ`);
    }
    return [{ dtype: "f32", shape: [values.shape[0], n] }];
  },
  ref: ([values, indices], [y], { n }) => {
    const [rows, k] = values.shape;
    y.data.fill(0);
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < k; j++)
        y.data[r * n + checkIndex("scatterLast", indices.data[r * k + j], n)] += values.data[r * k + j];
    }
  },
  vjp: ({ inputs: [, indices], grads: [g] }) => [g && takeLast(g, indices)],
  cases: [
    {
      inputs: [{ shape: [3, 4] }, { shape: [3, 4], kind: "index", below: 6, constant: true }],
      attrs: { n: 6 },
    },
    {
      inputs: [{ shape: [3, 0] }, { shape: [3, 0], kind: "index", below: 6, constant: true }],
      attrs: { n: 6 },
      note: "no values: zeros",
    },
  ],
});

/** Indices of a row from the largest element down; the lower index on ties, NaN is largest. */
export function descending(row: Dense["data"]): number[] {
  const nan = (i: number) => Number(Number.isNaN(row[i]));
  return Array.from(row, (_, i) => i).sort(
    (a, b) => nan(b) - nan(a) || Number(row[b] > row[a]) - Number(row[b] < row[a]) || a - b,
  );
}

/** x [R, n] -> the k largest of each row, descending, and their indices; the lower index on ties, NaN is largest. */
export const topkOp = primitive<{ k: number }>({
  name: "topk",
  infer: ([x], { k }) => {
    const n = x.shape.at(-1) ?? 0;
    if (x.shape.length !== 2 || !(Number.isInteger(k) && k >= 1 && k <= n)) {
      throw usageError(`topk: k=${k}, but the last axis of [${x.shape}] has ${n}`);
    }
    return [
      { dtype: "f32", shape: [x.shape[0], k] },
      { dtype: "i32", shape: [x.shape[0], k] },
    ];
  },
  ref: ([x], [values, indices], { k }) => {
    const [rows, n] = x.shape;
    for (let r = 0; r < rows; r++) {
      const row = x.data.subarray(r * n, (r + 1) * n);
      const order = descending(row);
      for (let j = 0; j < k; j++) {
        values.data[r * k + j] = row[order[j]];
        indices.data[r * k + j] = order[j];
      }
    }
  },
  vjp: ({ inputs: [x], outputs: [, indices], grads: [g] }) => [g && scatterLast(g, indices, x.shape[1])],
  cases: [
    { inputs: [{ shape: [4, 11] }], attrs: { k: 3 } },
    {
      inputs: [{ shape: [2, 5], values: [1, 3, 3, 2, 3, 0, 0, 0, 0, 0], constant: true }],
      attrs: { k: 4 },
      note: "ties",
    },
    { inputs: [{ shape: [0, 5] }], attrs: { k: 2 }, note: "empty" },
  ],
});

/** Rows of `table` [N, ...] by `indices` [...]: [..., ...]. */
export function gatherRows(table: Tensor, indices: Tensor): Tensor {
  return dispatch(gatherRowsOp, [table, indices], {})[0];
}

/** Sums rows of `src` [M, D] that share an index: [rows, D]. */
export function scatterAddRows(src: Tensor, indices: Tensor, rows: number): Tensor {
  return dispatch(scatterAddRowsOp, [src, indices], { rows })[0];
}

/** x[r, indices[r, j]]: [R, k]. */
export function takeLast(x: Tensor, indices: Tensor): Tensor {
  return dispatch(takeLastOp, [x, indices], {})[0];
}

/** Zeros [R, n] with values added at indices. */
export function scatterLast(values: Tensor, indices: Tensor, n: number): Tensor {
  return dispatch(scatterLastOp, [values, indices], { n })[0];
}

/** The k largest of each row of x [R, n], descending: values [R, k] and indices i32 [R, k]. */
export function topk(x: Tensor, { k }: { k: number }): { values: Tensor; indices: Tensor } {
  const [values, indices] = dispatch(topkOp, [x], { k });
  return { values, indices };
}
