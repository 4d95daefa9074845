/**
 * Matrix products. `linear` is the one that models use: weights stored [N, K], rows are outputs, maybe in 16 bits.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused, type Layout, primitive } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, isContiguous, sizeOf } from "../types.ts";
import { cast, reshape, transpose } from "../views.ts";
import {
  abs,
  add,
  exp,
  greaterEqual,
  mul,
  neg,
  reciprocal,
  relu,
  sigmoid,
  square,
  sub,
  tanh,
  where,
} from "./elementwise.ts";
import { sum } from "./reduce.ts";

type None = Record<string, never>;

/** One of the last two strides is 1, the other covers it, and the leading axes collapse to one stride. */
function acceptsMatrix(x: Layout): boolean {
  if (x.dtype !== "f32") return false;
  const n = x.shape.length;
  const [rows, cols] = [x.shape[n - 2], x.shape[n - 1]];
  const [sr, sc] = [x.strides[n - 2], x.strides[n - 1]];
  const rowMajor = sc === 1 && sr >= cols;
  const colMajor = sr === 1 && sc >= rows;
  if (!rowMajor && !colMajor) return false;
  for (let a = 0; a + 1 < n - 2; a++) {
    if (x.strides[a] !== x.strides[a + 1] * x.shape[a + 1]) return false;
  }
  return true;
}

/** a [..., M, K] · b [..., K, N] -> [..., M, N]; b may be one matrix for all of a's. */
export const matmulOp = primitive<None>({
  name: "matmul",
  infer: ([a, b]) => {
    const [ra, rb] = [a.shape.length, b.shape.length];
    const fits =
      ra >= 2 &&
      rb >= 2 &&
      a.shape[ra - 1] === b.shape[rb - 2] &&
      (rb === 2 || (rb === ra && b.shape.slice(0, -2).every((d, i) => d === a.shape[i])));
    if (!fits) throw usageError(`matmul: ${describe(a)} · ${describe(b)} do not multiply`);
    return [{ dtype: "f32", shape: [...a.shape.slice(0, -1), b.shape[rb - 1]] }];
  },
  accepts: acceptsMatrix,
  ref: ([a, b], [y]) => {
    const [M, K] = a.shape.slice(-2);
    const N = b.shape[b.shape.length - 1];
    const batch = sizeOf(a.shape.slice(0, -2));
    for (let s = 0; s < batch; s++) {
      const shift = b.shape.length === 2 ? 0 : s * K * N;
      product(y.data, a.data, b.data, { M, N, K }, s * M * N, s * M * K, shift);
    }
  },
  vjp: ({ inputs: [a, b], grads: [g], needs }) => {
    if (!g) return [];
    const da = needs[0] ? matmul(g, transpose(b)) : undefined;
    if (!needs[1]) return [da];
    if (b.rank === a.rank) return [da, matmul(transpose(a), g)];
    const flat = (t: Tensor) => reshape(t, [-1, t.shape[t.rank - 1]]);
    return [da, matmul(transpose(flat(a)), flat(g))];
  },
  cases: [
    { inputs: [{ shape: [3, 4] }, { shape: [4, 5] }], attrs: {} },
    { inputs: [{ shape: [2, 3, 4] }, { shape: [2, 4, 2] }], attrs: {} },
    { inputs: [{ shape: [2, 3, 4] }, { shape: [4, 2] }], attrs: {}, note: "one b for all" },
    { inputs: [{ shape: [33, 70] }, { shape: [70, 35] }], attrs: {} },
    { inputs: [{ shape: [2, 0] }, { shape: [0, 3] }], attrs: {}, note: "empty sum is 0" },
  ],
});

function product(
  y: Dense["data"],
  a: Dense["data"],
  b: Dense["data"],
  { M, N, K }: { M: number; N: number; K: number },
  atY: number,
  atA: number,
  atB: number,
): void {
  for (let i = 0; i < M; i++) {
    for (let j = 0; j < N; j++) {
      let total = 0;
      for (let k = 0; k < K; k++) total += a[atA + i * K + k] * b[atB + k * N + j];
      y[atY + i * N + j] = total;
    }
  }
}

export type Activation = "none" | "relu" | "silu" | "gelu" | "geluTanh";

/** Abramowitz-Stegun is too coarse for an oracle: the series and the continued fraction of erf, to double precision. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let term = z;
    let total = z;
    for (let n = 1; n < 80; n++) {
      term *= (-z * z) / n;
      total += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * total) / Math.sqrt(Math.PI);
  }
  let tail = 0;
  for (let n = 60; n > 0; n--) tail = n / 2 / (z + tail);
  return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + tail) * Math.sqrt(Math.PI)));
}

const ACTIVATIONS = {
  none: (x) => x,
  relu: (x) => Math.max(x, 0),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
} satisfies Record<Activation, (x: number) => number>;

export interface LinearAttrs {
  readonly activation: Activation;
}

/**
 * x [..., K] · wᵀ + bias, w [N, K] (f32, f16 or bf16), bias [N] or none. The tape only sees it without activation:
 * `linear` applies a differentiable one on top when a gradient is being taken.
 */
export const linearOp = fused<LinearAttrs>({
  name: "linear",
  infer: ([x, w, bias]) => {
    const K = x.shape.at(-1);
    if (
      w.shape.length !== 2 ||
      w.shape[1] !== K ||
      (bias && (bias.shape.length !== 1 || bias.shape[0] !== w.shape[0]))
    ) {
      throw usageError(
        `linear: x ${describe(x)} needs w [N, ${K}], got ${describe(w)}${bias ? ` and bias ${describe(bias)}` : ""}`,
      );
    }
    return [{ dtype: "f32", shape: [...x.shape.slice(0, -1), w.shape[0]] }];
  },
  accepts: (x, i) =>
    isContiguous(x.shape, x.strides) && (x.dtype === "f32" || (i === 1 && x.dtype !== "i32")),
  ref: ([x, w, bias], [y], { activation }) => {
    const [N, K] = w.shape;
    const f = ACTIVATIONS[activation];
    for (let r = 0; r < y.data.length / Math.max(N, 1); r++) {
      for (let j = 0; j < N; j++) {
        let total = bias ? bias.data[j] : 0;
        for (let k = 0; k < K; k++) total += x.data[r * K + k] * w.data[j * K + k];
        y.data[r * N + j] = f(total);
      }
    }
  },
  vjp: ({ inputs: [x, w, bias], grads: [g], attrs, needs }) => {
    if (!g) return [];
    if (attrs.activation !== "none")
      throw usageError(`linear: no gradient through activation ${attrs.activation}`);
    const rows = reshape(g, [-1, w.shape[0]]);
    return [
      needs[0] ? matmul(g, cast(w, "f32")) : undefined,
      needs[1] ? matmul(transpose(rows), reshape(x, [-1, w.shape[1]])) : undefined,
      bias && needs[2] ? sum(rows, { axes: [0] }) : undefined,
    ];
  },
  decompose: ([x, w, bias], { activation }) => {
    const y = matmul(x, transpose(cast(w, "f32")));
    return [activate(bias ? add(y, bias) : y, activation)];
  },
  cases: [
    { inputs: [{ shape: [3, 4] }, { shape: [5, 4] }], attrs: { activation: "none" } },
    { inputs: [{ shape: [2, 3, 4] }, { shape: [5, 4] }, { shape: [5] }], attrs: { activation: "none" } },
    { inputs: [{ shape: [40, 33] }, { shape: [17, 33] }, { shape: [17] }], attrs: { activation: "none" } },
    { inputs: [{ shape: [0, 4] }, { shape: [5, 4] }], attrs: { activation: "none" }, note: "empty" },
    ...(["relu", "silu", "gelu", "geluTanh"] as const).map((activation) => ({
      inputs: [{ shape: [9, 12] }, { shape: [21, 12] }, { shape: [21] }],
      attrs: { activation },
      forwardOnly: true,
      note: "the tape sees `activate` instead",
    })),
  ],
});

/** Differentiable activation by elementwise ops. */
export function activate(x: Tensor, activation: Activation): Tensor {
  switch (activation) {
    case "none":
      return x;
    case "relu":
      return relu(x);
    case "silu":
      return mul(x, sigmoid(x));
    case "geluTanh": {
      const inner = mul(add(x, mul(mul(mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI));
      return mul(mul(x, 0.5), add(tanh(inner), 1));
    }
    case "gelu":
      return mul(x, normalCdf(x));
    default:
      return activation satisfies never;
  }
}

/** Φ(x) to 1e-7: Abramowitz and Stegun 7.1.26, 1 - erf(z) = t (a1 + t (a2 + ...)) exp(-z²) with t = 1 / (1 + p z). */
function normalCdf(x: Tensor): Tensor {
  const z = mul(abs(x), Math.SQRT1_2);
  const t = reciprocal(add(mul(z, 0.3275911), 1));
  const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592].reduce<
    Tensor | undefined
  >((total, a) => mul(t, total ? add(total, a) : a), undefined);
  const tail = mul(mul(series ?? t, exp(neg(square(z)))), 0.5);
  return where(greaterEqual(x, 0), sub(1, tail), tail);
}

export function matmul(a: Tensor, b: Tensor): Tensor {
  return dispatch(matmulOp, [a, b], {})[0];
}

/** x [..., K] times w [N, K] transposed, plus bias [N]: [..., N]. */
export function linear(
  x: Tensor,
  w: Tensor,
  { bias, activation = "none" }: { bias?: Tensor; activation?: Activation } = {},
): Tensor {
  const inputs = bias ? [x, w, bias] : [x, w];
  const recorded = activation !== "none" && x.device.tape !== undefined;
  const y = dispatch(linearOp, inputs, { activation: recorded ? "none" : activation })[0];
  return recorded ? activate(y, activation) : y;
}
