/**
 * Whole pipelines: what the commands do, as library functions.
 */
export { type AbsorptionOptions, type AbsorptionResult, absorptionOnText } from "./absorption.ts";
export { type DemoOptions, type DemoProgress, type DemoResult, runDemo } from "./demo.ts";
export {
  buildFeatureDatabase,
  type FeatureDatabaseOptions,
  type FeatureDatabaseResult,
  saeFilesHash,
} from "./feature-build.ts";
export { type FeatureReportOptions, featureCardsFrom, featureReport } from "./feature-report.ts";
export { type CollectOptions, collectFirings, featureCards } from "./features.ts";
export { type HarvestOptions, type HarvestResult, harvest } from "./harvest.ts";
export { type LanguageModel, openLanguageModel, windowsOf } from "./language-model.ts";
export {
  type LiveBlock,
  type LiveOptions,
  liveActivations,
  openLiveSource,
  rowWidth,
} from "./live-activations.ts";
export {
  type BudgetProxies,
  type ProxyOptions,
  proxiesOnText,
  type SaeProxies,
} from "./proxies.ts";
export { baseHashOf, disposeAny, type LoadedBoost, loadBoosted } from "./sae-boost.ts";
export {
  type EvaluatedSae,
  evaluateAllOnModel,
  evaluateAllOnStore,
  evaluateOnModel,
  evaluateOnStore,
  type SaeEvalOptions,
  type SaeEvalPart,
  type SaeEvaluation,
} from "./sae-eval.ts";
export { matchOnText, type PlacedSae, type SaeMatchOptions } from "./sae-match.ts";
export { readRun, type SaeRunFile } from "./sae-run.ts";
export type { LiveRows, RowSource, SaePoints, SaeSource, StoreRows } from "./sae-source.ts";
export {
  type SweepOptions,
  type SweepResult,
  type SweepSae,
  type SweptSae,
  trainSweep,
} from "./sae-sweep.ts";
export { type SaeRunOptions, type SaeRunResult, trainSaeRun } from "./sae-train.ts";
export { type SparseProbingRun, sparseProbingOnTexts } from "./sparse-probing.ts";
export {
  type SplicedSae,
  type SpliceMetrics,
  type SpliceOptions,
  type SpliceRun,
  spliceMetrics,
  spliceSaes,
} from "./splice.ts";
export {
  type ComparedSae,
  type ComparedSetting,
  type CompareOptions,
  type Comparison,
  checkBudgets,
  compareSweep,
  type HeldOutRows,
  type HeldOutText,
  type Spread,
} from "./sweep-compare.ts";
export { type SweepPageOptions, writeSweepPage } from "./sweep-report.ts";
export { type TaskChoice, type TaskRun, type TaskRunOptions, trainTaskRun } from "./task-train.ts";
export { openTextTokens, type TextTokens, type TextTokensOptions, tokensHash } from "./text-tokens.ts";
