/**
 * The ops that make a TopK autoencoder cheap: only the K chosen features of each token are ever touched.
 * B tokens · D width · F features · K active. Encoder and decoder are stored [F, D], a feature is a contiguous row.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused, primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, type TensorType } from "../types.ts";
import { expand, reshape, stopGradient, transpose } from "../views.ts";
import { equalShapes, f32, requireShape } from "./check.ts";
import { add, equal, greater, mul, relu, square, sub, where } from "./elementwise.ts";
import { checkIndex, descending, gatherRows, scatterAddRows, topk } from "./gather.ts";
import { matmul } from "./matmul.ts";
import { mean, sum } from "./reduce.ts";
import { concat } from "./shape.ts";

type None = Record<string, never>;

export function requireCodes(name: string, values: TensorType, indices: TensorType): [number, number] {
  const [B, K] = values.shape;
  if (values.shape.length !== 2 || !equalShapes(values.shape, indices.shape)) {
    throw usageError(
      `${name}: values ${describe(values)} and indices ${describe(indices)} must both be [B, K]`,
    );
  }
  if (indices.dtype !== "i32") throw usageError(`${name}: indices must be i32, got ${describe(indices)}`);
  return [B, K];
}

/**
 * The k largest of relu(x wᵀ + bias) of each row, descending, the lower index on ties; a row with fewer than k positive
 * ones fills up with zeros at its lowest unused indices; NaN is largest. x [B, D], w [F, D], bias [F] -> values, indices [B, k].
 * The [B, F] pre-activations are never written out. The gradient touches the k chosen rows of w only.
 */
export const linearTopKOp = fused<{ k: number }>({
  name: "linearTopK",
  infer: ([x, w, bias], { k }) => {
    requireShape("linearTopK", "x", x, [undefined, undefined]);
    requireShape("linearTopK", "w", w, [undefined, x.shape[1]]);
    const F = w.shape[0];
    requireShape("linearTopK", "bias", bias, [F]);
    if (!(Number.isInteger(k) && k >= 1 && k <= F))
      throw usageError(`linearTopK: k=${k}, but there are ${F} features`);
    const shape = [x.shape[0], k];
    return [f32(shape), { dtype: "i32", shape }];
  },
  ref: ([x, w, bias], [values, indices], { k }) => {
    const [F, D] = w.shape;
    const pre = new Float64Array(F);
    for (let b = 0; b < x.shape[0]; b++) {
      for (let f = 0; f < F; f++) {
        let total = bias.data[f];
        for (let d = 0; d < D; d++) total += x.data[b * D + d] * w.data[f * D + d];
        pre[f] = Math.max(total, 0);
      }
      const order = descending(pre);
      for (let j = 0; j < k; j++) {
        values.data[b * k + j] = pre[order[j]];
        indices.data[b * k + j] = order[j];
      }
    }
  },
  vjp: ({ inputs: [x, w], outputs: [values, indices], grads: [g], needs }) => {
    if (!g) return [];
    const pre = mul(g, greater(values, 0));
    return [
      needs[0] ? sparseDecode(pre, indices, w) : undefined,
      needs[1] ? sparseOuter(pre, indices, x, w.shape[0]) : undefined,
      needs[2] ? sparseSum(pre, indices, w.shape[0]) : undefined,
    ];
  },
  decompose: ([x, w, bias], { k }) => {
    const { values, indices } = topk(relu(add(matmul(x, transpose(w)), bias)), { k });
    return [values, indices];
  },
  cases: [
    { inputs: [{ shape: [4, 6] }, { shape: [20, 6] }, { shape: [20] }], attrs: { k: 3 } },
    { inputs: [{ shape: [9, 16] }, { shape: [130, 16] }, { shape: [130] }], attrs: { k: 8 } },
    {
      inputs: [{ shape: [3, 4] }, { shape: [5, 4] }, { shape: [5] }],
      attrs: { k: 5 },
      note: "k = F: zeros fill up",
    },
    { inputs: [{ shape: [0, 4] }, { shape: [5, 4] }, { shape: [5] }], attrs: { k: 2 }, note: "empty" },
  ],
});

/** Σ_k values[b, k] · w[indices[b, k]] + bias: [B, D]. A feature named twice counts twice. */
export const sparseDecodeOp = fused<None>({
  name: "sparseDecode",
  ints: [1],
  infer: ([values, indices, w, bias]) => {
    const [B] = requireCodes("sparseDecode", values, indices);
    requireShape("sparseDecode", "w", w, [undefined, undefined]);
    if (bias) requireShape("sparseDecode", "bias", bias, [w.shape[1]]);
    return [f32([B, w.shape[1]])];
  },
  ref: ([values, indices, w, bias], [y]) => decodeInto("sparseDecode", y.data, values, indices, w, bias),
  vjp: ({ inputs: [values, indices, w, bias], grads: [g], needs }) => {
    if (!g) return [];
    return [
      needs[0] ? sparseDot(g, w, indices) : undefined,
      undefined,
      needs[2] ? sparseOuter(values, indices, g, w.shape[0]) : undefined,
      bias && needs[3] ? sum(g, { axes: [0] }) : undefined,
    ];
  },
  decompose: ([values, indices, w, bias]) => {
    const rows = gatherRows(w, indices); // [B, K, D]
    const y = sum(mul(rows, reshape(values, [...values.shape, 1])), { axes: [1] });
    return [bias ? add(y, bias) : y];
  },
  cases: [
    { inputs: codes(4, 3, 10, { shape: [10, 6] }, { shape: [6] }), attrs: {} },
    { inputs: codes(5, 4, 7, { shape: [7, 33] }), attrs: {} },
    { inputs: codes(0, 4, 7, { shape: [7, 3] }), attrs: {}, note: "empty" },
  ],
});

function decodeInto(
  name: string,
  y: Dense["data"],
  values: Dense,
  indices: Dense,
  w: Dense,
  bias?: Dense,
): void {
  const [B, K] = values.shape;
  const [F, D] = w.shape;
  for (let b = 0; b < B; b++) {
    for (let d = 0; d < D; d++) y[b * D + d] = bias ? bias.data[d] : 0;
    for (let k = 0; k < K; k++) {
      const f = checkIndex(name, indices.data[b * K + k], F);
      for (let d = 0; d < D; d++) y[b * D + d] += values.data[b * K + k] * w.data[f * D + d];
    }
  }
}

function codes(B: number, K: number, F: number, ...rest: { shape: number[]; constant?: boolean }[]) {
  return [{ shape: [B, K] }, { shape: [B, K], kind: "index" as const, below: F, constant: true }, ...rest];
}

/** x[b] · w[indices[b, k]]: [B, K]; with values [B, K] only in slots where they are not 0, and 0 in the others. */
export const sparseDotOp = fused<None>({
  name: "sparseDot",
  ints: [2],
  infer: ([x, w, indices, values]) => {
    requireShape("sparseDot", "x", x, [undefined, undefined]);
    requireShape("sparseDot", "w", w, [undefined, x.shape[1]]);
    requireShape("sparseDot", "indices", indices, [x.shape[0], undefined]);
    if (values) requireCodes("sparseDot", values, indices);
    return [f32(indices.shape)];
  },
  ref: ([x, w, indices, values], [y]) => {
    const [B, K] = indices.shape;
    const D = x.shape[1];
    for (let b = 0; b < B; b++) {
      for (let k = 0; k < K; k++) {
        const f = checkIndex("sparseDot", indices.data[b * K + k], w.shape[0]);
        let total = 0;
        for (let d = 0; d < D; d++) total += x.data[b * D + d] * w.data[f * D + d];
        y.data[b * K + k] = values?.data[b * K + k] === 0 ? 0 : total;
      }
    }
  },
  vjp: ({ inputs: [x, w, indices, values], grads: [g], needs }) => {
    if (!g) return [];
    const pull = values ? where(equal(values, 0), 0, g) : g;
    return [
      needs[0] ? sparseDecode(pull, indices, w) : undefined,
      needs[1] ? sparseOuter(pull, indices, x, w.shape[0]) : undefined,
    ];
  },
  decompose: ([x, w, indices, values]) => {
    const rows = gatherRows(w, indices);
    const dots = sum(mul(rows, reshape(x, [x.shape[0], 1, x.shape[1]])), { axes: [2] });
    return [values ? where(equal(stopGradient(values), 0), 0, dots) : dots];
  },
  cases: [
    {
      inputs: [
        { shape: [4, 6] },
        { shape: [10, 6] },
        { shape: [4, 3], kind: "index", below: 10, constant: true },
      ],
      attrs: {},
    },
    {
      inputs: [
        { shape: [5, 6] },
        { shape: [10, 6] },
        { shape: [5, 3], kind: "index", below: 10, constant: true },
        { shape: [5, 3], kind: "mask", constant: true },
      ],
      attrs: {},
      note: "unused slots",
    },
    {
      inputs: [
        { shape: [0, 6] },
        { shape: [10, 6] },
        { shape: [0, 3], kind: "index", below: 10, constant: true },
      ],
      attrs: {},
      note: "empty",
    },
  ],
});

/** out[f] = Σ over (b, k) with indices[b, k] = f of values[b, k] · x[b]: [rows, D], summed in the order of b. */
export const sparseOuterOp = fused<{ rows: number }>({
  name: "sparseOuter",
  ints: [1],
  infer: ([values, indices, x], { rows }) => {
    const [B] = requireCodes("sparseOuter", values, indices);
    requireShape("sparseOuter", "x", x, [B, undefined]);
    return [f32([rows, x.shape[1]])];
  },
  ref: ([values, indices, x], [y], { rows }) => {
    const [B, K] = values.shape;
    const D = x.shape[1];
    y.data.fill(0);
    for (let b = 0; b < B; b++) {
      for (let k = 0; k < K; k++) {
        const f = checkIndex("sparseOuter", indices.data[b * K + k], rows);
        for (let d = 0; d < D; d++) y.data[f * D + d] += values.data[b * K + k] * x.data[b * D + d];
      }
    }
  },
  vjp: ({ inputs: [values, indices, x], grads: [g], needs }) => {
    if (!g) return [];
    return [
      needs[0] ? sparseDot(x, g, indices) : undefined,
      undefined,
      needs[2] ? sparseDecode(values, indices, g) : undefined,
    ];
  },
  decompose: ([values, indices, x], { rows }) => {
    const [B, K] = values.shape;
    const D = x.shape[1];
    const each = mul(expand(reshape(x, [B, 1, D]), [B, K, D]), reshape(values, [B, K, 1]));
    return [scatterAddRows(reshape(each, [B * K, D]), reshape(indices, [B * K]), rows)];
  },
  cases: [
    { inputs: codes(5, 3, 8, { shape: [5, 6] }), attrs: { rows: 8 } },
    { inputs: codes(0, 3, 8, { shape: [0, 6] }), attrs: { rows: 8 }, note: "no tokens: zeros" },
  ],
});

/** out[f] = Σ of values whose index is f: [rows]. */
export const sparseSumOp = fused<{ rows: number }>({
  name: "sparseSum",
  ints: [1],
  infer: ([values, indices], { rows }) => {
    requireCodes("sparseSum", values, indices);
    return [f32([rows])];
  },
  ref: ([values, indices], [y], { rows }) => {
    y.data.fill(0);
    for (let i = 0; i < values.data.length; i++) {
      y.data[checkIndex("sparseSum", indices.data[i], rows)] += values.data[i];
    }
  },
  vjp: ({ inputs: [values, indices], grads: [g] }) => [
    g && reshape(gatherRows(reshape(g, [-1, 1]), indices), values.shape),
  ],
  decompose: ([values, indices], { rows }) => [
    reshape(scatterAddRows(reshape(values, [-1, 1]), reshape(indices, [-1]), rows), [rows]),
  ],
  cases: [
    { inputs: codes(5, 3, 8), attrs: { rows: 8 } },
    { inputs: codes(0, 3, 8), attrs: { rows: 8 }, note: "no tokens: zeros" },
  ],
});

/**
 * Reconstruction and its loss in one pass: error = Σ_k values · w[indices] + bias - target [B, D], and
 * loss = mean over B of the sum over D of error². d loss / d recon = 2 error / B.
 */
export const sparseDecodeLossOp = fused<None>({
  name: "sparseDecodeLoss",
  ints: [1],
  infer: ([values, indices, w, bias, target]) => {
    const [B] = requireCodes("sparseDecodeLoss", values, indices);
    requireShape("sparseDecodeLoss", "w", w, [undefined, undefined]);
    requireShape("sparseDecodeLoss", "target", target, [B, w.shape[1]]);
    requireShape("sparseDecodeLoss", "bias", bias, [w.shape[1]]);
    return [f32([]), f32(target.shape)];
  },
  ref: ([values, indices, w, bias, target], [loss, error]) => {
    decodeInto("sparseDecodeLoss", error.data, values, indices, w, bias);
    let total = 0;
    for (let i = 0; i < error.data.length; i++) {
      error.data[i] -= target.data[i];
      total += error.data[i] ** 2;
    }
    loss.data[0] = total / values.shape[0];
  },
  vjp: ({ inputs: [values, indices, w, , target], outputs: [, error], grads: [g, ge], needs }) => {
    let d = g && mul(error, mul(g, 2 / values.shape[0]));
    if (ge) d = d ? add(d, ge) : ge;
    if (!d) return [];
    return [
      needs[0] ? sparseDot(d, w, indices) : undefined,
      undefined,
      needs[2] ? sparseOuter(values, indices, d, w.shape[0]) : undefined,
      needs[3] ? sum(d, { axes: [0] }) : undefined,
      needs[4] ? mul(d, -1) : undefined,
    ].slice(0, target ? 5 : 4);
  },
  decompose: ([values, indices, w, bias, target]) => {
    const error = sub(sparseDecode(values, indices, w, bias), target);
    return [mean(sum(square(error), { axes: [1] })), error];
  },
  cases: [{ inputs: codes(4, 3, 10, { shape: [10, 6] }, { shape: [6] }, { shape: [4, 6] }), attrs: {} }],
});

/**
 * Two `sparseOuter` that share indices, with what a training step asks of them: outA from (valuesA, xA), outB from
 * (valuesB, xB), sumB = `sparseSum` of valuesB, and the sums of squares [3] of outA, outB and sumB.
 */
export const sparseOuterPairOp = fused<{ rows: number }>({
  name: "sparseOuterPair",
  ints: [4],
  infer: ([valuesA, xA, valuesB, xB, indices], { rows }) => {
    const [B] = requireCodes("sparseOuterPair", valuesA, indices);
    requireCodes("sparseOuterPair", valuesB, indices);
    requireShape("sparseOuterPair", "xA", xA, [B, undefined]);
    requireShape("sparseOuterPair", "xB", xB, [B, undefined]);
    return [f32([rows, xA.shape[1]]), f32([rows, xB.shape[1]]), f32([rows]), f32([3])];
  },
  ref: ([valuesA, xA, valuesB, xB, indices], [outA, outB, sumB, squares], attrs) => {
    sparseOuterOp.ref([valuesA, indices, xA], [outA], attrs);
    sparseOuterOp.ref([valuesB, indices, xB], [outB], attrs);
    sparseSumOp.ref([valuesB, indices], [sumB], attrs);
    [outA, outB, sumB].forEach((t, i) => {
      let total = 0;
      for (const v of t.data) total += v * v;
      squares.data[i] = total;
    });
  },
  decompose: ([valuesA, xA, valuesB, xB, indices], { rows }) => {
    const outA = sparseOuter(valuesA, indices, xA, rows);
    const outB = sparseOuter(valuesB, indices, xB, rows);
    const sumB = sparseSum(valuesB, indices, rows);
    const squares = concat(
      [outA, outB, sumB].map((t) => reshape(sum(square(t)), [1])),
      0,
    );
    return [outA, outB, sumB, squares];
  },
  cases: [
    {
      inputs: [
        { shape: [5, 3] },
        { shape: [5, 6] },
        { shape: [5, 3] },
        { shape: [5, 4] },
        { shape: [5, 3], kind: "index", below: 8, constant: true },
      ],
      attrs: { rows: 8 },
    },
    {
      inputs: [
        { shape: [0, 3] },
        { shape: [0, 6] },
        { shape: [0, 3] },
        { shape: [0, 4] },
        { shape: [0, 3], kind: "index", below: 8, constant: true },
      ],
      attrs: { rows: 8 },
      note: "no tokens: zeros",
    },
  ],
});

/** Adds `tokens` to every counter and clears those of features that fired (value > 0). lastFired i32 [F], in place. */
export const markFiredOp = primitive<{ tokens: number }>({
  name: "markFired",
  ints: [0, 2],
  mutates: [0],
  infer: ([lastFired, values, indices]) => {
    requireCodes("markFired", values, indices);
    if (lastFired.dtype !== "i32" || lastFired.shape.length !== 1)
      throw usageError(`markFired: counters are ${describe(lastFired)}, expected i32 [F]`);
    return [];
  },
  ref: ([lastFired, values, indices], _, { tokens }) => {
    for (let f = 0; f < lastFired.data.length; f++) {
      lastFired.data[f] = Math.min(lastFired.data[f] + tokens, 2 ** 31 - 1);
    }
    for (let i = 0; i < values.data.length; i++) {
      const f = checkIndex("markFired", indices.data[i], lastFired.data.length);
      if (values.data[i] > 0) lastFired.data[f] = 0;
    }
  },
  cases: [
    {
      inputs: [
        { shape: [6], kind: "index", below: 100 },
        { shape: [2, 2], values: [1, 0, 2, 3] },
        { shape: [2, 2], values: [0, 1, 2, 5], kind: "index" },
      ],
      attrs: { tokens: 10 },
    },
  ],
});

/** See `linearTopKOp`: the k largest of relu(x wᵀ + bias) by row, values descending, indices i32. */
export function linearTopK(
  x: Tensor,
  w: Tensor,
  bias: Tensor,
  { k }: { k: number },
): { values: Tensor; indices: Tensor } {
  const [values, indices] = dispatch(linearTopKOp, [x, w, bias], { k });
  return { values, indices };
}

/** Sparse codes [B, K] times rows of w [F, D], plus bias [D]: [B, D]. */
export function sparseDecode(values: Tensor, indices: Tensor, w: Tensor, bias?: Tensor): Tensor {
  return dispatch(sparseDecodeOp, bias ? [values, indices, w, bias] : [values, indices, w], {})[0];
}

/** x [B, D] against the chosen rows of w [F, D]: [B, K]; 0 where a slot's value, if given, is 0. */
export function sparseDot(x: Tensor, w: Tensor, indices: Tensor, values?: Tensor): Tensor {
  return dispatch(sparseDotOp, values ? [x, w, indices, values] : [x, w, indices], {})[0];
}

/** Gradient of a row table: [rows, D] with out[f] = Σ values · x over the pairs that chose f. */
export function sparseOuter(values: Tensor, indices: Tensor, x: Tensor, rows: number): Tensor {
  return dispatch(sparseOuterOp, [values, indices, x], { rows })[0];
}

/** Sum of the values of each index: [rows]. */
export function sparseSum(values: Tensor, indices: Tensor, rows: number): Tensor {
  return dispatch(sparseSumOp, [values, indices], { rows })[0];
}

/** Reconstruction error [B, D] and loss (mean over B of the sum over D of its square). */
export function sparseDecodeLoss(
  codes: { values: Tensor; indices: Tensor },
  w: Tensor,
  bias: Tensor,
  target: Tensor,
): { loss: Tensor; error: Tensor } {
  const [loss, error] = dispatch(sparseDecodeLossOp, [codes.values, codes.indices, w, bias, target], {});
  return { loss, error };
}

export interface OuterPair {
  outA: Tensor;
  outB: Tensor;
  sumB: Tensor;
  /** Sums of squares of outA, outB and sumB, [3]. */
  squares: Tensor;
}

/** See `sparseOuterPairOp`. */
export function sparseOuterPair(
  a: { values: Tensor; x: Tensor },
  b: { values: Tensor; x: Tensor },
  indices: Tensor,
  rows: number,
): OuterPair {
  const inputs = [a.values, a.x, b.values, b.x, indices];
  const [outA, outB, sumB, squares] = dispatch(sparseOuterPairOp, inputs, { rows });
  return { outA, outB, sumB, squares };
}

/** See `markFiredOp`. */
export function markFired(lastFired: Tensor, values: Tensor, indices: Tensor, tokens: number): void {
  dispatch(markFiredOp, [lastFired, values, indices], { tokens });
}
