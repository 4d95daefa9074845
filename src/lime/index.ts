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
export { type LayerRoute, routerShares } from "./routers.ts";
export {
  type LayerEntropy,
  type LayerStates,
  layerEntropies,
  layerStates,
  type StateKind,
  statePoint,
} from "./states.ts";
