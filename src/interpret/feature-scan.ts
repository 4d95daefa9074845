/**
 * One pass over a text, counted as it comes in memory that does not grow with the text.
 * F features · T tokens of a context · K slots of a token · W tokens of a window.
 *
 * An example is the peak of a feature in one context, with the window around it. Two choices are kept: the `top` highest
 * peaks, and a sample of `sample` drawn uniformly from all contexts in which the feature fires: those of the smallest
 * priorities, which are hashes of seed, feature and context, so that the choice depends on no order. Whatever could still be
 * among them goes to the log; the final choice is made from the log.
 */
import { mix32 } from "../text/index.ts";
import { inputError, usageError } from "../util/index.ts";
import { DoublingHistograms, HISTOGRAM_BINS } from "./doubling-histogram.ts";
import { ExampleLog } from "./example-log.ts";
import { PairCounts } from "./pair-counts.ts";
import { SmallestOf } from "./smallest.ts";

export interface ScanOptions {
  readonly features: number;
  readonly vocabSize: number;
  /** T */
  readonly context: number;
  /** Highest peaks to keep of each feature. */
  readonly top: number;
  /** Peaks to draw of each feature. */
  readonly sample: number;
  /** Tokens of a window on each side of its peak: W is twice that and one. */
  readonly side: number;
  readonly seed: number;
  /** Tokens on which no feature counts as firing. */
  readonly silent: ReadonlySet<number>;
  /** Tokens that no window reaches across: they begin and end documents. */
  readonly borders: ReadonlySet<number>;
  /** Contexts from which a window is kept whatever fires in it, by number. */
  readonly controls: ReadonlySet<number>;
  /** Examples to hold before they are written out, and a quarter of the pairs; default 131,072. */
  readonly logRows?: number;
}

/** Sparse codes of whole contexts, one after another: K slots a token, of which those with value 0 are unused. */
export interface ScanBatch {
  /** [n · T] */
  readonly tokens: Int32Array;
  /** [n · T · K] */
  readonly values: Float32Array;
  /** [n · T · K] */
  readonly indices: Int32Array;
}

/** A window chosen without regard to what fires in it. */
export interface ControlRecord {
  readonly context: number;
  /** Of the first token in its context. */
  readonly position: number;
  readonly tokens: Int32Array;
  /** Features that fire in it, ascending. */
  readonly features: readonly number[];
}

/** What is counted of each feature, [F], and of each token of the vocabulary. */
export interface Counters {
  /** Tokens on which it fired. */
  readonly firings: Uint32Array;
  /** Contexts in which it fired. */
  readonly contexts: Uint32Array;
  /** Sum of its values. */
  readonly sums: Float64Array;
  /** Sum over the contexts in which it fired of the share of tokens on which it did. */
  readonly shares: Float64Array;
  readonly maxima: Float32Array;
  /** How often each token was read and not silent, [V]. */
  readonly tokens: Uint32Array;
}

/** Bytes of memory that a scan takes for each feature, besides the logs. */
export const bytesPerFeature = ({ top, sample }: Pick<ScanOptions, "top" | "sample">): number =>
  4 * (top + sample + HISTOGRAM_BINS) + 54;

export class FeatureScan {
  readonly options: ScanOptions;
  readonly counters: Counters;
  readonly histograms: DoublingHistograms;
  /** Of the negated peaks. */
  readonly top: SmallestOf<Float32Array>;
  /** Of the priorities. */
  readonly sample: SmallestOf<Uint32Array>;
  /** Since the last `clear`: what could be an example, how often feature and token met, and control windows. */
  readonly log: ExampleLog;
  readonly pairs: PairCounts;
  readonly controls: ControlRecord[] = [];
  /** Contexts read. */
  contexts = 0;
  /** Tokens read that were not silent. */
  measured = 0;
  readonly #silent: Uint8Array;
  readonly #borders: Uint8Array;
  // Of the context at hand: firings of each feature and where they begin in the two arrays sorted by feature.
  readonly #fired: Int32Array;
  readonly #begin: Int32Array;
  #positions = new Int32Array(0);
  #values = new Float32Array(0);

  constructor(options: ScanOptions) {
    const { features: F, vocabSize: V, top, sample, side, logRows = 1 << 17 } = options;
    for (const [name, value] of Object.entries({ top, sample, side, logRows })) {
      if (!Number.isSafeInteger(value) || value < 1)
        throw usageError(`feature scan: ${name}=${value} must be a whole number of at least 1`);
    }
    this.options = options;
    this.counters = {
      firings: new Uint32Array(F),
      contexts: new Uint32Array(F),
      sums: new Float64Array(F),
      shares: new Float64Array(F),
      maxima: new Float32Array(F),
      tokens: new Uint32Array(V),
    };
    this.histograms = DoublingHistograms.of(F);
    this.top = new SmallestOf(top, new Float32Array(F * top), new Int32Array(F));
    this.sample = new SmallestOf(sample, new Uint32Array(F * sample), new Int32Array(F));
    this.log = new ExampleLog(2 * side + 1, logRows);
    this.pairs = new PairCounts(V, 4 * logRows);
    this.#silent = mask(V, options.silent);
    this.#borders = mask(V, options.borders);
    this.#fired = new Int32Array(F);
    this.#begin = new Int32Array(F);
  }

  /** Counts the next contexts of the text. */
  add({ tokens, values, indices }: ScanBatch): void {
    const T = this.options.context;
    const K = values.length / tokens.length;
    for (let at = 0; at < tokens.length; at += T) {
      this.#context(tokens.subarray(at, at + T), {
        values: values.subarray(at * K, (at + T) * K),
        indices: indices.subarray(at * K, (at + T) * K),
      });
      this.contexts++;
    }
  }

  /** Empties what was written out: examples, pairs and controls. */
  clear(): void {
    this.log.clear();
    this.pairs.clear();
    this.controls.length = 0;
  }

  #context(tokens: Int32Array, codes: Omit<ScanBatch, "tokens">): void {
    let measured = 0;
    for (const token of tokens) {
      if (this.#silent[token]) continue;
      this.counters.tokens[token]++;
      measured++;
    }
    const touched = this.#sortByFeature(tokens, codes);
    for (const feature of touched) {
      this.#count(feature, tokens, measured);
      this.#fired[feature] = 0;
    }
    this.measured += measured;
    if (this.options.controls.has(this.contexts) && measured > 0) this.#control(tokens, codes, measured);
  }

  /** A counting sort of the context's firings; returns the features that have any. */
  #sortByFeature(tokens: Int32Array, { values, indices }: Omit<ScanBatch, "tokens">): number[] {
    const K = values.length / tokens.length;
    const touched: number[] = [];
    let total = 0;
    for (let slot = 0; slot < values.length; slot++) {
      if (!this.#isFiring(tokens, values, slot, K)) continue;
      if (this.#fired[indices[slot]]++ === 0) touched.push(indices[slot]);
      total++;
    }
    if (total > this.#positions.length) {
      this.#positions = new Int32Array(2 * total);
      this.#values = new Float32Array(2 * total);
    }
    let begin = 0;
    for (const feature of touched) {
      this.#begin[feature] = begin;
      begin += this.#fired[feature];
      this.#fired[feature] = 0;
    }
    for (let slot = 0; slot < values.length; slot++) {
      if (!this.#isFiring(tokens, values, slot, K)) continue;
      const feature = indices[slot];
      const place = this.#begin[feature] + this.#fired[feature]++;
      this.#positions[place] = Math.floor(slot / K);
      this.#values[place] = values[slot];
    }
    return touched;
  }

  #isFiring(tokens: Int32Array, values: Float32Array, slot: number, K: number): boolean {
    const value = values[slot];
    if (value <= 0) return false;
    const position = Math.floor(slot / K);
    if (value < Number.POSITIVE_INFINITY) return this.#silent[tokens[position]] === 0;
    throw inputError(
      `a feature is ${value} at position ${position} of context ${this.contexts} (token ${tokens[position]}); the model's weights or the SAE's are at fault`,
    );
  }

  #count(feature: number, tokens: Int32Array, measured: number): void {
    const { firings, contexts, sums, shares, maxima } = this.counters;
    const begin = this.#begin[feature];
    const end = begin + this.#fired[feature];
    let highest = begin;
    for (let i = begin; i < end; i++) {
      const value = this.#values[i];
      if (value > this.#values[highest]) highest = i;
      sums[feature] += value;
      this.histograms.add(feature, value);
      this.pairs.add(feature, tokens[this.#positions[i]]);
    }
    const activation = this.#values[highest];
    firings[feature] += end - begin;
    contexts[feature]++;
    shares[feature] += (end - begin) / measured;
    maxima[feature] = Math.max(maxima[feature], activation);
    const priority = samplePriority(this.options.seed, feature, this.contexts);
    const drawn = this.sample.offer(feature, priority);
    const high = this.top.offer(feature, -activation);
    if (!drawn && !high) return;
    const position = this.#positions[highest];
    const [from, to] = this.#window(tokens, position);
    const place = { feature, context: this.contexts, position, peak: position - from };
    const activations = this.log.add({ ...place, priority, activation }, tokens.subarray(from, to));
    for (let i = begin; i < end; i++) {
      const at = this.#positions[i];
      if (at >= from && at < to) activations[at - from] = this.#values[i];
    }
  }

  #control(tokens: Int32Array, { values, indices }: Omit<ScanBatch, "tokens">, measured: number): void {
    const K = values.length / tokens.length;
    let left = samplePriority(this.options.seed, -1, this.contexts) % measured;
    let position = 0;
    while (this.#silent[tokens[position]] || left-- > 0) position++;
    const [from, to] = this.#window(tokens, position);
    const features = new Set<number>();
    for (let slot = from * K; slot < to * K; slot++) {
      if (this.#isFiring(tokens, values, slot, K)) features.add(indices[slot]);
    }
    this.controls.push({
      context: this.contexts,
      position: from,
      tokens: tokens.slice(from, to),
      features: [...features].sort((a, b) => a - b),
    });
  }

  /** The tokens around a position, cut where the context or the document ends. */
  #window(tokens: Int32Array, position: number): [from: number, to: number] {
    const { side } = this.options;
    let from = position;
    while (from > Math.max(0, position - side) && !this.#borders[tokens[from - 1]]) from--;
    let to = position + 1;
    while (to < Math.min(tokens.length, position + side + 1) && !this.#borders[tokens[to]]) to++;
    return [from, to];
  }
}

/** 32 bits that look random. */
export function samplePriority(seed: number, feature: number, context: number): number {
  return mix32(mix32(mix32(seed ^ 0x5bd1e995) ^ feature) ^ context);
}

function mask(vocabSize: number, ids: ReadonlySet<number>): Uint8Array {
  const marks = new Uint8Array(vocabSize);
  for (const id of ids) marks[id] = 1;
  return marks;
}
