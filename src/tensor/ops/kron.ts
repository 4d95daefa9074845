/**
 * The encoder of a KronSAE (arXiv 2505.22255): heads of m base and n extension pre-latents, whose m·n pairwise products
 * are the features. B tokens · D width · h heads · F = h m n features · K active. Row head (m + n) + i of w is base i,
 * row head (m + n) + m + j extension j; feature (head m + i) n + j is their product.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { describe, type TensorType } from "../types.ts";
import { cast, expand, reshape, slice, stopGradient } from "../views.ts";
import { equalShapes, f32, requireShape } from "./check.ts";
import {
  add,
  div,
  equal,
  greater,
  greaterEqual,
  maximum,
  mul,
  relu,
  sqrt,
  sub,
  where,
} from "./elementwise.ts";
import { checkIndex, descending, takeLast, topk } from "./gather.ts";
import { linear } from "./matmul.ts";
import { sum } from "./reduce.ts";
import { concat } from "./shape.ts";
import { sparseDecode, sparseOuter, sparseSum } from "./sparse.ts";

/**
 * The feature of a pair: `mand` is √(u v) where both are positive, else 0; `relu` is relu(u) relu(v); `raw` is relu(u v),
 * which two negative ones also turn on.
 */
export type KronProduct = "mand" | "relu" | "raw";

export interface KronAttrs {
  /** Base pre-latents of a head. */
  readonly m: number;
  /** Extension pre-latents of a head. */
  readonly n: number;
  readonly product: KronProduct;
}

const score: Readonly<Record<KronProduct, (u: number, v: number) => number>> = {
  mand: (u, v) => (u <= 0 || v <= 0 ? 0 : Math.sqrt(u * v)),
  relu: (u, v) => (u <= 0 || v <= 0 ? 0 : u * v),
  raw: (u, v) => Math.max(u * v, 0),
};

/** d score / du of a pair that is on; that of v is slope(v, u). */
const slope: Readonly<Record<KronProduct, (u: number, v: number) => number>> = {
  mand: (u, v) => Math.sqrt(v / u) / 2,
  relu: (_, v) => v,
  raw: (_, v) => v,
};

function requireAttrs(name: string, { m, n, product }: KronAttrs): void {
  const size = (x: number) => Number.isInteger(x) && x >= 1;
  if (!size(m) || !size(n))
    throw usageError(`${name}: m=${m} and n=${n}; both must be integers of at least 1`);
  if (!Object.hasOwn(score, product))
    throw usageError(`${name}: product="${product}", expected one of ${Object.keys(score).join(", ")}`);
}

/** The number of heads that `rows` pre-latents make up. */
function headsOf(name: string, what: string, x: TensorType, rows: number, { m, n }: KronAttrs): number {
  if (rows % (m + n) === 0) return rows / (m + n);
  throw usageError(
    `${name}: ${what} is ${describe(x)}, but ${rows} is no multiple of m + n = ${m} + ${n}, the rows of a head`,
  );
}

/** u [B, h, m, 1] and v [B, h, 1, n] of pre [B, h (m + n)]. */
function parts(pre: Tensor, { m, n }: KronAttrs): [Tensor, Tensor] {
  const B = pre.shape[0];
  const h = pre.shape[1] / (m + n);
  const heads = reshape(pre, [B, h, m + n]);
  const u = slice(heads, [0, 0, 0], [B, h, m]);
  const v = slice(heads, [0, 0, m], [B, h, n]);
  return [reshape(u, [B, h, m, 1]), reshape(v, [B, h, 1, n])];
}

/**
 * Every feature of pre [B, h (m + n)]: [B, F]. A NaN makes every pair NaN in which the other one is positive (`raw`: every
 * pair). The gradient of a pair that is off is 0.
 */
export const kronScoresOp = fused<KronAttrs>({
  name: "kronScores",
  infer: ([pre], attrs) => {
    requireAttrs("kronScores", attrs);
    requireShape("kronScores", "pre", pre, [undefined, undefined]);
    const h = headsOf("kronScores", "pre", pre, pre.shape[1], attrs);
    return [f32([pre.shape[0], h * attrs.m * attrs.n])];
  },
  ref: ([pre], [scores], { m, n, product }) => {
    const heads = pre.data.length / (m + n);
    for (let h = 0, f = 0; h < heads; h++) {
      const u = h * (m + n);
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) scores.data[f++] = score[product](pre.data[u + i], pre.data[u + m + j]);
    }
  },
  vjp: ({ inputs: [pre], outputs: [z], grads: [g], attrs }) => {
    if (!g) return [];
    const { m, n, product } = attrs;
    const [u, v] = parts(pre, attrs);
    const [B, h] = u.shape;
    // On a pair that is on: dz/du = v/(2z) for mand, since z² = u v, else v.
    const on = greater(z, 0);
    const scaled = product === "mand" ? mul(g, div(on, mul(where(on, z, 1), 2))) : mul(g, on);
    const pairs = reshape(scaled, [B, h, m, n]);
    const du = sum(mul(pairs, v), { axes: [3] }); // [B, h, m]
    const dv = sum(mul(pairs, u), { axes: [2] }); // [B, h, n]
    return [reshape(concat([du, dv], 2), pre.shape)];
  },
  decompose: ([pre], attrs) => {
    const { m, n, product } = attrs;
    const [u, v] = parts(pre, attrs);
    const [B, h] = u.shape;
    if (product === "raw") return [reshape(relu(mul(u, v)), [B, h * m * n])];
    const off = maximum(greaterEqual(0, u), greaterEqual(0, v)); // [B, h, m, n]
    const uv = where(off, 1, mul(u, v)); // √ has no slope at 0
    const z = where(off, 0, product === "mand" ? sqrt(uv) : uv);
    return [reshape(z, [B, h * m * n])];
  },
  cases: [
    { inputs: [{ shape: [3, 12], kind: "spread" }], attrs: { m: 2, n: 4, product: "mand" } },
    { inputs: [{ shape: [2, 40], kind: "spread" }], attrs: { m: 4, n: 4, product: "mand" } },
    { inputs: [{ shape: [2, 12], kind: "spread" }], attrs: { m: 1, n: 3, product: "relu" } },
    { inputs: [{ shape: [4, 5], kind: "spread" }], attrs: { m: 3, n: 2, product: "raw" } },
    { inputs: [{ shape: [0, 4] }], attrs: { m: 1, n: 1, product: "mand" }, note: "empty" },
  ],
});

/**
 * The k largest features of each row, descending, the lower index on ties; a row with fewer than k positive ones fills up
 * with zeros at its lowest unused indices; NaN is largest. x [B, D], w [h (m + n), D], bias [h (m + n)] -> values, indices,
 * base, extension [B, k]: base and extension are the pair (u, v) that each value was made of, 0 where the value is 0.
 * Neither pre-latents nor features are ever written out. The gradient touches the rows of the chosen pairs only.
 */
export const linearKronTopKOp = fused<KronAttrs & { readonly k: number }>({
  name: "linearKronTopK",
  saved: [2, 3],
  infer: ([x, w, bias], attrs) => {
    requireAttrs("linearKronTopK", attrs);
    requireShape("linearKronTopK", "x", x, [undefined, undefined]);
    requireShape("linearKronTopK", "w", w, [undefined, x.shape[1]]);
    requireShape("linearKronTopK", "bias", bias, [w.shape[0]]);
    const { m, n, k } = attrs;
    const F = headsOf("linearKronTopK", "w", w, w.shape[0], attrs) * m * n;
    if (!(Number.isInteger(k) && k >= 1 && k <= F))
      throw usageError(`linearKronTopK: k=${k}, but there are ${F} features`);
    const shape = [x.shape[0], k];
    return [f32(shape), { dtype: "i32", shape }, f32(shape), f32(shape)];
  },
  ref: ([x, w, bias], [values, indices, base, extension], { m, n, k, product }) => {
    const [rows, D] = w.shape;
    const pre = { shape: [1, rows], data: new Float64Array(rows) };
    const scores = { shape: [1, (rows / (m + n)) * m * n], data: new Float64Array((rows / (m + n)) * m * n) };
    for (let b = 0; b < x.shape[0]; b++) {
      for (let r = 0; r < rows; r++) {
        let total = bias.data[r];
        for (let d = 0; d < D; d++) total += x.data[b * D + d] * w.data[r * D + d];
        pre.data[r] = total;
      }
      kronScoresOp.ref([pre], [scores], { m, n, product });
      const order = descending(scores.data);
      for (let s = b * k; s < (b + 1) * k; s++) {
        const f = order[s - b * k];
        const [u, v] = pairOf(f, m, n);
        values.data[s] = scores.data[f];
        indices.data[s] = f;
        const used = values.data[s] !== 0;
        base.data[s] = used ? pre.data[u] : 0;
        extension.data[s] = used ? pre.data[v] : 0;
      }
    }
  },
  vjp: ({ inputs: [x, w], outputs: [values, indices, base, extension], grads: [g], attrs, needs }) => {
    if (!g) return [];
    const pre = kronSpread(g, { values, indices, base, extension }, attrs); // [B, 2k]
    return [
      needs[0] ? sparseDecode(pre.values, pre.indices, w) : undefined,
      needs[1] ? sparseOuter(pre.values, pre.indices, x, w.shape[0]) : undefined,
      needs[2] ? sparseSum(pre.values, pre.indices, w.shape[0]) : undefined,
    ];
  },
  decompose: ([x, w, bias], { k, ...attrs }) => {
    const pre = linear(x, w, { bias });
    const scores = kronScores(pre, attrs);
    const { values, indices } = topk(scores, { k });
    const unused = equal(values, 0);
    const [u, v] = parts(stopGradient(pre), attrs);
    const grid = [u.shape[0], u.shape[1], attrs.m, attrs.n];
    const [base, extension] = [u, v].map((t) =>
      where(unused, 0, takeLast(reshape(expand(t, grid), scores.shape), indices)),
    );
    return [values, indices, base, extension];
  },
  cases: [
    {
      inputs: [{ shape: [4, 6] }, { shape: [18, 6] }, { shape: [18] }],
      attrs: { m: 2, n: 4, k: 5, product: "mand" },
    },
    {
      inputs: [{ shape: [9, 16] }, { shape: [80, 16] }, { shape: [80] }],
      attrs: { m: 4, n: 4, k: 8, product: "mand" },
    },
    {
      inputs: [{ shape: [5, 7] }, { shape: [20, 7] }, { shape: [20] }],
      attrs: { m: 1, n: 3, k: 4, product: "relu" },
    },
    {
      inputs: [{ shape: [5, 7] }, { shape: [15, 7] }, { shape: [15] }],
      attrs: { m: 3, n: 2, k: 4, product: "raw" },
    },
    {
      inputs: [{ shape: [3, 4] }, { shape: [4, 4] }, { shape: [4], values: [9, -40, 8, 7] }],
      attrs: { m: 2, n: 2, k: 4, product: "mand" },
      note: "k = F: zeros fill up",
    },
    {
      inputs: [{ shape: [0, 4] }, { shape: [4, 4] }, { shape: [4] }],
      attrs: { m: 1, n: 1, k: 2, product: "raw" },
      note: "empty",
    },
  ],
});

/** The two rows of w behind feature f. */
function pairOf(f: number, m: number, n: number): [number, number] {
  const head = Math.floor(f / (m * n)) * (m + n);
  return [head + (Math.floor(f / n) % m), head + m + (f % n)];
}

/**
 * Gradients of the pre-latents from those of the values of `linearKronTopK`, as codes over the rows of w.
 * dValues, values, indices, base, extension [B, k] -> values, indices [B, 2k]: slot s holds the base of pair s, slot k + s
 * its extension. The gradient is 0 where the value is 0.
 */
export const kronSpreadOp = fused<KronAttrs>({
  name: "kronSpread",
  ints: [2],
  infer: ([dValues, values, indices, base, extension], attrs) => {
    requireAttrs("kronSpread", attrs);
    requireShape("kronSpread", "dValues", dValues, [undefined, undefined]);
    for (const [what, x] of Object.entries({ values, indices, base, extension })) {
      if (!equalShapes(x.shape, dValues.shape))
        throw usageError(
          `kronSpread: ${what} is ${describe(x)}, expected [${dValues.shape.join(", ")}] as dValues`,
        );
    }
    const [B, k] = dValues.shape;
    return [f32([B, 2 * k]), { dtype: "i32", shape: [B, 2 * k] }];
  },
  ref: ([dValues, values, indices, base, extension], [rowValues, rowIndices], { m, n, product }) => {
    const [B, k] = values.shape;
    for (let s = 0; s < B * k; s++) {
      const [u, v] = [base.data[s], extension.data[s]];
      const at = s + Math.floor(s / k) * k; // [B, k] to the first half of [B, 2k]
      const on = values.data[s] !== 0;
      rowValues.data[at] = on ? slope[product](u, v) * dValues.data[s] : 0;
      rowValues.data[at + k] = on ? slope[product](v, u) * dValues.data[s] : 0;
      const f = checkIndex("kronSpread", indices.data[s], Number.POSITIVE_INFINITY);
      [rowIndices.data[at], rowIndices.data[at + k]] = pairOf(f, m, n);
    }
  },
  decompose: ([dValues, values, indices, base, extension], { m, n, product }) => {
    const off = equal(values, 0);
    const [u, v] = [base, extension].map((t) => where(off, 1, t));
    const mand = product === "mand";
    const du = where(off, 0, mul(dValues, mand ? mul(sqrt(div(v, u)), 0.5) : v));
    const dv = where(off, 0, mul(dValues, mand ? mul(sqrt(div(u, v)), 0.5) : u));
    // Whole numbers below 2^24, which f32 holds and divides without crossing a whole number.
    const floor = (x: Tensor) => cast(cast(x, "i32"), "f32");
    const f = cast(indices, "f32");
    const head = floor(div(f, m * n));
    const i = sub(floor(div(f, n)), mul(head, m));
    const j = sub(f, mul(floor(div(f, n)), n));
    const first = mul(head, m + n);
    const rows = [add(first, i), add(add(first, j), m)].map((t) => cast(t, "i32"));
    return [concat([du, dv], 1), concat(rows, 1)];
  },
  cases: [
    { inputs: spreadInputs([4, 3], 40), attrs: { m: 2, n: 4, product: "mand" } },
    { inputs: spreadInputs([5, 4], 60), attrs: { m: 4, n: 3, product: "relu" } },
    { inputs: spreadInputs([3, 7], 9), attrs: { m: 1, n: 1, product: "raw" } },
    { inputs: spreadInputs([0, 2], 9), attrs: { m: 3, n: 1, product: "mand" }, note: "empty" },
  ],
});

function spreadInputs(shape: number[], below: number) {
  const pair = { shape, kind: "positive" as const };
  return [{ shape }, { shape, kind: "mask" as const }, { shape, kind: "index" as const, below }, pair, pair];
}

/** Chosen features with the pair of pre-latents behind each, all [B, k]. */
export interface KronCodes {
  readonly values: Tensor;
  readonly indices: Tensor;
  readonly base: Tensor;
  readonly extension: Tensor;
}

/** See `linearKronTopKOp`: the k largest features of each row, with the pre-latents they were made of. */
export function linearKronTopK(
  x: Tensor,
  w: Tensor,
  bias: Tensor,
  options: KronAttrs & { readonly k: number },
): KronCodes {
  const [values, indices, base, extension] = dispatch(linearKronTopKOp, [x, w, bias], options);
  return { values, indices, base, extension };
}

/** See `kronSpreadOp`: gradients dValues [B, k] of the chosen features as codes [B, 2k] over the rows of w. */
export function kronSpread(
  dValues: Tensor,
  { values, indices, base, extension }: KronCodes,
  attrs: KronAttrs,
): { values: Tensor; indices: Tensor } {
  const inputs = [dValues, values, indices, base, extension];
  const [rowValues, rowIndices] = dispatch(kronSpreadOp, inputs, attrs);
  return { values: rowValues, indices: rowIndices };
}

/** See `kronScoresOp`: all features of pre [B, h (m + n)], [B, F]. */
export function kronScores(pre: Tensor, attrs: KronAttrs): Tensor {
  return dispatch(kronScoresOp, [pre], attrs)[0];
}
