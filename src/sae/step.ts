/**
 * One step of a TopK SAE as explicit equations; nothing passes over [B, D] or [F, D] more often than it must.
 * With z = x − b_dec (pre-bias), v = the K largest of relu(z W_encᵀ + b_enc) at indices i, e = v W_dec[i] + b_dec − x,
 * loss = (1/B) Σ_b ‖e_b‖² and u = (v > 0) · (e · W_dec[i]), the gradients are 2/B times
 *   W_dec: Σ v ⊗ e    W_enc: Σ u ⊗ z    b_enc: Σ u    b_dec: Σ_b e − b_enc' W_enc (the last term with pre-bias only).
 * The factor 2/B and the clipping factor are left to the optimiser. B tokens · D width · F features · K active.
 */
import {
  add,
  concat,
  type Device,
  greater,
  matmul,
  mul,
  reshape,
  sparseDecodeLoss,
  sparseDot,
  sparseOuterPair,
  sparseSum,
  sub,
  sum,
  sumSquares,
  type Tensor,
} from "../tensor/index.ts";
import { type AuxK, auxKGradients } from "./auxk.ts";
import { activate, type Codes, encoderInput, type Sae, type SaeParams } from "./sae.ts";

export interface StepOptions {
  /** Revives the features at these indices; undefined when none is dead. */
  readonly auxK?: AuxK;
  /** Told what has just been computed, for timing. */
  readonly lap?: (part: StepPart) => void;
}

export type StepPart = "encode" | "decode" | "backward" | "aux";

/** Gradients of one batch. True gradients are `scale` times these tensors. */
export interface StepGradients {
  readonly grads: SaeParams;
  readonly scale: number;
  /** Six numbers; see `readStep`. */
  readonly scalars: Tensor;
  readonly codes: Codes;
  /** x̂ − x, [B, D]. */
  readonly error: Tensor;
}

/** Loss and gradients of x [B, D]. Call inside a scope. */
export function stepGradients(
  sae: Sae,
  x: Tensor,
  { auxK, lap = () => {} }: StepOptions = {},
): StepGradients {
  const { wEnc, wDec, bDec } = sae.params;
  const B = x.shape[0];
  const F = sae.config.features;

  const z = encoderInput(sae, x); // [B, D]
  const codes = activate(sae, z); // [B, K]
  const { values, indices } = codes;
  lap("encode");

  const { loss, error } = sparseDecodeLoss(codes, wDec, bDec, x); // [], [B, D]
  const dots = sparseDot(error, wDec, indices); // [B, K]
  lap("decode");

  const dPre = mul(dots, greater(values, 0)); // [B, K]
  const pair = sparseOuterPair({ values, x: error }, { values: dPre, x: z }, indices, F);
  const errorSum = sum(error, { axes: [0] }); // [D]
  let main: MainGradients = {
    wDec: pair.outA,
    wEnc: pair.outB,
    bEnc: pair.sumB,
    along: sparseSum(mul(values, dots), indices, F), // [F]: gradient row · decoder row
    squares: pair.squares,
  };
  lap("backward");

  let auxLoss = x.device.zeros([]);
  if (auxK) {
    const aux = auxKGradients(sae, auxK, { z, error, loss, errorSum });
    auxLoss = aux.loss;
    main = merge(main, aux, F);
    lap("aux");
  }

  const dBDec = sae.config.applyBDecToInput
    ? sub(errorSum, reshape(matmul(reshape(main.bEnc, [1, F]), wEnc), bDec.shape))
    : errorSum;
  const scalars = concat(
    [loss, auxLoss, sum(main.squares), sumSquares(dBDec), sumSquares(main.along)].map((t) => reshape(t, [1])),
    0,
  );
  lap("backward");
  const grads = { wEnc: main.wEnc, bEnc: main.bEnc, wDec: main.wDec, bDec: dBDec };
  return { grads, scale: 2 / B, scalars, codes, error };
}

interface MainGradients {
  readonly wDec: Tensor;
  readonly wEnc: Tensor;
  readonly bEnc: Tensor;
  /** Product of each decoder row with its gradient row, [F]. */
  readonly along: Tensor;
  /** Sums of squares of wDec, wEnc and bEnc, [3]. */
  readonly squares: Tensor;
}

/** Adds the gradients of the dead rows to those of all rows. */
function merge(main: MainGradients, aux: ReturnType<typeof auxKGradients>, F: number): MainGradients {
  const wDec = add(main.wDec, aux.spread(aux.wDec, F));
  const wEnc = add(main.wEnc, aux.spread(aux.wEnc, F));
  const bEnc = add(main.bEnc, aux.spread(aux.bEnc, F));
  const along = add(main.along, aux.spread(aux.along, F));
  const squares = concat(
    [wDec, wEnc, bEnc].map((t) => reshape(sumSquares(t), [1])),
    0,
  );
  return { wDec, wEnc, bEnc, along, squares };
}

/** What the host needs of a step. */
export interface StepNumbers {
  /** (1/B) Σ ‖e‖². */
  readonly loss: number;
  /** The AuxK loss, before its coefficient. */
  readonly auxLoss: number;
  /** Norm of the gradient of all parameters; without the parts along the decoder rows if these are removed. */
  readonly gradNorm: number;
}

/** Reads the scalars of a step. Decoder rows must have unit length when `parallelRemoved`. */
export async function readStep(
  { scalars, scale }: Pick<StepGradients, "scalars" | "scale">,
  parallelRemoved: boolean,
): Promise<StepNumbers> {
  const [loss, auxLoss, rows, bias, along] = await scalars.floats();
  const squares = rows + bias - (parallelRemoved ? along : 0);
  // Rounding may leave a tiny negative number; NaN stays NaN.
  return { loss, auxLoss, gradNorm: scale * Math.sqrt(Math.max(squares, 0)) };
}

/** Of one batch: Σ ‖x − mean x‖² / B and the mean number of active features. Two passes over [B, D]: for the log only. */
export async function batchStatistics(
  device: Device,
  x: Tensor,
  codes: Codes,
): Promise<{ variance: number; active: number }> {
  const B = x.shape[0];
  const both = device.scope(() => {
    const centred = sub(x, mul(sum(x, { axes: [0] }), 1 / B));
    const active = sum(greater(codes.values, 0));
    return concat(
      [sumSquares(centred), active].map((t) => reshape(t, [1])),
      0,
    );
  });
  const [squares, count] = await both.floats();
  both.dispose();
  return { variance: squares / B, active: count / B };
}
