/**
 * What a language model is asked about a feature, and how its answers are read. After arXiv 2505.22255, appendix B: an
 * explanation behind "[EXPLANATION]:" as a phrase that stands by itself; detection of plain passages and fuzzing of marked ones,
 * a few at a time, each answered by a list. The wording is our own; a change of it raises `PROMPTS`.
 */
import type { Example } from "../feature-database.ts";
import type { ChatMessage } from "./chat.ts";

export const PROMPTS = 1;

/** A passage as pieces of text, with those that are marked. */
export interface Passage {
  readonly pieces: readonly string[];
  readonly marked: readonly boolean[];
}

const EXPLAIN = `You study one feature of a language model: a number that the model computes for every token of a text, and that is above zero on only few of them.

You get passages in which the feature is active. The tokens on which it is active stand between << and >>. Behind each passage these tokens are listed with their strength, from 1 to 10.

Find out what the marked tokens, or what stands before them, have in common: a meaning, a role in the sentence, a piece of a word, a kind of text. Say it in one short phrase that can be understood by itself, as specific as the passages allow. Do not speak of tokens, marks, passages or features in it.

End your answer with one line of this form:
[EXPLANATION]: the phrase`;

const DETECT = `You get a description of what a feature of a language model responds to, and numbered passages. Decide for each passage whether the feature is active anywhere in it: 1 if it is, 0 if it is not.

Answer with nothing but a list of numbers, one for each passage in their order, such as [1, 0, 0, 1].`;

const FUZZ = `You get a description of what a feature of a language model responds to, and numbered passages in which some words or pieces of words stand between << and >>. Decide for each passage whether the marked ones are those on which the feature is active: 1 if they are, 0 if others are marked or the feature is not active there.

Answer with nothing but a list of numbers, one for each passage in their order, such as [1, 0, 0, 1].`;

export function explainMessages(examples: readonly { passage: Passage; example: Example }[]): ChatMessage[] {
  const strongest = examples.reduce((most, { example }) => Math.max(most, ...example.activations), 0);
  const passages = examples.map(({ passage, example }, i) => {
    const active = example.activations.flatMap((value, at) =>
      value > 0
        ? [`${JSON.stringify(passage.pieces[at])} ${Math.max(1, Math.round((10 * value) / strongest))}`]
        : [],
    );
    return `Passage ${i + 1}: ${render(passage, true)}\nActive: ${active.join(", ")}`;
  });
  return [
    { role: "system", content: EXPLAIN },
    { role: "user", content: passages.join("\n\n") },
  ];
}

export type ScoreKind = "detection" | "fuzzing";

export function scoreMessages(
  kind: ScoreKind,
  explanation: string,
  passages: readonly Passage[],
): ChatMessage[] {
  const lines = passages.map((passage, i) => `Passage ${i + 1}: ${render(passage, kind === "fuzzing")}`);
  return [
    { role: "system", content: kind === "detection" ? DETECT : FUZZ },
    { role: "user", content: `Description: ${explanation}\n\n${lines.join("\n\n")}` },
  ];
}

/** One line; neighbouring marked pieces share their marks. */
export function render({ pieces, marked }: Passage, marks: boolean): string {
  let text = "";
  pieces.forEach((piece, i) => {
    const begins = marks && marked[i] && !marked[i - 1];
    const ends = marks && marked[i] && !marked[i + 1];
    text += `${begins ? "<<" : ""}${piece}${ends ? ">>" : ""}`;
  });
  return text.replaceAll("\r", "").replaceAll("\n", "\\n");
}

/** The phrase behind the last marker; undefined if there is none. */
export function parseExplanation(answer: string): string | undefined {
  const found = [...answer.matchAll(/\[EXPLANATION\]:[ \t]*(?:\n\s*)?([^\n]*)/g)].at(-1)?.[1];
  const phrase = found?.trim().replace(/^["“](.*)["”]$/, "$1");
  return phrase ? phrase : undefined;
}

/** The last list of zeros and ones in an answer, if it has the right length. */
export function parseVerdicts(answer: string, count: number): boolean[] | undefined {
  const list = [...answer.matchAll(/\[\s*([01](?:\s*,\s*[01])*)\s*,?\s*\]/g)].at(-1)?.[1];
  const verdicts = list?.split(",").map((digit) => digit.trim() === "1");
  return verdicts?.length === count ? verdicts : undefined;
}
