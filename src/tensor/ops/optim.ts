/**
 * In-place passes over parameters. None is recorded on a tape.
 */
import { dispatch } from "../dispatch.ts";
import { primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, isContiguous } from "../types.ts";
import { requireMatrix, sameShape } from "./check.ts";

export interface AdamAttrs {
  readonly lr: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled: the parameter shrinks by lr · weightDecay before the step. */
  readonly weightDecay: number;
  /** 1 for the first step; corrects the bias of the moments. */
  readonly step: number;
  /** Multiplies the gradient first (clipping, averaging). */
  readonly gradScale: number;
}

function adamStep([p, g, m, v]: readonly Dense[], a: AdamAttrs): void {
  const c1 = 1 - a.beta1 ** a.step;
  const c2 = 1 - a.beta2 ** a.step;
  for (let i = 0; i < p.data.length; i++) {
    const grad = g.data[i] * a.gradScale;
    m.data[i] = a.beta1 * m.data[i] + (1 - a.beta1) * grad;
    v.data[i] = a.beta2 * v.data[i] + (1 - a.beta2) * grad * grad;
    const decayed = p.data[i] * (1 - a.lr * a.weightDecay);
    p.data[i] = decayed - (a.lr * (m.data[i] / c1)) / (Math.sqrt(v.data[i] / c2) + a.eps);
  }
}

const defaults: AdamAttrs = {
  lr: 0.01,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.1,
  step: 3,
  gradScale: 0.5,
};
const four = (shape: number[]) => [{ shape }, { shape }, { shape }, { shape, kind: "positive" as const }];

/** AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019), in place on param, m, v. */
export const adamOp = primitive<AdamAttrs>({
  name: "adam",
  mutates: [0, 2, 3],
  infer: (xs) => {
    sameShape("adam", xs);
    return [];
  },
  ref: (xs, _, attrs) => adamStep(xs, attrs),
  cases: [
    { inputs: four([5, 7]), attrs: defaults },
    { inputs: four([3]), attrs: { ...defaults, step: 1, weightDecay: 0 }, note: "first step" },
    { inputs: four([0]), attrs: defaults, note: "empty" },
  ],
});

export interface AdamRowsAttrs extends AdamAttrs {
  /** Take out the part of each gradient row that is parallel to its parameter row, first. */
  readonly project: boolean;
  /** Scale each parameter row to unit length, last. */
  readonly normalize: boolean;
  /** Least norm that a row is divided by. */
  readonly normEps: number;
}

/** `projectRows`, `adam` and `normalizeRows` on [F, D] in one pass over memory. */
export const adamRowsOp = primitive<AdamRowsAttrs>({
  name: "adamRows",
  mutates: [0, 2, 3],
  infer: (xs) => {
    sameShape("adamRows", xs);
    requireMatrix("adamRows", xs[0]);
    return [];
  },
  ref: ([p, g, m, v], _, attrs) => {
    const grad = { shape: g.shape, data: g.data.slice() };
    if (attrs.project) project(grad, p);
    adamStep([p, grad, m, v], attrs);
    if (attrs.normalize) normalize(p, attrs.normEps);
  },
  cases: [
    { inputs: four([6, 9]), attrs: { ...defaults, project: true, normalize: true, normEps: 1e-8 } },
    { inputs: four([3, 33]), attrs: { ...defaults, project: false, normalize: true, normEps: 1e-8 } },
  ],
});

function normalize(w: Dense, eps: number): void {
  const [F, D] = w.shape;
  for (let f = 0; f < F; f++) {
    const row = w.data.subarray(f * D, (f + 1) * D);
    let ss = 0;
    for (const v of row) ss += v * v;
    const by = Math.max(Math.sqrt(ss), eps);
    for (let d = 0; d < D; d++) row[d] /= by;
  }
}

function project(g: Dense, w: Dense): void {
  const [F, D] = w.shape;
  for (let f = 0; f < F; f++) {
    let dot = 0;
    let ss = 0;
    for (let d = f * D; d < (f + 1) * D; d++) {
      dot += g.data[d] * w.data[d];
      ss += w.data[d] * w.data[d];
    }
    if (ss === 0) continue;
    for (let d = f * D; d < (f + 1) * D; d++) g.data[d] -= (dot / ss) * w.data[d];
  }
}

/** Each row of w [F, D] divided by max(its norm, eps), in place. */
export const normalizeRowsOp = primitive<{ eps: number }>({
  name: "normalizeRows",
  mutates: [0],
  infer: ([w]) => {
    requireMatrix("normalizeRows", w);
    return [];
  },
  ref: ([w], _, { eps }) => normalize(w, eps),
  cases: [
    { inputs: [{ shape: [5, 9] }], attrs: { eps: 1e-8 } },
    { inputs: [{ shape: [2, 2], values: [0, 0, 3, 4] }], attrs: { eps: 1e-8 }, note: "a zero row stays" },
  ],
});

/** grad_f -= (grad_f · w_f) w_f / |w_f|², in place: what would only change a row's length. */
export const projectRowsOp = primitive<Record<string, never>>({
  name: "projectRows",
  mutates: [0],
  infer: (xs) => {
    sameShape("projectRows", xs);
    requireMatrix("projectRows", xs[0]);
    return [];
  },
  ref: ([g, w]) => project(g, w),
  cases: [
    { inputs: [{ shape: [5, 9] }, { shape: [5, 9] }], attrs: {} },
    {
      inputs: [
        { shape: [2, 2], values: [1, 2, 3, 4] },
        { shape: [2, 2], values: [0, 0, 1, 0] },
      ],
      attrs: {},
      note: "a zero row of w leaves the gradient",
    },
  ],
});

/** x *= factor, in place. */
export const scaleOp = primitive<{ factor: number }>({
  name: "scale",
  mutates: [0],
  infer: () => [],
  ref: ([x], _, { factor }) => {
    for (let i = 0; i < x.data.length; i++) x.data[i] *= factor;
  },
  cases: [{ inputs: [{ shape: [3, 5] }], attrs: { factor: 0.25 } }],
});

/** y += x of any strides, in place on y. The tape adds up gradients with it. */
export const accumulateOp = primitive<Record<string, never>>({
  name: "accumulate",
  mutates: [0],
  infer: (xs) => {
    sameShape("accumulate", xs);
    return [];
  },
  accepts: (x, i) => x.dtype === "f32" && (i === 1 || isContiguous(x.shape, x.strides)),
  ref: ([y, x]) => {
    for (let i = 0; i < y.data.length; i++) y.data[i] += x.data[i];
  },
  cases: [
    { inputs: [{ shape: [3, 5] }, { shape: [3, 5] }], attrs: {} },
    { inputs: [{ shape: [2, 0] }, { shape: [2, 0] }], attrs: {}, note: "empty" },
  ],
});

/** Σ x², accumulated in f64 over chunks of fixed size: []. */
export const sumSquaresOp = primitive<Record<string, never>>({
  name: "sumSquares",
  infer: () => [{ dtype: "f32", shape: [] }],
  ref: ([x], [y]) => {
    let total = 0;
    for (const v of x.data) total += v * v;
    y.data[0] = total;
  },
  cases: [
    { inputs: [{ shape: [3, 5] }], attrs: {} },
    { inputs: [{ shape: [0] }], attrs: {}, note: "empty" },
  ],
});

/** One AdamW step in place. */
export function adam(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, attrs: AdamAttrs): void {
  dispatch(adamOp, [param, grad, m, v], attrs);
}

/** One AdamW step on a matrix whose rows are features; see `AdamRowsAttrs`. */
export function adamRows(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, attrs: AdamRowsAttrs): void {
  dispatch(adamRowsOp, [param, grad, m, v], attrs);
}

export function normalizeRows(w: Tensor, eps = 1e-12): void {
  dispatch(normalizeRowsOp, [w], { eps });
}

export function projectRows(grad: Tensor, w: Tensor): void {
  dispatch(projectRowsOp, [grad, w], {});
}

export function scaleInPlace(x: Tensor, factor: number): void {
  dispatch(scaleOp, [x], { factor });
}

/** Σ x²: []. */
export function sumSquares(x: Tensor): Tensor {
  return dispatch(sumSquaresOp, [x], {})[0];
}
