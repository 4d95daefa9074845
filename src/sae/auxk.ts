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
  kronScores,
  linear,
  linearTopK,
  matmul,
  mul,
  neg,
  reciprocal,
  relu,
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
import { encoderRows, type KronProduct } from "./config.ts";
import type { Sae } from "./sae.ts";

export interface AuxK {
  /** Indices of the dead features, ascending: i32 [n], n >= 1. */
  readonly dead: Tensor;
  /** Kron encoders: their rows of W_enc, i32 [2n]: base and extension of the first, of the second … */
  readonly parents?: Tensor;
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

/** Gradients of coefficient · L_aux, zeros but for the dead rows, in units of 2/B like those of the main step. */
export interface AuxGradients {
  /** L_aux, []. */
  readonly loss: Tensor;
  /** [F, E] */
  readonly wDec: Tensor;
  /** [R, D] */
  readonly wEnc: Tensor;
  /** [R] */
  readonly bEnc: Tensor;
  /** Product of each decoder row with its gradient row, [F]. */
  readonly along: Tensor;
}

/**
 * d L_aux / d a = 2 (a − r) / (B · variance); the rest is the main step's backward on n rows. Few dead features are
 * computed densely: five matrix products of n columns are then faster than gathering k rows per token.
 */
export function auxKGradients(
  sae: Sae,
  { dead, parents, k, coefficient }: AuxK,
  main: MainStep,
): AuxGradients {
  const { z, loss, errorSum } = main;
  const n = dead.shape[0];
  const from = parents ?? dead;
  const rows: DeadRows = {
    wEnc: gatherRows(sae.params.wEnc, from), // [n, D], or [2n, D] of a kron encoder
    wDec: gatherRows(sae.params.wDec, dead),
    bEnc: reshape(gatherRows(reshape(sae.params.bEnc, [-1, 1]), from), [from.shape[0]]),
    k: Math.min(k, n),
  };
  // Σ_b ‖r_b − mean r‖² / B = loss − ‖mean r‖²
  const variance = sub(loss, sum(square(mul(errorSum, 1 / z.shape[0]))));
  const weight = mul(reciprocal(variance), coefficient); // []
  const { encoder, features } = sae.config;
  const parts =
    encoder.kind === "kron"
      ? kronAux(rows, main, weight, encoder.product)
      : n <= DENSE_UP_TO * k
        ? denseAux(rows, main, weight)
        : sparseAux(rows, main, weight);
  const encRows = encoderRows(sae.config);
  return {
    loss: mul(parts.sse, reciprocal(variance)),
    wDec: scatterAddRows(parts.wDec, dead, features),
    wEnc: scatterAddRows(parts.wEnc, from, encRows),
    bEnc: scatterNumbers(parts.bEnc, from, encRows),
    along: scatterNumbers(parts.along, dead, features),
  };
}

const scatterNumbers = (numbers: Tensor, at: Tensor, length: number): Tensor =>
  reshape(scatterAddRows(reshape(numbers, [numbers.size, 1]), at, length), [length]);

/** Dead features per active one up to which the dense form is the faster one (measured at D = 256 and 512). */
const DENSE_UP_TO = 3;

/** Of n dead features. */
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
  const weighted = mul(values, weight);
  const dPre = mul(sparseDot(aux.error, wDec, indices, values), weight);
  const n = bEnc.shape[0];
  const pair = sparseOuterPair({ values: weighted, x: aux.error }, { values: dPre, x: z }, indices, n);
  return {
    sse: aux.loss,
    wDec: pair.outA,
    wEnc: pair.outB,
    bEnc: pair.sumB,
    along: sparseSum(mul(values, dPre), indices, n),
  };
}

/** The same over the products of pre-latents, by autograd: dead features of a kron encoder share rows of W_enc. */
function kronAux(
  { wEnc, wDec, bEnc, k }: DeadRows,
  main: MainStep,
  weight: Tensor,
  product: KronProduct,
): Parts {
  const { z, error } = main;
  const n = wDec.shape[0];
  const { value, grads } = z.device.valueAndGrad(() => {
    const all = relu(kronScores(linear(z, wEnc, { bias: bEnc }), { m: 1, n: 1, product })); // [B, n]
    const acts = k < n ? largest(all, k) : all;
    const squares = sum(square(add(matmul(acts, wDec), error)));
    return { loss: mul(mul(squares, weight), 0.5), squares }; // halved: in units of 2/B
  }, [wEnc, wDec, bEnc]);
  const [dWEnc, dWDec, dBEnc] = grads;
  if (!dWEnc || !dWDec || !dBEnc) throw new Error("AuxK: a gradient is missing");
  return {
    sse: mul(value.squares, 1 / z.shape[0]),
    wEnc: dWEnc,
    wDec: dWDec,
    bEnc: dBEnc,
    along: sum(mul(dWDec, wDec), { axes: [1] }),
  };
}
