/**
 * The step of a jumprelu SAE few of whose features are near or above their thresholds: explicit equations over these alone, the
 * same as dense-step.ts's by autograd. A slot is a feature with z > θ − ε/2; what lies lower has neither value nor gradient.
 * With e = x̂ − y, d = e · W_dec[i] and K = 1 within ε/2 of the threshold, the gradients are 2/B times
 *   W_enc: Σ d z ⊗ [z > θ]    W_dec: Σ a ⊗ e    θ_i: −(θ_i d + c/2) K/ε  summed over tokens,
 * c the derivative of the penalty in L0. B tokens · D, E widths · F features · K slots.
 */
import {
  add,
  exp,
  gatherRows,
  greater,
  linearTopK,
  matmul,
  max,
  mul,
  reshape,
  slice,
  sparseDecodeLoss,
  sparseDot,
  sparseOuterPair,
  sparseSum,
  square,
  sub,
  sum,
  sumSquares,
  type Tensor,
  transpose,
} from "../tensor/index.ts";
import { encoderInput, type PerParam, type Sae } from "./sae.ts";
import {
  biasGradient,
  MSE,
  packScalars,
  type StepGradients,
  type StepObjective,
  type StepOptions,
  squaresOf,
} from "./step.ts";

/** Whether the sparse step computes what the options ask for. */
export const canJump = ({ config, params }: Sae, { objective = MSE, auxK, slots }: StepOptions): boolean =>
  slots !== undefined &&
  config.activation.kind === "jumprelu" &&
  config.encoder.kind === "dense" &&
  params.logThreshold !== undefined &&
  objective.levels.length === 0 &&
  auxK === undefined;

/** See `stepGradients`. `full` counts the tokens whose slots did not suffice. */
export function jumpStep(sae: Sae, x: Tensor, options: StepOptions): StepGradients {
  const { objective = MSE, target = x, slots = 1, lap = () => {} } = options;
  const { wEnc, bEnc, wDec, bDec, wSkip, logThreshold } = sae.params;
  const { features: F, dOut } = sae.config;
  const { device } = x;
  const B = x.shape[0];
  const K = Math.min(slots, F);
  const half = objective.bandwidth / 2;
  if (!logThreshold) throw new Error("jump step: a jumprelu SAE is trained with logThreshold");

  const z = encoderInput(sae, x);
  const threshold = exp(logThreshold);
  const chosen = linearTopK(z, wEnc, add(sub(bEnc, threshold), half), { k: K }); // z − θ + ε/2, descending
  const { values: above, indices } = chosen;
  const active = greater(above, half);
  const own = reshape(gatherRows(reshape(threshold, [F, 1]), indices), [B, K]);
  const acts = mul(add(add(above, own), -half), active);
  lap("encode");

  const goal = wSkip ? sub(target, matmul(x, transpose(wSkip))) : target;
  const bias = bDec ?? device.zeros([dOut]);
  const { loss, error } = sparseDecodeLoss({ values: acts, indices }, wDec, bias, goal);
  lap("decode");

  const dots = sparseDot(error, wDec, indices, above);
  const dPre = mul(dots, active);
  const pair = sparseOuterPair({ values: acts, x: error }, { values: dPre, x: z }, indices, F);
  const { penalty, slope } = penaltyOf(mul(sum(active), 1 / B), objective);
  const inside = mul(greater(above, 0), greater(2 * half, above));
  const pulls = add(mul(mul(dots, own), inside), mul(inside, mul(slope, 0.5)));
  const dThreshold = mul(sparseSum(pulls, indices, F), -1 / objective.bandwidth);
  lap("backward");

  const errorSum = sum(error, { axes: [0] });
  const grads: PerParam<Tensor> = {
    wEnc: pair.outB,
    bEnc: pair.sumB,
    wDec: pair.outA,
    ...(bDec && { bDec: biasGradient(sae, errorSum, pair.sumB) }),
    logThreshold: mul(dThreshold, threshold),
    ...(wSkip && { wSkip: matmul(transpose(error), x) }),
  };
  const { wEnc: _, bEnc: __, wDec: ___, ...others } = grads;
  const rest = squaresOf(others);
  const squares = sum(pair.squares);
  const scalars = packScalars({
    loss,
    sse: loss,
    penalty,
    squares: rest ? add(squares, rest) : squares,
    along: sumSquares(sparseSum(mul(acts, dots), indices, F)),
    full: K < F ? sum(greater(slice(above, [0, K - 1], [B, 1]), 0)) : undefined,
    widest: widestOf(above),
  });
  lap("backward");
  return { grads, scale: 2 / B, scalars, codes: { kind: "sparse", values: acts, indices }, error };
}

/** The penalty of an L0, [], and its derivative in L0. */
function penaltyOf(l0: Tensor, { l0: weight, targetL0 }: StepObjective): { penalty: Tensor; slope: Tensor } {
  if (targetL0 === 0) return { penalty: mul(l0, weight), slope: l0.device.full([], weight) };
  const miss = add(mul(l0, 1 / targetL0), -1);
  return { penalty: mul(square(miss), weight), slope: mul(miss, (2 * weight) / targetL0) };
}

/** The most positive numbers that a row holds, []. */
export function widestOf(values: Tensor): Tensor {
  return max(sum(greater(values, 0), { axes: [1] }));
}
