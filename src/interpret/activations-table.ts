/**
 * Which features fired on which tokens of a stretch of text, held in memory: 12 bytes a firing.
 * C tokens of a window · K slots of a token · F features.
 */
import { usageError } from "../util/index.ts";

export class FeatureActivations {
  readonly features: number;
  /** Tokens of a window. */
  readonly context: number;
  /** Token ids, whole windows one after another. */
  readonly tokens: Int32Array;
  /** Of each firing, in the order of tokens; these grow. */
  #token = new Int32Array(1 << 16);
  #feature = new Int32Array(1 << 16);
  #value = new Float32Array(1 << 16);
  #firings = 0;
  #filled = 0;
  #offsets: Int32Array | undefined;
  #where: Int32Array | undefined;

  constructor(size: { features: number; context: number; tokens: Int32Array }) {
    this.features = size.features;
    this.context = size.context;
    this.tokens = size.tokens;
  }

  /** Appends codes [n, K] of the next n tokens. Tokens that are not measured get zeros. */
  append(values: Float32Array, indices: Int32Array, k: number): void {
    const n = values.length / k;
    if (this.#filled + n > this.tokens.length) {
      throw usageError(
        `feature activations: ${this.#filled} + ${n} tokens do not fit into ${this.tokens.length}`,
      );
    }
    for (let s = 0; s < values.length; s++) {
      if (!(values[s] > 0)) continue;
      if (this.#firings === this.#token.length) this.#grow();
      this.#token[this.#firings] = this.#filled + Math.floor(s / k);
      this.#feature[this.#firings] = indices[s];
      this.#value[this.#firings++] = values[s];
    }
    this.#filled += n;
    this.#offsets = undefined;
  }

  #grow(): void {
    const size = 2 * this.#token.length;
    const larger = <T extends Int32Array | Float32Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#token = larger(new Int32Array(size), this.#token);
    this.#feature = larger(new Int32Array(size), this.#feature);
    this.#value = larger(new Float32Array(size), this.#value);
  }

  /** Tokens on which a feature fired, ascending, and its values there. */
  firings(feature: number): { tokens: Int32Array; values: Float32Array } {
    this.#index();
    const firings = this.#where!.subarray(this.#offsets![feature], this.#offsets![feature + 1]);
    return {
      tokens: firings.map((i) => this.#token[i]),
      values: Float32Array.from(firings, (i) => this.#value[i]),
    };
  }

  /** Firings of all features together. */
  get firingCount(): number {
    return this.#firings;
  }

  /** Tokens on which each feature fired, [F]. */
  counts(): Int32Array {
    this.#index();
    return Int32Array.from({ length: this.features }, (_, f) => this.#offsets![f + 1] - this.#offsets![f]);
  }

  /** Firings sorted by feature: a counting sort. */
  #index(): void {
    if (this.#offsets) return;
    const offsets = new Int32Array(this.features + 1);
    for (let i = 0; i < this.#firings; i++) offsets[this.#feature[i] + 1]++;
    for (let f = 0; f < this.features; f++) offsets[f + 1] += offsets[f];
    const next = offsets.slice();
    const where = new Int32Array(offsets[this.features]);
    for (let i = 0; i < this.#firings; i++) where[next[this.#feature[i]]++] = i;
    this.#offsets = offsets;
    this.#where = where;
  }
}
