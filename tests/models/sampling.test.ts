import assert from "node:assert/strict";
import { test } from "node:test";
import { checkSampling } from "../../src/models/index.ts";
import { draw, sampleTokens } from "../../src/models/sampling.ts";
import { Rng } from "../../src/util/index.ts";
import { BACKENDS, withDevice } from "./helpers.ts";

const half = Float32Array.of(0.5, 0.25, 0.25);

test("a draw inverts the running sum in id order", () => {
  assert.deepEqual(
    [0, 0.49, 0.5, 0.74, 0.76, 0.999999].map((u) => draw(half, 1, u)),
    [0, 0, 1, 1, 2, 2],
  );
});

test("a nucleus keeps the fewest tokens that reach topP, the lower id on ties", () => {
  assert.deepEqual(
    [0, 0.5, 0.99].map((u) => draw(half, 0.5, u)),
    [0, 0, 0],
    "0.5 is reached by one",
  );
  assert.deepEqual(
    [0, 0.6, 0.7, 0.99].map((u) => draw(half, 0.7, u)),
    [0, 0, 1, 1],
    "and then by two",
  );
  const even = Float32Array.of(0.25, 0.25, 0.25, 0.25);
  assert.deepEqual(
    [0, 0.4, 0.6, 0.99].map((u) => draw(even, 0.5, u)),
    [0, 0, 1, 1],
  );
});

test("a token of probability 0 is never drawn, not even at the ends", () => {
  const p = Float32Array.of(0, 0.3, 0, 0.7, 0);
  for (const topP of [1, 0.9]) {
    for (const u of [0, 0.3, 0.9999999999]) assert.ok([1, 3].includes(draw(p, topP, u)));
  }
});

test("the nucleus of many random tokens is the smallest set of the largest ones", () => {
  const rng = new Rng(5);
  for (let round = 0; round < 5; round++) {
    const p = Float32Array.from({ length: 200 }, () => rng.uniform() ** 6);
    const total = p.reduce((a, b) => a + b, 0);
    const order = Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b);
    let count = 0;
    for (let mass = 0; mass < 0.8 * total; count++) mass += p[order[count]];
    const kept = new Set(order.slice(0, count));
    const drawn = new Set(Array.from({ length: 500 }, (_, i) => draw(p, 0.8, i / 500)));
    for (const id of drawn) assert.ok(kept.has(id), `${id} is outside the nucleus`);
  }
});

for (const backend of BACKENDS) {
  test(`frequencies follow the softmax at the temperature, within top-k and top-p, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const rows = 1500;
      const row = [0, 1, 2, -1];
      const logits = device.tensor(Array.from({ length: rows }, () => row).flat(), [rows, 4]);
      const frequencies = async (options: { temperature: number; topK: number; topP: number }) => {
        const rngs = Array.from({ length: rows }, (_, b) => new Rng(7).fork(b));
        const counts = [0, 0, 0, 0];
        for (const id of await sampleTokens(logits, options, rngs)) counts[id]++;
        return counts.map((n) => n / rows);
      };
      const softmax = (kept: readonly number[], t: number) => {
        const e = row.map((x, i) => (kept.includes(i) ? Math.exp(x / t) : 0));
        return e.map((x) => x / e.reduce((a, b) => a + b, 0));
      };
      const near = (got: number[], want: number[]) =>
        assert.ok(
          got.every((g, i) => Math.abs(g - want[i]) < 0.045),
          `${got} instead of ${want}`,
        );
      near(await frequencies({ temperature: 1, topK: 0, topP: 1 }), softmax([0, 1, 2, 3], 1));
      near(await frequencies({ temperature: 2, topK: 0, topP: 1 }), softmax([0, 1, 2, 3], 2));
      near(await frequencies({ temperature: 0.7, topK: 2, topP: 1 }), softmax([1, 2], 0.7));
      near(await frequencies({ temperature: 1, topK: 0, topP: 0.8 }), softmax([1, 2], 1));
      near(await frequencies({ temperature: 1, topK: 3, topP: 0.6 }), softmax([2], 1));
      assert.deepEqual(await frequencies({ temperature: 0, topK: 0, topP: 1 }), [0, 0, 1, 0]);
      logits.dispose();
    }));

  test(`a logit that is not a number is reported, greedy or sampled, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const logits = device.tensor([0, Number.NaN, 1, 2], [1, 4]);
      for (const temperature of [0, 1]) {
        for (const topK of [0, 2]) {
          await assert.rejects(
            sampleTokens(logits, { temperature, topK, topP: 1 }, [new Rng(1)]),
            (error: { code?: string; message: string }) =>
              error.code === "numeric" && /not a number/.test(error.message),
          );
        }
      }
      logits.dispose();
    }));
}

test("settings that mean nothing are refused by name", () => {
  const good = { temperature: 1, topK: 0, topP: 1 };
  assert.equal(checkSampling(good), good);
  assert.throws(() => checkSampling({ ...good, temperature: -1 }), /temperature=-1/);
  assert.throws(() => checkSampling({ ...good, temperature: Number.NaN }), /temperature=NaN/);
  assert.throws(() => checkSampling({ ...good, topK: 1.5 }), /topK=1.5/);
  assert.throws(() => checkSampling({ ...good, topP: 0 }), /topP=0/);
});

test("a large vocabulary is drawn from as by one running sum, zeros never", () => {
  const rng = new Rng(5);
  const raw = Float32Array.from({ length: 1000 }, (_, i) =>
    i < 300 || i % 3 === 0 || i > 900 ? 0 : rng.int(9) + 1,
  );
  const total = raw.reduce((a, b) => a + b, 0); // small integers: every sum is exact
  let before = 0;
  raw.forEach((weight, i) => {
    if (weight === 0) return;
    assert.equal(draw(raw, 1, before / total + 1e-9), i);
    assert.equal(draw(raw, 1, (before + weight) / total - 1e-9), i);
    before += weight;
  });
  assert.equal(before, total);
});
