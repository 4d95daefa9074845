/**
 * Which features a reader learns most from. Our own rule, no paper's: what the words at a feature's highest peaks, and the
 * words around them, share beyond chance. Readers think in words, so tokens are grouped into them first.
 */
import type { FeatureActivations } from "./activations-table.ts";
import { topPeaks } from "./contexts.ts";

/** The words of a text, one after another; tokens that belong to no word make up words of number -1. */
export interface Words {
  /** Which word of the text each token belongs to, ascending, [tokens]. */
  readonly at: Int32Array;
  /** Number of each word in some vocabulary, [words]. */
  readonly number: Int32Array;
}

/** `token`: one token rules at the peaks. `words`: several words, again and again. `context`: what stands before or after. */
export type TellingKind = "token" | "words" | "context";
const KINDS = ["words", "context", "token"] as const satisfies readonly TellingKind[];

export interface Telling {
  readonly feature: number;
  readonly kind: TellingKind;
  /** Nats; see `tellingFeatures`. */
  readonly score: number;
}

export interface TellingOptions {
  /** Features to name. */
  readonly count: number;
  readonly words: Words;
  /** Windows that a feature must fire in; default 8. */
  readonly minWindows?: number;
  /** Share of tokens above which a feature is too common to mean one thing; default 0.02. */
  readonly maxDensity?: number;
  /** Peaks that are looked at; default 20. */
  readonly peaks?: number;
}

/**
 * A feature's score is the information Σ p log(p / q): p the share of a word at its peaks, q that in the whole text; what
 * stands at one peak only says nothing. Where one token has more than half of the peaks, its own information counts
 * (`token`); elsewhere that of the words at the peaks (`words`) and, beside it, the better one of the words before and after
 * (`context`). Marks without letters count as no word. The best of each kind take turns, so that a page does not show sixty
 * single tokens, and a token rules one feature only.
 */
export function tellingFeatures(table: FeatureActivations, options: TellingOptions): Telling[] {
  const { count, words, minWindows = 8, maxDensity = 0.02, peaks = 20 } = options;
  const wordShare = shares(words.number);
  const tokenShare = shares(table.tokens);
  const fired = table.counts();
  const ranked: Ranked = { token: [], words: [], context: [] };
  for (let feature = 0; feature < table.features; feature++) {
    if (fired[feature] < minWindows || fired[feature] / table.tokens.length > maxDensity) continue;
    const tops = topPeaks(table, feature, peaks);
    if (tops.length < minWindows) continue;
    const wordsAt = (offset: number) =>
      describe(
        tops.map(({ token }) => words.number[words.at[token] + offset] ?? -1),
        wordShare,
      );
    const tokens = describe(
      tops.map(({ token }) => (words.number[words.at[token]] < 0 ? -1 : table.tokens[token])),
      tokenShare,
    );
    if (tokens.largest > 0.5) {
      ranked.token.push({ feature, score: tokens.information, ruling: tokens.most });
    } else {
      ranked.words.push({ feature, score: wordsAt(0).information });
      const around = Math.max(wordsAt(-1).information, wordsAt(1).information);
      ranked.context.push({ feature, score: around });
    }
  }
  for (const kind of KINDS) ranked[kind].sort((a, b) => b.score - a.score || a.feature - b.feature);
  return takeTurns(ranked, count);
}

type Ranked = Record<TellingKind, { feature: number; score: number; ruling?: number }[]>;

/** The best of each kind in turn; no feature and no ruling token twice. */
function takeTurns(ranked: Ranked, count: number): Telling[] {
  const chosen: Telling[] = [];
  const features = new Set<number>();
  const ruling = new Set<number>();
  const next: Record<TellingKind, number> = { token: 0, words: 0, context: 0 };
  const take = (kind: TellingKind): boolean => {
    while (next[kind] < ranked[kind].length) {
      const { feature, score, ruling: token } = ranked[kind][next[kind]++];
      if (score <= 0 || features.has(feature) || (token !== undefined && ruling.has(token))) continue;
      features.add(feature);
      if (token !== undefined) ruling.add(token);
      chosen.push({ feature, kind, score });
      return true;
    }
    return false;
  };
  for (let any = true; any && chosen.length < count; ) {
    any = false;
    for (const kind of KINDS) if (chosen.length < count && take(kind)) any = true;
  }
  return chosen;
}

/** Share of each number among all. */
function shares(numbers: Int32Array): (number: number) => number {
  const counts = new Map<number, number>();
  for (const n of numbers) counts.set(n, (counts.get(n) ?? 0) + 1);
  return (n) => (counts.get(n) ?? 1) / numbers.length;
}

interface Description {
  /** Nats. */
  readonly information: number;
  /** The most frequent number and its share. */
  readonly most: number;
  readonly largest: number;
}

/** Of a few numbers, -1 for none: Σ p log(p / q) over those that are there at least twice. */
function describe(sample: readonly number[], share: (number: number) => number): Description {
  const own = new Map<number, number>();
  for (const n of sample) own.set(n, (own.get(n) ?? 0) + 1);
  let information = 0;
  let most = -1;
  let largest = 0;
  for (const [n, times] of own) {
    if (times > largest) [most, largest] = [n, times];
    if (times < 2 || n < 0) continue;
    const p = times / sample.length;
    information += p * Math.log(p / share(n));
  }
  return { information, most, largest: largest / sample.length };
}
