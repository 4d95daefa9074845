/**
 * Partners of features against Pearson's formula over dense columns, and against a permutation that is known.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FeatureCorrelation, summarizePartners } from "../../src/interpret/index.ts";
import { Rng } from "../../src/util/index.ts";

/** Dense activations [n][F] of which some are 0. */
function randomActivations(n: number, features: number, seed: number): number[][] {
  const rng = new Rng(seed);
  return Array.from({ length: n }, () =>
    Array.from({ length: features }, () => (rng.uniform() < 0.3 ? Math.fround(0.1 + 3 * rng.uniform()) : 0)),
  );
}

/** As slots: the features above 0 in falling order of index, and then unused ones that point at feature 0. */
function codesOf(dense: readonly (readonly number[])[], slots: number) {
  const values = new Float32Array(dense.length * slots);
  const indices = new Int32Array(dense.length * slots);
  dense.forEach((row, r) => {
    let at = r * slots;
    for (let f = row.length - 1; f >= 0; f--) {
      if (row[f] === 0) continue;
      values[at] = row[f];
      indices[at++] = f;
    }
  });
  return { values, indices };
}

function correlate(a: readonly number[][], b: readonly number[][], firings?: number) {
  const sums = new FeatureCorrelation(a[0].length, b[0].length);
  sums.add(codesOf(a, a[0].length), codesOf(b, b[0].length), a.length);
  return sums.finish({ firings });
}

/** Pearson's r by the mean and then the deviations from it. */
function pearson(x: readonly number[], y: readonly number[]): number {
  const mean = (v: readonly number[]) => v.reduce((s, one) => s + one, 0) / v.length;
  const [mx, my] = [mean(x), mean(y)];
  const sum = (of: (i: number) => number) => x.reduce((s, _, i) => s + of(i), 0);
  const covariance = sum((i) => (x[i] - mx) * (y[i] - my));
  return covariance / Math.sqrt(sum((i) => (x[i] - mx) ** 2) * sum((i) => (y[i] - my) ** 2));
}

const column = (dense: readonly (readonly number[])[], f: number): number[] => dense.map((row) => row[f]);

test("the best correlations are those of Pearson's formula over all tokens, silent ones included", () => {
  const [a, b] = [randomActivations(40, 5, 1), randomActivations(40, 7, 2)];
  const { tokens, first, second } = correlate(a, b);
  assert.equal(tokens, 40);
  const r = a[0].map((_, f) => b[0].map((_, g) => pearson(column(a, f), column(b, g))));
  for (let f = 0; f < 5; f++) {
    const best = Math.max(...r[f]);
    assert.ok(Math.abs(first.correlation[f] - best) < 1e-9, `${first.correlation[f]} is not ${best}`);
    assert.equal(first.partner[f], r[f].indexOf(best));
  }
  for (let g = 0; g < 7; g++) {
    const mine = r.map((row) => row[g]);
    assert.ok(Math.abs(second.correlation[g] - Math.max(...mine)) < 1e-9);
    assert.equal(second.partner[g], mine.indexOf(Math.max(...mine)));
  }
});

test("four tokens by head: on 1, 1, 0, 0 and 1, 0, 0, 0 the correlation is 1 / √3", () => {
  const { first } = correlate([[1], [1], [0], [0]], [[1], [0], [0], [0]]);
  // Covariance 1/4 - 1/2 · 1/4, variances 1/4 and 3/16.
  assert.ok(Math.abs(first.correlation[0] - 1 / Math.sqrt(3)) < 1e-12);
});

test("features that were permuted and scaled are found, and those that are no more have no good partner", () => {
  const a = randomActivations(200, 6, 3);
  const order = [4, 2, 0, 5]; // features 1 and 3 are gone
  const b = a.map((row) => order.map((f, g) => (g + 1) * row[f]));
  const { first, second } = correlate(a, b);
  assert.deepEqual([...second.partner], order);
  for (const r of second.correlation) assert.ok(r > 1 - 1e-6);
  assert.deepEqual(
    [0, 2, 4, 5].map((f) => first.partner[f]),
    [2, 1, 0, 3],
  );
  for (const f of [1, 3]) assert.ok(first.correlation[f] < 0.4, `feature ${f}: ${first.correlation[f]}`);
  const summary = summarizePartners(first, [0.9]);
  assert.equal(summary.shares[0], 4 / 6);
});

test("features that are dead, too rare or always the same are left out and counted", () => {
  // Dead, one firing, constant, three firings.
  const a = [
    [0, 2, 5, 1],
    [0, 0, 5, 2],
    [0, 0, 5, 3],
    [0, 0, 5, 0],
  ];
  const b = [[0], [2], [3], [0]];
  const { first, second } = correlate(a, b, 2);
  assert.deepEqual([...first.partner], [-1, -1, -1, 0]);
  assert.ok(Number.isNaN(first.correlation[0]) && Number.isNaN(first.correlation[2]));
  assert.deepEqual([...first.firings], [0, 1, 4, 3]);
  assert.deepEqual([first.alive, first.compared, second.compared], [3, 1, 1]);
  assert.equal(second.partner[0], 3);
  assert.deepEqual(summarizePartners(first, [0.5, 1]), {
    ...{ features: 4, alive: 3, compared: 1, meanBest: first.correlation[3], shares: [1, 0] },
  });
  const silent = correlate([[0, 0]], [[1, 0]]);
  assert.equal(silent.first.compared, 0);
  assert.ok(Number.isNaN(summarizePartners(silent.first, [0.5]).meanBest));
});

test("blocks one after the other, with other numbers of slots, give the bits of one block", () => {
  const [a, b] = [randomActivations(60, 6, 4), randomActivations(60, 8, 5)];
  const sums = new FeatureCorrelation(6, 8);
  const cuts = [0, 7, 8, 45, 60];
  cuts.slice(1).forEach((to, i) => {
    const from = cuts[i];
    sums.add(codesOf(a.slice(from, to), 6 + i), codesOf(b.slice(from, to), 8 + 2 * i), to - from);
  });
  assert.deepEqual(sums.finish(), correlate(a, b));
});

test("more memory than allowed is refused with its size", () => {
  assert.throws(() => new FeatureCorrelation(65536, 16384), /65536 x 16384 features need 8 GiB.*to 4 GiB/);
  assert.throws(() => new FeatureCorrelation(0, 4), /compare narrower SAEs|from 1 feature/);
});
