/**
 * The step of topk and batchtopk SAEs as explicit equations; nothing passes over [B, D] or [F, D] more often than it must.
 * With z = x − b_dec (pre-bias) or x, v the K kept values at indices i, and S_s the sum of w_t (x̂_t − y) over the prefixes
 * t ≥ s that the loss (1/B) Σ_b Σ_t w_t ‖x̂_t − y‖² counts, the gradients are 2/B times
 *   v_s: S_s · W_dec[i_s]    W_dec: Σ v_s ⊗ S_s    b_dec: Σ_b S_0 − b_enc' W_enc (the last term with pre-bias only)
 *   W_enc: Σ u ⊗ z    b_enc: Σ u, with u the gradient of the chosen pre-activations (dense) or pre-latents (kron).
 * The factor 2/B and the clipping factor are left to the optimiser. B tokens · D, E widths · F features · K slots.
 */
import {
  add,
  groupPrefixes,
  kronSpread,
  matmul,
  mul,
  prefixLoss,
  slice,
  sparseDecodeLoss,
  sparseDot,
  sparseOuter,
  sparseOuterPair,
  sparseSum,
  sub,
  sum,
  sumSquares,
  type Tensor,
  takeLast,
  transpose,
} from "../tensor/index.ts";
import { type AuxGradients, auxKGradients } from "./auxk.ts";
import { keepBatch } from "./batch-topk.ts";
import { encoderRows } from "./config.ts";
import { encoderInput, type PerParam, type Sae, type SparseCodes, strongest } from "./sae.ts";
import {
  biasGradient,
  MSE,
  packScalars,
  type StepGradients,
  type StepObjective,
  type StepOptions,
  squaresOf,
} from "./step.ts";

/** Slots per token that batchtopk selects from, in multiples of k; the step is done again when they do not suffice. */
const BATCH_SLOTS = 2;

/** See `stepGradients`. */
export function sparseStep(sae: Sae, x: Tensor, options: StepOptions): StepGradients {
  const { objective = MSE, target = x, auxK, lap = () => {} } = options;
  const { wDec, bDec, wSkip } = sae.params;
  const { features: F, dOut } = sae.config;
  const { device } = x;

  const z = encoderInput(sae, x); // [B, D]
  const { codes: chosen, least, full } = select(sae, z, options.slots);
  lap("encode");

  const goal = wSkip ? sub(target, matmul(x, transpose(wSkip))) : target; // [B, E]
  const bias = bDec ?? device.zeros([dOut]);
  const { codes, ...d } = reconstruction(chosen, wDec, bias, goal, objective);
  lap("decode");

  const along = sparseSum(mul(codes.values, d.dValues), codes.indices, F); // [F]: gradient row · decoder row
  let rows = rowGradients(sae, codes, d, z);
  lap("backward");

  const errorSum = sum(d.error, { axes: [0] });
  let parallel = along;
  let auxLoss: Tensor | undefined;
  if (auxK) {
    const aux = auxKGradients(sae, auxK, { z, error: d.error, loss: d.sse, errorSum });
    auxLoss = aux.loss;
    rows = withAux(rows, aux);
    parallel = add(along, aux.along);
    lap("aux");
  }

  const pullSum = d.pull === d.error ? errorSum : sum(d.pull, { axes: [0] });
  const others = {
    ...(bDec && { bDec: biasGradient(sae, pullSum, rows.bEnc) }),
    ...(wSkip && { wSkip: matmul(transpose(d.pull), x) }),
  };
  const { squares: rowSquares, ...ofRows } = rows;
  const grads: PerParam<Tensor> = options.frozen
    ? rowsAfter(options.frozen, ofRows, sae)
    : { ...ofRows, ...others };
  const scalars = packScalars({
    loss: d.loss,
    sse: d.sse,
    auxLoss,
    squares: rowSquares && !options.frozen ? plus(rowSquares, squaresOf(others)) : squaresOf(grads),
    along: sumSquares(options.frozen ? slice(parallel, [options.frozen], [F - options.frozen]) : parallel),
    least,
    full,
  });
  lap("backward");
  return { grads, scale: 2 / x.shape[0], scalars, codes, error: d.error };
}

/** Gradients of the rows of the features after the frozen ones. */
function rowsAfter(frozen: number, { wEnc, bEnc, wDec }: Omit<RowGradients, "squares">, { config }: Sae) {
  const { features, dIn, dOut } = config;
  const [rows, first] = [features, frozen].map((n) => encoderRows({ ...config, features: n }));
  return {
    wEnc: slice(wEnc, [first, 0], [rows - first, dIn]),
    bEnc: slice(bEnc, [first], [rows - first]),
    wDec: slice(wDec, [frozen, 0], [features - frozen, dOut]),
  };
}

const plus = (a: Tensor, b: Tensor | undefined): Tensor => (b ? add(a, b) : a);

interface Selected {
  readonly codes: SparseCodes;
  readonly least?: Tensor;
  readonly full?: Tensor;
}

function select(sae: Sae, z: Tensor, slots: number | undefined): Selected {
  const { activation, features } = sae.config;
  if (activation.kind === "topk") return { codes: strongest(sae, z, activation.k) };
  if (activation.kind !== "batchtopk") throw new Error(`sparse step: ${activation.kind}`);
  const k = Math.min(slots ?? BATCH_SLOTS * activation.k, features);
  const kept = keepBatch(strongest(sae, z, k), activation.k);
  // With a slot for every feature none can be lost.
  return k < features ? kept : { codes: kept.codes, least: kept.least };
}

/** More slots for the same step, after `full` was not 0. */
export function moreSlots({ config: { activation, features } }: Sae, slots: number | undefined): number {
  const k = "k" in activation ? activation.k : features;
  return Math.min(2 * (slots ?? BATCH_SLOTS * k), features);
}

/** Of the reconstruction objective, gradients in units of 2/B. */
interface Reconstruction {
  /** In the order that the gradients are in. */
  readonly codes: SparseCodes;
  readonly loss: Tensor;
  /** Loss of all codes. */
  readonly sse: Tensor;
  /** [B, E] */
  readonly error: Tensor;
  /** [B, K], 0 for unused slots. */
  readonly dValues: Tensor;
  /** Gradient of the output, [B, E]: S_0. */
  readonly pull: Tensor;
  /** Without it the gradient of W_dec is the sum of values ⊗ error. */
  readonly wDec?: Tensor;
}

function reconstruction(
  codes: SparseCodes,
  wDec: Tensor,
  bias: Tensor,
  goal: Tensor,
  { objective, budgets, levels }: StepObjective,
): Reconstruction {
  switch (objective) {
    case "mse": {
      const { loss, error } = sparseDecodeLoss(codes, wDec, bias, goal);
      const dValues = sparseDot(error, wDec, codes.indices, codes.values);
      return { codes, loss, sse: loss, error, pull: error, dValues };
    }
    case "hierarchical": {
      const weights = new Float32Array(codes.values.shape[1] + 1); // of prefixes 0 to K
      for (const budget of budgets) weights[budget] = 1 / budgets.length;
      return { codes, ...prefixes(codes, wDec, bias, goal, goal.device.tensor(weights)) };
    }
    case "matryoshka": {
      const { weights, from, ...slots } = groupPrefixes(codes, { bounds: levels });
      const ordered = { kind: "sparse", ...slots, parents: parentsAt(codes, from) } as const;
      return { codes: ordered, ...prefixes(ordered, wDec, bias, goal, weights) };
    }
    default:
      return objective satisfies never;
  }
}

/** The pre-latents of slots taken from other places. */
function parentsAt({ parents }: SparseCodes, from: Tensor): SparseCodes["parents"] {
  return parents && { base: takeLast(parents.base, from), extension: takeLast(parents.extension, from) };
}

function prefixes(codes: SparseCodes, wDec: Tensor, bias: Tensor, goal: Tensor, weights: Tensor) {
  const { loss, error, dValues, dW, pull } = prefixLoss(codes, wDec, bias, goal, weights);
  return { loss, sse: mul(sumSquares(error), 1 / goal.shape[0]), error, dValues, pull, wDec: dW };
}

/** Gradients that are rows of features or pre-latents, in units of 2/B. */
interface RowGradients {
  readonly wEnc: Tensor;
  readonly bEnc: Tensor;
  readonly wDec: Tensor;
  /** Σ of their squares, when known. */
  readonly squares?: Tensor;
}

function rowGradients(
  sae: Sae,
  codes: SparseCodes,
  d: Omit<Reconstruction, "codes">,
  z: Tensor,
): RowGradients {
  const { features: F, encoder } = sae.config;
  const { values, indices, parents } = codes;
  if (encoder.kind === "kron") {
    if (!parents) throw new Error("sparse step: codes of a kron encoder without their pre-latents");
    const pre = kronSpread(d.dValues, { ...codes, ...parents }, encoder); // [B, 2K]
    const rows = encoderRows(sae.config);
    return {
      wEnc: sparseOuter(pre.values, pre.indices, z, rows),
      bEnc: sparseSum(pre.values, pre.indices, rows),
      wDec: d.wDec ?? sparseOuter(values, indices, d.error, F),
    };
  }
  if (d.wDec) {
    return {
      wEnc: sparseOuter(d.dValues, indices, z, F),
      bEnc: sparseSum(d.dValues, indices, F),
      wDec: d.wDec,
    };
  }
  const pair = sparseOuterPair({ values, x: d.error }, { values: d.dValues, x: z }, indices, F);
  return { wDec: pair.outA, wEnc: pair.outB, bEnc: pair.sumB, squares: sum(pair.squares) };
}

/** Adds the gradients of the dead rows to those of all rows. */
function withAux(rows: RowGradients, aux: AuxGradients): RowGradients {
  return {
    wDec: add(rows.wDec, aux.wDec),
    wEnc: add(rows.wEnc, aux.wEnc),
    bEnc: add(rows.bEnc, aux.bEnc),
  };
}
