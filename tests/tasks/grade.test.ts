/**
 * Grading of completions written by hand, and of a model that is a function.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  type ArithmeticSample,
  arithmeticVocabulary,
  evaluateByGeneration,
  gradeAll,
  gradeArithmetic,
  gradeProsqa,
  gradeTokens,
  makeArithmeticSplits,
  makeProsqaSplits,
  type ProsqaSample,
  prosqaVocabulary,
  summarizeGrades,
} from "../../src/tasks/index.ts";

const sum: ArithmeticSample = {
  expression: "(7 + 5) / (6 - 2)",
  steps: ["12 / (6 - 2)", "12 / 4", "3"],
  answer: 3,
  prompt: "(7 + 5) / (6 - 2) =\n",
  completion: "= 12 / (6 - 2)\n= 12 / 4\n= 3",
};

test("arithmetic: the last line decides, the steps are judged on their own", () => {
  const grade = (text: string) => gradeArithmetic(sum, text);
  assert.deepEqual(grade(sum.completion), { outcome: "correct", answer: "3", stepsValid: true });
  assert.ok(grade("= (7 + 5) / 4\n= 12 / 4\n= 3").stepsValid, "another order");
  assert.deepEqual(grade("= 3"), { outcome: "correct", answer: "3", stepsValid: false });
  assert.deepEqual(grade("= 12 / (6 - 2)\n= 12 / 3\n= 4"), {
    outcome: "wrong",
    answer: "4",
    stepsValid: false,
  });
  assert.deepEqual(grade("= 13 / (6 - 2)\n= 12 / 4\n= 3"), {
    outcome: "correct",
    answer: "3",
    stepsValid: false,
  });
  assert.deepEqual(grade("= 12 / (6 - 2)\n= 12 / 4"), { outcome: "none", stepsValid: false });
  assert.equal(grade("12 / (6 - 2)\n= 12 / 4\n= 3").stepsValid, false, "a line without =");
  assert.equal(grade(`${sum.completion}\n= 3`).stepsValid, false, "a line too many");
  assert.equal(grade("= 30").outcome, "wrong");
  assert.equal(grade("= 03").outcome, "wrong");
  for (const text of ["", "\n", "3", "= ", "= 3 4", "= x", "(3)"])
    assert.equal(grade(text).outcome, "none", text);
});

test("the example of docs/tasks.md is a valid solution", () => {
  const page = readFileSync(new URL("../../../docs/tasks.md", import.meta.url), "utf8");
  const block = /^ {4}(.*) =\n((?: {4}= .*\n)+)/m.exec(page)!;
  const sample = { ...sum, expression: block[1] };
  const completion = block[2].replaceAll("    ", "");
  assert.deepEqual(gradeArithmetic(sample, completion), {
    outcome: "correct",
    answer: "3",
    stepsValid: true,
  });
});

const question: ProsqaSample = {
  name: "Almo",
  options: ["gobor", "depir"],
  answer: "depir",
  distractor: "gobor",
  facts: [
    ["lamek", "depir"],
    ["Almo", "lamek"],
    ["Almo", "sasut"],
    ["lamek", "sasut"],
    ["Berin", "gobor"],
    ["Berin", "sasut"],
  ],
  steps: [
    ["Almo", "lamek"],
    ["lamek", "depir"],
  ],
  prompt: "unused",
  completion: "Almo is a lamek.\nEvery lamek is a depir.\nSo Almo is a depir.",
};

test("graph questions: the last line decides, the steps must be facts that lead to it", () => {
  const grade = (text: string) => gradeProsqa(question, text);
  assert.deepEqual(grade(question.completion), { outcome: "correct", answer: "depir", stepsValid: true });
  assert.deepEqual(grade("So Almo is a depir."), { outcome: "correct", answer: "depir", stepsValid: false });
  assert.deepEqual(grade("So Almo is a gobor."), { outcome: "wrong", answer: "gobor", stepsValid: false });
  const wrongStart = "Berin is a gobor.\nSo Almo is a gobor.";
  assert.deepEqual(grade(wrongStart), { outcome: "wrong", answer: "gobor", stepsValid: false });
  const invented = "Almo is a lamek.\nEvery lamek is a gobor.\nSo Almo is a gobor.";
  assert.equal(grade(invented).stepsValid, false);
  const jump = "Almo is a sasut.\nEvery lamek is a depir.\nSo Almo is a depir.";
  assert.deepEqual(grade(jump), { outcome: "correct", answer: "depir", stepsValid: false });
  const notOffered = "Almo is a sasut.\nSo Almo is a sasut.";
  assert.deepEqual(grade(notOffered), { outcome: "wrong", answer: "sasut", stepsValid: false });
  for (const text of ["", "Almo is a depir.", "So Berin is a depir.", "So Almo is a depir", "So Almo is a"])
    assert.equal(grade(text).outcome, "none", text);
});

test("a generation that did not end has no answer", () => {
  const vocabulary = arithmeticVocabulary({ numbers: "digits" });
  const ids = vocabulary.encode(sum.completion);
  const options = { grade: gradeArithmetic, vocabulary };
  assert.equal(gradeTokens(sum, ids, options).outcome, "none");
  assert.deepEqual(gradeTokens(sum, Int32Array.from([...ids, vocabulary.eos, 5]), options), {
    outcome: "correct",
    answer: "3",
    stepsValid: true,
  });
});

test("own solutions are graded correct with valid steps, in both tasks", () => {
  const sums = makeArithmeticSplits({ operands: 6, train: 0, test: 300, seed: 1 }).test;
  const solved = gradeAll(
    sums,
    sums.map(({ completion }) => completion),
    gradeArithmetic,
  ).summary;
  assert.deepEqual([solved.count, solved.correct, solved.stepsValid, solved.accuracy], [300, 300, 300, 1]);
  assert.equal(solved.interval[1], 1);
  const asked = makeProsqaSplits({ train: 0, valid: 0, test: 100, seed: 1 }).test;
  const answered = gradeAll(
    asked,
    asked.map(({ completion }) => completion),
    gradeProsqa,
  ).summary;
  assert.deepEqual([answered.correct, answered.stepsValid], [100, 100]);
});

test("a summary counts outcomes and gives the interval", () => {
  const texts = [sum.completion, "= 3", "= 4", "= 12 / 4"];
  const { grades, summary } = gradeAll([sum, sum, sum, sum], texts, gradeArithmetic);
  assert.equal(grades[2].answer, "4");
  assert.deepEqual(
    [summary.count, summary.correct, summary.wrong, summary.none, summary.stepsValid, summary.accuracy],
    [4, 2, 1, 1, 1, 0.5],
  );
  assert.ok(summary.interval[0] > 0.14 && summary.interval[0] < 0.16);
  assert.ok(summary.interval[1] > 0.84 && summary.interval[1] < 0.86);
  assert.throws(() => gradeAll([sum], [], gradeArithmetic), /0 completions for 1 samples/);
  assert.throws(() => summarizeGrades([]), /no samples/);
});

test("evaluation asks in batches, in order, from BOS and the prompt", async () => {
  const vocabulary = prosqaVocabulary();
  const samples = makeProsqaSplits({ train: 0, valid: 0, test: 25, seed: 2 }).test;
  const sizes: number[] = [];
  const done: number[] = [];
  // Always says the first option, without reasons.
  const generate = async (prompts: readonly number[][]) => {
    sizes.push(prompts.length);
    return prompts.map((ids) => {
      assert.equal(ids[0], vocabulary.bos);
      const [, name, option] = / Is (\w+) a (\w+) or /.exec(vocabulary.decode(ids))!;
      return [...vocabulary.encode(`So ${name} is a ${option}.`), vocabulary.eos];
    });
  };
  const { grades, summary } = await evaluateByGeneration(samples, {
    vocabulary,
    grade: gradeProsqa,
    generate,
    batch: 10,
    onProgress: (n) => done.push(n),
  });
  assert.deepEqual(sizes, [10, 10, 5]);
  assert.deepEqual(done, [10, 20, 25]);
  assert.equal(summary.correct, samples.filter(({ options, answer }) => options[0] === answer).length);
  assert.deepEqual(
    grades.map(({ answer }) => answer),
    samples.map(({ options }) => options[0]),
  );
  assert.deepEqual([summary.none, summary.stepsValid], [0, 0]);
});

test("evaluation stops when asked to, and refuses a model that answers too little", async () => {
  const vocabulary = arithmeticVocabulary();
  const options = { vocabulary, grade: gradeArithmetic, generate: async () => [] };
  await assert.rejects(evaluateByGeneration([sum], options), /0 completions for 1 samples/);
  await assert.rejects(evaluateByGeneration([sum], { ...options, batch: 0 }), /batch=0/);
  const signal = AbortSignal.abort();
  await assert.rejects(evaluateByGeneration([sum], { ...options, signal }), /interrupted/);
});
