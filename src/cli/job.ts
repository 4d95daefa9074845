/**
 * Commands as jobs: any `sluice` command run in a worker thread, so that a server's event loop stays free while a model
 * trains or generates. Progress comes as events, the result as the object that `--json` would print.
 */
import { Worker } from "node:worker_threads";
import { type ErrorCode, SluiceError } from "../util/index.ts";

/** What a running job tells. */
export type JobEvent =
  | {
      readonly kind: "progress";
      readonly label: string;
      readonly unit: string;
      readonly done: number;
      /** Undefined where the end is not known. */
      readonly total?: number;
      readonly details?: Readonly<Record<string, string | number>>;
    }
  | { readonly kind: "log"; readonly message: string }
  /** Text as it comes, as `lm generate` writes it. */
  | { readonly kind: "text"; readonly text: string };

export interface JobOptions {
  /**
   * Called for every event, at most about ten times a second for progress. If it throws, the job is asked to save and stop, and
   * the promise fails with that error.
   */
  readonly onEvent?: (event: JobEvent) => void;
  /** Asks the job to save and stop; the promise then fails with code `interrupted`. */
  readonly signal?: AbortSignal;
}

/** What the worker posts. */
export type JobMessage =
  | { readonly kind: "event"; readonly event: JobEvent }
  | { readonly kind: "done"; readonly json: Readonly<Record<string, unknown>> }
  | {
      readonly kind: "failed";
      readonly code?: ErrorCode;
      readonly message: string;
      /** Where it happened, in the worker. */
      readonly stack?: string;
    };

/**
 * Runs a command, named as on the command line (`sae train`), with its options as an object.
 * Wrong options fail with code `usage`, as the command line would.
 */
export function runJob(
  command: string,
  options: Readonly<Record<string, unknown>>,
  { onEvent, signal }: JobOptions = {},
): Promise<Readonly<Record<string, unknown>>> {
  return new Promise((resolve, reject) => {
    const url = new URL("./job-worker.js", import.meta.url);
    const worker = new Worker(url, { workerData: { command, options } });
    const abort = () => worker.postMessage("abort");
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    let thrown: { readonly error: unknown } | undefined;
    const tell = async (event: JobEvent) => {
      try {
        if (!thrown) await onEvent?.(event);
      } catch (error) {
        thrown ??= { error };
        abort();
      }
    };
    worker.on("message", (message: JobMessage) => {
      switch (message.kind) {
        case "event":
          return void tell(message.event);
        case "done":
          return thrown ? reject(thrown.error) : resolve(message.json);
        case "failed":
          return reject(thrown ? thrown.error : failure(message));
        default:
          message satisfies never;
      }
    });
    worker.on("error", reject);
    worker.on("exit", (code) => {
      signal?.removeEventListener("abort", abort);
      reject(new Error(`job ${command}: its worker ended with code ${code} and no result`)); // unless there was one
    });
  });
}

function failure({ code, message, stack }: Extract<JobMessage, { kind: "failed" }>): Error {
  const error = code ? new SluiceError(code, message) : new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
