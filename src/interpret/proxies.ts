/**
 * How clear features look without a language model that explains them: proxies that need only counts and weights
 * (arXiv 2505.22255, section 5). For the database of one SAE they are formed where its sums are (feature-build.ts); here for
 * whole dictionaries at several budgets at once. F features · V tokens of the vocabulary · K slots of a token.
 */
import { PairCounts } from "./pair-counts.ts";

/**
 * H = −Σ p_i ln p_i in nats over the tokens that a feature fires on, p_i the share of its firings on token i (arXiv
 * 2505.22255, section 5: the lower, the better features score). 0: always the same token; NaN without firings.
 */
export function tokenEntropy(counts: Iterable<number>): number {
  let total = 0;
  let weighted = 0; // Σ n ln n
  for (const n of counts) {
    total += n;
    weighted += n > 0 ? n * Math.log(n) : 0;
  }
  return total === 0 ? Number.NaN : Math.max(0, Math.log(total) - weighted / total);
}

/** Of the features that fired often enough, their means; NaN where there are none. */
export interface ProxyMeans {
  /** Features with at least `firstFirings` firings, which the means are over. */
  readonly features: number;
  /** Features that fired at all. */
  readonly alive: number;
  /** Mean over these features of the entropy over their first `firstFirings` firings: the same number at every budget. */
  readonly tokenEntropy: number;
  /** The same over all their firings: it grows with their number by itself. */
  readonly tokenEntropyAll: number;
  /** Mean over contexts, then over features, of firings / tokens. */
  readonly multiTokenRatio: number;
  /** Mean value over firings, then over features. */
  readonly meanActivation: number;
}

/** What features fire on, at one budget. */
export class ProxyCounts {
  readonly #firstFirings: number;
  readonly #firings: Uint32Array;
  readonly #contexts: Uint32Array;
  readonly #shares: Float64Array;
  readonly #sums: Float64Array;
  readonly #all: PairCounts;
  readonly #first: PairCounts;
  // Of the context at hand: firings of each feature, and the features that have any.
  readonly #inContext: Uint32Array;
  readonly #touched: number[] = [];

  constructor(features: number, vocabSize: number, firstFirings: number) {
    this.#firstFirings = firstFirings;
    this.#firings = new Uint32Array(features);
    this.#contexts = new Uint32Array(features);
    this.#inContext = new Uint32Array(features);
    this.#shares = new Float64Array(features);
    this.#sums = new Float64Array(features);
    this.#all = new PairCounts(vocabSize, 1 << 16);
    this.#first = new PairCounts(vocabSize, 1 << 16);
  }

  /** A feature of value > 0 fires on a token of the context at hand. */
  add(feature: number, token: number, value: number): void {
    if (this.#firings[feature]++ < this.#firstFirings) this.#first.add(feature, token);
    this.#all.add(feature, token);
    this.#sums[feature] += value;
    if (this.#inContext[feature]++ === 0) this.#touched.push(feature);
  }

  /** The context at hand is over; it had so many tokens. */
  endContext(tokens: number): void {
    for (const feature of this.#touched) {
      this.#contexts[feature]++;
      this.#shares[feature] += this.#inContext[feature] / tokens;
      this.#inContext[feature] = 0;
    }
    this.#touched.length = 0;
  }

  finish(): ProxyMeans {
    const often = Array.from(this.#firings.keys()).filter((f) => this.#firings[f] >= this.#firstFirings);
    const [first, all] = [this.#first, this.#all].map((pairs) => entropies(pairs));
    const mean = (of: (feature: number) => number): number =>
      often.reduce((sum, f) => sum + of(f), 0) / often.length;
    return {
      features: often.length,
      alive: this.#firings.filter((n) => n > 0).length,
      tokenEntropy: mean((f) => first.get(f) ?? 0),
      tokenEntropyAll: mean((f) => all.get(f) ?? 0),
      multiTokenRatio: mean((f) => this.#shares[f] / this.#contexts[f]),
      meanActivation: mean((f) => this.#sums[f] / this.#firings[f]),
    };
  }
}

/** Token entropy of each feature that fired. */
function entropies(pairs: PairCounts): Map<number, number> {
  const counts = new Map<number, number[]>();
  for (const [feature, , count] of pairs.rows()) {
    const list = counts.get(feature);
    if (list) list.push(count);
    else counts.set(feature, [count]);
  }
  return new Map([...counts].map(([feature, list]) => [feature, tokenEntropy(list)]));
}
