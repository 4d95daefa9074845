/**
 * The two discontinuous functions of a JumpReLU SAE and their straight-through gradients (Rajamanoharan et al. 2024b,
 * section 3): with K = 1 where |z − θ| < ε/2,  ∂jump/∂θ = −(θ/ε) K,  ∂step/∂θ = −(1/ε) K,  ∂jump/∂z = [z > θ],  ∂step/∂z = 0.
 * B tokens · F features.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused, type OpCase } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import type { TensorType } from "../types.ts";
import { f32, requireShape } from "./check.ts";
import { abs, greater, mul, sub } from "./elementwise.ts";
import { sum } from "./reduce.ts";

export interface JumpReluAttrs {
  /** ε, width of the window around a threshold in which it gets gradient. */
  readonly bandwidth: number;
}

function inferJump(name: string, [z, threshold]: readonly TensorType[], { bandwidth }: JumpReluAttrs) {
  requireShape(name, "z", z, [undefined, undefined]);
  requireShape(name, "threshold", threshold, [z.shape[1]]);
  if (!(bandwidth > 0)) throw usageError(`${name}: bandwidth=${bandwidth} must be positive`);
  return [f32(z.shape)];
}

/** 1 inside the window, [B, F]. */
const inWindow = (z: Tensor, threshold: Tensor, bandwidth: number): Tensor =>
  greater(bandwidth / 2, abs(sub(z, threshold)));

// The gradients of the thresholds are no limits of differences, so the cases leave them out; jumprelu.test.ts has them.
const cases: readonly OpCase<JumpReluAttrs>[] = [
  { inputs: [{ shape: [5, 7] }, { shape: [7], constant: true }], attrs: { bandwidth: 0.01 } },
  { inputs: [{ shape: [0, 7] }, { shape: [7], constant: true }], attrs: { bandwidth: 0.5 }, note: "empty" },
];

/** z where z > θ of its column, else 0. z [B, F], θ [F]. */
export const jumpReluOp = fused<JumpReluAttrs>({
  name: "jumpRelu",
  infer: (inputs, attrs) => inferJump("jumpRelu", inputs, attrs),
  ref: ([z, threshold], [y]) => {
    const F = threshold.data.length;
    for (let i = 0; i < z.data.length; i++) y.data[i] = z.data[i] > threshold.data[i % F] ? z.data[i] : 0;
  },
  vjp: ({ inputs: [z, threshold], grads: [g], attrs: { bandwidth }, needs }) => {
    if (!g) return [];
    return [
      needs[0] ? mul(g, greater(z, threshold)) : undefined,
      needs[1]
        ? mul(sum(mul(g, inWindow(z, threshold, bandwidth)), { axes: [0] }), mul(threshold, -1 / bandwidth))
        : undefined,
    ];
  },
  decompose: ([z, threshold]) => [mul(z, greater(z, threshold))],
  cases,
});

/** 1 where z > θ of its column, else 0. z [B, F], θ [F]. */
export const heavisideOp = fused<JumpReluAttrs>({
  name: "heaviside",
  infer: (inputs, attrs) => inferJump("heaviside", inputs, attrs),
  ref: ([z, threshold], [y]) => {
    const F = threshold.data.length;
    for (let i = 0; i < z.data.length; i++) y.data[i] = Number(z.data[i] > threshold.data[i % F]);
  },
  vjp: ({ inputs: [z, threshold], grads: [g], attrs: { bandwidth }, needs }) => {
    if (!g || !needs[1]) return [];
    return [undefined, mul(sum(mul(g, inWindow(z, threshold, bandwidth)), { axes: [0] }), -1 / bandwidth)];
  },
  decompose: ([z, threshold]) => [greater(z, threshold)],
  cases: cases.map((c) => ({ ...c, forwardOnly: true })), // its gradient is 0 almost everywhere, and not what is used
});

/** See `jumpReluOp`. */
export function jumpRelu(z: Tensor, threshold: Tensor, attrs: JumpReluAttrs): Tensor {
  return dispatch(jumpReluOp, [z, threshold], attrs)[0];
}

/** See `heavisideOp`. */
export function heaviside(z: Tensor, threshold: Tensor, attrs: JumpReluAttrs): Tensor {
  return dispatch(heavisideOp, [z, threshold], attrs)[0];
}
