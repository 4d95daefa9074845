/**
 * Sparse autoencoders: data, training, measuring, files.
 */
export type { AuxK } from "./auxk.ts";
export { type CheckpointOptions, Checkpoints } from "./checkpoint.ts";
export {
  type Activation,
  differences,
  type SaeConfig,
  type SaeTrainConfig,
  type SaeTrainInput,
  saeConfig,
  saeTrainConfig,
  saeTrainSchema,
} from "./config.ts";
export { type EvaluateOptions, evaluateSae } from "./evaluate.ts";
export { lockFolder } from "./folder-lock.ts";
export {
  columnMean,
  type GeometricMedian,
  geometricMedian,
  initialBias,
  meanNormScale,
  type Sample,
} from "./init.ts";
export { type LoadedSae, loadSae, saveSae } from "./io.ts";
export { type HostCodes, lossRecovered, MetricsAccumulator, type SaeMetrics } from "./metrics.ts";
export {
  type Codes,
  type CreateSaeOptions,
  createSae,
  decode,
  disposeSae,
  encode,
  foldInput,
  type Notes,
  reconstruct,
  type Sae,
  type SaeParams,
} from "./sae.ts";
export type { ActivationBatch, ActivationSource, OpenSource, SourceState } from "./source.ts";
export { type StepGradients, stepGradients } from "./step.ts";
export { type TrainOptions, type TrainProgress, type TrainResult, trainSae } from "./train.ts";
export type { PartTimes, TrainRecord } from "./train-log.ts";
