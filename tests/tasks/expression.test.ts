/**
 * The reader and checker of arithmetic, on expressions that can be done by head.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  evaluateExpression,
  formatExpression,
  isReduction,
  parseExpression,
  reductions,
} from "../../src/tasks/index.ts";

test("values follow precedence, and run from left to right within it", () => {
  assert.equal(evaluateExpression("(7 + 5) / (6 + 4 * 3 - 2 * 7)"), 3);
  assert.equal(evaluateExpression("9 - 4 + 3"), 8);
  assert.equal(evaluateExpression("9 - (4 + 3)"), 2);
  assert.equal(evaluateExpression("12 / 2 * 3"), 18);
  assert.equal(evaluateExpression("12 / (2 * 3)"), 2);
  assert.equal(evaluateExpression("-3 * -4"), 12);
  assert.equal(evaluateExpression("7 - -3"), 10);
  assert.equal(evaluateExpression("7 -3"), 4);
  assert.equal(evaluateExpression("(0 - 0) * -5"), 0);
  assert.ok(Object.is(evaluateExpression("0 * -5"), 0));
});

test("what is no expression is refused with the place", () => {
  for (const [text, why] of [
    ["7 +", /expected a number or an opening bracket, but it ends \(word 3\)/],
    ["(7 + 5", /expected a closing bracket, but it ends/],
    ["7 5", /expected an operator or the end, but found 5/],
    ["7 + x", /cannot read it from character 3/],
    ["007", /expected a number/],
    ["- 3", /expected a number/],
    ["", /it ends/],
  ] as const) {
    assert.throws(() => parseExpression(text), why, text);
  }
});

test("divisions that are not exact have no value", () => {
  assert.throws(() => evaluateExpression("7 / 2"), /7 \/ 2 is not a whole number/);
  assert.throws(() => evaluateExpression("7 / (3 - 3)"), /7 \/ 0 is not a whole number/);
});

const steps = (text: string) => reductions(parseExpression(text)).map(formatExpression).sort();

test("one step carries out one operation that the chain allows", () => {
  assert.deepEqual(steps("2 + 3"), ["5"]);
  assert.deepEqual(steps("2 + 3 * 4"), ["2 + 12"]);
  assert.deepEqual(steps("9 + 4 - 3"), ["13 - 3", "9 + 1"]);
  assert.deepEqual(steps("9 - 4 + 3"), ["5 + 3"]);
  assert.deepEqual(steps("2 * 6 / 3"), ["12 / 3", "2 * 2"]);
  assert.deepEqual(steps("2 * 3 / 2"), ["6 / 2"]); // 3 / 2 is not whole
  assert.deepEqual(steps("12 / 2 * 3"), ["6 * 3"]);
  assert.deepEqual(steps("(7 + 5) / (6 - 3)"), ["(7 + 5) / 3", "12 / (6 - 3)"]);
  assert.deepEqual(steps("1 * 3 + 4"), ["3 + 4"]); // not 1 * 7, though it has the same value
  assert.deepEqual(steps("7"), []);
});

test("a line is a step only if exactly one operation was carried out, and rightly", () => {
  const before = "(7 + 5) / (6 + 4 * 3 - 2 * 7)";
  assert.ok(isReduction(before, "12 / (6 + 4 * 3 - 2 * 7)"));
  assert.ok(isReduction(before, "(7 + 5) / (6 + 12 - 2 * 7)"));
  assert.ok(!isReduction(before, before), "nothing was done");
  assert.ok(!isReduction(before, "12 / (6 + 12 - 2 * 7)"), "two at once");
  assert.ok(!isReduction(before, "13 / (6 + 4 * 3 - 2 * 7)"), "miscalculated");
  assert.ok(!isReduction(before, "12 / 6 + 4 * 3 - 2 * 7"), "brackets lost");
  assert.ok(!isReduction(before, "3"), "all at once");
  assert.ok(!isReduction(before, "12 / ("), "no expression");
  assert.ok(!isReduction("8", "8"));
});
