/**
 * Which layers each layer's keys and values are made of, as far as the weights alone tell (LIMe, arXiv 2502.09245, section 5.2).
 */

import type { Transformer } from "../models/index.ts";
import type { BlockParams } from "../models/params.ts";
import { routedLayers } from "../models/routing.ts";
import { staticWeights } from "../models/streams.ts";
import { usageError } from "../util/index.ts";

/** G key-value heads · S layers that are read. */
export interface LayerRouter {
  /** The layer that reads. */
  readonly layer: number;
  readonly heads: number;
  /** The layers that it reads, oldest first; its own is the last. */
  readonly sources: readonly number[];
  /** [G, S·G]: by head that reads, and by layer and head that is read. Where streams are mixed, each head has its own only. */
  readonly weights: Float32Array;
}

/** Learned routers as they are; layers that read their own only have none. `name` is what a message calls the model. */
export async function layerRouters(model: Transformer, name = "the model"): Promise<LayerRouter[]> {
  const { spec, params } = model;
  const found: LayerRouter[] = [];
  for (const [layer, block] of params.blocks.entries()) {
    const weights = await fixedWeights(model, block);
    if (weights) found.push({ layer, heads: spec.nKvHeads, sources: routedLayers(spec, layer), weights });
  }
  if (found.length > 0) return found;
  throw usageError(
    spec.kvRouting?.kind === "hidden-dynamic"
      ? `routers: the weights of ${name} depend on the token; measure them on a text with \`sluice lime circuits\``
      : `routers: ${name} has no learned routers; give one that mixes keys and values over its layers`,
  );
}

/** Weights that are the same for all tokens, [G, S·G]; undefined where there are none. */
async function fixedWeights(
  { device, spec }: Transformer,
  { router, routeLogits, routeMask }: BlockParams,
): Promise<Float32Array | undefined> {
  if (router) return router.floats();
  if (!routeLogits) return undefined;
  const weights = device.scope(() => staticWeights(routeLogits, routeMask)); // [G, S]: a head mixes streams for itself
  const own = await weights.floats().finally(() => weights.dispose());
  const { nKvHeads: G } = spec;
  const S = own.length / G;
  const all = new Float32Array(G * S * G);
  own.forEach((w, i) => {
    const [head, source] = [Math.floor(i / S), i % S];
    all[(head * S + source) * G + head] = w;
  });
  return all;
}

export interface LayerRoute {
  /** The layer that reads. */
  readonly layer: number;
  /** Mean over heads of |weight| from each layer up to its own, in shares that add up to 1; 0 for layers that it does not read. */
  readonly shares: readonly number[];
}

export function sharesOf({ layer, heads, sources, weights }: LayerRouter): LayerRoute {
  const sums = new Float64Array(layer + 1);
  const width = sources.length * heads;
  weights.forEach((w, i) => {
    sums[sources[Math.floor((i % width) / heads)]] += Math.abs(w);
  });
  const total = sums.reduce((a, b) => a + b, 0);
  return { layer, shares: Array.from(sums, (sum) => (total > 0 ? sum / total : 0)) };
}

/** The read-out of learned routers; layers that read their own only have none. */
export const routerShares = async (model: Transformer): Promise<LayerRoute[]> =>
  (await layerRouters(model)).map(sharesOf);
