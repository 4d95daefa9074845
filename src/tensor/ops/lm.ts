/**
 * Fused single passes of a transformer: softmax, RMSNorm, LayerNorm, rotary positions, SwiGLU, cross-entropy.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { type FusedOp, fused } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, type TensorType } from "../types.ts";
import { cast, expand, reshape, slice } from "../views.ts";
import { equalShapes, f32, requireMatrix, requireShape, sameShape } from "./check.ts";
import {
  add,
  exp,
  greaterEqual,
  log,
  maximum,
  mul,
  neg,
  rsqrt,
  sigmoid,
  square,
  sub,
} from "./elementwise.ts";
import { checkIndex, gatherRows, scatterLast, takeLast } from "./gather.ts";
import { max, mean, sum } from "./reduce.ts";
import { concat } from "./shape.ts";

type None = Record<string, never>;
const lastAxis = (name: string, x: TensorType): number => {
  const n = x.shape.at(-1);
  if (!n) throw usageError(`${name}: ${describe(x)} has an empty or no last axis`);
  return n;
};

/** Runs `f` on each row of the last axis. */
function eachRow(x: Dense, f: (row: Dense["data"], at: number) => void): void {
  const n = x.shape[x.shape.length - 1];
  for (let at = 0; at < x.data.length; at += n) f(x.data.subarray(at, at + n), at);
}

function logSumExp(row: Dense["data"]): number {
  let top = Number.NEGATIVE_INFINITY;
  for (const v of row) top = Math.max(top, v);
  if (!Number.isFinite(top)) return top;
  let total = 0;
  for (const v of row) total += Math.exp(v - top);
  return top + Math.log(total);
}

/** dx = y (g - Σ g y) */
export const softmaxOp = fused<None>({
  name: "softmax",
  infer: ([x]) => {
    lastAxis("softmax", x);
    return [f32(x.shape)];
  },
  ref: ([x], [y]) =>
    eachRow(x, (row, at) => {
      const z = logSumExp(row);
      row.forEach((v, i) => {
        y.data[at + i] = Math.exp(v - z);
      });
    }),
  vjp: ({ outputs: [y], grads: [g] }) => {
    if (!g) return [];
    return [mul(y, sub(g, sum(mul(g, y), { axes: [-1], keepDims: true })))];
  },
  decompose: ([x]) => {
    const e = exp(sub(x, max(x, { axes: [-1], keepDims: true })));
    return [mul(e, exp(neg(log(sum(e, { axes: [-1], keepDims: true })))))];
  },
  cases: [
    { inputs: [{ shape: [3, 7] }], attrs: {} },
    { inputs: [{ shape: [2, 2, 33] }], attrs: {} },
    { inputs: [{ shape: [0, 5] }], attrs: {}, note: "empty" },
  ],
});

/** dx = g - softmax(x) Σ g */
export const logSoftmaxOp = fused<None>({
  name: "logSoftmax",
  infer: ([x]) => {
    lastAxis("logSoftmax", x);
    return [f32(x.shape)];
  },
  ref: ([x], [y]) =>
    eachRow(x, (row, at) => {
      const z = logSumExp(row);
      row.forEach((v, i) => {
        y.data[at + i] = v - z;
      });
    }),
  vjp: ({ outputs: [y], grads: [g] }) => [g && sub(g, mul(exp(y), sum(g, { axes: [-1], keepDims: true })))],
  decompose: ([x]) => {
    const shifted = sub(x, max(x, { axes: [-1], keepDims: true }));
    return [sub(shifted, log(sum(exp(shifted), { axes: [-1], keepDims: true })))];
  },
  cases: [
    { inputs: [{ shape: [3, 7] }], attrs: {} },
    { inputs: [{ shape: [0, 5] }], attrs: {}, note: "empty" },
  ],
});

export interface RmsNormAttrs {
  readonly eps: number;
  /** Added to the weight: 0, or 1 where a checkpoint stores the gain minus one. */
  readonly offset: number;
}

/** y = x · rstd · (offset + weight), rstd = (mean(x²) + eps)^(-1/2); also gives rstd [...]. */
export const rmsNormOp = fused<RmsNormAttrs>({
  name: "rmsNorm",
  saved: [1],
  infer: ([x, w]) => {
    const n = lastAxis("rmsNorm", x);
    if (w.shape.length !== 1 || w.shape[0] !== n) {
      throw usageError(`rmsNorm: x ${describe(x)} needs a weight [${n}], got ${describe(w)}`);
    }
    return [f32(x.shape), f32(x.shape.slice(0, -1))];
  },
  ref: ([x, w], [y, rstd], { eps, offset }) =>
    eachRow(x, (row, at) => {
      let ss = 0;
      for (const v of row) ss += v * v;
      const r = 1 / Math.sqrt(ss / row.length + eps);
      rstd.data[at / row.length] = r;
      row.forEach((v, i) => {
        y.data[at + i] = v * r * (offset + w.data[i]);
      });
    }),
  vjp: ({ inputs: [x, w], outputs: [, rstd], grads: [g], attrs: { offset } }) =>
    g ? dispatch(rmsNormGradOp, [g, x, w, rstd], { offset }) : [],
  decompose: ([x, w], { eps, offset }) => {
    const rstd = rsqrt(add(mean(square(x), { axes: [-1], keepDims: true }), eps));
    return [mul(mul(x, rstd), offset ? add(w, offset) : w), reshape(rstd, x.shape.slice(0, -1))];
  },
  cases: [
    { inputs: [{ shape: [3, 8] }, { shape: [8] }], attrs: { eps: 1e-5, offset: 0 } },
    { inputs: [{ shape: [2, 3, 33] }, { shape: [33] }], attrs: { eps: 1e-6, offset: 1 } },
    { inputs: [{ shape: [0, 8] }, { shape: [8] }], attrs: { eps: 1e-5, offset: 0 }, note: "empty" },
  ],
});

/** With h = g (offset + w): dx = rstd h - x rstd³ mean(h x); dw = Σ g x rstd. */
export const rmsNormGradOp = fused<{ offset: number }>({
  name: "rmsNormGrad",
  infer: ([g, x, w, rstd]) => {
    sameShape("rmsNormGrad", [x, g]);
    requireShape("rmsNormGrad", "weight", w, [lastAxis("rmsNormGrad", x)]);
    requireShape("rmsNormGrad", "rstd", rstd, x.shape.slice(0, -1));
    return [f32(x.shape), f32(w.shape)];
  },
  ref: ([g, x, w, rstd], [dx, dw], { offset }) => {
    dw.data.fill(0);
    eachRow(x, (row, at) => {
      const r = rstd.data[at / row.length];
      let dot = 0;
      row.forEach((v, i) => {
        dot += g.data[at + i] * (offset + w.data[i]) * v;
        dw.data[i] += g.data[at + i] * v * r;
      });
      row.forEach((v, i) => {
        dx.data[at + i] = r * g.data[at + i] * (offset + w.data[i]) - (v * r * r * r * dot) / row.length;
      });
    });
  },
  decompose: ([g, x, w, rstd], { offset }) => {
    const r = reshape(rstd, [...rstd.shape, 1]);
    const h = mul(g, offset ? add(w, offset) : w);
    const dot = mean(mul(h, x), { axes: [-1], keepDims: true });
    const dx = sub(mul(h, r), mul(mul(x, mul(mul(r, r), r)), dot));
    const axes = x.shape.slice(0, -1).map((_, i) => i);
    return [dx, sum(mul(mul(g, x), r), { axes })];
  },
  cases: [
    {
      inputs: [{ shape: [3, 8] }, { shape: [3, 8] }, { shape: [8] }, { shape: [3], kind: "positive" }],
      attrs: { offset: 0 },
    },
    {
      inputs: [
        { shape: [2, 3, 33] },
        { shape: [2, 3, 33] },
        { shape: [33] },
        { shape: [2, 3], kind: "positive" },
      ],
      attrs: { offset: 1 },
    },
    {
      inputs: [{ shape: [0, 8] }, { shape: [0, 8] }, { shape: [8] }, { shape: [0] }],
      attrs: { offset: 0 },
      note: "empty",
    },
  ],
});

/** y = (x - mean) · rstd · weight + bias, rstd = (variance + eps)^(-1/2), bias or none; also gives mean and rstd [...]. */
export const layerNormOp = fused<{ eps: number }>({
  name: "layerNorm",
  saved: [1, 2],
  infer: ([x, w, bias]) => {
    const n = lastAxis("layerNorm", x);
    requireShape("layerNorm", "weight", w, [n]);
    if (bias) requireShape("layerNorm", "bias", bias, [n]);
    const rows = f32(x.shape.slice(0, -1));
    return [f32(x.shape), rows, rows];
  },
  ref: ([x, w, bias], [y, mean, rstd], { eps }) =>
    eachRow(x, (row, at) => {
      let total = 0;
      for (const v of row) total += v;
      const m = total / row.length;
      let squares = 0;
      for (const v of row) squares += (v - m) ** 2;
      const r = 1 / Math.sqrt(squares / row.length + eps);
      mean.data[at / row.length] = m;
      rstd.data[at / row.length] = r;
      row.forEach((v, i) => {
        y.data[at + i] = (v - m) * r * w.data[i] + (bias ? bias.data[i] : 0);
      });
    }),
  vjp: ({ inputs: [x, w, bias], outputs: [, m, rstd], grads: [g] }) =>
    g ? dispatch(layerNormGradOp, [g, x, w, m, rstd], {}).slice(0, bias ? 3 : 2) : [],
  decompose: ([x, w, bias], { eps }) => {
    const m = mean(x, { axes: [-1], keepDims: true });
    const centred = sub(x, m);
    const rstd = rsqrt(add(mean(square(centred), { axes: [-1], keepDims: true }), eps));
    const y = mul(mul(centred, rstd), w);
    const rows = x.shape.slice(0, -1);
    return [bias ? add(y, bias) : y, reshape(m, rows), reshape(rstd, rows)];
  },
  cases: [
    { inputs: [{ shape: [3, 8] }, { shape: [8] }, { shape: [8] }], attrs: { eps: 1e-5 } },
    { inputs: [{ shape: [2, 3, 33] }, { shape: [33] }, { shape: [33] }], attrs: { eps: 1e-3 } },
    { inputs: [{ shape: [4, 9] }, { shape: [9] }], attrs: { eps: 1e-5 }, note: "no bias" },
    { inputs: [{ shape: [0, 8] }, { shape: [8] }, { shape: [8] }], attrs: { eps: 1e-5 }, note: "empty" },
  ],
});

/** With z = (x - mean) rstd and h = g w: dx = rstd (h - mean(h) - z mean(h z)); dw = Σ g z; dbias = Σ g. */
export const layerNormGradOp = fused<None>({
  name: "layerNormGrad",
  infer: ([g, x, w, m, rstd]) => {
    sameShape("layerNormGrad", [x, g]);
    requireShape("layerNormGrad", "weight", w, [lastAxis("layerNormGrad", x)]);
    requireShape("layerNormGrad", "mean", m, x.shape.slice(0, -1));
    requireShape("layerNormGrad", "rstd", rstd, x.shape.slice(0, -1));
    return [f32(x.shape), f32(w.shape), f32(w.shape)];
  },
  ref: ([g, x, w, m, rstd], [dx, dw, db]) => {
    dw.data.fill(0);
    db.data.fill(0);
    eachRow(x, (row, at) => {
      const n = row.length;
      const [mu, r] = [m.data[at / n], rstd.data[at / n]];
      let total = 0;
      let dot = 0;
      row.forEach((v, i) => {
        const [own, z] = [g.data[at + i], (v - mu) * r];
        total += own * w.data[i];
        dot += own * w.data[i] * z;
        dw.data[i] += own * z;
        db.data[i] += own;
      });
      row.forEach((v, i) => {
        dx.data[at + i] = r * (g.data[at + i] * w.data[i] - total / n - ((v - mu) * r * dot) / n);
      });
    });
  },
  decompose: ([g, x, w, m, rstd]) => {
    const column = (t: Tensor) => reshape(t, [...t.shape, 1]);
    const average = (t: Tensor) => mean(t, { axes: [-1], keepDims: true });
    const r = column(rstd);
    const z = mul(sub(x, column(m)), r);
    const h = mul(g, w);
    const dx = mul(r, sub(sub(h, average(h)), mul(z, average(mul(h, z)))));
    const axes = x.shape.slice(0, -1).map((_, i) => i);
    return [dx, sum(mul(g, z), { axes }), sum(g, { axes })];
  },
  cases: [
    {
      inputs: [
        ...[{ shape: [3, 8] }, { shape: [3, 8] }, { shape: [8] }, { shape: [3] }],
        { shape: [3], kind: "positive" },
      ],
      attrs: {},
    },
    {
      inputs: [
        ...[{ shape: [2, 3, 33] }, { shape: [2, 3, 33] }, { shape: [33] }, { shape: [2, 3] }],
        { shape: [2, 3], kind: "positive" },
      ],
      attrs: {},
    },
    {
      inputs: [{ shape: [0, 8] }, { shape: [0, 8] }, { shape: [8] }, { shape: [0] }, { shape: [0] }],
      attrs: {},
      note: "empty",
    },
  ],
});

/**
 * Rotary positions on x [B, T, H, Dh]: the first R dims turn in pairs (i, i + R/2) by the angles of
 * cos, sin [P, R/2] at positions i32 [B, T]; the rest is copied. `inverse` turns back, which is the gradient.
 */
export const ropeOp: FusedOp<{ inverse: boolean }> = fused<{ inverse: boolean }>({
  name: "rope",
  ints: [3],
  infer: ([x, cosTable, sinTable, positions]) => {
    const half = cosTable.shape[1];
    const fits =
      x.shape.length === 4 &&
      cosTable.shape.length === 2 &&
      2 * half <= x.shape[3] &&
      equalShapes(sinTable.shape, cosTable.shape) &&
      equalShapes(positions.shape, x.shape.slice(0, 2));
    if (!fits) {
      throw usageError(
        `rope: x ${describe(x)}, cos ${describe(cosTable)}, sin ${describe(sinTable)}, positions ${describe(positions)} do not fit; expected [B, T, H, Dh], [P, R/2] twice, [B, T]`,
      );
    }
    return [f32(x.shape)];
  },
  ref: ([x, c, s, positions], [y], { inverse }) => {
    const [B, T, H, Dh] = x.shape;
    const half = c.shape[1];
    y.data.set(x.data);
    for (let bt = 0; bt < B * T; bt++) {
      const at = checkIndex("rope", positions.data[bt], c.shape[0]) * half;
      for (let h = 0; h < H; h++) {
        for (let i = 0; i < half; i++) {
          const a = (bt * H + h) * Dh + i;
          const b = a + half;
          const co = c.data[at + i];
          const si = s.data[at + i] * (inverse ? -1 : 1);
          y.data[a] = x.data[a] * co - x.data[b] * si;
          y.data[b] = x.data[b] * co + x.data[a] * si;
        }
      }
    }
  },
  vjp: ({ inputs: [, c, s, positions], grads: [g], attrs: { inverse } }) => [
    g && dispatch(ropeOp, [g, c, s, positions], { inverse: !inverse })[0],
  ],
  decompose: ([x, c, s, positions], { inverse }) => {
    const [B, T, H, Dh] = x.shape;
    const half = c.shape[1];
    const table = (t: Tensor) => reshape(gatherRows(t, positions), [B, T, 1, half]);
    const co = table(c);
    const si = inverse ? neg(table(s)) : table(s);
    const wide = cast(x, "f32");
    const part = (from: number, n: number) => slice(wide, [0, 0, 0, from], [B, T, H, n]);
    const [a, b] = [part(0, half), part(half, half)];
    const turned = [sub(mul(a, co), mul(b, si)), add(mul(b, co), mul(a, si))];
    return [concat(Dh > 2 * half ? [...turned, part(2 * half, Dh - 2 * half)] : turned, 3)];
  },
  cases: [
    {
      inputs: [
        { shape: [2, 3, 2, 6] },
        { shape: [8, 3], constant: true },
        { shape: [8, 3], constant: true },
        { shape: [2, 3], kind: "index", below: 8, constant: true },
      ],
      attrs: { inverse: false },
    },
    {
      inputs: [
        { shape: [1, 4, 3, 20] },
        { shape: [9, 8], constant: true },
        { shape: [9, 8], constant: true },
        { shape: [1, 4], kind: "index", below: 9, constant: true },
      ],
      attrs: { inverse: true },
      note: "partial rotation",
    },
    {
      inputs: [
        { shape: [2, 0, 2, 4] },
        { shape: [8, 2], constant: true },
        { shape: [8, 2], constant: true },
        { shape: [2, 0], kind: "index", below: 8, constant: true },
      ],
      attrs: { inverse: false },
      note: "empty",
    },
  ],
});

/** silu(gate) · up */
export const swigluOp = fused<None>({
  name: "swiglu",
  infer: (xs) => [f32(sameShape("swiglu", xs))],
  ref: ([gate, up], [y]) => {
    for (let i = 0; i < y.data.length; i++)
      y.data[i] = (gate.data[i] / (1 + Math.exp(-gate.data[i]))) * up.data[i];
  },
  vjp: ({ inputs: [gate, up], grads: [g] }) => (g ? dispatch(swigluGradOp, [g, gate, up], {}) : []),
  decompose: ([gate, up]) => [mul(mul(gate, sigmoid(gate)), up)],
  cases: [
    { inputs: [{ shape: [3, 9] }, { shape: [3, 9] }], attrs: {} },
    { inputs: [{ shape: [0, 9] }, { shape: [0, 9] }], attrs: {}, note: "empty" },
  ],
});

/** With σ = sigmoid(gate): dgate = g up σ (1 + gate (1 - σ)), dup = g gate σ. */
export const swigluGradOp = fused<None>({
  name: "swigluGrad",
  infer: (xs) => {
    const shape = sameShape("swigluGrad", xs);
    return [f32(shape), f32(shape)];
  },
  ref: ([g, gate, up], [dgate, dup]) => {
    for (let i = 0; i < g.data.length; i++) {
      const z = gate.data[i];
      const s = 1 / (1 + Math.exp(-z));
      dgate.data[i] = g.data[i] * up.data[i] * s * (1 + z * (1 - s));
      dup.data[i] = g.data[i] * z * s;
    }
  },
  decompose: ([g, gate, up]) => {
    const s = sigmoid(gate);
    return [mul(mul(mul(g, up), s), add(mul(gate, sub(1, s)), 1)), mul(mul(g, gate), s)];
  },
  cases: [{ inputs: [{ shape: [3, 9] }, { shape: [3, 9] }, { shape: [3, 9] }], attrs: {} }],
});

/**
 * logits [N, V], targets i32 [N] -> loss [N] in nats (0 where target < 0) and lse [N], the log-sum-exp of each row.
 */
export const softmaxCrossEntropyOp = fused<None>({
  name: "softmaxCrossEntropy",
  saved: [1],
  ints: [1],
  infer: ([logits, targets]) => {
    const [n] = logits.shape;
    if (
      logits.shape.length !== 2 ||
      targets.shape.length !== 1 ||
      targets.shape[0] !== n ||
      targets.dtype !== "i32"
    ) {
      throw usageError(
        `softmaxCrossEntropy: logits ${describe(logits)} need i32 targets [${n}], got ${describe(targets)}`,
      );
    }
    lastAxis("softmaxCrossEntropy", logits);
    return [f32([n]), f32([n])];
  },
  ref: ([logits, targets], [loss, lse]) =>
    eachRow(logits, (row, at) => {
      const r = at / row.length;
      const t = targets.data[r];
      lse.data[r] = logSumExp(row);
      loss.data[r] = t < 0 ? 0 : lse.data[r] - row[checkIndex("softmaxCrossEntropy", t, row.length)];
    }),
  vjp: ({ inputs: [logits, targets], outputs: [, lse], grads: [g] }) => [
    g && dispatch(softmaxCrossEntropyGradOp, [g, logits, targets, lse], {})[0],
  ],
  decompose: ([logits, targets]) => {
    const top = max(logits, { axes: [1], keepDims: true });
    const lse = reshape(add(log(sum(exp(sub(logits, top)), { axes: [1], keepDims: true })), top), [-1]);
    const { counted, safe } = targetMask(targets);
    const picked = reshape(takeLast(logits, reshape(safe, [-1, 1])), [-1]);
    return [mul(sub(lse, picked), counted), lse];
  },
  cases: [
    {
      inputs: [
        { shape: [4, 9] },
        { shape: [4], values: [0, 8, -1, 3], kind: "index", below: 9, constant: true },
      ],
      attrs: {},
    },
    {
      inputs: [{ shape: [0, 9] }, { shape: [0], kind: "index", below: 9, constant: true }],
      attrs: {},
      note: "empty",
    },
  ],
});

/** dlogits = dloss (softmax - onehot); rows with a negative target get 0. */
export const softmaxCrossEntropyGradOp = fused<None>({
  name: "softmaxCrossEntropyGrad",
  ints: [2],
  infer: ([g, logits, targets, lse]) => {
    requireMatrix("softmaxCrossEntropyGrad", logits);
    lastAxis("softmaxCrossEntropyGrad", logits);
    const rows = logits.shape.slice(0, 1);
    requireShape("softmaxCrossEntropyGrad", "dloss", g, rows);
    requireShape("softmaxCrossEntropyGrad", "targets", targets, rows);
    requireShape("softmaxCrossEntropyGrad", "lse", lse, rows);
    return [f32(logits.shape)];
  },
  ref: ([g, logits, targets, lse], [d]) =>
    eachRow(logits, (row, at) => {
      const r = at / row.length;
      const t = targets.data[r];
      if (t >= 0) checkIndex("softmaxCrossEntropyGrad", t, row.length);
      row.forEach((v, i) => {
        d.data[at + i] = t < 0 ? 0 : g.data[r] * (Math.exp(v - lse.data[r]) - Number(i === t));
      });
    }),
  decompose: ([g, logits, targets, lse]) => {
    const { counted, safe } = targetMask(targets);
    const column = (t: Tensor) => reshape(t, [-1, 1]);
    const p = exp(sub(logits, expand(column(lse), logits.shape)));
    const weight = column(mul(g, counted));
    return [sub(mul(p, weight), scatterLast(weight, column(safe), logits.shape[1]))];
  },
  cases: [
    {
      inputs: [
        { shape: [4] },
        { shape: [4, 9] },
        { shape: [4], values: [0, 8, -1, 3], kind: "index", below: 9, constant: true },
        { shape: [4] },
      ],
      attrs: {},
    },
  ],
});

/** 1 where the target counts, and the targets with ignored ones replaced by 0. */
function targetMask(targets: Tensor): { counted: Tensor; safe: Tensor } {
  return {
    counted: greaterEqual(cast(targets, "f32"), 0),
    safe: cast(maximum(cast(targets, "f32"), 0), "i32"),
  };
}

export function softmax(x: Tensor): Tensor {
  return dispatch(softmaxOp, [x], {})[0];
}

export function logSoftmax(x: Tensor): Tensor {
  return dispatch(logSoftmaxOp, [x], {})[0];
}

/** x [..., D] scaled to unit root mean square, times `offset + weight` [D]. */
export function rmsNorm(
  x: Tensor,
  weight: Tensor,
  { eps = 1e-5, offset = 0 }: Partial<RmsNormAttrs> = {},
): Tensor {
  return x.device.scope(() => dispatch(rmsNormOp, [x, weight], { eps, offset })[0]);
}

/** x [..., D] with its mean taken off, scaled to unit deviation, times `weight` [D], plus `bias` [D]. */
export function layerNorm(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  { eps = 1e-5 }: { eps?: number } = {},
): Tensor {
  const inputs = bias ? [x, weight, bias] : [x, weight];
  return x.device.scope(() => dispatch(layerNormOp, inputs, { eps })[0]);
}

/** Rotary positions on x [B, T, H, Dh]; tables cos and sin [P, R/2], positions i32 [B, T]. */
export function rope(x: Tensor, cosTable: Tensor, sinTable: Tensor, positions: Tensor): Tensor {
  return dispatch(ropeOp, [x, cosTable, sinTable, positions], { inverse: false })[0];
}

/** silu(gate) · up */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return dispatch(swigluOp, [gate, up], {})[0];
}

/** Cross-entropy of each row of logits [N, V] against targets i32 [N], in nats: [N]. Negative targets count as 0. */
export function softmaxCrossEntropy(logits: Tensor, targets: Tensor): Tensor {
  return logits.device.scope(() => dispatch(softmaxCrossEntropyOp, [logits, targets], {})[0]);
}
