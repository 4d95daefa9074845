/**
 * Pipelines of language models: training, evaluation, the n-gram yardstick.
 */
export { type LmData, type LmDataOptions, type LmTextSource, openFiles, openLmData } from "./lm-data.ts";
export { evaluateLm, type LmEvalOptions, type LmEvaluation, type LmScore } from "./lm-eval.ts";
export {
  exportLmRun,
  type LmRun,
  type LmRunOptions,
  type LmSizes,
  specOf,
  trainLmRun,
} from "./lm-train.ts";
export { NgramModel, type NgramOptions, ngramLosses, streamOf, trainNgram } from "./ngram.ts";
