/**
 * Assignment, graph matching and the measures of covariances that runs/kron-synthetic.ts reports.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  assignLargest,
  effectiveRank,
  eigenvalues,
  matchLatents,
  reordered,
  rvCoefficient,
} from "../../runs/lib/matching.ts";
import { Rng } from "../../src/util/index.ts";

function bestSum(gain: Float64Array, n: number): number {
  const search = (row: number, used: number): number => {
    if (row === n) return 0;
    let best = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < n; j++) {
      if (used & (1 << j)) continue;
      best = Math.max(best, gain[row * n + j] + search(row + 1, used | (1 << j)));
    }
    return best;
  };
  return search(0, 0);
}

test("an assignment is a permutation with the largest sum, as trying all of them finds", () => {
  const rng = new Rng(1);
  for (let trial = 0; trial < 40; trial++) {
    const n = 1 + (trial % 7);
    const gain = Float64Array.from({ length: n * n }, () => Math.round(20 * rng.uniform()) - 8);
    const order = assignLargest(gain, n);
    assert.deepEqual(
      [...order].sort((a, b) => a - b),
      Array.from({ length: n }, (_, i) => i),
    );
    const sum = order.reduce((total, j, i) => total + gain[i * n + j], 0);
    assert.equal(sum, bestSum(gain, n));
  }
});

test("RV of a covariance with itself is 1, with the identity that of the fixture", () => {
  const s = Float64Array.of(2, 1, 1, 2);
  assert.equal(rvCoefficient(s, s), 1);
  assert.ok(Math.abs(rvCoefficient(s, Float64Array.of(1, 0, 0, 1)) - 0.894427) < 1e-6);
});

test("eigenvalues and the effective rank", () => {
  const found = eigenvalues(Float64Array.of(2, 1, 0, 1, 2, 0, 0, 0, 5), 3);
  [5, 3, 1].forEach((v, i) => void assert.ok(Math.abs(found[i] - v) < 1e-9));
  assert.ok(Math.abs(effectiveRank([1, 1, 1, 1, 0]) - 4) < 1e-12);
  assert.ok(Math.abs(effectiveRank([7]) - 1) < 1e-12);
});

test("latents in another order are found again", () => {
  const n = 24;
  const rng = new Rng(2);
  // Blocks of different sizes and strengths, and a little noise that tells latents apart.
  const s = new Float64Array(n * n);
  const block = Array.from({ length: n }, (_, i) => (i < 4 ? 0 : i < 10 ? 1 : i < 18 ? 2 : 3));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const v = (block[i] === block[j] ? 0.4 + 0.15 * block[i] : 0) + 0.1 * rng.uniform();
      s[i * n + j] = s[j * n + i] = i === j ? 1 + 0.3 * rng.uniform() : v;
    }
  }
  const shuffled = rng.shuffle(Array.from({ length: n }, (_, i) => i));
  const c = reordered(s, shuffled);
  const order = matchLatents(s, c, n);
  assert.ok(rvCoefficient(s, c) < 0.95);
  assert.ok(rvCoefficient(s, reordered(c, order)) > 0.995);
});
