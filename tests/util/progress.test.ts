import assert from "node:assert/strict";
import { test } from "node:test";
import { createProgress } from "../../src/util/index.ts";

function recorder(isTTY: boolean, columns = 200) {
  const out: string[] = [];
  return { out, isTTY, columns, write: (text: string) => out.push(text) };
}

test("a terminal line shows share, rate, time left and details, and is rewritten in place", () => {
  let clock = 0;
  const stream = recorder(true);
  const progress = createProgress({
    label: "training",
    unit: "tokens",
    total: 1000,
    stream,
    now: () => clock,
  });
  clock = 1000;
  progress.update(100, { loss: "0.5" });
  assert.equal(stream.out[0], "\r\x1b[Ktraining  10%  100/1.00k tokens  100 tokens/s  9.0s left  loss 0.5");
  clock = 1050;
  progress.update(110);
  assert.equal(stream.out.length, 1);
  clock = 10_000;
  progress.update(1000);
  progress.finish();
  assert.equal(stream.out.at(-2), "\r\x1b[Ktraining  100%  1.00k/1.00k tokens  100 tokens/s  loss 0.5");
  assert.equal(stream.out.at(-1), "\n");
});

test("elsewhere a plain line is written now and then", () => {
  let clock = 0;
  const stream = recorder(false);
  const progress = createProgress({ label: "harvest", unit: "rows", stream, now: () => clock });
  for (let i = 1; i <= 30; i++) {
    clock += 1000;
    progress.update(i * 50, { k: 3 });
  }
  progress.finish();
  assert.equal(stream.out[0], "harvest  50 rows  50 rows/s  k 3\n");
  assert.equal(stream.out.length, 5);
  assert.equal(stream.out.at(-1), "harvest: done in 30s\n");
});

test("the rate forgets a slow start, and work done before a resume does not count", () => {
  let clock = 0;
  const stream = recorder(false);
  const progress = createProgress({
    label: "x",
    unit: "t",
    total: 10_000,
    start: 5000,
    stream,
    intervalMs: 0,
    now: () => clock,
  });
  clock = 60_000;
  progress.update(5060);
  assert.match(stream.out.at(-1)!, /50%.* 1 t\/s/);
  for (let i = 0; i < 60; i++) {
    clock += 1000;
    progress.update(5060 + (i + 1) * 10);
  }
  assert.match(stream.out.at(-1)!, / 10 t\/s .*7m 14s left/);
});

test("a rate is shown once there is time to measure it, and the last state is written once", () => {
  let clock = 0;
  const stream = recorder(false);
  const progress = createProgress({ label: "x", unit: "t", total: 10, stream, now: () => clock });
  clock = 1;
  progress.update(10);
  clock = 500;
  progress.finish();
  assert.deepEqual(stream.out, ["x  100%  10/10 t\n", "x: done in 0.5s\n"]);
});

test("a line is cut at the width of the terminal", () => {
  const stream = recorder(true, 20);
  createProgress({ label: "a very long label", unit: "tokens", stream, now: () => 5 }).update(7);
  assert.equal(stream.out[0], "\r\x1b[Ka very long label  ");
});
