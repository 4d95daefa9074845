/**
 * What features mean: where they fire, what they write, which are worth a look.
 */
export { FeatureActivations } from "./activations-table.ts";
export { type Context, type Peak, topContexts, topPeaks } from "./contexts.ts";
export { type LogitEffects, type LogitOptions, logitEffects, nearestFeatures } from "./logits.ts";
export {
  type Telling,
  type TellingKind,
  type TellingOptions,
  tellingFeatures,
  type Words,
} from "./telling.ts";
