/**
 * Losses over the prefixes of a code, and what chooses and orders its slots.
 * B tokens · D width · F features · K slots; a slot with value 0 is unused. t slots make prefix t, t = 0..K.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused, primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { reshape, slice, stopGradient } from "../views.ts";
import { f32, requireShape } from "./check.ts";
import { add, equal, mul, square, sub, where } from "./elementwise.ts";
import { checkIndex, descending, gatherRows, scatterAddRows, scatterLast } from "./gather.ts";
import { mean, sum } from "./reduce.ts";
import { concat } from "./shape.ts";
import { requireCodes, sparseDot, sparseOuter } from "./sparse.ts";

type None = Record<string, never>;

/** 1 where x is not 0. */
const used = (x: Tensor): Tensor => sub(1, equal(x, 0));

/**
 * Squared errors of all prefixes and their gradients in one pass. With r_t = bias + Σ_{s<t} values[s] · w[indices[s]]:
 * loss = mean over B of Σ_t weights[t] · |r_t − target|² and error = r_K − target. In units of 2/B and with
 * S_t = Σ_{u≥t} weights[u] · (r_u − target): dValues[s] = w[indices[s]] · S_{s+1} (0 at unused slots), dW sums
 * values[s] · S_{s+1} by index, pull = S_0 belongs to bias (summed over B) and, negated, to target.
 * weights [K+1], or [B, K+1] for weights of each row; they are constants. A prefix of weight 0 is not looked at.
 */
export const prefixLossOp = fused<None>({
  name: "prefixLoss",
  ints: [1],
  saved: [2, 3, 4],
  infer: ([values, indices, w, bias, target, weights]) => {
    const [B, K] = requireCodes("prefixLoss", values, indices);
    requireShape("prefixLoss", "w", w, [undefined, undefined]);
    requireShape("prefixLoss", "bias", bias, [w.shape[1]]);
    requireShape("prefixLoss", "target", target, [B, w.shape[1]]);
    requireShape("prefixLoss", "weights", weights, weights.shape.length === 1 ? [K + 1] : [B, K + 1]);
    return [f32([]), f32(target.shape), f32(values.shape), f32(w.shape), f32(target.shape)];
  },
  ref: ([values, indices, w, bias, target, weights], [loss, error, dValues, dW, pull]) => {
    const [B, K] = values.shape;
    const [F, D] = w.shape;
    const shared = weights.shape.length === 1;
    const e = Array.from({ length: K + 1 }, () => new Float64Array(D)); // r_t − target
    const S = new Float64Array(D);
    let total = 0;
    dW.data.fill(0);
    for (let b = 0; b < B; b++) {
      const weight = (t: number) => weights.data[shared ? t : b * (K + 1) + t];
      const addPrefix = (t: number) => {
        if (weight(t) !== 0) for (let d = 0; d < D; d++) S[d] += weight(t) * e[t][d];
      };
      for (let d = 0; d < D; d++) e[0][d] = bias.data[d] - target.data[b * D + d];
      for (let t = 0; t <= K; t++) {
        if (t > 0) {
          const v = values.data[b * K + t - 1];
          const f = checkIndex("prefixLoss", indices.data[b * K + t - 1], F);
          for (let d = 0; d < D; d++) e[t][d] = v === 0 ? e[t - 1][d] : e[t - 1][d] + v * w.data[f * D + d];
        }
        if (weight(t) !== 0) for (let d = 0; d < D; d++) total += weight(t) * e[t][d] ** 2;
      }
      error.data.set(e[K], b * D);
      S.fill(0);
      for (let t = K; t > 0; t--) {
        addPrefix(t);
        const v = values.data[b * K + t - 1];
        const f = indices.data[b * K + t - 1];
        let dot = 0;
        for (let d = 0; d < D && v !== 0; d++) {
          dot += w.data[f * D + d] * S[d];
          dW.data[f * D + d] += v * S[d];
        }
        dValues.data[b * K + t - 1] = dot;
      }
      addPrefix(0);
      pull.data.set(S, b * D);
    }
    loss.data[0] = total / B;
  },
  vjp: ({ inputs: [values, indices, w], outputs: [, , dValues, dW, pull], grads: [g, ge], needs }) => {
    const scale = g && mul(g, 2 / values.shape[0]);
    const both = (a: Tensor, b: () => Tensor): Tensor | undefined => {
      const main = scale && mul(a, scale);
      return ge ? (main ? add(main, b()) : b()) : main;
    };
    const atTarget = needs[3] || needs[4] ? both(pull, () => ge!) : undefined;
    return [
      needs[0] ? both(dValues, () => mul(sparseDot(ge!, w, indices), used(values))) : undefined,
      undefined,
      needs[2] ? both(dW, () => sparseOuter(values, indices, ge!, w.shape[0])) : undefined,
      needs[3] && atTarget ? sum(atTarget, { axes: [0] }) : undefined,
      needs[4] && atTarget ? mul(atTarget, -1) : undefined,
      undefined,
    ];
  },
  decompose: ([values, indices, w, bias, target, weights]) => {
    const [B, K] = values.shape;
    const [F, D] = w.shape;
    const on = reshape(stopGradient(used(values)), [B, K, 1]);
    const rows = where(on, gatherRows(w, indices), 0); // [B, K, D]
    const parts = mul(rows, reshape(values, [B, K, 1]));
    const counts = reshape(stopGradient(weights), [-1, K + 1, 1]);
    const counted = used(counts);
    const part = (x: Tensor, t: number) => slice(x, [0, t, 0], [B, 1, D]);
    const errors = [reshape(sub(bias, target), [B, 1, D])];
    for (let t = 0; t < K; t++) errors.push(add(errors[t], part(parts, t)));
    const e = where(counted, concat(errors, 1), 0); // [B, K + 1, D]
    const loss = mean(sum(mul(square(e), counts), { axes: [1, 2] }));
    const pulls = mul(e, counts);
    const sums = [part(pulls, K)];
    for (let t = K - 1; t >= 0; t--) sums.unshift(add(part(pulls, t), sums[0]));
    const S = where(on, concat(sums.slice(1), 1), 0); // [B, K, D]
    const dW = scatterAddRows(
      reshape(mul(S, reshape(values, [B, K, 1])), [B * K, D]),
      reshape(indices, [B * K]),
      F,
    );
    const dValues = sum(mul(rows, S), { axes: [2] });
    return [loss, reshape(errors[K], [B, D]), dValues, dW, reshape(sums[0], [B, D])];
  },
  cases: [
    {
      inputs: [
        { shape: [4, 3] },
        { shape: [4, 3], kind: "index", below: 10, constant: true },
        { shape: [10, 6] },
        { shape: [6] },
        { shape: [4, 6] },
        { shape: [4], constant: true },
      ],
      attrs: {},
    },
    {
      inputs: [
        { shape: [5, 7] },
        { shape: [5, 7], kind: "index", below: 3, constant: true },
        { shape: [4, 33] },
        { shape: [33] },
        { shape: [5, 33] },
        { shape: [5, 8], constant: true },
      ],
      attrs: {},
      note: "weights of each row, repeated indices",
    },
    {
      inputs: [
        { shape: [3, 4], values: [1, 0, 2, 0, 0, 0, 0, 0, -1, 3, 0, 0.5] },
        { shape: [3, 4], kind: "index", below: 5 },
        { shape: [6, 5] },
        { shape: [5] },
        { shape: [3, 5] },
        { shape: [5], values: [0, 0.5, 0, 0, 2] },
      ],
      attrs: {},
      forwardOnly: true,
      note: "unused slots, prefixes that do not count",
    },
    {
      inputs: [
        { shape: [0, 2] },
        { shape: [0, 2], kind: "index", below: 6, constant: true },
        { shape: [6, 5] },
        { shape: [5] },
        { shape: [0, 5] },
        { shape: [3], constant: true },
      ],
      attrs: {},
      forwardOnly: true,
      note: "no tokens: the loss is NaN",
    },
  ],
});

/**
 * Keeps the `count` largest of all values [B, K] and clears the rest; the lower flat slot on ties, NaN is largest.
 * -> kept [B, K]; least [], the smallest positive value kept (0 if there is none); full [], the number of rows whose
 * last slot was kept with a value above 0: they may have had more to offer.
 */
export const keepLargestOp = primitive<{ count: number }>({
  name: "keepLargest",
  saved: [1, 2],
  infer: ([values], { count }) => {
    requireShape("keepLargest", "values", values, [undefined, undefined]);
    if (!(Number.isInteger(count) && count >= 1))
      throw usageError(`keepLargest: count=${count} must be a whole number of at least 1`);
    return [f32(values.shape), f32([]), f32([])];
  },
  ref: ([values], [kept, least, full], { count }) => {
    const [B, K] = values.shape;
    for (const i of descending(values.data).slice(0, count)) kept.data[i] = values.data[i];
    const positive = [...kept.data].filter((v) => v > 0);
    least.data[0] = positive.reduce((a, b) => Math.min(a, b), positive[0] ?? 0);
    for (let b = 0; b < B && K > 0; b++) full.data[0] += Number(kept.data[b * K + K - 1] > 0);
  },
  vjp: ({ outputs: [kept], grads: [g] }) => [g && mul(g, used(kept))],
  cases: [
    { inputs: [{ shape: [4, 5] }], attrs: { count: 7 } },
    { inputs: [{ shape: [3, 4], kind: "positive" }], attrs: { count: 5 }, note: "all positive" },
    {
      inputs: [{ shape: [3, 3], values: [5, 3, 0, 4, 3, 3, 3, 1, 0] }],
      attrs: { count: 5 },
      forwardOnly: true,
      note: "ties",
    },
    { inputs: [{ shape: [2, 3] }], attrs: { count: 10 }, note: "more than there are" },
    { inputs: [{ shape: [0, 3] }], attrs: { count: 2 }, note: "empty" },
  ],
});

/**
 * Reorders each code so that nested groups of features are prefixes of it: used slots by ascending index (by slot where
 * an index repeats), then the unused ones. bounds m_1 < … < m_L: level l takes the features below m_l; no index may
 * reach m_L. -> values, indices; weights [B, K+1], the number of levels that have exactly t used slots; from i32 [B, K],
 * the slot that each came from.
 */
export const groupPrefixesOp = primitive<{ bounds: readonly number[] }>({
  name: "groupPrefixes",
  ints: [1],
  saved: [2],
  infer: ([values, indices], { bounds }) => {
    const [B, K] = requireCodes("groupPrefixes", values, indices);
    const ascend = bounds.every((m, l) => Number.isInteger(m) && m > (l > 0 ? bounds[l - 1] : 0));
    if (bounds.length === 0 || !ascend)
      throw usageError(
        `groupPrefixes: bounds [${bounds.join(", ")}] must be whole numbers that ascend from 1`,
      );
    const slots = { dtype: "i32", shape: values.shape } as const;
    return [f32(values.shape), slots, f32([B, K + 1]), slots];
  },
  ref: ([values, indices], [y, order, weights, from], { bounds }) => {
    const [B, K] = values.shape;
    for (const f of indices.data) checkIndex("groupPrefixes", f, bounds[bounds.length - 1]);
    for (let b = 0; b < B; b++) {
      const v = values.data.subarray(b * K, (b + 1) * K);
      const f = indices.data.subarray(b * K, (b + 1) * K);
      const unused = (s: number) => Number(v[s] === 0);
      const slots = Array.from(v.keys()).sort(
        (s, t) => unused(s) - unused(t) || (unused(s) ? 0 : f[s] - f[t]) || s - t,
      );
      for (const [to, s] of slots.entries()) {
        y.data[b * K + to] = v[s];
        order.data[b * K + to] = f[s];
        from.data[b * K + to] = s;
      }
      for (const m of bounds) {
        const t = slots.filter((s) => !unused(s) && f[s] < m).length;
        weights.data[b * (K + 1) + t]++;
      }
    }
  },
  vjp: ({ inputs: [values], outputs: [, , , from], grads: [g] }) => [
    g && scatterLast(g, from, values.shape[1]),
  ],
  cases: [
    {
      inputs: [{ shape: [4, 5] }, { shape: [4, 5], kind: "index", below: 12, constant: true }],
      attrs: { bounds: [3, 8, 12] },
    },
    {
      inputs: [
        { shape: [3, 4], values: [3, 2, 1, 0, 5, 4, 0, 0, 0, 0, 0, 0] },
        { shape: [3, 4], values: [7, 2, 7, 0, 1, 0, 3, 2, 0, 1, 2, 3], kind: "index" },
      ],
      attrs: { bounds: [2, 4, 8] },
      forwardOnly: true,
      note: "unused slots, a repeated index",
    },
    {
      inputs: [{ shape: [0, 3] }, { shape: [0, 3], kind: "index", below: 4, constant: true }],
      attrs: { bounds: [4] },
      note: "empty",
    },
  ],
});

interface Codes {
  readonly values: Tensor;
  readonly indices: Tensor;
}

export interface PrefixLoss {
  readonly loss: Tensor;
  readonly error: Tensor;
  /** In units of 2/B, as `dW` and `pull`. */
  readonly dValues: Tensor;
  readonly dW: Tensor;
  readonly pull: Tensor;
}

/** Weighted squared errors of all prefixes of a code; see `prefixLossOp`. */
export function prefixLoss(
  { values, indices }: Codes,
  w: Tensor,
  bias: Tensor,
  target: Tensor,
  weights: Tensor,
): PrefixLoss {
  const inputs = [values, indices, w, bias, target, weights];
  const [loss, error, dValues, dW, pull] = dispatch(prefixLossOp, inputs, {});
  return { loss, error, dValues, dW, pull };
}

/** The `count` largest of all values [B, K], the others 0; see `keepLargestOp`. */
export function keepLargest(
  values: Tensor,
  { count }: { count: number },
): { kept: Tensor; least: Tensor; full: Tensor } {
  const [kept, least, full] = dispatch(keepLargestOp, [values], { count });
  return { kept, least, full };
}

/** Codes in the order of their features, with the weights of nested groups; see `groupPrefixesOp`. */
export function groupPrefixes(
  { values, indices }: Codes,
  { bounds }: { bounds: readonly number[] },
): { values: Tensor; indices: Tensor; weights: Tensor; from: Tensor } {
  const [y, order, weights, from] = dispatch(groupPrefixesOp, [values, indices], { bounds });
  return { values: y, indices: order, weights, from };
}
