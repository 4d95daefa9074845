/**
 * The other side of `runJob`: a worker thread that runs one command and posts what happens.
 */
import { parentPort, workerData } from "node:worker_threads";
import { didYouMean, SluiceError, usageError } from "../util/index.ts";
import { catalogue } from "./catalogue.ts";
import type { CommandContext } from "./command.ts";
import type { JobMessage } from "./job.ts";
import { plainOptions, runCommandWith } from "./options.ts";

/** Milliseconds between two progress events. */
const INTERVAL = 100;

const port = parentPort;
if (!port) throw new Error("job-worker: runs only as a worker thread");
const post = (message: JobMessage) => port.postMessage(message);
const controller = new AbortController();
port.on("message", () => controller.abort());

const { command: name, options } = workerData as { command: string; options: Record<string, unknown> };

const context: CommandContext = {
  signal: controller.signal,
  json: true,
  quiet: false,
  given: new Set(Object.keys(options).filter((name) => options[name] !== undefined)),
  log: (message) => post({ kind: "event", event: { kind: "log", message } }),
  write: (text) => post({ kind: "event", event: { kind: "text", text } }),
  progress({ label, unit, total }) {
    let last = Number.NEGATIVE_INFINITY;
    let done = 0;
    const tell = (details?: Readonly<Record<string, string | number>>) =>
      post({ kind: "event", event: { kind: "progress", label, unit, done, total, details } });
    return {
      update(value, details) {
        done = value;
        if (performance.now() - last < INTERVAL) return;
        last = performance.now();
        tell(details);
      },
      finish: (details) => tell(details),
    };
  },
};

async function main(): Promise<void> {
  const entry = catalogue.find((e) => e.name === name);
  if (!entry)
    throw usageError(
      `unknown command "${name}"${didYouMean(
        name,
        catalogue.map((e) => e.name),
      )}`,
    );
  const command = await entry.load();
  const { json } = await runCommandWith(command, plainOptions(options), context);
  post({ kind: "done", json });
}

try {
  await main();
} catch (error) {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  post({ kind: "failed", code: error instanceof SluiceError ? error.code : undefined, message, stack });
}
port.close();
