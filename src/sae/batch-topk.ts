/**
 * BatchTopK (Bussmann et al. 2024): the k·B largest activations of a batch, however they fall on its tokens, and the
 * threshold that stands in for the batch afterwards. B tokens · K slots.
 */
import { keepLargest, type Tensor } from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import type { SparseCodes } from "./sae.ts";

export interface KeptCodes {
  readonly codes: SparseCodes;
  /** Smallest kept value, []; 0 when nothing is positive. */
  readonly least: Tensor;
  /** Rows all of whose slots were kept, []: with fewer slots than features they may have lost some. */
  readonly full: Tensor;
}

/** Keeps the k·B largest values of candidates [B, K]; the others become unused slots. */
export function keepBatch(candidates: SparseCodes, k: number): KeptCodes {
  const count = k * candidates.values.shape[0];
  const { kept, least, full } = keepLargest(candidates.values, { count });
  return { codes: { ...candidates, values: kept }, least, full };
}

export interface ThresholdRule {
  /** Share of a step's smallest kept value in the running threshold. */
  readonly rate: number;
  /** What the threshold starts from; without it, from the first step's value. */
  readonly start?: number;
}

/**
 * The running mean of the batches' smallest kept values: t ← (1 − rate) t + rate · least. SAELens starts from 0 at rate 0.01,
 * dictionary_learning unset at 0.001. `before` is undefined at the first step.
 */
export function nextThreshold(
  before: number | undefined,
  least: number,
  { rate, start }: ThresholdRule,
): number {
  if (!(least >= 0)) throw usageError(`batchtopk: a smallest kept value of ${least}`);
  const from = before ?? start;
  return from === undefined ? least : (1 - rate) * from + rate * least;
}
