/**
 * The parts of a feature scan: what they keep, and that they keep no more.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DoublingHistograms } from "../../src/interpret/doubling-histogram.ts";
import { bytesPerFeature, FeatureScan, tokenEntropy } from "../../src/interpret/index.ts";
import { PairCounts } from "../../src/interpret/pair-counts.ts";
import { SmallestOf } from "../../src/interpret/smallest.ts";
import { Rng } from "../../src/util/index.ts";

test("of each owner the smallest numbers stay, and of equal ones those that came first", () => {
  const two = new SmallestOf(2, new Uint32Array(4), new Int32Array(2));
  assert.deepEqual(
    [5, 3, 3, 9, 1].map((n) => two.offer(1, n)),
    [true, true, true, false, true],
  );
  assert.deepEqual([...two.data.subarray(2)].sort(), [1, 3]);
  assert.equal(two.offer(1, 3), false);
  assert.deepEqual([...two.filled], [0, 2]);
});

test("the smallest of random numbers are those of a sorted list", () => {
  const rng = new Rng(4);
  const kept = new SmallestOf(7, new Float32Array(7), new Int32Array(1));
  const all = Array.from({ length: 500 }, () => Math.fround(rng.normal()));
  for (const value of all) kept.offer(0, value);
  const ascending = (a: number, b: number) => a - b;
  assert.deepEqual([...kept.data].sort(ascending), all.sort(ascending).slice(0, 7));
});

test("pairs are counted exactly, beyond the size the table began with", () => {
  const pairs = new PairCounts(1e6, 4);
  for (let i = 0; i < 300; i++) pairs.add(i % 100, 999_999 - (i % 50));
  assert.equal(pairs.size, 100);
  assert.ok(pairs.isFull);
  const rows = [...pairs.rows()].sort((a, b) => a[0] - b[0]);
  assert.deepEqual(rows[0], [0, 999_999, 3]);
  assert.deepEqual(rows[99], [99, 999_950, 3]);
  pairs.clear();
  assert.deepEqual([...pairs.rows()], []);
});

test("a histogram's range doubles as values come, and does not depend on their order", () => {
  const values = [0.75, 3.9, 4, 0.01, 31.9, 5];
  const read = (order: readonly number[]) => {
    const histograms = DoublingHistograms.of(2);
    for (const value of order) histograms.add(1, Math.fround(value));
    assert.equal(histograms.read(0), null);
    const { counts, width } = histograms.read(1)!;
    return { counts: [...counts], width };
  };
  const { counts, width } = read(values);
  assert.equal(width, 1); // 32 bins below 2^5, the first power of two above 31.9
  assert.deepEqual(
    [0, 3, 4, 5, 31].map((bin) => counts[bin]),
    [2, 1, 1, 1, 1],
  );
  assert.deepEqual(read([...values].reverse()), { counts, width });
});

test("token entropy is 0 for one token, ln n for n equally often, and weighs shares", () => {
  assert.equal(tokenEntropy([17]), 0);
  assert.ok(Math.abs(tokenEntropy([3, 3, 3, 3]) - Math.log(4)) < 1e-12);
  const uneven = -(0.75 * Math.log(0.75) + 0.25 * Math.log(0.25));
  assert.ok(Math.abs(tokenEntropy([6, 2]) - uneven) < 1e-12);
  assert.ok(Number.isNaN(tokenEntropy([])));
});

const options = {
  features: 3,
  vocabSize: 10,
  context: 8,
  top: 2,
  sample: 4,
  side: 2,
  seed: 1,
  silent: new Set([0]),
  borders: new Set([0]),
  controls: new Set<number>(),
};

test("what a scan holds does not grow with the text, and never is more than is said", () => {
  const scan = new FeatureScan(options);
  const sizes = () =>
    [...Object.values(scan.counters), scan.top.data, scan.sample.data, scan.histograms.counts].map(
      (a) => a.byteLength,
    );
  const before = sizes();
  const tokens = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
  for (let context = 0; context < 400; context++) {
    const values = Float32Array.from(tokens, (t) => t + context / 1000);
    scan.add({ tokens, values, indices: new Int32Array(8).fill(context % 2) });
    scan.clear(); // as after writing out
  }
  assert.deepEqual(sizes(), before);
  assert.deepEqual([...scan.sample.filled], [4, 4, 0]);
  assert.deepEqual([...scan.top.filled], [2, 2, 0]);
  const perFeature =
    before.reduce((a, b) => a + b, 0) - scan.counters.tokens.byteLength + 3 * (2 * 4 + 2 + 2 * 4);
  assert.ok(perFeature <= 3 * bytesPerFeature(options), `${perFeature} bytes`);
});

test("once the reservoirs are full, few examples are still logged", () => {
  const scan = new FeatureScan(options);
  const rng = new Rng(2);
  const tokens = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
  const logged = [];
  for (let context = 0; context < 2000; context++) {
    const values = Float32Array.from(tokens, () => rng.uniform() + 0.1);
    scan.add({ tokens, values, indices: new Int32Array(8) });
    if ((context + 1) % 1000 === 0) {
      logged.push(scan.log.size);
      scan.clear();
    }
  }
  // of 1000 contexts about 4 (1 + ln 250) + 2 (1 + ln 500); of the next 1000 about 6 ln 2
  assert.ok(logged[0] < 80 && logged[1] < 20, `${logged}`);
});

test("NaN and infinite codes are refused by their place, special tokens fire nothing", () => {
  const tokens = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const values = new Float32Array(8).fill(1);
    values[3] = bad;
    assert.throws(
      () => new FeatureScan(options).add({ tokens, values, indices: new Int32Array(8) }),
      /a feature is (NaN|Infinity) at position 3 of context 0 \(token 3\)/,
    );
  }
  const scan = new FeatureScan(options);
  scan.add({ tokens, values: new Float32Array(8).fill(1), indices: new Int32Array(8).fill(2) });
  assert.equal(scan.measured, 7);
  assert.equal(scan.counters.firings[2], 7);
});
