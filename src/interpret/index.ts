/**
 * What features mean: where they fire, what they write, which are worth a look.
 */
export {
  type Absorption,
  type AbsorptionRules,
  type AbsorptionSamples,
  absorptionFraction,
  type ClassAbsorption,
  isFullyAbsorbed,
  measureAbsorption,
  type ProbedToken,
  SAEBENCH_RULES,
} from "./absorption.ts";
export { FeatureActivations } from "./activations-table.ts";
export { type CodeRows, CodeRowsBuilder, encodeRows, featureColumns } from "./code-rows.ts";
export { type Context, type Peak, topContexts, topPeaks } from "./contexts.ts";
export { type ChatOptions, chatUrl } from "./explain/chat.ts";
export {
  chooseFeatures,
  type ExplainEstimate,
  type ExplainOptions,
  type ExplainResult,
  type ExplainSettings,
  estimateExplaining,
  explainFeatures,
} from "./explain/explain.ts";
export type { Explanation } from "./explain/explanations.ts";
export type { ScoreKind } from "./explain/prompts.ts";
export type { Score } from "./explain/scoring.ts";
export {
  FeatureBuild,
  type FeatureBuildOptions,
  type FinishOptions,
  type TokenRow,
} from "./feature-build.ts";
export {
  CROSS_BYTES,
  crossBytes,
  FeatureCorrelation,
  type FeatureMatch,
  type PartnerSummary,
  type Partners,
  summarizePartners,
} from "./feature-correlation.ts";
export {
  type Control,
  type Example,
  type ExampleQuery,
  type Feature,
  FeatureDatabase,
  type FeatureFilter,
  type FeatureQuery,
  openFeatureDatabase,
  SORT_COLUMNS,
} from "./feature-database.ts";
export { type FeatureIndex, readFeatureIndex } from "./feature-index.ts";
export {
  bytesPerFeature,
  type ControlRecord,
  FeatureScan,
  type ScanBatch,
  type ScanOptions,
} from "./feature-scan.ts";
export { type LassoOptions, type LassoProbes, lassoProbes } from "./lasso.ts";
export { type LogitEffects, type LogitOptions, logitEffects, nearestFeatures } from "./logits.ts";
export {
  chooseL2,
  fitProbes,
  type Labels,
  type ProbeOptions,
  type ProbeQuality,
  type Probes,
  probeQuality,
  probeScores,
} from "./probes.ts";
export { ProxyCounts, type ProxyMeans, tokenEntropy } from "./proxies.ts";
export {
  type ClassProbing,
  type LabelledTexts,
  measureSparseProbing,
  type SparseProbingOptions,
} from "./sparse-probing.ts";
export {
  type Telling,
  type TellingKind,
  type TellingOptions,
  tellingFeatures,
  type Words,
} from "./telling.ts";
export { TOKEN_TASK_NAMES, TOKEN_TASKS, type TokenTask, type TokenTaskName } from "./token-tasks.ts";
export { Vocabulary } from "./vocabulary.ts";
