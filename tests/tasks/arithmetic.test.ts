/**
 * Arithmetic samples, judged by the reader of expressions and by what their text must look like.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type ArithmeticOptions,
  type ArithmeticSample,
  arithmeticVocabulary,
  type Expression,
  evaluateExpression,
  formatExpression,
  generateArithmetic,
  isReduction,
  makeArithmeticSplits,
  parseExpression,
} from "../../src/tasks/index.ts";
import { Rng } from "../../src/util/index.ts";

const many = (count: number, options: ArithmeticOptions): ArithmeticSample[] => {
  const rng = new Rng(7);
  return Array.from({ length: count }, () => generateArithmetic(rng, options));
};

const numbersOf = (text: string): number[] => (text.match(/(?<![\d)] )-?\d+|\d+/g) ?? []).map(Number);

const KINDS: ArithmeticOptions[] = [
  { operands: 4 },
  { operands: 5 },
  { operands: 6 },
  { operands: 6, count: "operators" },
  { operands: 5, max: 9 },
  { operands: 6, negatives: true },
  { operands: 4, max: 1000, negatives: true },
];

for (const options of KINDS) {
  test(`every line carries out one operation of the line before it: ${JSON.stringify(options)}`, () => {
    const { operands, count, max = 127, negatives = false } = options;
    for (const sample of many(400, options)) {
      const lines = [sample.expression, ...sample.steps];
      assert.equal(lines.length, count === "operators" ? operands + 1 : operands);
      assert.equal(numbersOf(sample.expression).length, lines.length);
      lines.forEach((line, i) => {
        assert.equal(evaluateExpression(line), sample.answer, line);
        if (i > 0) assert.ok(isReduction(lines[i - 1], line), `${lines[i - 1]} -> ${line}`);
        for (const number of numbersOf(line)) assert.ok(Math.abs(number) <= max, line);
        if (!negatives) assert.doesNotMatch(line, /-\d/);
      });
      assert.equal(lines[lines.length - 1], String(sample.answer));
    }
  });
}

test("negative numbers occur where they are allowed, as operands, results and answers", () => {
  const samples = many(300, { operands: 4, negatives: true });
  assert.ok(samples.some(({ expression }) => /[*/] -\d/.test(expression)));
  const below = samples.filter(({ answer }) => answer < 0).length;
  assert.ok(below > 100 && below < 200, `${below} of 300`);
});

test("the text is the expression, =, and a line a step", () => {
  const sample = generateArithmetic(new Rng(3), { operands: 4 });
  assert.equal(sample.prompt, `${sample.expression} =\n`);
  assert.equal(sample.completion, sample.steps.map((step) => `= ${step}`).join("\n"));
  assert.match(sample.prompt + sample.completion, /^[^=\n]+ =\n= [^=\n]+\n= \d+ [-+*/] \d+\n= \d+$/);
});

/** Chains inside chains of the same kind must be bound by - or /: elsewhere their brackets change nothing. */
function hasIdleBrackets(expression: Expression): boolean {
  if (typeof expression === "number") return false;
  const loose = (operator: string) => operator === "+" || operator === "-";
  return expression.items.some((item, i) => {
    if (typeof item === "number") return false;
    const alike = loose(item.operators[0]) === loose(expression.operators[0]);
    return hasIdleBrackets(item) || (alike && !/[-/]/.test(expression.operators[i - 1] ?? ""));
  });
}

test("brackets stand only where precedence needs them", () => {
  assert.ok(hasIdleBrackets(parseExpression("1 + (2 - 3)")));
  assert.ok(!hasIdleBrackets(parseExpression("1 - (2 - 3 * (4 + 5))")));
  const samples = many(1000, { operands: 6 });
  for (const { expression } of samples) {
    const parsed = parseExpression(expression);
    assert.ok(!hasIdleBrackets(parsed), expression);
    assert.equal(formatExpression(parsed), expression);
  }
  const share = samples.filter(({ expression }) => expression.includes("(")).length / samples.length;
  assert.ok(share > 0.5 && share < 0.95, `${share} have brackets`);
});

test("operators are uniform, and so is the answer", () => {
  const samples = many(5000, { operands: 5 });
  const counts = new Map([..."+-*/"].map((operator) => [operator, 0]));
  for (const { expression } of samples) {
    for (const [, operator] of expression.matchAll(/ ([-+*/]) /g))
      counts.set(operator, counts.get(operator)! + 1);
  }
  for (const [operator, count] of counts) assert.ok(Math.abs(count / 20000 - 0.25) < 0.02, operator);
  const answers = samples.map(({ answer }) => answer);
  assert.equal(new Set(answers).size, 128);
  assert.ok(Math.abs(answers.reduce((a, b) => a + b) / 5000 - 63.5) < 3);
});

test("splits share no expression, and repeat with their seed", () => {
  const sizes = { train: 3000, valid: 200, test: 500 };
  const splits = makeArithmeticSplits({ operands: 4, max: 20, seed: 5, ...sizes });
  const all = [...splits.train, ...splits.valid, ...splits.test].map(({ expression }) => expression);
  assert.deepEqual([splits.train.length, splits.valid.length, splits.test.length], [3000, 200, 500]);
  assert.equal(new Set(all).size, 3700);
  assert.deepEqual(makeArithmeticSplits({ operands: 4, max: 20, seed: 5, ...sizes }), splits);
  const other = makeArithmeticSplits({ operands: 4, max: 20, seed: 6, ...sizes });
  assert.notDeepEqual(other.test, splits.test);
});

test("the test set does not depend on how much there is to train on", () => {
  const few = makeArithmeticSplits({ operands: 5, train: 10, test: 50, seed: 1 });
  const more = makeArithmeticSplits({ operands: 5, train: 200, test: 50, seed: 1 });
  assert.deepEqual(few.test, more.test);
  assert.deepEqual(few.train, more.train.slice(0, 10));
});

test("50,000 different samples of the largest size take seconds", () => {
  const start = performance.now();
  const { train, test: held } = makeArithmeticSplits({ operands: 6, seed: 0 });
  const seconds = (performance.now() - start) / 1000;
  assert.deepEqual([train.length, held.length], [50_000, 1000]);
  assert.ok(seconds < 20, `${seconds} s`);
});

test("a space that is too small is refused with the numbers and the way out", () => {
  assert.throws(
    () => makeArithmeticSplits({ operands: 2, max: 3, train: 500, test: 10, seed: 1 }),
    /510 different samples are asked for, but after (\d\d) there was nothing new.*raise max or operands/,
  );
});

test("options that make no sense are refused", () => {
  const rng = new Rng(0);
  assert.throws(() => generateArithmetic(rng, { operands: 1 }), /operands=1 counted as operands/);
  assert.throws(() => generateArithmetic(rng, { operands: 2.5 }), /operands=2.5/);
  assert.throws(() => generateArithmetic(rng, { operands: 4, max: 0 }), /max=0 must be/);
  assert.throws(() => generateArithmetic(rng, { operands: 4, count: "terms" as never }), /count="terms"/);
  assert.throws(() => makeArithmeticSplits({ operands: 4, train: -1, seed: 0 }), /train=-1/);
  assert.throws(() => arithmeticVocabulary({ numbers: "words" as never }), /numbers="words"/);
});

test("whole numbers are a token each, spaces none", () => {
  const vocabulary = arithmeticVocabulary();
  assert.equal(vocabulary.size, 3 + 8 + 128);
  const words = (text: string) => vocabulary.encode(text).map((id) => vocabulary.words[id]);
  assert.deepEqual(words("(7 + 105) / 12 =\n= 3"), "( 7 + 105 ) / 12 = | = 3".replace("|", "\n").split(" "));
  assert.throws(() => vocabulary.encode("128 - 1"), /"128" is not among its 139 words/);
  assert.throws(() => vocabulary.encode("1 ^ 2"), /"\^" is not among/);
});

test("digits are a token each where that is asked for", () => {
  const vocabulary = arithmeticVocabulary({ numbers: "digits" });
  assert.equal(vocabulary.size, 3 + 8 + 10);
  const words = vocabulary.encode("-105 - 12").map((id) => vocabulary.words[id]);
  assert.deepEqual(words, ["-", "1", "0", "5", "-", "1", "2"]);
});

for (const numbers of ["whole", "digits"] as const) {
  test(`encoded samples decode to their text, ${numbers}`, () => {
    for (const negatives of [false, true]) {
      const vocabulary = arithmeticVocabulary({ numbers, negatives });
      for (const sample of many(300, { operands: 6, negatives })) {
        const { ids, promptLength } = vocabulary.encodeSample(sample);
        assert.equal(ids[0], vocabulary.bos);
        assert.equal(ids[ids.length - 1], vocabulary.eos);
        assert.equal(vocabulary.decode(ids), sample.prompt + sample.completion);
        assert.equal(vocabulary.decode(ids.subarray(promptLength)), sample.completion);
        assert.deepEqual([...ids.subarray(0, promptLength)], vocabulary.encodePrompt(sample));
      }
    }
  });
}

test("decoding stops at EOS, skips PAD, and refuses ids of other vocabularies", () => {
  const vocabulary = arithmeticVocabulary();
  const [equals, three] = vocabulary.encode("= 3");
  assert.equal(vocabulary.decode([equals, three, vocabulary.eos, three]), "= 3");
  assert.equal(vocabulary.decode([vocabulary.pad, vocabulary.pad, equals, three]), "= 3");
  assert.equal(vocabulary.decode([three, three]), "3 3");
  assert.throws(() => vocabulary.decode([500]), /id 500 is not in 0 … 138/);
});
