/**
 * Which layers' keys and values each layer reads (LIMe, arXiv 2502.09245, section 5.2).
 */

import type { Transformer } from "../models/index.ts";
import { isRouter } from "../models/params.ts";
import { routedLayers } from "../models/routing.ts";
import { usageError } from "../util/index.ts";

/** G key-value heads · S layers that are read. */
export interface LayerRouter {
  /** The layer that reads. */
  readonly layer: number;
  readonly heads: number;
  /** The layers that it reads, oldest first; its own is the last. */
  readonly sources: readonly number[];
  /** [G, S·G]: by head that reads, and by layer and head that is read. */
  readonly weights: Float32Array;
}

/** Learned routers as they are; the first layer has none. `name` is what a message calls the model. */
export async function layerRouters(model: Transformer, name = "the model"): Promise<LayerRouter[]> {
  const { spec, slots } = model;
  const routers = slots.filter(isRouter);
  if (routers.length === 0)
    throw usageError(
      `routers: ${name} has no learned routers; give one that mixes keys and values over its layers`,
    );
  const found: LayerRouter[] = [];
  for (const { role, tensor } of routers) {
    const { layer } = role as { layer: number };
    const weights = await tensor.floats();
    found.push({ layer, heads: spec.nKvHeads, sources: routedLayers(spec, layer), weights });
  }
  return found;
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

/** The read-out of learned routers; the first layer has none. */
export const routerShares = async (model: Transformer): Promise<LayerRoute[]> =>
  (await layerRouters(model)).map(sharesOf);
