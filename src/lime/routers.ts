/**
 * Which layers each layer's keys and values are made of, as far as the weights alone tell (LIMe, arXiv 2502.09245, section 5.2).
 */

import type { Transformer } from "../models/index.ts";
import type { BlockParams } from "../models/params.ts";
import { routedLayers } from "../models/routing.ts";
import { staticWeights } from "../models/streams.ts";
import { usageError } from "../util/index.ts";

export interface LayerRoute {
  /** The layer that reads. */
  readonly layer: number;
  /** Mean over heads of |weight| from each layer up to its own, in shares that add up to 1; 0 for layers that it does not read. */
  readonly shares: readonly number[];
}

/** The read-out of learned routers; layers that read their own only have none. */
export async function routerShares(model: Transformer): Promise<LayerRoute[]> {
  const { spec, params } = model;
  const { nKvHeads: G } = spec;
  const routes: LayerRoute[] = [];
  for (const [layer, block] of params.blocks.entries()) {
    const weights = await fixedWeights(model, block);
    if (!weights) continue;
    const sources = routedLayers(spec, layer);
    const columns = weights.length / G;
    const sums = new Float64Array(layer + 1);
    weights.forEach((w, i) => {
      sums[sources[Math.floor(((i % columns) * sources.length) / columns)]] += Math.abs(w);
    });
    const total = sums.reduce((a, b) => a + b, 0);
    routes.push({ layer, shares: Array.from(sums, (sum) => (total > 0 ? sum / total : 0)) });
  }
  if (routes.length > 0) return routes;
  throw usageError(
    spec.kvRouting?.kind === "hidden-dynamic"
      ? "routers: the weights of this model depend on the token; measure them on a text with `sluice lime circuits`"
      : "routers: the model has no learned routers; give one that mixes keys and values over its layers",
  );
}

/** Weights that are the same for all tokens, [G, columns], columns by source first; undefined where there are none. */
async function fixedWeights({ device }: Transformer, block: BlockParams): Promise<Float32Array | undefined> {
  const { router, routeLogits, routeMask } = block;
  if (router) return router.floats();
  if (!routeLogits) return undefined;
  const weights = device.scope(() => staticWeights(routeLogits, routeMask));
  return weights.floats().finally(() => weights.dispose());
}
