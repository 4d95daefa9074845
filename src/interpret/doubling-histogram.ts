/**
 * A histogram per feature whose range need not be known: 32 equal bins from 0 to the smallest power of two above all values.
 * When a value lies beyond, neighbouring bins are merged, so that the result does not depend on the order of the values.
 */
export const HISTOGRAM_BINS = 32;

const f32 = new Float32Array(1);
const bits = new Uint32Array(f32.buffer);

/** e of the smallest 2^e above a positive f32. */
function exponentAbove(value: number): number {
  f32[0] = value;
  return (bits[0] >>> 23) - 126;
}

export class DoublingHistograms {
  /** [F · 32] */
  readonly counts: Uint32Array;
  /** The range of feature f is [0, 2^exponents[f]), [F]; `EMPTY` before its first value. */
  readonly exponents: Int16Array;
  static readonly EMPTY = -32768;

  constructor(counts: Uint32Array, exponents: Int16Array) {
    this.counts = counts;
    this.exponents = exponents;
  }

  static of(features: number): DoublingHistograms {
    const exponents = new Int16Array(features).fill(DoublingHistograms.EMPTY);
    return new DoublingHistograms(new Uint32Array(features * HISTOGRAM_BINS), exponents);
  }

  /** `value`: a positive f32. */
  add(feature: number, value: number): void {
    const needed = exponentAbove(value);
    if (needed > this.exponents[feature]) this.#widen(feature, needed);
    const bin = Math.floor(value * HISTOGRAM_BINS * 2 ** -this.exponents[feature]);
    this.counts[feature * HISTOGRAM_BINS + bin]++;
  }

  /** Counts and the width of a bin; null for a feature without values. */
  read(feature: number): { counts: Uint32Array; width: number } | null {
    const exponent = this.exponents[feature];
    if (exponent === DoublingHistograms.EMPTY) return null;
    const from = feature * HISTOGRAM_BINS;
    return {
      counts: this.counts.subarray(from, from + HISTOGRAM_BINS),
      width: 2 ** exponent / HISTOGRAM_BINS,
    };
  }

  #widen(feature: number, exponent: number): void {
    const before = this.exponents[feature];
    this.exponents[feature] = exponent;
    if (before === DoublingHistograms.EMPTY) return;
    const merged = 2 ** (exponent - before);
    const from = feature * HISTOGRAM_BINS;
    for (let bin = 1; bin < HISTOGRAM_BINS; bin++) {
      const count = this.counts[from + bin];
      this.counts[from + bin] = 0;
      this.counts[from + Math.floor(bin / merged)] += count;
    }
  }
}
