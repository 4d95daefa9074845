/**
 * Which features fired on which tokens of a stretch of text, held in memory: 8 · K bytes a token.
 * T tokens in windows of C · K active features · F features.
 */
import { usageError } from "../util/index.ts";

export class FeatureActivations {
  readonly features: number;
  readonly k: number;
  /** Tokens of a window. */
  readonly context: number;
  /** Token ids, whole windows one after another. */
  readonly tokens: Int32Array;
  readonly #indices: Int32Array;
  readonly #values: Float32Array;
  #filled = 0;
  #offsets: Int32Array | undefined;
  #where: Int32Array | undefined;

  constructor(size: { features: number; k: number; context: number; tokens: Int32Array }) {
    this.features = size.features;
    this.k = size.k;
    this.context = size.context;
    this.tokens = size.tokens;
    this.#indices = new Int32Array(size.tokens.length * size.k).fill(-1);
    this.#values = new Float32Array(size.tokens.length * size.k);
  }

  /** Appends codes [n, K] of the next n tokens. Tokens that are not measured get zeros. */
  append(values: Float32Array, indices: Int32Array): void {
    const n = values.length / this.k;
    if (this.#filled + n > this.tokens.length) {
      throw usageError(
        `feature activations: ${this.#filled} + ${n} tokens do not fit into ${this.tokens.length}`,
      );
    }
    this.#values.set(values, this.#filled * this.k);
    this.#indices.set(indices, this.#filled * this.k);
    this.#filled += n;
    this.#offsets = undefined;
  }

  /** Tokens on which a feature fired, ascending, and its values there. */
  firings(feature: number): { tokens: Int32Array; values: Float32Array } {
    this.#index();
    const slots = this.#where!.subarray(this.#offsets![feature], this.#offsets![feature + 1]);
    return {
      tokens: slots.map((s) => Math.floor(s / this.k)),
      values: Float32Array.from(slots, (s) => this.#values[s]),
    };
  }

  /** Tokens on which each feature fired, [F]. */
  counts(): Int32Array {
    this.#index();
    return Int32Array.from({ length: this.features }, (_, f) => this.#offsets![f + 1] - this.#offsets![f]);
  }

  /** Slots sorted by feature: a counting sort. */
  #index(): void {
    if (this.#offsets) return;
    const offsets = new Int32Array(this.features + 1);
    const used = this.#filled * this.k;
    for (let s = 0; s < used; s++) if (this.#values[s] > 0) offsets[this.#indices[s] + 1]++;
    for (let f = 0; f < this.features; f++) offsets[f + 1] += offsets[f];
    const next = offsets.slice();
    const where = new Int32Array(offsets[this.features]);
    for (let s = 0; s < used; s++) if (this.#values[s] > 0) where[next[this.#indices[s]]++] = s;
    this.#offsets = offsets;
    this.#where = where;
  }
}
