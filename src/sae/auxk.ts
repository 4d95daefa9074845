/**
 * AuxK (Gao et al. 2024, section 2.4): dead features learn to explain what the others leave over. Of n dead features the
 * kAux largest relu(pre) per token decode r = x − x̂ (held constant) without b_dec:
 *   L_aux = Σ_b ‖a_b − r_b‖² / Σ_b ‖r_b − mean r‖².
 * Differs from the paper: the variance of the residual is that of the batch. Cost grows with n, not with F.
 */
import {
  gatherRows,
  greater,
  linearTopK,
  mul,
  neg,
  reciprocal,
  reshape,
  scatterAddRows,
  sparseDecodeLoss,
  sparseDot,
  sparseOuterPair,
  sparseSum,
  square,
  sub,
  sum,
  type Tensor,
} from "../tensor/index.ts";
import type { Sae } from "./sae.ts";

export interface AuxK {
  /** Indices of the dead features, ascending: i32 [n], n >= 1. */
  readonly dead: Tensor;
  /** Dead features per token. All of them if there are fewer. */
  readonly k: number;
  /** Weight of the loss. */
  readonly coefficient: number;
}

/** Of the main step: z the encoder's input, error = x̂ − x [B, D], its loss [] and its column sums [D]. */
export interface MainStep {
  readonly z: Tensor;
  readonly error: Tensor;
  readonly loss: Tensor;
  readonly errorSum: Tensor;
}

/** Gradients of coefficient · L_aux for the n dead rows, in units of 2/B like those of the main step. */
export interface AuxGradients {
  /** L_aux, []. */
  readonly loss: Tensor;
  readonly wDec: Tensor;
  readonly wEnc: Tensor;
  readonly bEnc: Tensor;
  /** Product of each decoder row with its gradient row, [n]. */
  readonly along: Tensor;
  /** Rows or numbers of the dead features at their places among all F, zeros elsewhere. */
  spread(compact: Tensor, F: number): Tensor;
}

/** d L_aux / d a = 2 (a − r) / (B · variance); the rest is the main step's backward on n rows. */
export function auxKGradients(sae: Sae, { dead, k, coefficient }: AuxK, main: MainStep): AuxGradients {
  const { z, error, loss, errorSum } = main;
  const device = z.device;
  const n = dead.shape[0];
  const [B, D] = z.shape;
  const wEnc = gatherRows(sae.params.wEnc, dead); // [n, D]
  const wDec = gatherRows(sae.params.wDec, dead);
  const bEnc = reshape(gatherRows(reshape(sae.params.bEnc, [-1, 1]), dead), [n]);

  const { values, indices } = linearTopK(z, wEnc, bEnc, { k: Math.min(k, n) }); // [B, k]
  const residual = neg(error);
  const aux = sparseDecodeLoss({ values, indices }, wDec, device.zeros([D]), residual);
  const dots = sparseDot(aux.error, wDec, indices);

  // Σ_b ‖r_b − mean r‖² / B = loss − ‖mean r‖²
  const variance = sub(loss, sum(square(mul(errorSum, 1 / B))));
  const perVariance = reciprocal(variance);
  const weight = mul(perVariance, coefficient); // []
  const weighted = mul(values, weight);
  const dPre = mul(mul(dots, weight), greater(values, 0));
  const pair = sparseOuterPair({ values: weighted, x: aux.error }, { values: dPre, x: z }, indices, n);
  return {
    loss: mul(aux.loss, perVariance),
    wDec: pair.outA,
    wEnc: pair.outB,
    bEnc: pair.sumB,
    along: sparseSum(mul(weighted, dots), indices, n),
    spread: (compact, F) => {
      const rows = compact.rank === 1 ? reshape(compact, [n, 1]) : compact;
      const all = scatterAddRows(rows, dead, F);
      return compact.rank === 1 ? reshape(all, [F]) : all;
    },
  };
}
