/**
 * The passages in which a feature fires most.
 */
import type { FeatureActivations } from "./activations-table.ts";

/** A passage around a peak. */
export interface Context {
  /** Position of its first token in the table. */
  readonly start: number;
  /** Token ids. */
  readonly tokens: Int32Array;
  /** The feature's value on each of them. */
  readonly activations: Float32Array;
  /** The rank of that value among all of its token, 1 the strongest; 0 where the feature is silent. */
  readonly ranks: Int32Array;
  /** Position of the peak within the passage. */
  readonly peak: number;
}

/** Where a feature fires most within a window. */
export interface Peak {
  /** Position in the table. */
  readonly token: number;
  readonly value: number;
}

/** The highest peaks, one a window, highest first; of equal ones the earlier. At most `count`. */
export function topPeaks(table: FeatureActivations, feature: number, count: number): Peak[] {
  const { tokens, values } = table.firings(feature);
  const peaks: Peak[] = [];
  let window = -1;
  for (let i = 0; i < tokens.length; i++) {
    const at = Math.floor(tokens[i] / table.context);
    const peak = { token: tokens[i], value: values[i] };
    if (at !== window) peaks.push(peak);
    else if (peak.value > peaks[peaks.length - 1].value) peaks[peaks.length - 1] = peak;
    window = at;
  }
  return peaks.sort((a, b) => b.value - a.value || a.token - b.token).slice(0, count);
}

/**
 * The passages around the highest peaks, one a window: `before` and `after` tokens around each, cut at the window's ends.
 * `peaks`: the part of the table that peaks are looked for in; default all of it.
 */
export function topContexts(
  table: FeatureActivations,
  feature: number,
  options: { count?: number; before?: number; after?: number; peaks?: FeatureActivations } = {},
): Context[] {
  const { count = 12, before = 24, after = 12, peaks = table } = options;
  const { tokens, values } = table.firings(feature);
  const rankOf = table.ranks(feature);
  return topPeaks(peaks, feature, count).map(({ token }) => {
    const window = Math.floor(token / table.context) * table.context;
    const start = Math.max(window, token - before);
    const end = Math.min(window + table.context, token + after + 1);
    const activations = new Float32Array(end - start);
    const ranks = new Int32Array(end - start);
    for (let i = lowerBound(tokens, start); tokens[i] < end; i++) {
      activations[tokens[i] - start] = values[i];
      ranks[tokens[i] - start] = rankOf[i];
    }
    return { start, tokens: table.tokens.slice(start, end), activations, ranks, peak: token - start };
  });
}

/** Index of the first element that is not below `value` in an ascending array. */
function lowerBound(ascending: Int32Array, value: number): number {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
