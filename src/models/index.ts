/**
 * The transformer, its hooks, loading and saving, generation and training.
 */
export { createFromConfig, createTransformer, type FreshOptions } from "./build.ts";
export { KvCache } from "./cache.ts";
export { addVector, atPositions, replaceWith } from "./edits.ts";
export { type Flops, type FlopsOptions, forwardFlops, TRAINING_PASSES, trainingFlops } from "./flops.ts";
export { type GenerateOptions, type Generation, generate, type TokenEvent } from "./generate.ts";
export {
  crossEntropies,
  type HeldOutOptions,
  heldOutBatches,
  heldOutLoss,
  spreadWindows,
} from "./held-out.ts";
export {
  type Edit,
  type EditContext,
  type HookRequest,
  hookPoints,
  hookWidth,
  resolveHook,
} from "./hooks.ts";
export { type LoadOptions, loadTransformer } from "./load.ts";
export { forwardPacked } from "./packed.ts";
export { parameterCount } from "./params.ts";
export { checkSampling, GREEDY, type SamplingOptions } from "./sampling.ts";
export { hashTransformer, type SaveOptions, saveTransformer } from "./save.ts";
export {
  checkSpec,
  type KvRoutingSpec,
  type LayerNormSpec,
  type LearnedPositions,
  type MlpSpec,
  type ModelSpec,
  type ResidualSpec,
  type RmsNormSpec,
  type RopeFrequencies,
  type RopeSpec,
} from "./spec.ts";
export { TextStream } from "./text-stream.ts";
export { type KeptRoutes, refreshTopP } from "./top-p.ts";
export {
  LM_TRAIN_DEFAULTS,
  type LmTrainConfig,
  type LmTrainOptions,
  type LmTrainProgress,
  type LmTrainRecord,
  lmSteps,
  trainLm,
  VALIDATION_WINDOWS,
} from "./train.ts";
export { readTrainedParameters } from "./train-state.ts";
export { type ForwardOptions, type ForwardResult, Transformer } from "./transformer.ts";
