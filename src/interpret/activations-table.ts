/**
 * Which features fired on which tokens of a stretch of text, held in memory: 12 bytes a firing, and 4 more when it is looked up.
 * T tokens in windows of C · K slots of a token, strongest first · F features.
 */
import { usageError } from "../util/index.ts";

export class FeatureActivations {
  readonly features: number;
  /** Tokens of a window. */
  readonly context: number;
  /** Token ids, whole windows one after another. */
  readonly tokens: Int32Array;
  /** Of each firing, in the order of the text. */
  #token = new Int32Array(1024);
  #feature = new Int32Array(1024);
  #value = new Float32Array(1024);
  #firings = 0;
  /** Tokens appended. */
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

  /**
   * Appends codes [n, K] of the next n tokens, each in descending order; K may be another than before. Nothing fires on silent
   * tokens.
   */
  append(
    { values, indices }: { values: Float32Array; indices: Int32Array },
    n: number,
    isSilent: (token: number) => boolean = () => false,
  ): void {
    if (this.#filled + n > this.tokens.length) {
      throw usageError(
        `feature activations: ${this.#filled} + ${n} tokens do not fit into ${this.tokens.length}`,
      );
    }
    const k = values.length / n;
    for (let i = 0; i < n; i++) {
      if (isSilent(i)) continue;
      for (let s = i * k; s < (i + 1) * k; s++) {
        if (values[s] > 0) this.#add(this.#filled + i, indices[s], values[s]);
      }
    }
    this.#filled += n;
    this.#offsets = undefined;
  }

  /** Features that fire on a token, on average over the tokens appended. */
  l0(): number {
    this.#index();
    return this.#filled === 0 ? 0 : this.#where!.length / this.#filled;
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

  /** Tokens on which each feature fired, [F]. */
  counts(): Int32Array {
    this.#index();
    return Int32Array.from({ length: this.features }, (_, f) => this.#offsets![f + 1] - this.#offsets![f]);
  }

  #add(token: number, feature: number, value: number): void {
    if (this.#firings === this.#token.length) {
      this.#token = doubled(this.#token);
      this.#feature = doubled(this.#feature);
      this.#value = doubled(this.#value);
    }
    this.#token[this.#firings] = token;
    this.#feature[this.#firings] = feature;
    this.#value[this.#firings++] = value;
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

function doubled<A extends Int32Array | Float32Array>(array: A): A {
  const larger = new (array.constructor as new (length: number) => A)(2 * array.length);
  larger.set(array);
  return larger;
}
