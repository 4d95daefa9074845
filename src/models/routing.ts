/**
 * Which earlier layers a layer's keys and values are mixed from (LIMe, arXiv 2502.09245, section 3), and what its router
 * begins as. Layers count from 0.
 */
import type { Rng } from "../util/index.ts";
import { usageError } from "../util/index.ts";
import type { KvRoutingSpec, ModelSpec } from "./spec.ts";

/** The layers that layer `layer` reads, oldest first; its own is the last. */
export function routedLayers({ kvRouting }: Pick<ModelSpec, "kvRouting">, layer: number): number[] {
  const before = Array.from({ length: layer + 1 }, (_, l) => l);
  if (!kvRouting) return [layer];
  const { first, last } = kvRouting;
  if (last !== undefined) return before.slice(-last);
  if (first !== undefined) return before.filter((l) => l < first || l >= layer - 1);
  return before;
}

/** Whether a layer has keys and values of others to mix with its own. */
export const isRouted = (spec: Pick<ModelSpec, "kvRouting">, layer: number): boolean =>
  routedLayers(spec, layer).length > 1;

/** Refuses counts that name no layer. */
export function checkRouting({ kind, first, last }: KvRoutingSpec): void {
  if (first !== undefined && last !== undefined)
    throw usageError("kvRouting: first and last exclude each other; give one of them");
  for (const [name, count] of Object.entries({ first, last })) {
    if (count !== undefined && !(Number.isInteger(count) && count >= 1))
      throw usageError(`kvRouting: ${name} is ${count}, expected a whole number of at least 1`);
  }
  if (kind !== "learned" && kind !== "average")
    throw usageError(`kvRouting: kind is ${JSON.stringify(kind)}, expected "learned" or "average"`);
}

export interface RouterStart {
  readonly heads: number;
  readonly sources: number;
  /** Begin as the identity on the layer's own heads, as the paper does; without it all entries are random. */
  readonly identity: boolean;
}

/**
 * What a learned router begins as, [heads, sources · heads] (App. A): uniform within ±√(3 / fan-in), fan-in = sources · heads
 * (the released code; the paper's listing lacks the brackets), then the identity on the layer's own heads.
 */
export function routerStart({ heads, sources, identity }: RouterStart, rng: Rng): Float32Array {
  const width = sources * heads;
  const bound = Math.sqrt(3 / width);
  const router = rng.fillUniform(new Float32Array(heads * width), -bound, bound);
  const own = width - heads;
  for (let row = 0; identity && row < heads; row++) {
    router.fill(0, row * width + own, (row + 1) * width);
    router[row * width + own + row] = 1;
  }
  return router;
}

/** The router that takes the mean over the sources, head by head. */
export function averageRouter(heads: number, sources: number): Float32Array {
  const width = sources * heads;
  return Float32Array.from({ length: heads * width }, (_, i) =>
    (i % width) % heads === Math.floor(i / width) ? 1 / sources : 0,
  );
}
