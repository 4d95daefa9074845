/**
 * Which features fired on which tokens of a stretch of text, held in memory: 12 bytes a firing.
 * C tokens of a window · K slots of a token, strongest first · F features.
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
  /** Only the strongest so many features of a token count. */
  #budget = Number.POSITIVE_INFINITY;
  #offsets: Int32Array | undefined;
  #where: Int32Array | undefined;

  constructor(size: { features: number; context: number; tokens: Int32Array }) {
    this.features = size.features;
    this.context = size.context;
    this.tokens = size.tokens;
  }

  /** Appends codes [n, K] of the next n tokens, each in descending order. Tokens that are not measured get zeros. */
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

  /** The same table with each token's `k` strongest features only; shares its memory, and ends where this one ends now. */
  within(k: number): FeatureActivations {
    const part = new FeatureActivations(this);
    part.#token = this.#token;
    part.#feature = this.#feature;
    part.#value = this.#value;
    part.#firings = this.#firings;
    part.#filled = part.tokens.length; // nothing is appended to shared memory
    part.#budget = Math.min(k, this.#budget);
    return part;
  }

  /** Tokens on which a feature fired, ascending, and its values there. */
  firings(feature: number): { tokens: Int32Array; values: Float32Array } {
    const firings = this.#firingsOf(feature);
    return {
      tokens: firings.map((i) => this.#token[i]),
      values: Float32Array.from(firings, (i) => this.#value[i]),
    };
  }

  /** Ranks of the same firings among all of their token: 1 is the strongest. */
  ranks(feature: number): Int32Array {
    return this.#firingsOf(feature).map((firing) => {
      let first = firing;
      while (first > 0 && this.#token[first - 1] === this.#token[firing]) first--;
      return firing - first + 1;
    });
  }

  #firingsOf(feature: number): Int32Array {
    this.#index();
    return this.#where!.subarray(this.#offsets![feature], this.#offsets![feature + 1]);
  }

  /** Firings of all features together. */
  get firingCount(): number {
    this.#index();
    return this.#where!.length;
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
    this.#each((feature) => offsets[feature + 1]++);
    for (let f = 0; f < this.features; f++) offsets[f + 1] += offsets[f];
    const next = offsets.slice();
    const where = new Int32Array(offsets[this.features]);
    this.#each((feature, i) => {
      where[next[feature]++] = i;
    });
    this.#offsets = offsets;
    this.#where = where;
  }

  /** Every firing within the budget. */
  #each(visit: (feature: number, firing: number) => void): void {
    let rank = 0;
    for (let i = 0; i < this.#firings; i++) {
      rank = i > 0 && this.#token[i] === this.#token[i - 1] ? rank + 1 : 1;
      if (rank <= this.#budget) visit(this.#feature[i], i);
    }
  }
}
