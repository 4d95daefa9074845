/**
 * Locks of run folders: living threads keep theirs, also within one process; what dead ones left is taken over.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { hostname } from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { lockFolder } from "../../src/sae/index.ts";
import { temporaryFolder } from "../temporary.ts";

const MODULE = new URL("../../src/sae/folder-lock.js", import.meta.url).href;

/** A thread that locks the folder and then waits. */
async function workerThatLocks(folder: string): Promise<Worker> {
  const code = `
    const { parentPort } = require("node:worker_threads");
    import(${JSON.stringify(MODULE)}).then(({ lockFolder }) => {
      lockFolder(${JSON.stringify(folder)});
      parentPort.postMessage("locked");
      setInterval(() => {}, 1000);
    });`;
  const worker = new Worker(code, { eval: true });
  await once(worker, "message");
  return worker;
}

test("a folder is made, locked once, and free again when it is given back", () => {
  using temp = temporaryFolder();
  const folder = path.join(temp.path, "a", "run");
  const unlock = lockFolder(folder);
  assert.throws(
    () => lockFolder(folder),
    /run is in use by another job of this process.*choose another folder/,
  );
  unlock();
  assert.deepEqual(fs.readdirSync(folder), []);
  lockFolder(folder)();
});

test("two threads of one process cannot work in one folder; a thread that died does not block it", async (t) => {
  using temp = temporaryFolder();
  const worker = await workerThatLocks(temp.path);
  try {
    assert.throws(() => lockFolder(temp.path), /in use by another job of this process/);
  } finally {
    await worker.terminate();
  }
  if (!fs.existsSync("/proc/thread-self")) return t.skip("threads cannot be looked up on this system");
  lockFolder(temp.path)();
});

test("the lock of a process that was killed is taken over", () => {
  using temp = temporaryFolder();
  const code = `import(${JSON.stringify(MODULE)}).then((m) => { m.lockFolder(${JSON.stringify(temp.path)}); process.kill(process.pid, "SIGKILL"); })`;
  assert.equal(spawnSync(process.execPath, ["-e", code]).signal, "SIGKILL");
  assert.deepEqual(fs.readdirSync(temp.path), [".lock"]);
  lockFolder(temp.path)();
});

test("a lock of another host or without content holds as long as it is touched", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, ".lock");
  const foreign = { pid: 1, where: `not-${hostname()}`, since: "2026-01-01T00:00:00.000Z", id: 1 };
  for (const [text, message] of [
    [JSON.stringify(foreign), /in use by process 1 on not-/],
    ["", /in use by another run/],
  ] as const) {
    fs.writeFileSync(file, text);
    assert.throws(() => lockFolder(temp.path), message);
    fs.utimesSync(file, 0, 0);
    lockFolder(temp.path)();
    assert.equal(fs.existsSync(file), false);
  }
});
