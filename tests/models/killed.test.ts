import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import * as path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { readJsonLines } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { STEPS, tinyRun } from "./tiny-run.ts";

test("a training process killed at any moment goes on from its files to the same bits", async () => {
  using temp = temporaryFolder();
  const killed = path.join(temp.path, "killed");
  const child = fork(fileURLToPath(new URL("tiny-run.js", import.meta.url)), [killed]);
  child.on("message", (step) => {
    if (step === 30) child.kill("SIGKILL");
  });
  const [, signal] = await once(child, "exit");
  assert.equal(signal, "SIGKILL");
  const resumed = await tinyRun(killed);
  assert.ok(resumed.first > 10 && resumed.first < STEPS, `it went on with step ${resumed.first}`);
  const whole = await tinyRun(path.join(temp.path, "whole"));
  assert.deepEqual(resumed.parameters, whole.parameters);
  const steps = (readJsonLines(path.join(killed, "metrics.jsonl")) as { step: number }[]).map((r) => r.step);
  assert.deepEqual(
    steps,
    Array.from({ length: STEPS }, (_, i) => i + 1),
  );
});
