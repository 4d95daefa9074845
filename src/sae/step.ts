/**
 * One training step: loss and gradients of a batch. Activations that bound the number of active features go through
 * sparse-step.ts, explicit equations over the K chosen features, and so does jumprelu in jump-step.ts once few features are near
 * their thresholds; the others through dense-step.ts, by autograd.
 * B tokens · D input width · E output width · F features · K active.
 */
import {
  add,
  concat,
  type Device,
  greater,
  matmul,
  mul,
  reshape,
  sub,
  sum,
  sumSquares,
  type Tensor,
} from "../tensor/index.ts";
import type { AuxK } from "./auxk.ts";
import { TRAITS } from "./config.ts";
import { denseStep } from "./dense-step.ts";
import { canJump, jumpStep } from "./jump-step.ts";
import type { Codes, PerParam, Sae } from "./sae.ts";
import { sparseStep } from "./sparse-step.ts";
import type { SaeTrainConfig } from "./train-config.ts";

/** What the loss is made of. */
export type StepObjective = Pick<
  SaeTrainConfig,
  "objective" | "budgets" | "levels" | "l1" | "l0" | "targetL0" | "bandwidth"
>;

export interface StepOptions {
  /** Default: mean squared error of all codes. */
  readonly objective?: StepObjective;
  /** What is to be reconstructed, [B, E]; default the input. */
  readonly target?: Tensor;
  /** Revives the features at these indices; undefined when none is dead. */
  readonly auxK?: AuxK;
  /**
   * Slots per token: those that batchtopk selects from (default 2k); those for features of jumprelu near or above their threshold
   * (without, all features are computed with). See `StepNumbers.full`.
   */
  readonly slots?: number;
  /** jumprelu: count what `StepNumbers.widest` says, which costs a pass over [B, F] where there are no slots. */
  readonly count?: boolean;
  /** Features before this one stay as they are, and so does the decoder bias; topk and batchtopk only. */
  readonly frozen?: number;
  /** Told what has just been computed, for timing. */
  readonly lap?: (part: StepPart) => void;
}

export type StepPart = "encode" | "decode" | "backward" | "aux";

export const MSE: StepObjective = {
  objective: "mse",
  budgets: [],
  levels: [],
  l1: 0,
  l0: 0,
  targetL0: 0,
  bandwidth: 0.05,
};

/** Gradients of one batch. True gradients are `scale` times these tensors. */
export interface StepGradients {
  /** With frozen features only of the rows after them, and of nothing that has no rows. */
  readonly grads: PerParam<Tensor>;
  readonly scale: number;
  /** The numbers of `StepNumbers`; see `readStep`. */
  readonly scalars: Tensor;
  readonly codes: Codes;
  /** x̂ − target, [B, E]. */
  readonly error: Tensor;
}

/** Loss and gradients of x [B, D]. Call inside a scope. */
export function stepGradients(sae: Sae, x: Tensor, options: StepOptions = {}): StepGradients {
  if (TRAITS[sae.config.activation.kind].counted) return sparseStep(sae, x, options);
  return canJump(sae, options) ? jumpStep(sae, x, options) : denseStep(sae, x, options);
}

/** Scalars of a step as tensors; those left out are 0. */
export interface StepScalars {
  readonly loss: Tensor;
  readonly sse: Tensor;
  readonly auxLoss?: Tensor;
  readonly penalty?: Tensor;
  readonly squares?: Tensor;
  readonly along: Tensor;
  readonly least?: Tensor;
  readonly full?: Tensor;
  readonly widest?: Tensor;
}

const ORDER = [
  "loss",
  "sse",
  "auxLoss",
  "penalty",
  "squares",
  "along",
  "least",
  "full",
  "widest",
] as const satisfies readonly (keyof StepScalars)[];

/** One tensor of all scalars, so that they are read at once. */
export function packScalars(scalars: StepScalars): Tensor {
  const zero = scalars.loss.device.zeros([1]);
  return concat(
    ORDER.map((name) => {
      const t = scalars[name];
      return t ? reshape(t, [1]) : zero;
    }),
    0,
  );
}

/** Σ over all gradients of their squares. */
export function squaresOf(grads: Partial<PerParam<Tensor>>): Tensor | undefined {
  let total: Tensor | undefined;
  for (const t of Object.values(grads)) {
    const squares = sumSquares(t);
    total = total ? add(total, squares) : squares;
  }
  return total;
}

/** Gradient of b_dec from that of the output summed over tokens, less what flows back through the encoder's x − b_dec. */
export function biasGradient({ config, params }: Sae, pullSum: Tensor, dBEnc: Tensor): Tensor {
  if (!config.applyBDecToInput) return pullSum;
  const back = matmul(reshape(dBEnc, [1, dBEnc.size]), params.wEnc);
  return sub(pullSum, reshape(back, pullSum.shape));
}

/** What the host needs of a step. */
export interface StepNumbers {
  /** The reconstruction objective: (1/B) Σ ‖e‖², its mean over budgets, or its sum over levels. */
  readonly loss: number;
  /** (1/B) Σ ‖e‖² of all codes. */
  readonly sse: number;
  /** The AuxK loss, before its coefficient. */
  readonly auxLoss: number;
  /** The L1 or L0 penalty with its weight, and a gated SAE's auxiliary reconstruction. */
  readonly penalty: number;
  /** Norm of the gradient of all parameters; without the parts along the decoder rows if these are removed. */
  readonly gradNorm: number;
  /** batchtopk: the smallest kept value. */
  readonly least: number;
  /** Tokens whose slots did not suffice (batchtopk: all were kept; jumprelu: all are used): the step must be done with more. */
  readonly full: number;
  /** jumprelu: the most features that a token has near or above their thresholds; 0 where it was not counted. */
  readonly widest: number;
}

/** Reads the scalars of a step. Decoder rows must have unit length when `parallelRemoved`. */
export async function readStep(
  { scalars, scale }: Pick<StepGradients, "scalars" | "scale">,
  parallelRemoved: boolean,
): Promise<StepNumbers> {
  const [loss, sse, auxLoss, penalty, squares, along, least, full, widest] = await scalars.floats();
  // Rounding may leave a tiny negative number; NaN stays NaN.
  const gradNorm = scale * Math.sqrt(Math.max(squares - (parallelRemoved ? along : 0), 0));
  return { loss, sse, auxLoss, penalty, gradNorm, least, full, widest };
}

/** Of one batch: Σ ‖y − mean y‖² / B and the mean number of active features. Two passes over [B, E]: for the log only. */
export async function batchStatistics(
  device: Device,
  y: Tensor,
  codes: Codes,
): Promise<{ variance: number; active: number }> {
  const B = y.shape[0];
  const both = device.scope(() => {
    const centred = sub(y, mul(sum(y, { axes: [0] }), 1 / B));
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
