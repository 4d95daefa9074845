/**
 * A web server that trains an autoencoder in a job and stays responsive: while the job runs, GET / tells how far it is.
 * The script asks its own server four times a second and stops when the job is done.
 * Usage: node dist/examples/jobs.js [model folder] [text]
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { type JobEvent, runJob } from "sluice/jobs";

const [model = "models/brook", text = "sotu"] = process.argv.slice(2);
const folder = await mkdtemp(join(tmpdir(), "sluice-jobs-"));

let latest: JobEvent | undefined;
const server = createServer((_, response) => {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(latest ?? { kind: "waiting" }));
});
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;

let running = true;
const job = runJob(
  "sae train",
  {
    model,
    text: [text],
    hook: "blocks.1.hook_resid_post",
    features: 512,
    k: 16,
    batch: 1024,
    tokens: 16 * 1024,
    buffer: 4096,
    threads: 1,
    out: join(folder, "sae"),
  },
  {
    onEvent: (event) => {
      latest = event;
    },
  },
).finally(() => {
  running = false;
});
job.catch(() => {}); // awaited below

const waits: number[] = [];
while (running) {
  const asked = performance.now();
  const event = (await (await fetch(url)).json()) as JobEvent | { kind: "waiting" };
  waits.push(performance.now() - asked);
  if (event.kind === "progress" && waits.length % 4 === 0) {
    console.log(`${event.label}: ${event.done} of ${event.total} ${event.unit}`);
  }
  await setTimeout(250);
}

const { tokens, last_record: last } = (await job) as {
  tokens: number;
  last_record: { explained_variance: number };
};
console.log(`${tokens} tokens, explained variance of the last batch ${last.explained_variance.toFixed(3)}`);
console.log(`${waits.length} requests meanwhile, the slowest took ${Math.max(...waits).toFixed(0)} ms`);
assert.equal(tokens, 16 * 1024);
assert.ok(waits.length > 1, "the server had no turn while the job ran");
server.closeAllConnections();
server.close();
await rm(folder, { recursive: true });
