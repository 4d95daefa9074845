/**
 * Which feature of one SAE does what a feature of another does on the same tokens: Pearson correlations of their activations.
 * That needs no common basis, so the SAEs may differ in model, layer or seed. Sums over tokens are kept, cross products only of
 * features that fire together. F, G features of the two SAEs · K slots of a token.
 */
import type { HostCodes } from "../sae/index.ts";
import { usageError } from "../util/index.ts";

/** The features of one SAE and their best partners in the other. */
export interface Partners {
  /** Tokens on which each feature fired, [F]. */
  readonly firings: Float64Array;
  /** Features that fired at all. */
  readonly alive: number;
  /** Features that fired often enough, and not always with one value: only these have partners and are partners. */
  readonly compared: number;
  /** The feature of the other SAE with the largest correlation, the lower index on ties; -1 of a feature left out, [F]. */
  readonly partner: Int32Array;
  /** That correlation; NaN of a feature left out, [F]. */
  readonly correlation: Float64Array;
}

export interface FeatureMatch {
  readonly tokens: number;
  /** The first SAE's features: what of it is in the second. */
  readonly first: Partners;
  /** The second's. */
  readonly second: Partners;
}

/** Most memory of cross products. */
export const CROSS_BYTES = 4 * 2 ** 30;

/** Bytes of the cross products of one pair: a float64 for every pair of features. */
export const crossBytes = (first: number, second: number): number => 8 * first * second;

/** Sums of one SAE's activations. */
interface Sums {
  readonly sum: Float64Array;
  readonly square: Float64Array;
  readonly firings: Float64Array;
}

/** Takes the codes of both SAEs block by block; holds 8 · F · G bytes, however many tokens come. */
export class FeatureCorrelation {
  readonly #first: Sums;
  readonly #second: Sums;
  /** Σ a b, [F, G]. */
  readonly #cross: Float64Array;
  #tokens = 0;

  constructor(first: number, second: number) {
    const bytes = crossBytes(first, second);
    if (!(bytes > 0 && bytes <= CROSS_BYTES)) {
      throw usageError(
        `feature correlation: ${first} x ${second} features need ${gib(bytes)} GiB of cross products, and may need from 1 ` +
          `feature to ${gib(CROSS_BYTES)} GiB; compare narrower SAEs`,
      );
    }
    this.#first = sumsOf(first);
    this.#second = sumsOf(second);
    this.#cross = new Float64Array(first * second);
  }

  /** The codes of the same tokens in both; K may differ from block to block. */
  add(first: HostCodes, second: HostCodes, tokens: number): void {
    const [F, G] = [this.#first.sum.length, this.#second.sum.length];
    const a = firingsOf(first, tokens);
    const b = firingsOf(second, tokens);
    count(this.#first, a);
    count(this.#second, b);
    // Feature by feature, not token by token: a row of products stays in the cache, in the same order of tokens.
    const { start, order } = byFeature(a, F);
    for (let f = 0; f < F; f++) {
      const row = this.#cross.subarray(f * G, (f + 1) * G);
      for (let s = start[f]; s < start[f + 1]; s++) {
        const value = a.values[order[s]];
        const token = a.tokens[order[s]];
        for (let t = b.offsets[token]; t < b.offsets[token + 1]; t++)
          row[b.features[t]] += value * b.values[t];
      }
    }
    this.#tokens += tokens;
  }

  /**
   * Partners among the features of at least `firings` firings (default 1). Correlations of features that hardly fire are mostly
   * chance: one that fires once is 1 with any other that fires only there.
   */
  finish({ firings = 1 }: { readonly firings?: number } = {}): FeatureMatch {
    const n = this.#tokens;
    const G = this.#second.sum.length;
    const [first, second] = [this.#first, this.#second].map((sums) => open(sums, n, firings));
    const [a, b] = [this.#first.sum, this.#second.sum];
    for (const f of first.order) {
      for (const g of second.order) {
        const covariance = n * this.#cross[f * G + g] - a[f] * b[g];
        const r = Math.max(-1, Math.min(1, covariance / (first.deviation[f] * second.deviation[g])));
        offer(first, f, g, r);
        offer(second, g, f, r);
      }
    }
    const [one, other] = [close(this.#first, first), close(this.#second, second)];
    return { tokens: n, first: one, second: other };
  }
}

const gib = (bytes: number): string => String(Number((bytes / 2 ** 30).toPrecision(3)));

const sumsOf = (features: number): Sums => ({
  sum: new Float64Array(features),
  square: new Float64Array(features),
  firings: new Float64Array(features),
});

/** The slots in use, token by token: those of token i are offsets[i] to offsets[i + 1] - 1. */
interface Firings {
  readonly offsets: Int32Array;
  readonly tokens: Int32Array;
  readonly features: Int32Array;
  readonly values: Float64Array;
}

function firingsOf({ values, indices }: HostCodes, n: number): Firings {
  const K = values.length / n;
  const used = values.reduce((count, v) => count + (v > 0 ? 1 : 0), 0);
  const found = {
    offsets: new Int32Array(n + 1),
    tokens: new Int32Array(used),
    features: new Int32Array(used),
    values: new Float64Array(used),
  };
  let at = 0;
  for (let slot = 0; slot < values.length; slot++) {
    if (!(values[slot] > 0)) continue;
    const token = Math.floor(slot / K);
    found.offsets[token + 1]++;
    found.tokens[at] = token;
    found.features[at] = indices[slot];
    found.values[at++] = values[slot];
  }
  for (let token = 0; token < n; token++) found.offsets[token + 1] += found.offsets[token];
  return found;
}

/** Firings sorted by feature, those of one in the order of tokens: of feature f order[start[f]] to order[start[f + 1] - 1]. */
function byFeature({ features }: Firings, F: number): { start: Int32Array; order: Int32Array } {
  const start = new Int32Array(F + 1);
  for (const feature of features) start[feature + 1]++;
  for (let f = 0; f < F; f++) start[f + 1] += start[f];
  const next = start.slice();
  const order = new Int32Array(features.length);
  features.forEach((feature, i) => {
    order[next[feature]++] = i;
  });
  return { start, order };
}

function count({ sum, square, firings }: Sums, { features, values }: Firings): void {
  for (let i = 0; i < features.length; i++) {
    sum[features[i]] += values[i];
    square[features[i]] += values[i] * values[i];
    firings[features[i]]++;
  }
}

/** A search for partners. */
interface Search {
  /** Features that take part. */
  readonly order: readonly number[];
  /** √(n Σa² − (Σa)²): n times the standard deviation. */
  readonly deviation: Float64Array;
  readonly partner: Int32Array;
  readonly correlation: Float64Array;
}

function open({ sum, square, firings }: Sums, n: number, least: number): Search {
  const variance = square.map((s, f) => n * s - sum[f] * sum[f]);
  // A feature with one value on every token has rounding for a variance.
  const takesPart = (f: number): boolean =>
    firings[f] >= Math.max(1, least) && variance[f] > 1e-12 * n * square[f];
  return {
    order: Array.from(sum.keys()).filter(takesPart),
    deviation: variance.map((v) => Math.sqrt(Math.max(v, 0))),
    partner: new Int32Array(sum.length).fill(-1),
    correlation: new Float64Array(sum.length).fill(Number.NaN),
  };
}

function offer({ partner, correlation }: Search, feature: number, candidate: number, r: number): void {
  if (partner[feature] >= 0 && r <= correlation[feature]) return;
  partner[feature] = candidate;
  correlation[feature] = r;
}

const close = ({ firings }: Sums, { order, partner, correlation }: Search): Partners => ({
  firings,
  alive: firings.filter((n) => n > 0).length,
  compared: order.length,
  partner,
  correlation,
});

/** What is said of all features of one SAE together. */
export interface PartnerSummary {
  readonly features: number;
  readonly alive: number;
  readonly compared: number;
  /** Mean over the compared features of the correlation with the best partner; NaN without any. */
  readonly meanBest: number;
  /** Shares of the compared features with a partner of at least each threshold; NaN without any. */
  readonly shares: readonly number[];
}

export function summarizePartners(
  { partner, correlation, alive, compared }: Partners,
  thresholds: readonly number[],
): PartnerSummary {
  const best = correlation.filter((_, f) => partner[f] >= 0);
  const mean = (of: (r: number) => number): number => best.reduce((sum, r) => sum + of(r), 0) / best.length;
  return {
    features: partner.length,
    alive,
    compared,
    meanBest: mean((r) => r),
    shares: thresholds.map((least) => mean((r) => (r >= least ? 1 : 0))),
  };
}
