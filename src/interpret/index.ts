/**
 * What features mean: where they fire, what they write, which are worth a look.
 */
export { FeatureActivations } from "./activations-table.ts";
export { type Context, type Peak, topContexts, topPeaks } from "./contexts.ts";
export {
  FeatureBuild,
  type FeatureBuildOptions,
  type FinishOptions,
  type TokenRow,
} from "./feature-build.ts";
export {
  type Control,
  type Example,
  type ExampleQuery,
  type Feature,
  FeatureDatabase,
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
export { type LogitEffects, type LogitOptions, logitEffects, nearestFeatures } from "./logits.ts";
export { tokenEntropy } from "./proxies.ts";
export {
  type Telling,
  type TellingKind,
  type TellingOptions,
  tellingFeatures,
  type Words,
} from "./telling.ts";
export { Vocabulary } from "./vocabulary.ts";
