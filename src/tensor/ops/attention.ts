/**
 * Attention with grouped queries, token-major: q [B, T, H, Dh], k and v [B, S, G, Dh], H a multiple of G.
 * Head h reads group floor(h / (H / G)); query i stands at key position S - T + i. Kernels keep no [T, S] per head.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused, type VjpContext } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, isContiguous, type TensorType } from "../types.ts";
import { cast, expand, permute, reshape, slice } from "../views.ts";
import { equalShapes, f32, requireShape } from "./check.ts";
import { add, div, equal, exp, greater, greaterEqual, log, mul, sub, tanh, where } from "./elementwise.ts";
import { softmax } from "./lm.ts";
import { matmul } from "./matmul.ts";
import { max, sum } from "./reduce.ts";

export interface AttentionAttrs {
  /** Factor on the scores, usually Dh^(-1/2). */
  readonly scale: number;
  /** Query sees no later key. */
  readonly causal: boolean;
  /** With w > 0 a query sees only the last w keys, itself included; 0 sees all. */
  readonly window: number;
  /** With c > 0 scores become c·tanh(score / c); 0 leaves them. */
  readonly softcap: number;
}

interface Sizes {
  B: number;
  T: number;
  H: number;
  Dh: number;
  S: number;
  G: number;
}

function sizes(name: string, q: TensorType, k: TensorType, v: TensorType): Sizes {
  const [B, T, H, Dh] = q.shape;
  const [, S, G] = k.shape;
  const fits =
    q.shape.length === 4 &&
    k.shape.length === 4 &&
    equalShapes(k.shape, v.shape) &&
    k.shape[0] === B &&
    k.shape[3] === Dh &&
    H % G === 0 &&
    S >= T;
  if (!fits) {
    throw usageError(
      `${name}: q ${describe(q)}, k ${describe(k)}, v ${describe(v)} do not fit; expected [B, T, H, Dh] and [B, S, G, Dh] twice with S >= T and H a multiple of G`,
    );
  }
  return { B, T, H, Dh, S, G };
}

function checkSegments(name: string, segments: TensorType, { B, T, S }: Pick<Sizes, "B" | "T" | "S">): void {
  if (S !== T || !equalShapes(segments.shape, [B, T]))
    throw usageError(`${name}: segments ${describe(segments)} need S = T and shape [${B}, ${T}]`);
}

interface Scored {
  /** Scores of one query over all keys, -Infinity where masked. */
  readonly scores: Float64Array;
  /** d score / d (scale · q·k): 1 without soft cap. */
  readonly slope: Float64Array;
}

type Visit = (b: number, h: number, i: number, row: Scored) => void;

/** Scores of every query row, one at a time. */
function eachQuery(
  q: Dense,
  k: Dense,
  attrs: AttentionAttrs,
  segments: Dense | undefined,
  visit: Visit,
): void {
  const [B, T, H, Dh] = q.shape;
  const [, S, G] = k.shape;
  const { scale, causal, window, softcap } = attrs;
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor(h / (H / G));
      for (let i = 0; i < T; i++) {
        const at = S - T + i;
        const scores = new Float64Array(S).fill(Number.NEGATIVE_INFINITY);
        const slope = new Float64Array(S).fill(1);
        for (let j = 0; j < S; j++) {
          if (causal && j > at) continue;
          if (window && j <= at - window) continue;
          if (segments && segments.data[b * T + i] !== segments.data[b * T + j]) continue;
          let dot = 0;
          for (let d = 0; d < Dh; d++)
            dot += q.data[((b * T + i) * H + h) * Dh + d] * k.data[((b * S + j) * G + g) * Dh + d];
          const s = dot * scale;
          const capped = softcap ? Math.tanh(s / softcap) : 0;
          scores[j] = softcap ? softcap * capped : s;
          if (softcap) slope[j] = 1 - capped * capped;
        }
        visit(b, h, i, { scores, slope });
      }
    }
  }
}

function logSumExp(scores: Float64Array): number {
  const top = Math.max(...scores);
  if (top === Number.NEGATIVE_INFINITY) return top;
  return top + Math.log(scores.reduce((t, s) => t + Math.exp(s - top), 0));
}

/** The mask as numbers: 1 where query i may see key j, [B or 1, 1, T, S]. */
function visible(q: Tensor, S: number, { causal, window }: AttentionAttrs, segments?: Tensor): Tensor {
  const device = q.device;
  const T = q.shape[1];
  const queries = device.tensor(
    Float32Array.from({ length: T }, (_, i) => S - T + i),
    [T, 1],
  );
  const keys = device.tensor(
    Float32Array.from({ length: S }, (_, j) => j),
    [1, S],
  );
  let seen = causal ? greaterEqual(queries, keys) : device.full([T, S], 1);
  if (window) seen = mul(seen, greater(keys, sub(queries, window)));
  if (!segments) return reshape(seen, [1, 1, T, S]);
  const ids = cast(segments, "f32");
  const same = equal(reshape(ids, [-1, T, 1]), reshape(ids, [-1, 1, T]));
  return reshape(mul(same, seen), [-1, 1, T, S]);
}

/** Softmax weights [B, H, T, S] by plain ops. Differentiable. */
export function attentionPattern(q: Tensor, k: Tensor, attrs: AttentionAttrs, segments?: Tensor): Tensor {
  const { B, T, H, S } = sizes("attentionPattern", q, k, k);
  return q.device.scope(() => {
    const scores = maskedScores(q, k, attrs, segments);
    return reshape(softmax(reshape(scores, [B * H * T, S])), [B, H, T, S]);
  });
}

function maskedScores(q: Tensor, k: Tensor, attrs: AttentionAttrs, segments?: Tensor): Tensor {
  const { S } = sizes("attentionPattern", q, k, k);
  const queries = permute(q, [0, 2, 1, 3]); // [B, H, T, Dh]
  const keys = permute(perHead(k, q.shape[2]), [0, 2, 3, 1]); // [B, H, Dh, S]
  const raw = mul(matmul(queries, keys), attrs.scale);
  const scores = attrs.softcap ? mul(tanh(div(raw, attrs.softcap)), attrs.softcap) : raw;
  return where(visible(q, S, attrs, segments), scores, -1e30);
}

/** k or v [B, S, G, Dh] with each group repeated for its heads: [B, S, H, Dh]. */
function perHead(x: Tensor, H: number): Tensor {
  const [B, S, G, Dh] = x.shape;
  if (G === H) return x;
  return reshape(expand(reshape(x, [B, S, G, 1, Dh]), [B, S, G, H / G, Dh]), [B, S, H, Dh]);
}

/** Weights [B, H, T, S] applied to v [B, S, G, Dh]: z [B, T, H, Dh]. */
export function attend(pattern: Tensor, v: Tensor): Tensor {
  return v.device.scope(() => {
    const values = permute(perHead(v, pattern.shape[1]), [0, 2, 1, 3]); // [B, H, S, Dh]
    return permute(matmul(pattern, values), [0, 2, 1, 3]);
  });
}

function split(inputs: readonly Tensor[]): { q: Tensor; k: Tensor; v: Tensor; segments?: Tensor } {
  const [q, k, v, segments] = inputs;
  return { q, k, v, segments };
}

const shapes = (B: number, T: number, S: number, H: number, G: number, Dh: number) => [
  { shape: [B, T, H, Dh] },
  { shape: [B, S, G, Dh] },
  { shape: [B, S, G, Dh] },
];
const plain: AttentionAttrs = { scale: 0.5, causal: true, window: 0, softcap: 0 };
const segmentIds = {
  shape: [2, 5],
  values: [0, 0, 1, 1, 1, 3, 3, 3, 3, 4],
  kind: "index" as const,
  constant: true,
};
const cases = [
  { inputs: shapes(2, 5, 5, 2, 2, 4), attrs: plain },
  { inputs: shapes(1, 7, 7, 4, 2, 8), attrs: plain, note: "grouped" },
  { inputs: shapes(2, 3, 6, 2, 1, 4), attrs: plain, note: "S > T" },
  {
    inputs: shapes(1, 6, 6, 2, 1, 5),
    attrs: { ...plain, window: 3, softcap: 2 },
    note: "window and soft cap",
  },
  { inputs: [...shapes(2, 5, 5, 2, 1, 4), segmentIds], attrs: plain, note: "documents" },
  { inputs: shapes(1, 4, 4, 1, 1, 3), attrs: { ...plain, causal: false }, note: "not causal" },
  { inputs: shapes(0, 4, 4, 2, 1, 3), attrs: plain, note: "empty" },
];

/** softmax(mask(scale · q kᵀ)) v -> out [B, T, H, Dh], and lse [B, H, T], the log-sum-exp of each row of scores. */
export const attentionOp = fused<AttentionAttrs>({
  name: "attention",
  saved: [1],
  ints: [3],
  infer: ([q, k, v, segments]) => {
    const { B, T, H, S } = sizes("attention", q, k, v);
    if (segments) checkSegments("attention", segments, { B, T, S });
    return [f32(q.shape), f32([B, H, T])];
  },
  ref: ([q, k, v, segments], [out, lse], attrs) => {
    const { T, H, Dh, S, G } = sizes("attention", asType(q), asType(k), asType(v));
    eachQuery(q, k, attrs, segments, (b, h, i, { scores }) => {
      const g = Math.floor(h / (H / G));
      const z = logSumExp(scores);
      lse.data[(b * H + h) * T + i] = z;
      for (let d = 0; d < Dh; d++) {
        let total = 0;
        for (let j = 0; j < S; j++) {
          if (scores[j] === Number.NEGATIVE_INFINITY) continue; // unseen: whatever stands there does not matter
          total += Math.exp(scores[j] - z) * v.data[((b * S + j) * G + g) * Dh + d];
        }
        out.data[((b * T + i) * H + h) * Dh + d] = total;
      }
    });
  },
  vjp: (ctx) => attentionVjp(ctx),
  decompose: (inputs, attrs) => {
    const { q, k, v, segments } = split(inputs);
    const { B, T, H, S } = sizes("attention", q, k, v);
    const scores = maskedScores(q, k, attrs, segments);
    const p = reshape(softmax(reshape(scores, [B * H * T, S])), [B, H, T, S]);
    const lse = q.device.untracked(() => rowLse(scores));
    return [reshape(attend(p, v), q.shape), lse];
  },
  cases,
});

/** Log-sum-exp over the last axis: [B, H, T]. */
function rowLse(scores: Tensor): Tensor {
  const top = max(scores, { axes: [-1], keepDims: true });
  const total = log(sum(exp(sub(scores, top)), { axes: [-1], keepDims: true }));
  return reshape(add(total, top), scores.shape.slice(0, -1));
}

const asType = (x: Dense): TensorType => ({ dtype: "f32", shape: x.shape });

function attentionVjp({
  inputs,
  outputs: [out, lse],
  grads: [g],
  attrs,
}: VjpContext<AttentionAttrs>): readonly Tensor[] {
  if (!g) return [];
  const { q, k, v, segments } = split(inputs);
  return dispatch(
    attentionGradOp,
    segments ? [g, q, k, v, out, lse, segments] : [g, q, k, v, out, lse],
    attrs,
  );
}

/**
 * With P the weights and D_i = Σ_d dout·out: dV = Pᵀ dout, dS = P (dout Vᵀ - D), dQ = scale dS K, dK = scale dSᵀ Q.
 */
export const attentionGradOp = fused<AttentionAttrs>({
  name: "attentionGrad",
  ints: [6],
  infer: ([g, q, k, v, out, lse, segments]) => {
    const found = sizes("attentionGrad", q, k, v);
    requireShape("attentionGrad", "dout", g, q.shape);
    requireShape("attentionGrad", "out", out, q.shape);
    requireShape("attentionGrad", "lse", lse, [found.B, found.H, found.T]);
    if (segments) checkSegments("attentionGrad", segments, found);
    return [f32(q.shape), f32(k.shape), f32(v.shape)];
  },
  ref: ([g, q, k, v, out, lse, segments], [dq, dk, dv], attrs) => {
    const [, T, H, Dh] = q.shape;
    const [, S, G] = k.shape;
    for (const d of [dq, dk, dv]) d.data.fill(0);
    eachQuery(q, k, attrs, segments, (b, h, i, { scores, slope }) => {
      const group = Math.floor(h / (H / G));
      const at = ((b * T + i) * H + h) * Dh;
      const z = lse.data[(b * H + h) * T + i];
      let inner = 0;
      for (let d = 0; d < Dh; d++) inner += g.data[at + d] * out.data[at + d];
      for (let j = 0; j < S; j++) {
        const p = scores[j] === Number.NEGATIVE_INFINITY ? 0 : Math.exp(scores[j] - z);
        if (p === 0) continue;
        const from = ((b * S + j) * G + group) * Dh;
        let dp = 0;
        for (let d = 0; d < Dh; d++) {
          dp += g.data[at + d] * v.data[from + d];
          dv.data[from + d] += p * g.data[at + d];
        }
        const ds = p * (dp - inner) * slope[j] * attrs.scale;
        for (let d = 0; d < Dh; d++) {
          dq.data[at + d] += ds * k.data[from + d];
          dk.data[from + d] += ds * q.data[at + d];
        }
      }
    });
  },
  decompose: ([g, q, k, v, out, lse, segments], attrs) => {
    const [B, T, H, Dh] = q.shape;
    const [, S, G] = k.shape;
    const p = exp(sub(maskedScores(q, k, attrs, segments), reshape(lse, [B, H, T, 1])));
    const heads = (x: Tensor) => permute(x, [0, 2, 1, 3]);
    const grad = heads(g); // [B, H, T, Dh]
    const dv = matmul(permute(p, [0, 1, 3, 2]), grad); // [B, H, S, Dh]
    const dp = matmul(grad, permute(heads(perHead(v, H)), [0, 1, 3, 2]));
    const inner = sum(mul(grad, heads(out)), { axes: [-1], keepDims: true });
    let ds = mul(mul(p, sub(dp, inner)), attrs.scale);
    if (attrs.softcap) {
      const raw = mul(matmul(heads(q), permute(perHead(k, H), [0, 2, 3, 1])), attrs.scale / attrs.softcap);
      const t = tanh(raw);
      ds = mul(ds, sub(1, mul(t, t)));
    }
    const dq = heads(matmul(ds, heads(perHead(k, H))));
    const dk = matmul(permute(ds, [0, 1, 3, 2]), heads(q));
    const grouped = (x: Tensor) =>
      reshape(sum(reshape(heads(x), [B, S, G, H / G, Dh]), { axes: [3] }), [B, S, G, Dh]);
    return [reshape(dq, [B, T, H, Dh]), grouped(dk), grouped(dv)];
  },
  cases: cases.map(({ inputs: [q, k, v, segments], attrs, note }) => ({
    inputs: [
      q,
      q,
      k,
      v,
      q,
      { shape: [q.shape[0], q.shape[2], q.shape[1]], kind: "normal" as const },
      ...(segments ? [segments] : []),
    ],
    attrs,
    note,
  })),
});

export interface CachedAttrs {
  /** Keys in the cache that count, the newest T of them belonging to the queries. */
  readonly length: number;
  readonly scale: number;
  readonly window: number;
  readonly softcap: number;
}

/**
 * Causal attention of q [B, T, H, Dh] over a cache [B, P, G, Dh] (f32 or f16) of which `length` positions are filled:
 * query i of row b sees starts[b] <= j <= length - T + i. Left padding of a batch is skipped by `starts` i32 [B].
 */
export const attentionCachedOp = fused<CachedAttrs>({
  name: "attentionCached",
  ints: [3],
  infer: ([q, k, v, starts], { length }) => {
    const { B, T, S: P } = sizes("attentionCached", q, k, v);
    if (k.dtype !== v.dtype)
      throw usageError(`attentionCached: k ${describe(k)} and v ${describe(v)} must be of one type`);
    if (!(Number.isInteger(length) && length >= T && length <= P) || !equalShapes(starts.shape, [B])) {
      throw usageError(
        `attentionCached: length ${length} in a cache of ${P}, starts ${describe(starts)} for ${describe(q)}`,
      );
    }
    return [f32(q.shape)];
  },
  accepts: (x, i) =>
    isContiguous(x.shape, x.strides) &&
    (x.dtype === "f32" || x.dtype === "i32" || ((i === 1 || i === 2) && x.dtype === "f16")),
  ref: ([q, k, v, starts], [out], { length, scale, window, softcap }) => {
    const [B, T, H, Dh] = q.shape;
    const [, P, G] = k.shape;
    for (let b = 0; b < B; b++) {
      for (let i = 0; i < T; i++) {
        for (let h = 0; h < H; h++) {
          const g = Math.floor(h / (H / G));
          const at = length - T + i;
          const first = Math.max(starts.data[b], window ? at - window + 1 : 0, 0);
          const scores = new Float64Array(Math.max(at - first + 1, 0));
          scores.forEach((_, n) => {
            let dot = 0;
            for (let d = 0; d < Dh; d++)
              dot += q.data[((b * T + i) * H + h) * Dh + d] * k.data[((b * P + first + n) * G + g) * Dh + d];
            scores[n] = softcap ? softcap * Math.tanh((dot * scale) / softcap) : dot * scale;
          });
          const z = scores.length ? logSumExp(scores) : 0;
          for (let d = 0; d < Dh; d++) {
            let total = 0;
            scores.forEach((s, n) => {
              total += Math.exp(s - z) * v.data[((b * P + first + n) * G + g) * Dh + d];
            });
            out.data[((b * T + i) * H + h) * Dh + d] = total;
          }
        }
      }
    }
  },
  decompose: ([q, k, v, starts], { length, ...rest }) => {
    const [B, , G, Dh] = k.shape;
    const T = q.shape[1];
    const used = (x: Tensor) => cast(slice(x, [0, 0, 0, 0], [B, length, G, Dh]), "f32");
    const scores = maskedScores(q, used(k), { ...rest, causal: true });
    const keys = q.device.tensor(
      Float32Array.from({ length }, (_, j) => j),
      [1, 1, 1, length],
    );
    const open = greaterEqual(keys, reshape(cast(starts, "f32"), [B, 1, 1, 1]));
    const masked = where(open, scores, -1e30);
    const H = q.shape[2];
    const weights = reshape(softmax(reshape(masked, [B * H * T, length])), [B, H, T, length]);
    // a padding query sees no key at all: its output is 0
    const any = greater(sum(mul(open, greater(scores, -1e29)), { axes: [-1], keepDims: true }), 0);
    return [reshape(attend(mul(weights, any), used(v)), q.shape)];
  },
  cases: [
    {
      inputs: [...shapes(2, 1, 6, 4, 2, 4), { shape: [2], values: [0, 2], kind: "index", constant: true }],
      attrs: { length: 5, scale: 0.5, window: 0, softcap: 0 },
    },
    {
      inputs: [...shapes(1, 3, 8, 2, 2, 8), { shape: [1], values: [1], kind: "index", constant: true }],
      attrs: { length: 7, scale: 0.3, window: 4, softcap: 0 },
      note: "several queries, window",
    },
    {
      inputs: [...shapes(2, 2, 6, 2, 1, 4), { shape: [2], values: [0, 3], kind: "index", constant: true }],
      attrs: { length: 4, scale: 0.5, window: 0, softcap: 3 },
      note: "a query of padding only, soft cap",
    },
  ],
});

export interface AttentionOptions extends Partial<AttentionAttrs> {
  /** Document of each position, i32 [B, T]; a query sees only its own. Needs S = T. */
  segments?: Tensor;
}

/** Attention with grouped queries: q [B, T, H, Dh], k and v [B, S, G, Dh] -> [B, T, H, Dh]. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { segments, scale = q.shape[3] ** -0.5, causal = true, window = 0, softcap = 0 } = options;
  const inputs = segments ? [q, k, v, segments] : [q, k, v];
  return q.device.scope(() => dispatch(attentionOp, inputs, { scale, causal, window, softcap })[0]);
}

/** Causal attention over a key-value cache [B, P, G, Dh]; see `attentionCachedOp`. */
export function attentionCached(
  q: Tensor,
  kCache: Tensor,
  vCache: Tensor,
  starts: Tensor,
  attrs: CachedAttrs,
): Tensor {
  return dispatch(attentionCachedOp, [q, kCache, vCache, starts], attrs)[0];
}
