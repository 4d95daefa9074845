/**
 * AuxK (Gao et al. 2024, section 2.4): dead features learn to explain what the others leave over. Of n dead features the
 * kAux largest relu(pre) per token decode r = x − x̂ (held constant) without b_dec:
 *   L_aux = Σ_b ‖a_b − r_b‖² / Σ_b ‖r_b − mean r‖².
 * Differs from the paper: the variance of the residual is that of the batch. Cost grows with n, not with F.
 */
import {
  add,
  gatherRows,
  greater,
  linear,
  linearTopK,
  matmul,
  mul,
  neg,
  reciprocal,
  reshape,
  scatterAddRows,
  scatterLast,
  sparseDecodeLoss,
  sparseDot,
  sparseOuterPair,
  sparseSum,
  square,
  sub,
  sum,
  sumSquares,
  type Tensor,
  topk,
  transpose,
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

/**
 * d L_aux / d a = 2 (a − r) / (B · variance); the rest is the main step's backward on n rows. Few dead features are
 * computed densely: five matrix products of n columns are then faster than gathering k rows per token.
 */
export function auxKGradients(sae: Sae, { dead, k, coefficient }: AuxK, main: MainStep): AuxGradients {
  const { z, loss, errorSum } = main;
  const n = dead.shape[0];
  const rows: DeadRows = {
    wEnc: gatherRows(sae.params.wEnc, dead), // [n, D]
    wDec: gatherRows(sae.params.wDec, dead),
    bEnc: reshape(gatherRows(reshape(sae.params.bEnc, [-1, 1]), dead), [n]),
    k: Math.min(k, n),
  };
  // Σ_b ‖r_b − mean r‖² / B = loss − ‖mean r‖²
  const variance = sub(loss, sum(square(mul(errorSum, 1 / z.shape[0]))));
  const weight = mul(reciprocal(variance), coefficient); // []
  const { sse, ...grads } =
    n <= DENSE_UP_TO * k ? denseAux(rows, main, weight) : sparseAux(rows, main, weight);
  return {
    ...grads,
    loss: mul(sse, reciprocal(variance)),
    spread: (compact, F) => {
      const all = scatterAddRows(compact.rank === 1 ? reshape(compact, [n, 1]) : compact, dead, F);
      return compact.rank === 1 ? reshape(all, [F]) : all;
    },
  };
}

/** Dead features per active one up to which the dense form is the faster one (measured at D = 256 and 512). */
const DENSE_UP_TO = 3;

interface DeadRows {
  readonly wEnc: Tensor;
  readonly wDec: Tensor;
  readonly bEnc: Tensor;
  /** At most n. */
  readonly k: number;
}

type Parts = Pick<AuxGradients, "wDec" | "wEnc" | "bEnc" | "along"> & {
  /** Σ ‖a − r‖² / B, []. */
  readonly sse: Tensor;
};

/** With all n activations of a token at hand, [B, n]. Exported for its test. */
export function denseAux({ wEnc, wDec, bEnc, k }: DeadRows, { z, error }: MainStep, weight: Tensor): Parts {
  const [B] = z.shape;
  const n = bEnc.shape[0];
  const all = linear(z, wEnc, { bias: bEnc, activation: "relu" }); // [B, n]
  const acts = k < n ? largest(all, k) : all;
  const auxError = add(matmul(acts, wDec), error); // a − r, as r = −error
  const dots = matmul(auxError, transpose(wDec)); // [B, n]
  const weighted = mul(acts, weight);
  const dPre = mul(mul(dots, weight), greater(acts, 0));
  return {
    sse: mul(sumSquares(auxError), 1 / B),
    wDec: matmul(transpose(weighted), auxError),
    wEnc: matmul(transpose(dPre), z),
    bEnc: sum(dPre, { axes: [0] }),
    along: sum(mul(weighted, dots), { axes: [0] }),
  };
}

/** x [B, n] with all but the k largest of each row set to 0. */
function largest(x: Tensor, k: number): Tensor {
  const { values, indices } = topk(x, { k });
  return scatterLast(values, indices, x.shape[1]);
}

/** With the k chosen rows of each token. Exported for its test. */
export function sparseAux({ wEnc, wDec, bEnc, k }: DeadRows, { z, error }: MainStep, weight: Tensor): Parts {
  const { values, indices } = linearTopK(z, wEnc, bEnc, { k }); // [B, k]
  const zeros = z.device.zeros([z.shape[1]]);
  const aux = sparseDecodeLoss({ values, indices }, wDec, zeros, neg(error));
  const dots = sparseDot(aux.error, wDec, indices);
  const weighted = mul(values, weight);
  const dPre = mul(mul(dots, weight), greater(values, 0));
  const n = bEnc.shape[0];
  const pair = sparseOuterPair({ values: weighted, x: aux.error }, { values: dPre, x: z }, indices, n);
  return {
    sse: aux.loss,
    wDec: pair.outA,
    wEnc: pair.outB,
    bEnc: pair.sumB,
    along: sparseSum(mul(weighted, dots), indices, n),
  };
}
