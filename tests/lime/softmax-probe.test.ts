/**
 * The softmax probe: its gradient, its first step, its folds, and what it makes of samples that can and cannot be told apart.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  crossValidate,
  fitSoftmaxProbe,
  type ProbeSamples,
  probeAccuracy,
  probeLoss,
  stratifiedFolds,
} from "../../src/lime/index.ts";
import { mean, Rng } from "../../src/util/index.ts";

/** Noise of deviation 1, with `lift` added to the input that has the class's number. */
function samplesOf(count: number, { classes = 4, width = 6, lift = 0, seed = 5 } = {}): ProbeSamples {
  const x = new Rng(seed).fillNormal(new Float32Array(count * width));
  const labels = Int32Array.from({ length: count }, (_, i) => i % classes);
  labels.forEach((label, i) => {
    x[i * width + label] += lift;
  });
  return { x, width, labels, classes };
}

const allRows = ({ labels }: ProbeSamples): Int32Array => Int32Array.from(labels.keys());

test("the gradient of the loss is that of central differences, and zeros guess", () => {
  const samples = samplesOf(12, { classes: 3, width: 4, lift: 1 });
  const rows = Int32Array.from([0, 1, 2, 5, 7, 7]);
  const size = 3 * 5;
  const gradient = new Float64Array(size);
  const unused = new Float64Array(size);
  assert.ok(Math.abs(probeLoss(new Float64Array(size), samples, rows, unused) - Math.log(3)) < 1e-12);
  const weights = Float64Array.from(new Rng(8).fillNormal(new Float32Array(size)));
  probeLoss(weights, samples, rows, gradient);
  const h = 1e-5;
  for (let i = 0; i < size; i++) {
    const moved = (by: number) => {
      const at = weights.slice();
      at[i] += by;
      return probeLoss(at, samples, rows, unused);
    };
    const slope = (moved(h) - moved(-h)) / (2 * h);
    assert.ok(Math.abs(gradient[i] - slope) < 1e-8, `weight ${i}: ${gradient[i]}, by differences ${slope}`);
  }
  assert.ok(gradient.some((g) => Math.abs(g) > 0.01));
});

test("Adam's first step moves each weight by the learning rate, against its gradient", async () => {
  const samples = samplesOf(8, { classes: 2, width: 3, lift: 1 });
  const rows = allRows(samples);
  const weights = await fitSoftmaxProbe(samples, rows, { rng: new Rng(1), batch: 8, lr: 0.01 });
  const gradient = new Float64Array(weights.length);
  probeLoss(new Float64Array(weights.length), samples, rows, gradient);
  weights.forEach((w, i) => {
    const expected = Math.abs(gradient[i]) < 1e-12 ? 0 : -0.01 * Math.sign(gradient[i]);
    assert.ok(Math.abs(w - expected) < 1e-6, `weight ${i}: ${w}, expected ${expected}`);
  });
  assert.ok(gradient.filter((g) => Math.abs(g) > 1e-3).length >= 6); // biases have none: both classes weigh the same
});

test("folds hold every sample once and as many of each class, give or take one", () => {
  const labels = Int32Array.from({ length: 47 }, (_, i) => (i < 20 ? 0 : i < 33 ? 2 : 1));
  const fold = stratifiedFolds(labels, { folds: 5, seed: 42 });
  assert.equal(fold.length, 47);
  const sizes = (of: (i: number) => boolean) =>
    [0, 1, 2, 3, 4].map((f) => fold.filter((g, i) => g === f && of(i)).length);
  assert.deepEqual(
    sizes((i) => labels[i] === 0),
    [4, 4, 4, 4, 4],
  );
  for (const label of [1, 2]) {
    const own = sizes((i) => labels[i] === label);
    assert.ok(Math.max(...own) - Math.min(...own) === 1, `class ${label}: ${own}`);
  }
  const all = sizes(() => true);
  assert.deepEqual(
    all.toSorted((a, b) => a - b),
    [9, 9, 9, 10, 10],
  );
  assert.deepEqual(stratifiedFolds(labels, { folds: 5, seed: 42 }), fold);
  assert.notDeepEqual(stratifiedFolds(labels, { folds: 5, seed: 43 }), fold);
  assert.throws(
    () => stratifiedFolds(labels, { folds: 14, seed: 0 }),
    /class 2 has 13 samples, too few for 14/,
  );
  assert.throws(() => stratifiedFolds(labels, { folds: 1, seed: 0 }), /folds=1/);
});

test("classes that lie apart are all told after one epoch; the same numbers with shuffled labels are guessed", async () => {
  const samples = samplesOf(400, { lift: 12 });
  assert.deepEqual(await crossValidate(samples), [1, 1, 1, 1, 1]);
  const labels = new Rng(3).shuffle(samples.labels.slice());
  const guessed = mean(await crossValidate({ ...samples, labels }));
  const deviation = Math.sqrt((0.25 * 0.75) / 400);
  assert.ok(Math.abs(guessed - 0.25) < 4 * deviation, `${guessed}, expected 0.25 ± ${deviation}`);
});

test("more epochs bring a probe closer, the same seed brings the same accuracies", async () => {
  const samples = samplesOf(300, { lift: 1.5 });
  const rows = allRows(samples);
  const lossAfter = async (epochs: number): Promise<number> => {
    const weights = await fitSoftmaxProbe(samples, rows, { rng: new Rng(2), epochs });
    return probeLoss(weights, samples, rows, new Float64Array(weights.length));
  };
  const [one, many] = [await lossAfter(1), await lossAfter(40)];
  assert.ok(many < one - 0.1, `${one} after one epoch, ${many} after 40`);
  const options = { folds: 3, seed: 7, epochs: 3 };
  const found = await crossValidate(samples, options);
  assert.equal(found.length, 3);
  assert.ok(found.every((a) => a > 0.3 && a < 1));
  assert.deepEqual(await crossValidate(samples, options), found);
});

test("accuracy is the share whose own class scores highest, the first of equal ones", () => {
  const samples = { x: Float32Array.of(1, -1, 0), width: 1, labels: Int32Array.of(0, 1, 1), classes: 2 };
  const weights = Float64Array.of(1, 0, -1, 0);
  assert.equal(probeAccuracy(weights, samples, Int32Array.of(0, 1)), 1);
  assert.equal(probeAccuracy(weights, samples, Int32Array.of(0, 1, 2)), 2 / 3);
});

test("samples that are no matrix of numbers are refused", async () => {
  const samples = samplesOf(20);
  await assert.rejects(crossValidate({ ...samples, width: 5 }), /120 numbers are not 20 samples of 5/);
  samples.x[13] = Number.NaN;
  await assert.rejects(crossValidate(samples), /sample 2 holds NaN/);
});
