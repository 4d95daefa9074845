/**
 * What features mean: where they fire, what they write.
 */
export { FeatureActivations } from "./activations-table.ts";
export { type Context, type Telling, type TellingOptions, tellingFeatures, topContexts } from "./contexts.ts";
export { type LogitEffects, logitEffects, nearestFeatures } from "./logits.ts";
