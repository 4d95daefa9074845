/**
 * Which passages an explanation is made from and tested on, and its score.
 * Protocol of arXiv 2505.22255, section 5.3 and appendix B: 16 random examples above the median activation to explain from; up to
 * 64 others above it against as many in which the feature is silent. Detection shows plain passages. Fuzzing marks tokens: of its
 * items half are examples with the tokens that fired, a quarter other examples with others, a quarter silent passages.
 * Differs from the paper: no passage is used twice, and a feature with few examples keeps half of them to be tested on.
 */
import { Rng } from "../../util/index.ts";
import type { Control, Example } from "../feature-database.ts";
import type { Vocabulary } from "../vocabulary.ts";
import type { Passage } from "./prompts.ts";

export interface ScoringOptions {
  /** Examples to explain from. */
  readonly shown: number;
  /** Most positives, and most negatives, of each score. */
  readonly tested: number;
  readonly seed: number;
}

export interface Item {
  readonly passage: Passage;
  /** Whether 1 is the right answer. */
  readonly positive: boolean;
}

export interface FeatureTask {
  readonly feature: number;
  readonly shown: readonly { passage: Passage; example: Example }[];
  readonly detection: readonly Item[];
  readonly fuzzing: readonly Item[];
}

/** Fewer examples above the median are no ground for an explanation. */
export const LEAST_EXAMPLES = 4;

/** Draws a feature's passages; undefined if there are too few. */
export function taskOf(
  feature: number,
  { examples, controls }: { examples: readonly Example[]; controls: readonly Control[] },
  vocabulary: Vocabulary,
  options: ScoringOptions,
): FeatureTask | undefined {
  const rng = new Rng(options.seed).fork("explain").fork(feature);
  const above = rng.shuffle(examples.filter((e) => e.quantile !== null && e.quantile > 0.5));
  const silent = rng.shuffle(controls.filter((c) => !includes(c.features, feature)));
  if (above.length < LEAST_EXAMPLES) return undefined;
  const count = Math.min(options.shown, Math.floor(above.length / 2));
  const passageOf = (example: Example): Passage => ({
    pieces: vocabulary.pieces(example.tokens),
    marked: example.activations.map((value) => value > 0),
  });
  const plain = (control: Control): Passage => ({
    pieces: vocabulary.pieces(control.tokens),
    marked: control.tokens.map(() => false),
  });
  const tested = above.slice(count).map(passageOf);
  const negatives = silent.map(plain);
  return {
    feature,
    shown: above.slice(0, count).map((example) => ({ passage: passageOf(example), example })),
    detection: detectionItems(tested, negatives, options.tested, rng),
    fuzzing: fuzzingItems(tested, negatives, options.tested, rng),
  };
}

/** As many positives as negatives, in random order. */
function detectionItems(
  positives: readonly Passage[],
  negatives: readonly Passage[],
  most: number,
  rng: Rng,
): Item[] {
  const n = Math.min(most, positives.length, negatives.length);
  return rng.shuffle([
    ...positives.slice(0, n).map((passage) => ({ passage, positive: true })),
    ...negatives.slice(0, n).map((passage) => ({ passage, positive: false })),
  ]);
}

/**
 * n rightly marked, n / 2 wrongly marked, n / 2 silent ones marked at random, in random order. Wrong and random marks are as many
 * as right ones, where there are so many other tokens.
 */
function fuzzingItems(
  positives: readonly Passage[],
  negatives: readonly Passage[],
  most: number,
  rng: Rng,
): Item[] {
  const half = Math.floor(Math.min(most / 2, positives.length / 3, negatives.length));
  const right = positives.slice(0, 2 * half);
  const marksOf = (i: number) => right[i % right.length].marked.filter(Boolean).length;
  const others = positives.slice(2 * half).filter((p) => p.marked.includes(false));
  const wrong = others.slice(0, half).map((p, i) => remarked(p, marksOf(i), rng));
  const silent = negatives.slice(0, half).map((p, i) => remarked(p, marksOf(half + i), rng));
  return rng.shuffle([
    ...right.map((passage) => ({ passage, positive: true })),
    ...[...wrong, ...silent].map((passage) => ({ passage, positive: false })),
  ]);
}

/** The passage with `count` of its other tokens marked. */
function remarked({ pieces, marked }: Passage, count: number, rng: Rng): Passage {
  const others = rng.shuffle(marked.flatMap((is, i) => (is ? [] : [i])));
  const chosen = new Set(others.slice(0, count));
  return { pieces, marked: pieces.map((_, i) => chosen.has(i)) };
}

/** Items judged, and how many rightly. */
export interface Score {
  /** (TPR + TNR) / 2; null if all answers on one side were dropped. */
  readonly score: number | null;
  /** Shares of the positives, and of the negatives, that were told rightly. */
  readonly tpr: number | null;
  readonly tnr: number | null;
  /** Items that were judged; those of answers that could not be read are not among them. */
  readonly positives: number;
  readonly negatives: number;
  readonly dropped: number;
}

/** Verdicts are undefined where the answer could not be read. */
export function scoreOf(items: readonly Item[], verdicts: readonly (boolean | undefined)[]): Score {
  const side = (positive: boolean) => {
    const judged = items.flatMap((item, i) =>
      item.positive === positive && verdicts[i] !== undefined ? [verdicts[i] === positive] : [],
    );
    return {
      n: judged.length,
      rate: judged.length > 0 ? judged.filter(Boolean).length / judged.length : null,
    };
  };
  const [yes, no] = [side(true), side(false)];
  return {
    score: yes.rate === null || no.rate === null ? null : (yes.rate + no.rate) / 2,
    tpr: yes.rate,
    tnr: no.rate,
    positives: yes.n,
    negatives: no.n,
    dropped: items.length - yes.n - no.n,
  };
}

/** Whether an ascending list has the number. */
function includes(ascending: readonly number[], number: number): boolean {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < number) low = middle + 1;
    else high = middle;
  }
  return ascending[low] === number;
}
