/**
 * Which features a reader learns most from. Our own rule, no paper's: what the words at a feature's highest peaks, and the
 * words around them, share beyond chance. Sure signs are words, so tokens are grouped into them first.
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

/** `word`: one word, wherever it stands. `words`: several that occur together. `context`: what stands before or after. */
export type TellingKind = "word" | "words" | "context";
const KINDS = ["words", "context", "word"] as const satisfies readonly TellingKind[];

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
 * A feature's score is the information Σ p log(p / q), p the share of a word among its peaks and q that among all words of the
 * text; words seen at one peak only say nothing. `word` and `words` take the word at the peak and differ in whether one
 * has more than half of the peaks; `context` takes the better of the words before and after, where no single word rules
 * at the peak. The best of each kind take turns, so that a page does not show sixty single words; a word rules one feature only.
 */
export function tellingFeatures(table: FeatureActivations, options: TellingOptions): Telling[] {
  const { count, words, minWindows = 8, maxDensity = 0.02, peaks = 20 } = options;
  const share = wordShares(words);
  const fired = table.counts();
  const ranked: Record<TellingKind, (Telling & { ruling: number })[]> = { word: [], words: [], context: [] };
  for (let feature = 0; feature < table.features; feature++) {
    if (fired[feature] < minWindows || fired[feature] / table.tokens.length > maxDensity) continue;
    const tops = topPeaks(table, feature, peaks);
    if (tops.length < minWindows) continue;
    const around = (offset: number) =>
      describe(
        tops.map(({ token }) => words.number[words.at[token] + offset] ?? -1),
        share,
      );
    const peak = around(0);
    const single = peak.largest > 0.5;
    const ruling = single ? peak.word : -1;
    if (peak.word >= 0 || !single) {
      ranked[single ? "word" : "words"].push({
        feature,
        kind: single ? "word" : "words",
        score: peak.information,
        ruling,
      });
    }
    if (!single) {
      const score = Math.max(around(-1).information, around(1).information);
      ranked.context.push({ feature, kind: "context", score, ruling });
    }
  }
  for (const kind of KINDS) ranked[kind].sort((a, b) => b.score - a.score || a.feature - b.feature);
  return takeTurns(ranked, count);
}

/** The best of each kind in turn; no feature and no ruling word twice. */
function takeTurns(
  ranked: Readonly<Record<TellingKind, readonly (Telling & { ruling: number })[]>>,
  count: number,
): Telling[] {
  const chosen: Telling[] = [];
  const features = new Set<number>();
  const ruling = new Set<number>();
  const next: Record<TellingKind, number> = { word: 0, words: 0, context: 0 };
  const take = (kind: TellingKind): boolean => {
    while (next[kind] < ranked[kind].length) {
      const { ruling: word, ...telling } = ranked[kind][next[kind]++];
      if (telling.score <= 0 || features.has(telling.feature) || ruling.has(word)) continue;
      features.add(telling.feature);
      if (word >= 0) ruling.add(word);
      chosen.push(telling);
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

/** Share of each word number among all words of the text. */
function wordShares({ number }: Words): (word: number) => number {
  const counts = new Map<number, number>();
  for (const word of number) counts.set(word, (counts.get(word) ?? 0) + 1);
  return (word) => (counts.get(word) ?? 1) / number.length;
}

interface Description {
  readonly information: number;
  /** The most frequent word and its share. */
  readonly word: number;
  readonly largest: number;
}

/** Of a few words (numbers; -1 is none): Σ p log(p / q) over those seen at least twice. */
function describe(sample: readonly number[], share: (word: number) => number): Description {
  const own = new Map<number, number>();
  for (const word of sample) own.set(word, (own.get(word) ?? 0) + 1);
  let information = 0;
  let word = -1;
  let most = 0;
  for (const [w, n] of own) {
    if (n > most) [word, most] = [w, n];
    if (n < 2 || w < 0) continue;
    const p = n / sample.length;
    information += p * Math.log(p / share(w));
  }
  return { information, word, largest: most / sample.length };
}
