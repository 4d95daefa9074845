/**
 * Which layers' keys and values each layer reads (LIMe, arXiv 2502.09245, section 5.2).
 */

import type { Transformer } from "../models/index.ts";
import { isRouter } from "../models/params.ts";
import { routedLayers } from "../models/routing.ts";
import { usageError } from "../util/index.ts";

export interface LayerRoute {
  /** The layer that reads. */
  readonly layer: number;
  /** Mean over heads of |weight| from each layer up to its own, in shares that add up to 1; 0 for layers that it does not read. */
  readonly shares: readonly number[];
}

/** The read-out of learned routers; the first layer has none. */
export async function routerShares(model: Transformer): Promise<LayerRoute[]> {
  const { spec, slots } = model;
  const routers = slots.filter(isRouter);
  if (routers.length === 0)
    throw usageError(
      "routers: the model has no learned routers; give one that mixes keys and values over its layers",
    );
  const routes: LayerRoute[] = [];
  for (const { role, tensor } of routers) {
    const { layer } = role as { layer: number };
    const sources = routedLayers(spec, layer);
    const weights = await tensor.floats();
    const sums = new Float64Array(layer + 1);
    const width = sources.length * spec.nKvHeads;
    weights.forEach((w, i) => {
      sums[sources[Math.floor((i % width) / spec.nKvHeads)]] += Math.abs(w);
    });
    const total = sums.reduce((a, b) => a + b, 0);
    routes.push({ layer, shares: Array.from(sums, (sum) => (total > 0 ? sum / total : 0)) });
  }
  return routes;
}
