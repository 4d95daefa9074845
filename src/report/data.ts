/**
 * What a report shows: plain data, filled by the recipes, rendered by `renderReport`.
 * F features · D model width · T tokens of a context
 */

import type { DensityHistogram } from "../util/stats.ts";

export { type DensityHistogram, densityHistogram } from "../util/stats.ts";

/** A token as text, or its bytes in hexadecimal (`e2 80`) where they are not valid UTF-8 by themselves. */
export type TokenText = string | { readonly bytes: string };

/** Names shared by `sluice sae eval --json`, `metrics.json` and the report. Cross-entropies in nats per token. */
export const METRIC_NAMES = [
  "explained_variance",
  "explained_variance_per_token",
  "l0",
  "mse",
  "cosine",
  "dead_fraction",
  "ce_clean",
  "ce_spliced",
  "ce_zero",
  "ce_mean",
  "loss_recovered",
  "loss_recovered_mean",
  "kl",
] as const;

export type MetricName = (typeof METRIC_NAMES)[number];

/** Measurements along the training, all of the same length. */
export interface TrainingCurves {
  /** Tokens seen. */
  readonly tokens: readonly number[];
  readonly loss: readonly number[];
  /** Fraction, 1 is perfect. */
  readonly explainedVariance: readonly number[];
  /** Active features per token. */
  readonly l0: readonly number[];
  /** Fraction of the F features that are dead by the training's own rule. */
  readonly deadFraction: readonly number[];
  readonly learningRate?: readonly number[];
}

/** Counts between edges: `counts[i]` lies in [edges[i], edges[i+1]); one edge more than counts. */
export interface Histogram {
  readonly edges: readonly number[];
  readonly counts: readonly number[];
}

/** A stretch of text in which a feature fired. */
export interface FeatureContext {
  /** [T] */
  readonly tokens: readonly TokenText[];
  /** [T], 0 where the feature is silent. */
  readonly activations: readonly number[];
  /** [T], needed with budgets: place of each activation among those of its token, 1 the strongest; 0 where it is silent. */
  readonly ranks?: readonly number[];
  /** Where it comes from, as in `sotu/1862_abraham_lincoln`. */
  readonly source?: string;
}

export interface TokenWeight {
  readonly token: TokenText;
  /** What the feature's decoder row, at unit norm, adds to this token's logit. */
  readonly weight: number;
}

export interface FeatureCard {
  /** Index in the dictionary, 0 … F−1. */
  readonly id: number;
  /** A name, if somebody or something gave it one. */
  readonly label?: string;
  /** Fraction of the tokens read, special ones left out, on which it is active. */
  readonly density: number;
  readonly maxActivation: number;
  /** Of the activations above zero. */
  readonly activations: Histogram;
  /** Strongest first. */
  readonly contexts: readonly FeatureContext[];
  /** Tokens whose logits it raises most, largest weight first. */
  readonly promoted: readonly TokenWeight[];
  /** Tokens whose logits it lowers most, most negative weight first. */
  readonly suppressed: readonly TokenWeight[];
  /** Features with the most similar decoder rows. */
  readonly nearest: readonly { readonly id: number; readonly cosine: number }[];
  /** The same at each of the report's budgets. */
  readonly budgets?: readonly CardBudget[];
}

/** What of a card changes with k. */
export interface CardBudget {
  readonly density: number;
  /** 0 where the feature is silent at this k. */
  readonly maxActivation: number;
  /** Between the edges of the card's histogram. */
  readonly counts: readonly number[];
}

/** An SAE measured with each token's k strongest features. */
export interface Budget {
  readonly k: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly density: DensityHistogram;
}

export interface ReportData {
  readonly title: string;
  /** One paragraph: what was trained, on what, and what came out. */
  readonly summary: string;
  /** ISO 8601. */
  readonly createdAt: string;
  /** Version of sluice. */
  readonly version: string;
  /** Short facts under the title, in this order, as in `["model", "brook, 6 layers, D = 256"]`. */
  readonly facts: readonly (readonly [name: string, value: string])[];
  /** F */
  readonly features: number;
  /** Those of `METRIC_NAMES` that were measured; others are listed after them by their own names. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly curves?: TrainingCurves;
  /** Said above the curves. */
  readonly curvesNote?: string;
  readonly density: DensityHistogram;
  /** The same SAE at several k, ascending: the stops of the page's slider, which needs two. */
  readonly budgets?: readonly Budget[];
  /** The one that the page opens with: `metrics`, `density` and the cards are of it. */
  readonly k?: number;
  /** The most telling features, best first. */
  readonly cards: readonly FeatureCard[];
  /** Said above the cards: which text their passages and densities come from, how their effects were computed. */
  readonly cardsNote?: string;
  readonly run: {
    /** The command line that makes this report again. */
    readonly command: string;
    /** The full configuration; any JSON. */
    readonly config: unknown;
    readonly timings: readonly { readonly name: string; readonly seconds: number }[];
    /** As in `2 threads, avx2, node 20.20.2`. */
    readonly machine?: string;
  };
}

/** The part of the data that the page's script reads, embedded as JSON. */
export type PageData = Pick<ReportData, "metrics" | "curves" | "density" | "cards" | "k"> & {
  /** `texts`: what stands in the elements with these `data-text`. */
  readonly budgets?: readonly (Budget & { readonly texts: Readonly<Record<string, string>> })[];
};

/** Counts `values` in `bins` bins of equal width from 0 (or the least of `range`) to the largest of `range`. */
export function linearHistogram(
  values: ArrayLike<number>,
  { bins = 24, range = values }: { bins?: number; range?: ArrayLike<number> } = {},
): Histogram {
  let low = 0;
  let high = 0;
  for (let i = 0; i < range.length; i++) {
    low = Math.min(low, range[i]);
    high = Math.max(high, range[i]);
  }
  const width = (high - low || 1) / bins;
  const counts = new Array<number>(bins).fill(0);
  for (let i = 0; i < values.length; i++) counts[Math.min(bins - 1, Math.floor((values[i] - low) / width))]++;
  return { edges: Array.from({ length: bins + 1 }, (_, i) => low + i * width), counts };
}

/** A token's bytes as text, or in hexadecimal if they are not valid UTF-8 by themselves. */
export function tokenText(bytes: Uint8Array): TokenText {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { bytes: Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(" ") };
  }
}
