/**
 * What a decoder-only transformer is: properties, never family names. A family is data that fills in a spec. A property
 * that is left out is one that the model does not have.
 * d model width · H query heads · G key-value heads · Dh head width.
 */
import type { Activation } from "../tensor/index.ts";
import { inputError } from "../util/index.ts";
import { checkRouting } from "./routing.ts";

/** Frequencies of Llama 3: long wavelengths are stretched by `factor`, short ones left, a ramp in between. */
export interface Llama3Scaling {
  readonly kind: "llama3";
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  /** Context of the unscaled model, in tokens. */
  readonly originalContext: number;
}

/** Angles per position. */
export interface RopeFrequencies {
  readonly theta: number;
  readonly scaling?: Llama3Scaling | { readonly kind: "linear"; readonly factor: number };
}

export interface RopeSpec extends RopeFrequencies {
  readonly kind: "rope";
  /** Share of the head width that turns, rounded down to whole numbers; the rest is left alone. */
  readonly fraction: number;
  /** What layers with a window turn by instead. */
  readonly windowed?: RopeFrequencies;
}

/** A vector for each of `contextLength` positions is added to the embedding. */
export interface LearnedPositions {
  readonly kind: "learned";
}

/** x / rms · (offset + gain). */
export interface RmsNormSpec {
  readonly kind: "rms";
  readonly eps: number;
  /** Added to the stored gain. */
  readonly offset: 0 | 1;
}

/** (x - mean) / deviation · gain + bias. */
export interface LayerNormSpec {
  readonly kind: "layer";
  readonly eps: number;
}

export type MlpActivation = Exclude<Activation, "none">;

export interface MlpSpec {
  /** `gated`: down(activation(gate x) · up x); `plain`: down(activation(up x)). */
  readonly kind: "gated" | "plain";
  readonly activation: MlpActivation;
}

/**
 * Keys and values of a layer are mixed from the layers before it and its own (LIMe, arXiv 2502.09245): from all of them, or
 * from some. A layer that reads no other one has no router. The second version mixes keys and values:
 * - `learned`: a matrix a layer over the heads of all sources, shared by keys and values;
 * - `average`: the mean of each head, nothing learned.
 *
 * The first version mixes what enters the layers, normed by a norm of the reader's, for each key-value head by weights that
 * sum to 1; the head's own matrices make its key and value of the mixture:
 * - `hidden-static`: softmax of learned logits, a number a head and source;
 * - `hidden-dynamic`: softmax of a linear map of what enters the layer, token by token.
 */
export interface KvRoutingSpec {
  readonly kind: "learned" | "average" | "hidden-static" | "hidden-dynamic";
  /** The first so many layers, the one before, and its own. */
  readonly first?: number;
  /** False: with `first`, without the layer before. */
  readonly previous?: boolean;
  /** The last so many layers, its own among them. */
  readonly last?: number;
  /** Layers before this one read their own only. */
  readonly from?: number;
  /** `hidden-static`: a head reads the smallest set of largest weights whose sum reaches this; see `refreshTopP`. */
  readonly topP?: number;
}

/**
 * How what blocks add joins what came before, where that is no plain sum. `dense`: behind every block a learned sum of the
 * embedding and of what left all blocks so far (DenseFormer). `hyper`: n streams that are mixed by weights of their own; norms
 * before attention and MLP are LayerNorms without gain and bias then, of eps 1e-5, as in LIMe's code (Hyper-Connections, dynamic).
 */
export type ResidualSpec = { readonly kind: "dense" } | { readonly kind: "hyper"; readonly streams: number };

export interface ModelSpec {
  readonly vocabSize: number;
  readonly dModel: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly dMlp: number;
  /** Longest sequence the positions were made for, in tokens. */
  readonly contextLength: number;
  readonly norm: RmsNormSpec | LayerNormSpec;
  /** `around`: what attention and MLP add to the stream is normed as well as what they read. Default `before`. */
  readonly normPlacement?: "before" | "around";
  readonly positions: RopeSpec | LearnedPositions;
  readonly mlp: MlpSpec;
  /** All matrices of the MLP have biases. */
  readonly mlpBias?: boolean;
  /** The MLP reads the stream before attention has added to it. */
  readonly parallelResidual?: boolean;
  /** Factor on the embedding. */
  readonly embedScale?: number;
  /** Factor on q·k before the softmax. */
  readonly attnScale: number;
  /** With c > 0, scores become c·tanh(score / c). */
  readonly attnSoftcap: number;
  /** With c > 0, logits become c·tanh(logit / c). */
  readonly logitSoftcap?: number;
  /** Last keys that each layer sees, 0 for all; one entry a layer. */
  readonly windowPattern: readonly number[];
  readonly qkvBias: boolean;
  /** The matrix that attention writes with has a bias. */
  readonly outBias?: boolean;
  /** Queries and keys of each head are normed before they turn; with `norm`, which is then `rms`. */
  readonly qkNorm?: boolean;
  readonly kvRouting?: KvRoutingSpec;
  readonly residual?: ResidualSpec;
  /** The unembedding is the embedding. */
  readonly tiedHead: boolean;
  readonly bosToken?: number;
  readonly eosTokens: readonly number[];
}

const WHOLE = [
  "vocabSize",
  "dModel",
  "nLayers",
  "nHeads",
  "nKvHeads",
  "headDim",
  "dMlp",
  "contextLength",
] as const;

/** Refuses a spec whose numbers do not fit together. */
export function checkSpec(spec: ModelSpec): ModelSpec {
  for (const key of WHOLE) {
    if (!(Number.isInteger(spec[key]) && spec[key] > 0)) {
      throw inputError(`model: ${key} is ${spec[key]}, expected a positive integer`);
    }
  }
  if (spec.nHeads % spec.nKvHeads !== 0) {
    throw inputError(`model: ${spec.nHeads} heads cannot share ${spec.nKvHeads} key-value heads evenly`);
  }
  if (spec.windowPattern.length !== spec.nLayers) {
    throw inputError(
      `model: windowPattern has ${spec.windowPattern.length} entries for ${spec.nLayers} layers`,
    );
  }
  const window = spec.windowPattern.find((w) => !(Number.isInteger(w) && w >= 0));
  if (window !== undefined) {
    throw inputError(`model: a window of ${window} keys; expected a whole number, 0 for all keys`);
  }
  const width = rotaryWidth(spec);
  if (width % 2 !== 0 || width > spec.headDim) {
    throw inputError(`model: rotary width ${width} of ${spec.headDim} is odd or too large`);
  }
  if (spec.qkNorm && spec.norm.kind !== "rms") {
    throw inputError(`model: qkNorm goes with a norm of kind "rms", not "${spec.norm.kind}"`);
  }
  if (spec.kvRouting) checkRouting(spec.kvRouting, spec);
  if (spec.residual) checkResidual(spec, spec.residual);
  if (spec.kvRouting && spec.residual)
    throw inputError("model: routed keys and values go with a plain residual only; leave one of the two out");
  return spec;
}

function checkResidual({ parallelResidual, normPlacement }: ModelSpec, residual: ResidualSpec): void {
  if (residual.kind === "dense") return;
  if (residual.kind !== "hyper")
    throw inputError(`model: residual ${JSON.stringify(residual)}, expected kind "dense" or "hyper"`);
  if (!(Number.isInteger(residual.streams) && residual.streams >= 1))
    throw inputError(`model: ${residual.streams} streams, expected a whole number of at least 1`);
  if (parallelResidual || normPlacement === "around")
    throw inputError(
      "model: several streams go with attention before the MLP and with norms before both only",
    );
}

/** Width of the rotated part of a head; 0 without rotation. */
export function rotaryWidth({ headDim, positions }: ModelSpec): number {
  return positions.kind === "rope" ? Math.floor(headDim * positions.fraction) : 0;
}
