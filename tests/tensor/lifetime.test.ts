/**
 * Ends: closing a device, threads or scratch that the system refuses, a JavaScript thread that dies with an open device.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { add, createDevice, scaleInPlace } from "../../src/tensor/index.ts";
import { nativeMissing } from "./support.ts";

const module = (path: string) => JSON.stringify(new URL(`../../src/tensor/${path}`, import.meta.url).href);

for (const backend of ["ref", ...(nativeMissing ? [] : ["native"])] as ("ref" | "native")[]) {
  describe(`a closed ${backend} device`, () => {
    test("frees its buffers, refuses work and may be closed again", async () => {
      const device = await createDevice({ backend, threads: 2 });
      const x = device.tensor([1, 2, 3]);
      device.close();
      assert.equal(device.memory().bytes, 0);
      const message = (what: string) => ({
        message: `${what}: the ${backend} device was closed; close() it only after its last use`,
      });
      assert.throws(() => add(x, 1), message("device"));
      assert.throws(() => scaleInPlace(x, 2), message("scale"));
      assert.throws(() => device.zeros([2]), message("device"));
      assert.throws(() => device.write(x, [4, 5, 6]), message("write"));
      await assert.rejects(x.data(), message("read"));
      device.close();
      x.dispose();
      device.close();
      assert.deepEqual(
        { ...device.memory(), peakBytes: 0 },
        { tensors: 0, buffers: 0, bytes: 0, peakBytes: 0 },
      );
    });
  });
}

test("createDevice refuses more threads than make sense", async () => {
  await assert.rejects(createDevice({ backend: "ref", threads: 100_000 }), {
    message: /^createDevice: threads=100000, but this machine runs \d+ at once; at most \d+ make sense$/,
  });
});

/** Runs a module in a process with 3 GiB of address space and gives what it printed. */
function withLittleMemory(program: string): string {
  const { stdout, stderr, status } = spawnSync(
    "sh",
    ["-c", 'ulimit -v 3145728 && exec "$0" --input-type=module --eval "$1"', process.execPath, program],
    { encoding: "utf8" },
  );
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

const linuxOnly = nativeMissing ?? (process.platform === "linux" ? false : "needs ulimit -v and /proc");

test("a pool that the system has no memory for is a RangeError", { skip: linuxOnly }, () => {
  const said = withLittleMemory(`
    import { loadAddon } from ${module("native/addon.js")};
    try { loadAddon().createPool(4000) } catch (e) { console.log(e.name + ": " + e.message) }
    loadAddon().destroyPool(loadAddon().createPool(2));
  `);
  assert.equal(said, "RangeError: sluice native: cannot start 4000 threads; ask for fewer");
});

test("a kernel that gets no scratch memory throws, and the device goes on", { skip: linuxOnly }, () => {
  const said = withLittleMemory(`
    import { loadAddon } from ${module("native/addon.js")};
    import { add, createDevice, dispatch, ops } from ${module("index.js")};
    const device = await createDevice({ backend: "native", threads: 2 });
    const [T, D] = [2_000_000, 4]; // 112 MB of scratch per thread, or more
    const reserve = loadAddon().alloc(24e6); // for JavaScript
    const x = device.zeros([2, T, 1, D]);
    const lse = device.zeros([2, 1, T]);
    const attrs = { scale: 1, causal: true, window: 1, softcap: 0 };
    for (const t of [x, x, x].map((t) => device.empty(t.shape))) t.dispose(); // for the gradients
    const hoard = [];
    for (let bytes = 2 ** 28; bytes >= 2 ** 25; bytes /= 2) {
      try { for (;;) hoard.push(loadAddon().alloc(bytes)) } catch {}
    }
    loadAddon().free(reserve);
    try { dispatch(ops.attentionGrad, [x, x, x, x, x, lse], attrs) } catch (e) { console.log(e.name + ": " + e.message) }
    hoard.forEach((address) => loadAddon().free(address));
    console.log(await add(device.tensor([1]), 1).item());
    device.close();
  `);
  const [first, second] = said.split("\n");
  assert.match(first, /^RangeError: attentionGrad: no memory for \d+ bytes of scratch; use smaller batches/);
  assert.equal(second, "2");
});

test("a JavaScript thread that ends with open devices leaves no threads and no memory", {
  skip: linuxOnly,
}, async () => {
  const status = (field: string) =>
    Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
  const program = `
    import(${module("index.js")}).then(async ({ createDevice }) => {
      const device = await createDevice({ backend: "native", threads: 4 });
      device.zeros([2 ** 24]);
    });
  `;
  const run = () =>
    new Promise((resolve, reject) => {
      new Worker(program, { eval: true }).on("exit", resolve).on("error", reject);
    });
  await run();
  const before = { threads: status("Threads"), kilobytes: status("VmRSS") };
  for (let i = 0; i < 3; i++) await run();
  assert.ok(status("Threads") < before.threads + 3, `${before.threads} threads became ${status("Threads")}`);
  const grown = status("VmRSS") - before.kilobytes;
  assert.ok(grown < 100_000, `resident memory grew by ${grown} kB`);
});
