/**
 * Commands in a worker thread: the event loop stays free, progress arrives, an abort saves, errors keep their kind.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { Worker } from "node:worker_threads";
import { type JobEvent, runJob } from "../../src/cli/job.ts";
import type { SluiceError } from "../../src/util/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";

let temp: TemporaryFolder;
let live: { model: string; text: string[]; hook: string };
before(async () => {
  temp = temporaryFolder();
  const { model, text, cache } = await tinyWorld(temp.path);
  live = { model, text: [text], hook: "blocks.1.hook_resid_post" };
  process.env.SLUICE_CACHE = cache;
});
after(() => temp[Symbol.dispose]());

const options = (name: string, more: Record<string, unknown> = {}) => ({
  ...live,
  features: 64,
  k: 4,
  batch: 64,
  tokens: 64 * 120,
  buffer: 512,
  out: path.join(temp.path, name),
  ...more,
});

function raise(error: Error): never {
  throw error;
}

/** Posts how late a timer of 10 ms comes at most, when told to stop. */
const WATCH = `
  const { parentPort } = require("node:worker_threads");
  let longest = 0, last = performance.now();
  const timer = setInterval(() => {
    longest = Math.max(longest, performance.now() - last - 10);
    last = performance.now();
  }, 10);
  parentPort.once("message", () => {
    clearInterval(timer);
    parentPort.postMessage(longest);
  });`;

/** How late timers of 10 ms came at most while `work` ran: here, and in an idle thread, which tells how busy the machine is. */
async function longestDelays(work: Promise<unknown>): Promise<{ here: number; idle: number }> {
  const watcher = new Worker(WATCH, { eval: true });
  let here = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    here = Math.max(here, now - last - 10);
    last = now;
  }, 10);
  await work;
  clearInterval(timer);
  watcher.postMessage("stop");
  const [idle] = (await once(watcher, "message")) as [number];
  return { here, idle };
}

test("a server's event loop stays free while a job trains, and hears of its progress", async () => {
  const events: JobEvent[] = [];
  const job = runJob("sae train", options("job"), { onEvent: (event) => events.push(event) });
  const before = performance.eventLoopUtilization();
  const { here, idle } = await longestDelays(job);
  const { utilization } = performance.eventLoopUtilization(before);
  assert.ok(
    here < 200 + 2 * idle,
    `a timer of 10 ms was ${here.toFixed(0)} ms late; idle: ${idle.toFixed(0)} ms`,
  );
  assert.ok(utilization < 0.5, `the loop was busy for ${(100 * utilization).toFixed(0)} % of the time`);
  const result = await job;
  assert.equal(result.stopped, "done");
  assert.equal(result.tokens, 64 * 120);
  const progress = events.filter((event) => event.kind === "progress" && event.label === "sae train");
  assert.ok(progress.length >= 2, "at the first step and at the last");
  const last = progress.at(-1);
  assert.deepEqual(last?.kind === "progress" && [last.done, last.total, last.unit], [
    64 * 120,
    64 * 120,
    "tokens",
  ]);
  assert.ok(fs.existsSync(path.join(temp.path, "job", "cfg.json")));
});

test("an aborted job saves and fails as interrupted; the same job continues", async () => {
  const controller = new AbortController();
  const wanted = options("aborted", { tokens: 64 * 4000 });
  const job = runJob("sae train", wanted, {
    signal: controller.signal,
    onEvent: (event) => event.kind === "progress" && event.label === "sae train" && controller.abort(),
  });
  await assert.rejects(job, (error: SluiceError) => {
    assert.match(error.message, /interrupted after step \d+ of 4000; saved in/);
    return error.code === "interrupted";
  });
  assert.equal(fs.readdirSync(path.join(temp.path, "aborted", "checkpoints")).length, 1);
  const again = new AbortController();
  let first = 0;
  const second = runJob("sae train", wanted, {
    signal: again.signal,
    onEvent: (event) => {
      if (event.kind !== "progress" || event.label !== "sae train") return;
      first ||= event.done;
      again.abort();
    },
  });
  await assert.rejects(second, /interrupted/);
  assert.ok(first > 64, `went on at ${first} tokens`);
});

test("a job that was aborted before it began does not train", async () => {
  const job = runJob("sae train", options("early"), { signal: AbortSignal.abort() });
  await assert.rejects(job, (error: SluiceError) => error.code === "interrupted");
  assert.equal(fs.existsSync(path.join(temp.path, "early", "cfg.json")), false);
});

for (const [kind, listener] of [
  ["a listener", (boom: Error) => () => raise(boom)],
  ["an asynchronous listener", (boom: Error) => async () => raise(boom)],
] as const) {
  test(`${kind} that throws stops the job, whose promise fails with that error`, async () => {
    const out = `thrown by ${kind}`;
    const boom = new Error("the listener's own");
    const job = runJob("sae train", options(out, { tokens: 64 * 4000 }), { onEvent: listener(boom) });
    await assert.rejects(job, (error) => error === boom);
    assert.equal(fs.existsSync(path.join(temp.path, out, "cfg.json")), false, "not trained to the end");
  });
}

test("wrong options and unknown commands fail as wrong usage", async () => {
  const usage = (pattern: RegExp) => (error: SluiceError) => {
    assert.match(error.message, pattern);
    return error.code === "usage";
  };
  await assert.rejects(runJob("sae train", { k: 3 }), usage(/--out is missing/));
  await assert.rejects(runJob("sae train", options("x", { lr: -1 })), usage(/--lr -1/));
  await assert.rejects(runJob("sae train", options("x", { k: 65 })), usage(/k=65 is more than the 64/));
  await assert.rejects(runJob("sea train", {}), usage(/unknown command "sea train"; did you mean sae train/));
});

test("errors of the work itself keep their code and message", async () => {
  const model = path.join(temp.path, "nowhere");
  await assert.rejects(runJob("sae train", options("x", { model })), (error: SluiceError) => {
    assert.match(error.message, /nowhere/);
    return error.code === "io" || error.code === "input";
  });
});
