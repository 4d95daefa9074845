/**
 * Minimisers and linear probes against values known by hand and the conditions that hold at a minimum.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CodeRowsBuilder, featureColumns, pickRows } from "../../src/interpret/code-rows.ts";
import { lassoProbes } from "../../src/interpret/lasso.ts";
import { Descent } from "../../src/interpret/lbfgs.ts";
import {
  chooseL2,
  fitProbes,
  type Labels,
  onlyClasses,
  probeQuality,
  probeScores,
} from "../../src/interpret/probes.ts";
import { Rng } from "../../src/util/index.ts";
import { BACKENDS, withDevice } from "../sae/helpers.ts";

const close = (a: number, b: number, tolerance: number, what = "") =>
  assert.ok(Math.abs(a - b) <= tolerance, `${what} ${a} instead of ${b}`);

const oneClass = (is: readonly number[]): Labels => ({
  rows: is.length,
  classes: 1,
  is: Uint8Array.from(is),
});

test("the descent finds the bottom of Rosenbrock's valley", () => {
  const descent = new Descent(Float64Array.of(-1.2, 1), { tolerance: 1e-12 });
  while (!descent.done) {
    const [x, y] = descent.trial;
    const gap = y - x * x;
    descent.tell((1 - x) ** 2 + 100 * gap ** 2, Float64Array.of(-2 * (1 - x) - 400 * x * gap, 200 * gap));
  }
  close(descent.x[0], 1, 1e-9);
  close(descent.x[1], 1, 1e-9);
  assert.ok(descent.iterations < 60, `${descent.iterations} iterations`);
});

test("ranks decide the area under the curve, and equal scores count half", () => {
  const labels = oneClass([1, 0, 1, 0]);
  const [{ auc, f1, precision, recall, accuracy }] = probeQuality(Float32Array.of(2, 1, -1, -1), labels);
  assert.equal(auc, 2.5 / 4); // beats both; loses to one, ties with one
  assert.deepEqual([precision, recall, f1, accuracy], [0.5, 0.5, 0.5, 0.5]);
});

for (const backend of BACKENDS) {
  test(`a probe of one input has the weight that calculus gives, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      // x = ±1, of class on +1 in three of four: the loss ½ mean + ½ mean is least where σ(w) = ¾, so w = ln 3, without bias.
      const x = device.tensor([1, 1, 1, -1, -1, -1, -1, 1], [8, 1]);
      const labels = oneClass([1, 1, 1, 1, 0, 0, 0, 0]);
      const free = await fitProbes(x, labels, { l2: 0 });
      close(free.weights[0], Math.log(3), 1e-5);
      close(free.bias[0], 0, 1e-5);
      // With l2 the slope is zero where σ(w) + l2 · w = ¾.
      const held = await fitProbes(x, labels, { l2: 0.25 });
      const w = held.weights[0];
      close(1 / (1 + Math.exp(-w)) + 0.25 * w, 0.75, 3e-5);
      x.dispose();
    }));

  test(`a rare class weighs as much as the rest, and each class is fitted as if alone, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const rng = new Rng(3);
      const n = 60;
      const host = rng.fillNormal(new Float32Array(n * 4));
      const is = Uint8Array.from({ length: n * 2 }, (_, at) => {
        const row = at >> 1;
        return at % 2 === 0 ? (row < 6 ? 1 : 0) : host[row * 4] + 0.5 * rng.normal() > 0 ? 1 : 0;
      });
      const labels = { rows: n, classes: 2, is };
      const x = device.tensor(host, [n, 4]);
      const both = await fitProbes(x, labels, { l2: 0.01, tolerance: 1e-6 });
      for (const c of [0, 1]) {
        const alone = await fitProbes(x, onlyClasses(labels, [c]), { l2: 0.01, tolerance: 1e-6 });
        for (let d = 0; d < 4; d++) close(alone.weights[d], both.weights[c * 4 + d], 1e-4, `class ${c}`);
      }
      // The bias is free, so the weighted residuals of a class sum to zero.
      const z = await probeScores(x, both);
      let sum = 0;
      for (let i = 0; i < n; i++) {
        const y = is[2 * i];
        sum += (1 / (1 + Math.exp(-z[2 * i])) - y) / (2 * (y ? 6 : n - 6));
      }
      close(sum, 0, 1e-5);
      x.dispose();
    }));

  test(`cross-validation takes the strong penalty for noise and the weak one for a clear class, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const rng = new Rng(11);
      const [n, D] = [80, 12];
      const host = rng.fillNormal(new Float32Array(n * D));
      const x = device.tensor(host, [n, D]);
      const noise = oneClass(Array.from({ length: n }, (_, i) => i % 2));
      const clear = oneClass(Array.from({ length: n }, (_, i) => (host[i * D] > 0 ? 1 : 0)));
      const candidates = [10, 0.001];
      assert.equal(await chooseL2(x, noise, { candidates }), 10);
      assert.equal(await chooseL2(x, clear, { candidates }), 0.001);
      x.dispose();
    }));

  test(`folds keep groups together: what is told by the group alone is not told outside of it, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const n = 40;
      const group = (i: number) => Math.floor(i / 4);
      const x = device.tensor(
        Array.from({ length: n * 10 }, (_, at) => (at % 10 === group(Math.floor(at / 10)) ? 3 : 0)),
        [n, 10],
      );
      const labels = oneClass(Array.from({ length: n }, (_, i) => group(i) % 2));
      const groups = Int32Array.from({ length: n }, (_, i) => group(i));
      const candidates = [100, 0.0001];
      assert.equal(await chooseL2(x, labels, { candidates }), 0.0001);
      assert.equal(await chooseL2(x, labels, { candidates, groups }), 100);
      x.dispose();
    }));

  test(`a class that no sample has is refused, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const x = device.tensor([1, 2], [2, 1]);
      await assert.rejects(fitProbes(x, oneClass([0, 0]), { l2: 1 }), /class 0 holds for 0 of 2 samples/);
      x.dispose();
    }));
}

/** 40 samples over 6 features; feature 0 tells the class, feature 1 half of it, the rest is chance. */
function someCodes() {
  const rng = new Rng(5);
  const builder = new CodeRowsBuilder(6);
  const is = new Uint8Array(40);
  for (let i = 0; i < 40; i++) {
    is[i] = i % 4 === 0 ? 1 : 0;
    if (is[i]) builder.add(0, 1 + rng.uniform());
    if (is[i] && i % 8 === 0) builder.add(1, 2);
    for (let f = 2; f < 6; f++) if (rng.uniform() < 0.3) builder.add(f, rng.uniform());
    builder.endRow();
  }
  return { codes: builder.finish(), labels: { rows: 40, classes: 1, is } };
}

test("an L1 probe meets the conditions of its minimum and keeps what tells the class", () => {
  const { codes, labels } = someCodes();
  const l1 = 0.02;
  const { weights, bias } = lassoProbes(codes, labels, { l1, tolerance: 1e-9, maxIterations: 20_000 });
  const dense = featureColumns(codes, [0, 1, 2, 3, 4, 5]);
  const slopes = new Float64Array(7);
  for (let i = 0; i < 40; i++) {
    let z = bias[0];
    for (let f = 0; f < 6; f++) z += weights[f] * dense[i * 6 + f];
    const residual = (1 / (1 + Math.exp(-z)) - labels.is[i]) / (2 * (labels.is[i] ? 10 : 30));
    for (let f = 0; f < 6; f++) slopes[f] += residual * dense[i * 6 + f];
    slopes[6] += residual;
  }
  close(slopes[6], 0, 1e-7);
  for (let f = 0; f < 6; f++) {
    if (weights[f] === 0) assert.ok(Math.abs(slopes[f]) <= l1 + 1e-7, `feature ${f}: slope ${slopes[f]}`);
    else close(slopes[f], -l1 * Math.sign(weights[f]), 1e-7, `feature ${f}`);
  }
  assert.equal(weights.indexOf(Math.max(...weights)), 0);
  assert.ok(weights.includes(0), "nothing was left out");
});

test("a penalty above every slope leaves no feature", () => {
  const { codes, labels } = someCodes();
  assert.deepEqual(Array.from(lassoProbes(codes, labels, { l1: 10 }).weights), [0, 0, 0, 0, 0, 0]);
});

test("rows of codes keep their firings when some are picked", () => {
  const { codes } = someCodes();
  const picked = pickRows(codes, [8, 0]);
  assert.deepEqual(
    featureColumns(picked, [1, 0]),
    Float32Array.of(
      ...featureColumns(codes, [1, 0]).subarray(16, 18),
      ...featureColumns(codes, [1, 0]).subarray(0, 2),
    ),
  );
});
