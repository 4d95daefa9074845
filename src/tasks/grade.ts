/**
 * Grading of what a model wrote by itself: the final answer must match exactly, and the steps are checked on
 * their own. Text is the completion only, without the prompt.
 */
import { throwIfAborted, usageError, wilsonInterval } from "../util/index.ts";
import type { ArithmeticSample } from "./arithmetic.ts";
import { isReduction } from "./expression.ts";
import { factText, type ProsqaSample } from "./prosqa.ts";
import type { TaskSample, TaskVocabulary } from "./vocabulary.ts";

export interface Grade {
  /** `none`: there is no final answer in the form of the task. */
  readonly outcome: "correct" | "wrong" | "none";
  /** The final answer as written. */
  readonly answer?: string;
  /**
   * Whether every line follows from the question and the lines before it, up to the answer; a right guess is
   * not enough.
   */
  readonly stepsValid: boolean;
}

export type Grader<S> = (sample: S, completion: string) => Grade;

const linesOf = (text: string): string[] => text.trimEnd().split("\n");

function outcome(answer: string | undefined, right: string): Pick<Grade, "outcome" | "answer"> {
  if (answer === undefined) return { outcome: "none" };
  return { outcome: answer === right ? "correct" : "wrong", answer };
}

/**
 * The answer is the number of the last line, which must be `= number`; a step is one operation carried out.
 */
export const gradeArithmetic: Grader<ArithmeticSample> = (sample, completion) => {
  const lines = linesOf(completion);
  const answer = /^= (-?\d+)$/.exec(lines[lines.length - 1])?.[1];
  const stepsValid =
    answer !== undefined &&
    lines.every((line, i) => {
      const before = i === 0 ? sample.expression : lines[i - 1].slice(2);
      return line.startsWith("= ") && isReduction(before, line.slice(2));
    });
  return { ...outcome(answer, String(sample.answer)), stepsValid };
};

/**
 * The answer is the kind in the last line, which must be `So NAME is a KIND.` with the name that was asked
 * about; a kind that was not offered is wrong. Steps are facts of the question, each beginning where the one
 * before it ended.
 */
export const gradeProsqa: Grader<ProsqaSample> = (sample, completion) => {
  const lines = linesOf(completion);
  const match = /^So (\w+) is a (\w+)\.$/.exec(lines[lines.length - 1]);
  const answer = match?.[1] === sample.name ? match[2] : undefined;
  const facts = new Map(sample.facts.map((fact) => [factText(fact), fact]));
  let at: string | undefined = sample.name;
  for (const line of lines.slice(0, -1)) {
    const fact = facts.get(line);
    at = fact && fact[0] === at ? fact[1] : undefined;
  }
  const stepsValid = answer !== undefined && answer === at && sample.options.includes(answer);
  return { ...outcome(answer, sample.answer), stepsValid };
};

/** Grades token ids. A generation that did not end by EOS has no answer: its last number may be cut short. */
export function gradeTokens<S>(
  sample: S,
  ids: ArrayLike<number>,
  { grade, vocabulary }: { readonly grade: Grader<S>; readonly vocabulary: TaskVocabulary },
): Grade {
  return vocabulary.isEnded(ids)
    ? grade(sample, vocabulary.decode(ids))
    : { outcome: "none", stepsValid: false };
}

export interface GradeSummary {
  readonly count: number;
  readonly correct: number;
  readonly wrong: number;
  /** Without a final answer. */
  readonly none: number;
  /** With valid steps to the end, and so correct. */
  readonly stepsValid: number;
  /** correct / count. */
  readonly accuracy: number;
  /** Wilson's 95 % interval of the accuracy over such samples; spread over training seeds is not in it. */
  readonly interval: readonly [low: number, high: number];
}

export function summarizeGrades(grades: readonly Grade[]): GradeSummary {
  if (grades.length === 0) throw usageError("grading: there are no samples; grade at least one");
  const number = (holds: (grade: Grade) => boolean): number => grades.filter(holds).length;
  const correct = number((grade) => grade.outcome === "correct");
  return {
    count: grades.length,
    correct,
    wrong: number((grade) => grade.outcome === "wrong"),
    none: number((grade) => grade.outcome === "none"),
    stepsValid: number((grade) => grade.stepsValid),
    accuracy: correct / grades.length,
    interval: wilsonInterval(correct, grades.length),
  };
}

/** Grades many completions, one a sample, in the same order. */
export function gradeAll<S>(
  samples: readonly S[],
  completions: readonly string[],
  grade: Grader<S>,
): { readonly grades: readonly Grade[]; readonly summary: GradeSummary } {
  checkCount(samples.length, completions.length);
  const grades = samples.map((sample, i) => grade(sample, completions[i]));
  return { grades, summary: summarizeGrades(grades) };
}

function checkCount(samples: number, completions: number): void {
  if (samples !== completions)
    throw usageError(`grading: ${completions} completions for ${samples} samples; give one for each`);
}

export interface EvaluateOptions<S> {
  readonly vocabulary: TaskVocabulary;
  readonly grade: Grader<S>;
  /**
   * New tokens for each prompt (ids with BOS), the EOS included where there is one; as a model's `generate`
   * gives them.
   */
  readonly generate: (prompts: readonly number[][]) => Promise<readonly ArrayLike<number>[]>;
  /** Prompts a call of `generate`; default 64. */
  readonly batch?: number;
  readonly onProgress?: (done: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Lets a model answer all samples, batch by batch, and grades what it wrote. Throws `interrupted` between
 * batches on abort.
 */
export async function evaluateByGeneration<S extends TaskSample>(
  samples: readonly S[],
  options: EvaluateOptions<S>,
): Promise<{ readonly grades: readonly Grade[]; readonly summary: GradeSummary }> {
  const { vocabulary, generate, batch = 64, onProgress, signal } = options;
  if (!(Number.isInteger(batch) && batch >= 1))
    throw usageError(`grading: batch=${batch} must be a positive whole number`);
  const grades: Grade[] = [];
  for (let start = 0; start < samples.length; start += batch) {
    throwIfAborted(signal, "no grade is kept");
    const part = samples.slice(start, start + batch);
    const written = await generate(part.map((sample) => vocabulary.encodePrompt(sample)));
    checkCount(part.length, written.length);
    part.forEach((sample, i) => {
      grades.push(gradeTokens(sample, written[i], options));
    });
    onProgress?.(grades.length);
  }
  return { grades, summary: summarizeGrades(grades) };
}
