import assert from "node:assert/strict";
import { test } from "node:test";
import { brief, didYouMean } from "../../src/util/index.ts";

test("brief shows a value of a file on one short line", () => {
  assert.equal(brief("a\n\u001b"), '"a\\n\\u001b"');
  assert.equal(brief(undefined), "undefined");
  assert.equal(brief(-1.5), "-1.5");
  assert.equal(brief({ a: 1 }), "{…}");
  assert.equal(brief([1, "x", null, [2], {}]), '[1, "x", null, …, …]');
  assert.equal(brief(Array.from({ length: 9 }, () => 0)), "[0, 0, 0, 0, 0, 0, 0, 0, …]");
  assert.equal(brief("x".repeat(1e6)).length, 83);
  assert.ok(brief(Array.from({ length: 8 }, () => "x".repeat(100))).length < 90);
});

test("brief never walks into what is nested", () => {
  const circle: unknown[] = [];
  circle.push(circle);
  assert.equal(brief(circle), "[…]");
});

test("nothing is near to an endless name", () => {
  assert.equal(didYouMean("W_enc".repeat(1e6), ["W_enc"]), "; there are: W_enc");
});
