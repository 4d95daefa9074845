/**
 * What a decoder-only transformer is: properties, never family names. A family is data that fills in a spec.
 * d model width · H query heads · G key-value heads · Dh head width.
 */
import { inputError } from "../util/index.ts";

/** Frequencies of Llama 3: long wavelengths are stretched by `factor`, short ones left, a ramp in between. */
export interface Llama3Scaling {
  readonly kind: "llama3";
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  /** Context of the unscaled model, in tokens. */
  readonly originalContext: number;
}

export interface RopeSpec {
  readonly kind: "rope";
  readonly theta: number;
  /** Share of the head width that turns; the rest is left alone. */
  readonly fraction: number;
  readonly scaling?: Llama3Scaling | { readonly kind: "linear"; readonly factor: number };
}

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
  /** `offset` is added to the stored gain. */
  readonly norm: { readonly kind: "rms"; readonly eps: number; readonly offset: 0 | 1 };
  readonly positions: RopeSpec;
  /** `gated`: down(silu(gate x) · up x). */
  readonly mlp: { readonly kind: "gated"; readonly activation: "silu" };
  /** Factor on q·k before the softmax. */
  readonly attnScale: number;
  /** With c > 0, scores become c·tanh(score / c). */
  readonly attnSoftcap: number;
  /** Last keys that each layer sees, 0 for all; one entry a layer. */
  readonly windowPattern: readonly number[];
  readonly qkvBias: boolean;
  /** The unembedding is the embedding. */
  readonly tiedHead: boolean;
  readonly bosToken?: number;
  readonly eosTokens: readonly number[];
}

/** Refuses a spec whose numbers do not fit together. */
export function checkSpec(spec: ModelSpec): ModelSpec {
  const whole = [
    "vocabSize",
    "dModel",
    "nLayers",
    "nHeads",
    "nKvHeads",
    "headDim",
    "dMlp",
    "contextLength",
  ] as const;
  for (const key of whole) {
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
  if (Math.round(spec.headDim * spec.positions.fraction) % 2 !== 0) {
    throw inputError(`model: rotary width ${spec.headDim * spec.positions.fraction} is odd`);
  }
  return spec;
}

/** Width of the rotated part of a head. */
export function rotaryWidth(spec: ModelSpec): number {
  return Math.round(spec.headDim * spec.positions.fraction);
}

/** Number of parameters, all of them and without embedding and head. */
export function parameterCount(spec: ModelSpec): { total: number; blocks: number } {
  const { dModel: d, nHeads, nKvHeads, headDim, dMlp, nLayers, vocabSize } = spec;
  const bias = spec.qkvBias ? (nHeads + 2 * nKvHeads) * headDim : 0;
  const attn = d * headDim * (2 * nHeads + 2 * nKvHeads) + bias;
  const blocks = nLayers * (attn + 3 * d * dMlp + 2 * d);
  return { blocks, total: blocks + d + vocabSize * d * (spec.tiedHead ? 1 : 2) };
}
