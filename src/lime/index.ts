/**
 * Looking into models layer by layer, above all into those that route keys and values over their layers.
 */
export {
  type CircuitOptions,
  type Circuits,
  embeddingRoutes,
  type MeasuredRoute,
  measureCircuits,
  type Route,
  type RouteLogits,
  rankRoutes,
  type TokenShare,
} from "./circuits.ts";
export { ENTROPY_ORDER, gramEigenvalues, matrixEntropy, standardize } from "./entropy.ts";
export { splitFusedKv } from "./released.ts";
export { type LayerRoute, type LayerRouter, layerRouters, routerShares, sharesOf } from "./routers.ts";
export {
  findOccurrences,
  type LayerSeparability,
  layerSeparability,
  OCCURRENCES_PER_WORD,
  type OccurrenceOptions,
  type OccurrenceStates,
  type Occurrences,
  occurrenceStates,
  type Place,
  SEPARABLE_WORDS,
  type SeparabilityOptions,
  type SeparabilityProgress,
  wordTokens,
} from "./separability.ts";
export {
  type CrossValidation,
  crossValidate,
  fitSoftmaxProbe,
  type ProbeSamples,
  type ProbeTraining,
  probeAccuracy,
  probeLoss,
  stratifiedFolds,
} from "./softmax-probe.ts";
export {
  type LayerEntropy,
  type LayerStates,
  layerEntropies,
  layerStates,
  STATE_KINDS,
  type StateKind,
  statePoint,
} from "./states.ts";
