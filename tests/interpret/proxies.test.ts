/**
 * Proxies of clarity, counted by hand.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ProxyCounts, tokenEntropy } from "../../src/interpret/index.ts";

test("means are over features that fire often enough, entropies over the same number of firings", () => {
  const counts = new ProxyCounts(4, 10, 2);
  // Feature 0 fires on tokens 5, 5, 7; feature 1 on 6, 8; feature 2 once; feature 3 never.
  counts.add(0, 5, 1);
  counts.add(0, 5, 2);
  counts.add(1, 6, 3);
  counts.endContext(4);
  counts.add(0, 7, 3);
  counts.add(1, 8, 5);
  counts.add(2, 9, 1);
  counts.endContext(2);
  const means = counts.finish();
  assert.equal(means.alive, 3);
  assert.equal(means.features, 2);
  assert.ok(Math.abs(means.tokenEntropy - (0 + Math.log(2)) / 2) < 1e-12); // of 5, 5 and of 6, 8
  assert.ok(Math.abs(means.tokenEntropyAll - (tokenEntropy([2, 1]) + Math.log(2)) / 2) < 1e-12);
  assert.equal(means.multiTokenRatio, ((2 / 4 + 1 / 2) / 2 + (1 / 4 + 1 / 2) / 2) / 2);
  assert.equal(means.meanActivation, (6 / 3 + 8 / 2) / 2);
});

test("without a feature that fires often enough there are no means", () => {
  const means = new ProxyCounts(3, 10, 5).finish();
  assert.equal(means.features, 0);
  assert.ok(Number.isNaN(means.tokenEntropy));
});
