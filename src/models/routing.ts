/**
 * Which earlier layers a layer's keys and values are mixed from (LIMe, arXiv 2502.09245, section 3), and what its router
 * begins as. Layers count from 0. The stream of layer l is what enters it, so that of layer 0 is the embedding.
 */
import type { Rng } from "../util/index.ts";
import { inputError, usageError } from "../util/index.ts";
import type { KvRoutingSpec, ModelSpec } from "./spec.ts";

/** What is mixed, and whether the weights are learned. */
interface Routing {
  readonly mixes: "keysAndValues" | "streams";
  readonly learns: boolean;
}

export const ROUTINGS: Readonly<Record<KvRoutingSpec["kind"], Routing>> = {
  learned: { mixes: "keysAndValues", learns: true },
  average: { mixes: "keysAndValues", learns: false },
  "hidden-static": { mixes: "streams", learns: true },
  "hidden-dynamic": { mixes: "streams", learns: true },
};

/** The layers that layer `layer` reads, oldest first; its own is the last. */
export function routedLayers({ kvRouting }: Pick<ModelSpec, "kvRouting">, layer: number): number[] {
  const before = Array.from({ length: layer + 1 }, (_, l) => l);
  if (!kvRouting) return [layer];
  const { first, previous = true, last, from = 0 } = kvRouting;
  if (layer < from) return [layer];
  if (last !== undefined) return before.slice(-last);
  if (first !== undefined)
    return before.filter((l) => l < first || l === layer || (previous && l === layer - 1));
  return before;
}

/** Whether a layer has keys and values of others to mix with its own. */
export const isRouted = (spec: Pick<ModelSpec, "kvRouting">, layer: number): boolean =>
  routedLayers(spec, layer).length > 1;

/** Whether a layer mixes what others have made of their streams, or the streams themselves. */
export const routes = (spec: Pick<ModelSpec, "kvRouting">, layer: number, mixes: Routing["mixes"]): boolean =>
  isRouted(spec, layer) && spec.kvRouting !== undefined && ROUTINGS[spec.kvRouting.kind].mixes === mixes;

/** Refuses counts that name no layer, and what does not go together. */
export function checkRouting(
  { kind, first, previous, last, from, topP }: KvRoutingSpec,
  { nLayers, norm }: Pick<ModelSpec, "nLayers" | "norm">,
): void {
  if (!Object.hasOwn(ROUTINGS, kind)) {
    const kinds = Object.keys(ROUTINGS).map((k) => JSON.stringify(k));
    throw usageError(`kvRouting: kind is ${JSON.stringify(kind)}, expected one of ${kinds.join(", ")}`);
  }
  if (first !== undefined && last !== undefined)
    throw usageError("kvRouting: first and last exclude each other; give one of them");
  if (previous !== undefined && first === undefined)
    throw usageError("kvRouting: previous goes with first; leave it out");
  for (const [name, count] of Object.entries({ first, last, from })) {
    if (count !== undefined && !(Number.isInteger(count) && count >= 1))
      throw usageError(`kvRouting: ${name} is ${count}, expected a whole number of at least 1`);
  }
  if (from !== undefined && from >= nLayers)
    throw usageError(`kvRouting: from is ${from}, but the last of ${nLayers} layers is ${nLayers - 1}`);
  if (topP !== undefined && kind !== "hidden-static")
    throw usageError(
      `kvRouting: topP goes with kind "hidden-static", not ${JSON.stringify(kind)}; leave it out`,
    );
  if (topP !== undefined && !(topP > 0 && topP < 1))
    throw usageError(
      `kvRouting: topP is ${topP}, expected a number between 0 and 1; leave it out to keep all`,
    );
  if (ROUTINGS[kind].mixes === "streams" && norm.kind !== "rms")
    throw inputError(`model: kvRouting of kind "${kind}" goes with a norm of kind "rms", not "${norm.kind}"`);
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
