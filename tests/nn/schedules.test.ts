import assert from "node:assert/strict";
import { test } from "node:test";
import { checkSchedule, learningRate, type Schedule } from "../../src/nn/schedules.ts";

const rates = (schedule: Schedule): number[] =>
  Array.from({ length: schedule.steps }, (_, i) => Math.round(learningRate(schedule, i) * 1e6) / 1e6);

test("the rate climbs from its first share to the peak and stays", () => {
  const schedule: Schedule = { peak: 1, steps: 6, warmup: 4, decay: { kind: "constant" } };
  assert.deepEqual(rates(schedule), [0.25, 0.5, 0.75, 1, 1, 1]);
});

test("a linear decay falls over the last share and never reaches 0", () => {
  const schedule: Schedule = { peak: 2, steps: 10, warmup: 0, decay: { kind: "linear", share: 0.4 } };
  assert.deepEqual(rates(schedule), [2, 2, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4]);
});

test("a floor is kept by both decays", () => {
  const linear: Schedule = {
    peak: 1,
    steps: 4,
    warmup: 0,
    decay: { kind: "linear", share: 0.75, floor: 0.2 },
  };
  assert.deepEqual(rates(linear), [1, 0.8, 0.6, 0.4]);
  const cosine: Schedule = { peak: 1, steps: 1000, warmup: 0, decay: { kind: "cosine", floor: 0.1 } };
  assert.ok(Math.abs(learningRate(cosine, 999) - 0.1) < 1e-5);
});

test("the cosine starts at the end of the warm-up and is at half the peak midway", () => {
  const schedule: Schedule = { peak: 1, steps: 110, warmup: 10, decay: { kind: "cosine" } };
  assert.equal(learningRate(schedule, 9), 1);
  assert.equal(learningRate(schedule, 10), 1);
  assert.ok(Math.abs(learningRate(schedule, 60) - 0.5) < 1e-12);
  assert.ok(learningRate(schedule, 109) > 0);
});

test("a run of one step has the whole peak", () => {
  assert.deepEqual(rates({ peak: 3, steps: 1, warmup: 1, decay: { kind: "linear", share: 0.2 } }), [3]);
});

test("steps beyond the end keep the last rate", () => {
  const schedule: Schedule = { peak: 1, steps: 5, warmup: 0, decay: { kind: "linear", share: 1 } };
  assert.equal(learningRate(schedule, 50), learningRate(schedule, 4));
});

test("numbers that make no schedule are refused by name", () => {
  const good: Schedule = { peak: 1, steps: 5, warmup: 0, decay: { kind: "constant" } };
  assert.equal(checkSchedule(good), good);
  assert.throws(() => checkSchedule({ ...good, peak: 0 }), /peak=0/);
  assert.throws(() => checkSchedule({ ...good, warmup: 6 }), /warmup=6/);
  assert.throws(() => checkSchedule({ ...good, steps: 0 }), /steps=0/);
  assert.throws(() => checkSchedule({ ...good, decay: { kind: "linear", share: 2 } }), /share 2/);
  assert.throws(() => checkSchedule({ ...good, decay: { kind: "cosine", floor: -1 } }), /floor=-1/);
});
