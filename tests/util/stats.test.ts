import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ColumnMoments,
  densityHistogram,
  histogram,
  Moments,
  mean,
  median,
  quantile,
  Rng,
  std,
  summarize,
  wilsonInterval,
} from "../../src/util/index.ts";

const near = (a: number, b: number, tolerance = 1e-12) =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} ${b}`);

test("median and quantiles interpolate", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  assert.equal(quantile([0, 10], 0.25), 2.5);
  assert.ok(Number.isNaN(median([])));
  assert.deepEqual(summarize([5, 1, 3]), { count: 3, median: 3, q25: 2, q75: 4, min: 1, max: 5 });
});

test("Wilson's interval of a share, from the closed form", () => {
  const [low, high] = wilsonInterval(5, 10);
  near(low, 0.2365895936, 1e-9);
  near(high, 0.7634104064, 1e-9);
  const [none, few] = wilsonInterval(0, 10);
  assert.equal(none, 0);
  near(few, 1.96 ** 2 / (10 + 1.96 ** 2));
  assert.equal(wilsonInterval(10, 10)[1], 1);
  near(wilsonInterval(10, 10)[0], 1 - few);
  assert.deepEqual(wilsonInterval(0, 0), [0, 1]);
  near(wilsonInterval(90, 100, 0)[0], 0.9);
  assert.throws(() => wilsonInterval(3, 2), /3 of 2 is no share/);
});

test("mean and standard deviation", () => {
  assert.equal(mean([1, 2, 6]), 3);
  near(std([1, 2, 6]), Math.sqrt(7));
  assert.equal(std([5]), 0);
});

test("moments of parts merge into moments of the whole, far from zero too", () => {
  const values = [...new Rng(1).fillNormal(new Float32Array(1000), 1e6, 2)];
  const whole = new Moments();
  const parts = [new Moments(), new Moments(), new Moments()];
  values.forEach((v, i) => {
    whole.add(v);
    parts[i % 7 === 0 ? 0 : 1].add(v);
  });
  const merged = new Moments();
  for (const part of parts) merged.merge(part);
  assert.equal(merged.count, 1000);
  near(merged.mean, whole.mean, 1e-6);
  near(merged.variance(1), whole.variance(1), 1e-6);
  assert.ok(Math.abs(whole.variance() - 4) < 0.6);
});

test("column moments give the pooled variance, whatever the batches", () => {
  const x = new Rng(2).fillNormal(new Float32Array(60 * 3), 5);
  const whole = new ColumnMoments(3);
  whole.addRows(x);
  const [a, b] = [new ColumnMoments(3), new ColumnMoments(3)];
  a.addRows(x.subarray(0, 21));
  b.addRows(x.subarray(21));
  a.merge(b);
  assert.equal(a.count, 60);
  near(a.totalSquares(), whole.totalSquares(), 1e-9);
  let direct = 0;
  for (let j = 0; j < 3; j++) {
    const column = [...x].filter((_, i) => i % 3 === j);
    direct += std(column) ** 2 * 59;
  }
  near(whole.totalSquares(), direct, 1e-9);
});

test("histograms count every value once", () => {
  assert.deepEqual(histogram([0, 0.5, 1, 2, 4, 5, -1, Number.NaN], { low: 0, high: 4, bins: 2 }), {
    edges: [0, 2, 4],
    counts: [3, 2],
    below: 2,
    above: 1,
  });
});

test("the density histogram covers whole decades and keeps silent features apart", () => {
  const { edges, counts, never } = densityHistogram([0, 0, 0.001, 0.05, 0.5, 1], 1);
  assert.deepEqual(edges, [-3, -2, -1, 0]);
  assert.deepEqual(counts, [1, 1, 2]);
  assert.equal(never, 2);
});
