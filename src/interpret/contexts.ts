/**
 * The passages in which a feature fires most, and how telling a feature is.
 */
import type { FeatureActivations } from "./activations-table.ts";

/** A passage around a peak. */
export interface Context {
  /** Token ids. */
  readonly tokens: Int32Array;
  /** The feature's value on each of them. */
  readonly activations: Float32Array;
  /** Position of the peak within the passage. */
  readonly peak: number;
  /** Number of the window that it comes from. */
  readonly window: number;
}

/** The `count` windows with the highest peaks, one passage each: `before` and `after` tokens around the peak. */
export function topContexts(
  table: FeatureActivations,
  feature: number,
  { count = 12, before = 24, after = 12 }: { count?: number; before?: number; after?: number } = {},
): Context[] {
  const { tokens, values } = table.firings(feature);
  const peaks = new Map<number, number>(); // window -> slot of its highest value
  tokens.forEach((t, i) => {
    const window = Math.floor(t / table.context);
    const best = peaks.get(window);
    if (best === undefined || values[i] > values[best]) peaks.set(window, i);
  });
  const order = [...peaks.entries()]
    .sort(([wa, a], [wb, b]) => values[b] - values[a] || wa - wb)
    .slice(0, count);
  const valueAt = new Map<number, number>();
  tokens.forEach((t, i) => {
    valueAt.set(t, values[i]);
  });
  return order.map(([window, slot]) => {
    const start = window * table.context;
    const from = Math.max(start, tokens[slot] - before);
    const to = Math.min(start + table.context, tokens[slot] + after + 1);
    const ids = table.tokens.slice(from, to);
    return {
      tokens: ids,
      activations: Float32Array.from(ids, (_, i) => valueAt.get(from + i) ?? 0),
      peak: tokens[slot] - from,
      window,
    };
  });
}

export interface Telling {
  readonly feature: number;
  readonly score: number;
}

export interface TellingOptions {
  /** Features to name. */
  readonly count: number;
  /** Windows that a feature must fire in. */
  readonly minWindows?: number;
  /** Share of tokens above which a feature is too common to mean one thing. */
  readonly maxDensity?: number;
  /** Top contexts that the score looks at. */
  readonly contexts?: number;
}

/**
 * Features a reader learns most from, by our own rule (no paper's): how much more its top passages share than chance.
 * For the tokens within reach of each peak, weighted by activation, the score is the information (in nats) that
 * knowing the feature gives about the token at the peak and its two neighbours, compared with the text's own frequencies:
 * Σ p log(p / q) over the top contexts. Features that fire in few windows or nearly everywhere are left out.
 */
export function tellingFeatures(
  table: FeatureActivations,
  { count, minWindows = 8, maxDensity = 0.02, contexts = 12 }: TellingOptions,
): Telling[] {
  const frequency = new Map<number, number>();
  for (const t of table.tokens) frequency.set(t, (frequency.get(t) ?? 0) + 1);
  const total = table.tokens.length;
  const counts = table.counts();
  const scored: Telling[] = [];
  for (let feature = 0; feature < table.features; feature++) {
    if (counts[feature] < minWindows || counts[feature] / total > maxDensity) continue;
    const tops = topContexts(table, feature, { count: contexts, before: 2, after: 1 });
    if (tops.length < minWindows) continue;
    const around = [-1, 0, 1].map((d) =>
      tops.map((c) => c.tokens[c.peak + d]).filter((t) => t !== undefined),
    );
    const information = around.map((tokens) => divergence(tokens, frequency, total));
    // one token always the same is clear but dull: what the neighbours share counts twice
    scored.push({ feature, score: information[1] + 2 * Math.max(information[0], information[2]) });
  }
  return scored.sort((a, b) => b.score - a.score || a.feature - b.feature).slice(0, count);
}

/** Σ p log(p / q) of a small sample against the text. */
function divergence(
  sample: readonly number[],
  frequency: ReadonlyMap<number, number>,
  total: number,
): number {
  if (sample.length === 0) return 0;
  const own = new Map<number, number>();
  for (const t of sample) own.set(t, (own.get(t) ?? 0) + 1);
  let sum = 0;
  for (const [t, n] of own) {
    if (n < 2) continue; // a token seen once says nothing
    const p = n / sample.length;
    sum += p * Math.log((p * total) / (frequency.get(t) ?? 1));
  }
  return sum;
}
