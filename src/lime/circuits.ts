/**
 * Depthwise circuits: what each route, of a layer's key-value head to an earlier layer, is for, told by tokens (LIMe, arXiv
 * 2502.09245v1). `embeddingRoutes` reads the weights of token-dependent routers; `measureCircuits` runs any routed model on text.
 * B batch · T position · N = B·T · S sources, oldest first · G key-value heads · Dh head width · d model width · V vocabulary.
 */
import type { ModelSpec, RmsNormSpec, Transformer } from "../models/index.ts";
import { averageRouter, isRouted, ROUTINGS, routedLayers } from "../models/routing.ts";
import {
  abs,
  add,
  cast,
  concat,
  div,
  expand,
  linear,
  matmul,
  mul,
  reshape,
  rmsNorm,
  slice,
  sqrt,
  square,
  sum,
  type Tensor,
  topk,
} from "../tensor/index.ts";
import { inputError, throwIfAborted, usageError } from "../util/index.ts";

export interface Route {
  /** The layer that reads. */
  readonly layer: number;
  /** The layer that it reads; where streams are mixed, what enters that layer. */
  readonly source: number;
  /** Key-value head of the reader. */
  readonly head: number;
}

export interface TokenShare {
  readonly token: number;
  /** Occurrences that were measured. */
  readonly count: number;
  /** Mean over them. */
  readonly share: number;
  /** (share - the route's mean) / (its deviation / √count). */
  readonly z: number;
}

export interface MeasuredRoute extends Route {
  /** Mean and deviation of the share over all positions; the shares of a head's sources add up to 1. */
  readonly mean: number;
  readonly std: number;
  /** Those whose share lies the most above the mean, the farthest first. */
  readonly tokens: readonly TokenShare[];
}

export interface Circuits {
  /** Positions that were measured; special tokens are left out. */
  readonly positions: number;
  /** Tokens with enough occurrences. */
  readonly vocabulary: number;
  /** All routes: by layer, head and source. */
  readonly routes: readonly MeasuredRoute[];
}

export interface CircuitOptions {
  /** Least occurrences of a token that is named; default 10. */
  readonly minCount?: number;
  /** Most tokens named of a route; default 8. */
  readonly tokens?: number;
  readonly signal?: AbortSignal;
  /** Sequences that were read. */
  readonly onProgress?: (done: number) => void;
}

/** Shares that are apart by less differ by rounding only: they are made of f32. */
const ROUNDING = 1e-6;

/**
 * The share of each route on a text. What source s adds to the values of head h is c_s, a norm: ‖Σ_h' R[s, h', h] V_s[h']‖ where
 * values are mixed, w_s ‖W_V[h] x_s‖ where streams are; its share is c_s / Σ c, or 0 where all of them are 0.
 */
export async function measureCircuits(
  model: Transformer,
  sequences: readonly ArrayLike<number>[],
  { minCount = 10, tokens = 8, signal, onProgress }: CircuitOptions = {},
): Promise<Circuits> {
  const { spec } = model;
  const readers = readersOf(spec);
  const counted = countTokens(spec, sequences, minCount);
  const tallies = readers.map(
    (layer) => new Tally(spec.nKvHeads, routedLayers(spec, layer).length, counted.counts.size),
  );
  for (const [done, ids] of sequences.entries()) {
    throwIfAborted(signal);
    const found = contributions(model, readers, ids);
    for (const [i, tensor] of found.entries()) {
      const norms = await tensor.floats().finally(() => tensor.dispose());
      tallies[i].add(norms, Array.from(ids, counted.placeOf));
    }
    onProgress?.(done + 1);
    await new Promise(setImmediate); // the event loop gets its turn
  }
  const routes = readers.flatMap((layer, i) =>
    routedLayers(spec, layer).flatMap((source, s) =>
      Array.from({ length: spec.nKvHeads }, (_, head) => ({
        layer,
        source,
        head,
        ...tallies[i].read(head, s, { positions: counted.positions, counts: counted.counts, tokens }),
      })),
    ),
  );
  return { positions: counted.positions, vocabulary: counted.counts.size, routes: routes.sort(inOrder) };
}

const inOrder = (a: Route, b: Route): number => a.layer - b.layer || a.head - b.head || a.source - b.source;

/** Routes from one layer to another, by mean share, largest first: a layer's own is left out. */
export function rankRoutes(routes: readonly MeasuredRoute[]): MeasuredRoute[] {
  return routes
    .filter(({ layer, source }) => layer !== source)
    .sort((a, b) => b.mean - a.mean || inOrder(a, b));
}

function readersOf(spec: ModelSpec): number[] {
  const readers = Array.from({ length: spec.nLayers }, (_, l) => l).filter((l) => isRouted(spec, l));
  if (readers.length > 0) return readers;
  throw usageError(
    "circuits: no layer of the model reads another one; give a model that routes keys and values",
  );
}

interface Counted {
  readonly positions: number;
  /** Occurrences of each token that has enough of them. */
  readonly counts: ReadonlyMap<number, number>;
  /** Number of a token among those; -1 for others, -2 where nothing is measured. */
  readonly placeOf: (token: number) => number;
}

function countTokens(
  { bosToken, eosTokens }: ModelSpec,
  sequences: readonly ArrayLike<number>[],
  minCount: number,
): Counted {
  const special = new Set([bosToken, ...eosTokens]);
  const all = new Map<number, number>();
  let positions = 0;
  for (const ids of sequences) {
    for (const id of Array.from(ids).filter((id) => !special.has(id))) {
      all.set(id, (all.get(id) ?? 0) + 1);
      positions++;
    }
  }
  const counts = new Map([...all].filter(([, n]) => n >= minCount).sort(([a], [b]) => a - b));
  if (counts.size === 0) {
    const most = Math.max(0, ...all.values());
    throw inputError(
      `circuits: no token occurs ${minCount} times in ${positions} positions, the most frequent ${most} times; give more text, or a smaller least count`,
    );
  }
  const places = new Map([...counts.keys()].map((id, i) => [id, i]));
  return { positions, counts, placeOf: (id) => (special.has(id) ? -2 : (places.get(id) ?? -1)) };
}

/** Sums of the shares of one reader. */
class Tally {
  readonly #heads: number;
  readonly #sources: number;
  readonly #places: number;
  readonly #sum: Float64Array; // [G·S]
  readonly #squares: Float64Array;
  readonly #byToken: Float64Array; // [G·S, places]

  constructor(heads: number, sources: number, places: number) {
    this.#heads = heads;
    this.#sources = sources;
    this.#places = places;
    this.#sum = new Float64Array(heads * sources);
    this.#squares = new Float64Array(heads * sources);
    this.#byToken = new Float64Array(heads * sources * places);
  }

  /** Norms [N, G, S], and the place of each of the N tokens. */
  add(norms: Float32Array, places: readonly number[]): void {
    const S = this.#sources;
    const routes = this.#heads * S;
    for (const [n, place] of places.entries()) {
      if (place === -2) continue;
      for (let first = 0; first < routes; first += S) {
        let total = 0;
        for (let s = 0; s < S; s++) total += norms[n * routes + first + s];
        for (let route = first; route < first + S && total > 0; route++) {
          const share = norms[n * routes + route] / total;
          this.#sum[route] += share;
          this.#squares[route] += share * share;
          if (place >= 0) this.#byToken[route * this.#places + place] += share;
        }
      }
    }
  }

  read(
    head: number,
    source: number,
    { positions, counts, tokens }: Pick<Counted, "positions" | "counts"> & { readonly tokens: number },
  ): Pick<MeasuredRoute, "mean" | "std" | "tokens"> {
    const route = head * this.#sources + source;
    const mean = this.#sum[route] / positions;
    const spread = this.#squares[route] - positions * mean * mean;
    const std = Math.sqrt(Math.max(0, spread) / Math.max(1, positions - 1));
    const above = [...counts]
      .map(([token, count], place) => {
        const share = this.#byToken[route * this.#places + place] / count;
        return { token, count, share, z: ((share - mean) * Math.sqrt(count)) / std };
      })
      .filter(({ share }) => share - mean > ROUNDING)
      .sort((a, b) => b.share - a.share || a.token - b.token);
    return { mean, std, tokens: above.slice(0, tokens) };
  }
}

/** Norms of what each source adds, [N, G, S] a reader. */
function contributions(model: Transformer, readers: readonly number[], ids: ArrayLike<number>): Tensor[] {
  const { device, spec } = model;
  const mixesStreams = spec.kvRouting !== undefined && ROUTINGS[spec.kvRouting.kind].mixes === "streams";
  const sources = [...new Set(readers.flatMap((l) => routedLayers(spec, l)))];
  const made = (l: number) => `blocks.${l}.${mixesStreams ? "hook_resid_pre" : "attn.hook_v"}`;
  const weights = (l: number) => `blocks.${l}.attn.hook_route`;
  return device.scope(() => {
    const tokens = device.tensor(Int32Array.from(ids), [1, ids.length], "i32");
    const capture = [...sources.map(made), ...(mixesStreams ? readers.map(weights) : [])];
    const { captured } = model.forward(tokens, { capture, stopEarly: true });
    return readers.map((l) => {
      const from = routedLayers(spec, l).map((source) => captured[made(source)]);
      const norms = mixesStreams
        ? ofStreams(model, l, { streams: from, weights: captured[weights(l)] })
        : ofValues(model, l, from);
      return concat(norms, 2);
    });
  });
}

/** Of mixed values: [N, G, 1] a source. */
function ofValues({ device, params, spec }: Transformer, layer: number, values: readonly Tensor[]): Tensor[] {
  const { nKvHeads: G, headDim: Dh } = spec;
  const S = values.length;
  const router = params.blocks[layer].router ?? device.tensor(averageRouter(G, S), [G, S * G]);
  return values.map((v, s) => {
    const N = v.size / (G * Dh);
    const block = expand(slice(router, [0, s * G], [G, G]), [N, G, G]);
    return normsOf(matmul(block, reshape(v, [N, G, Dh])));
  });
}

/** Of mixed streams: what the heads' own parts of the matrix make of each, without the bias, which is of no source. */
function ofStreams(
  { params, spec }: Transformer,
  layer: number,
  { streams, weights }: { readonly streams: readonly Tensor[]; readonly weights: Tensor },
): Tensor[] {
  const { nKvHeads: G, headDim: Dh } = spec;
  const { routeNorm, wV } = params.blocks[layer];
  if (!routeNorm) throw new Error(`circuits: layer ${layer} has no norm of its streams`);
  const norm = spec.norm as RmsNormSpec; // checked with the spec
  return streams.map((x, s) => {
    const [B, T] = x.shape;
    const values = reshape(linear(rmsNorm(x, routeNorm, norm), wV), [B * T, G, Dh]);
    const weight = reshape(slice(weights, [0, 0, 0, s], [B, T, G, 1]), [B * T, G, 1]);
    return mul(abs(weight), normsOf(values));
  });
}

/** [N, G, Dh] -> [N, G, 1] */
const normsOf = (x: Tensor): Tensor => sqrt(sum(square(x), { axes: [2], keepDims: true }));

export interface RouteLogits extends Route {
  /** The tokens that the router gives the largest logits, the largest first. */
  readonly tokens: readonly { readonly token: number; readonly logit: number }[];
}

/**
 * What token-dependent routers make of the vocabulary itself: each row of the embedding, divided by the gain of the final norm,
 * passed through the norm of the layer's streams, times the router's matrix. Logits, before the softmax over sources. The first
 * `vocabulary` tokens are looked at (default all) but for special ones.
 */
export async function embeddingRoutes(
  model: Transformer,
  { tokens = 8, vocabulary }: { readonly tokens?: number; readonly vocabulary?: number } = {},
): Promise<RouteLogits[]> {
  const { spec, params, device } = model;
  if (spec.kvRouting?.kind !== "hidden-dynamic")
    throw usageError('embeddingRoutes: weights depend on the token only in routers of kind "hidden-dynamic"');
  const norm = spec.norm as RmsNormSpec; // checked with the spec
  if ((await params.lnFinal.floats()).some((gain) => gain + norm.offset === 0))
    throw inputError("embeddingRoutes: the gain of the final norm has a 0, which nothing can be divided by");
  const special = new Set([spec.bosToken, ...spec.eosTokens]);
  const V = Math.min(vocabulary ?? spec.vocabSize, spec.vocabSize);
  const routes: RouteLogits[] = [];
  for (const layer of readersOf(spec)) {
    const { routeNorm, routeOf } = params.blocks[layer];
    if (!routeNorm || !routeOf) throw new Error(`embeddingRoutes: layer ${layer} has no router`);
    const best = device.scope(() => {
      const rows = cast(slice(params.embed, [0, 0], [V, spec.dModel]), "f32");
      const bare = div(rows, add(params.lnFinal, norm.offset));
      const logits = linear(routeOf, rmsNorm(bare, routeNorm, norm)); // [G·S, V]
      return topk(logits, { k: Math.min(tokens + special.size, V) });
    });
    const [values, indices] = [await best.values.floats(), await best.indices.ints()];
    const k = best.values.shape[1];
    best.values.dispose();
    best.indices.dispose();
    const sources = routedLayers(spec, layer);
    for (let row = 0; row < routeOf.shape[0]; row++) {
      const found = Array.from({ length: k }, (_, i) => ({
        token: indices[row * k + i],
        logit: values[row * k + i],
      }));
      routes.push({
        layer,
        source: sources[row % sources.length],
        head: Math.floor(row / sources.length),
        tokens: found.filter(({ token }) => !special.has(token)).slice(0, tokens),
      });
    }
  }
  return routes;
}
