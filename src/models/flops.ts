/**
 * Floating-point operations of a forward pass, counted from the spec. 2 for each multiply-accumulate; norms, activations,
 * rotation, softmax, biases and plain sums are left out, unless the convention of LIMe's code is asked for.
 * d model width · L layers · H query heads · G key-value heads · Dh head width · F MLP width · T window · n streams.
 */
import { usageError } from "../util/index.ts";
import { routedLayers } from "./routing.ts";
import type { ModelSpec } from "./spec.ts";

export interface Flops {
  /** Queries, keys, values and output: 2 · d · Dh · (2 H + 2 G) a layer. */
  readonly projections: number;
  /** Scores and weighted values: 4 · H · Dh a layer and key. */
  readonly attention: number;
  /**
   * Keys and values mixed over the layers: 2 · 2 · Dh · G · G · sources a layer. The mean is computed, and counted, the same.
   * Streams mixed for each head: 2 · d · G · sources, and as much again for weights that depend on the token.
   */
  readonly routing: number;
  /** 2 · d · F for each of two or three matrices a layer. */
  readonly mlp: number;
  /** What reads and writes streams: 4 · d · n · (n + 2) a module (Hyper-Connections). */
  readonly connections: number;
  /** Sums over depth: 2 · d · (l + 2) behind block l (DenseFormer). */
  readonly depth: number;
  /** 2 · V · d. The embedding is looked up and costs nothing. */
  readonly unembedding: number;
  /** Everything that is no product; 0 except in the convention `lime`. */
  readonly elementwise: number;
  readonly total: number;
}

export interface FlopsOptions {
  /** T, tokens of a window that are read at once; default the model's context. */
  readonly window?: number;
  /**
   * Keys that a query is counted with. `all` (default): T, as papers count, although a causal mask throws half away; `seen`:
   * those that the mask and the layer's window leave it, (T + 1) / 2 on average without a window.
   */
  readonly keys?: "all" | "seen";
  /**
   * `products` (default): 2 for each multiply-accumulate. `lime`: as `src/utils/flops_counter.py` of corl-team/lime counts for
   * the overheads of arXiv 2502.09245: linear layers, routing and streams 1 for each multiply-accumulate, attention 2 and 3
   * for each score, and everything between them. About 0.56 times the other at 1 B parameters.
   */
  readonly convention?: "products" | "lime";
}

/** A training step is counted as this many forward passes: gradients of what was read and of the parameters cost one each. */
export const TRAINING_PASSES = 3;

/** Of a forward pass, for each token: the mean over a window, all logits formed. */
export function forwardFlops(spec: ModelSpec, options: FlopsOptions = {}): Flops {
  const { window = spec.contextLength, keys = "all", convention = "products" } = options;
  if (!(Number.isInteger(window) && window > 0))
    throw usageError(`forwardFlops: a window of ${window} tokens, expected a whole number of at least 1`);
  if (convention === "products") return total(products(spec, window, keys));
  if (keys !== "all") throw usageError('forwardFlops: convention "lime" counts all keys; leave keys out');
  return total(limeCount(spec, window));
}

/** Of training, for each token: forward and backward. */
export const trainingFlops = (spec: ModelSpec, options: FlopsOptions = {}): number =>
  TRAINING_PASSES * forwardFlops(spec, options).total;

type Parts = Omit<Flops, "total">;

const total = (parts: Parts): Flops => ({ ...parts, total: sumOf(Object.values(parts)) });

const sumOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

function products(spec: ModelSpec, window: number, keys: "all" | "seen"): Parts {
  const { dModel: d, dMlp, nHeads: H, nKvHeads: G, headDim: Dh, nLayers: L, vocabSize, mlp } = spec;
  const each = (of: (layer: number) => number) => sumOf(Array.from({ length: L }, (_, layer) => of(layer)));
  const seen = (layer: number) => (keys === "all" ? window : keysSeen(window, spec.windowPattern[layer]));
  return {
    projections: 2 * L * d * Dh * (2 * H + 2 * G),
    attention: each((layer) => 4 * H * Dh * seen(layer)),
    routing: each((layer) => routingFlops(spec, layer)),
    mlp: 2 * L * d * dMlp * (mlp.kind === "gated" ? 3 : 2),
    connections: 2 * L * streamFlops(spec),
    depth: spec.residual?.kind === "dense" ? each((layer) => 2 * d * (layer + 2)) : 0,
    unembedding: 2 * vocabSize * d,
    elementwise: 0,
  };
}

/** Keys that a query of a causal window sees on average: 1, 2, 3 … up to `window`, or up to `most` with most > 0. */
function keysSeen(window: number, most: number): number {
  const full = most > 0 ? Math.min(most, window) : window;
  return ((full * (full + 1)) / 2 + (window - full) * full) / window;
}

function routingFlops(spec: ModelSpec, layer: number): number {
  const { kvRouting, nKvHeads: G, headDim: Dh, dModel: d } = spec;
  const sources = routedLayers(spec, layer).length;
  if (!kvRouting || sources === 1) return 0;
  switch (kvRouting.kind) {
    case "learned":
    case "average":
      return 2 * 2 * Dh * G * G * sources;
    case "hidden-static":
      return 2 * d * G * sources;
    case "hidden-dynamic":
      return 2 * 2 * d * G * sources;
    default:
      return kvRouting.kind satisfies never;
  }
}

/** Of one module: the two products that make its weights, the mixture [n + 1, n] × [n, d], and what is added to n streams. */
function streamFlops({ residual, dModel: d }: ModelSpec): number {
  if (residual?.kind !== "hyper") return 0;
  const { streams: n } = residual;
  return 2 * d * (n * (n + 1) + n + (n + 1) * n + n);
}

/** What fvcore finds in the PyTorch models of LIMe's authors with their handlers; for models of their layouts only. */
function limeCount(spec: ModelSpec, window: number): Parts {
  const { dModel: d, dMlp, nHeads: H, nKvHeads: G, headDim: Dh, nLayers: L } = spec;
  checkLimeLayout(spec);
  const p = products(spec, window, "all");
  const streams = spec.residual?.kind === "hyper" ? spec.residual.streams : 0;
  const rms = 5 * d + 7; // square 2, mean 1, two products; eps 1 and root 6 for each token
  const around = streams > 0 ? limeStreams(streams, d) : { products: 0, rest: rms + d }; // norm and residual sum
  const turned = 3.5 * (H + G) * Dh; // two products, a sum, half of the signs
  const angles = 32 * Dh + Dh / 2; // cosine and sine 15 each, a scale for both, the angle; once, not for each layer
  return {
    projections: p.projections / 2,
    attention: p.attention + 3 * H * window * L,
    routing: p.routing / 2,
    mlp: p.mlp / 2,
    connections: 2 * L * around.products,
    depth: 0,
    unembedding: p.unembedding / 2,
    elementwise: L * (2 * around.rest + 2 * dMlp + turned) + rms + angles,
  };
}

/**
 * One module among n streams. The product that adds to each stream is an einsum without a sum, of which fvcore counts half.
 * The sum of the streams at the end is in the authors' handlers, but not in the digits of their table: it is left out.
 */
function limeStreams(n: number, d: number): { products: number; rest: number } {
  const weights = n * (n + 2); // tanh, product and sum for each
  const norms = 4 * n * d + 4 * d; // of the streams and of what the module reads, both without a gain
  return {
    products: d * (n * (n + 1) + n + (n + 1) * n) + (n * d) / 2,
    rest: norms + 3 * weights + n * d,
  };
}

function checkLimeLayout(spec: ModelSpec): void {
  const {
    norm,
    normPlacement = "before",
    positions,
    mlp,
    qkvBias,
    outBias,
    mlpBias,
    qkNorm,
    residual,
  } = spec;
  const llama =
    norm.kind === "rms" &&
    normPlacement === "before" &&
    positions.kind === "rope" &&
    positions.fraction === 1 &&
    mlp.kind === "gated" &&
    mlp.activation === "silu" &&
    !(qkvBias || outBias || mlpBias || qkNorm || spec.parallelResidual || spec.attnSoftcap);
  const hidden = spec.kvRouting?.kind === "hidden-static" || spec.kvRouting?.kind === "hidden-dynamic";
  if (!llama || hidden || residual?.kind === "dense")
    throw usageError(
      'forwardFlops: convention "lime" is defined for Llamas, ones with routed keys and values and ones with streams; count this model with "products"',
    );
}
