/**
 * Sparse autoencoders: data, training, measuring, files.
 */
export type { AuxK } from "./auxk.ts";
export { keepBatch, nextThreshold, type ThresholdRule } from "./batch-topk.ts";
export {
  type AnySae,
  type BoostedSae,
  boostedSae,
  featuresOf,
  inParts,
  reconstructBoosted,
  stitch,
} from "./boost.ts";
export { type CheckpointOptions, Checkpoints } from "./checkpoint.ts";
export {
  type Activation,
  ARCHITECTURES,
  type Architecture,
  differences,
  type Encoder,
  encoderRows,
  type KronEncoder,
  type KronProduct,
  type SaeConfig,
  type SaeConfigInput,
  saeConfig,
  TRAITS,
} from "./config.ts";
export { type CreateSaeOptions, createSae, kronDecoderRows } from "./create.ts";
export {
  type EvaluateOptions,
  evaluateBudgets,
  evaluateSae,
  evaluateSaes,
  type MeasuredSae,
} from "./evaluate.ts";
export { lockFolder } from "./folder-lock.ts";
export { type GraftOptions, graft } from "./graft.ts";
export { saeHash } from "./hash.ts";
export {
  columnMean,
  type GeometricMedian,
  geometricMedian,
  initialBias,
  meanNormScale,
  type Sample,
} from "./init.ts";
export {
  formatTitle,
  type LoadedSae,
  type LoadSaeOptions,
  loadSae,
  type SavedSae,
  type SaveSaeOptions,
  saveSae,
} from "./io.ts";
export { type HostCodes, lossRecovered, MetricsAccumulator, type SaeMetrics } from "./metrics.ts";
export {
  type Codes,
  type DenseCodes,
  decode,
  disposeCodes,
  disposeSae,
  encode,
  foldInput,
  mapParams,
  type Notes,
  type ParamName,
  type PerParam,
  paramShapes,
  reconstruct,
  type Sae,
  type SaeParams,
  type SparseCodes,
  sparseCodes,
} from "./sae.ts";
export type { ActivationBatch, ActivationSource, Columns, OpenSource, SourceState } from "./source.ts";
export { ownColumns } from "./source.ts";
export {
  MSE,
  readStep,
  type StepGradients,
  type StepObjective,
  type StepOptions,
  stepGradients,
} from "./step.ts";
export {
  type TrainingOptions,
  type TrainOptions,
  type TrainProgress,
  type TrainResult,
  type TrainRun,
  trainSae,
  trainSaes,
} from "./train.ts";
export { type SaeTrainConfig, type SaeTrainInput, saeTrainConfig, saeTrainSchema } from "./train-config.ts";
export type { PartTimes, TrainRecord } from "./train-log.ts";
export { mostActive, NEW_FEATURES, type NewFeatures, type WarmStart } from "./warm-start.ts";
