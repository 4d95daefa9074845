/**
 * Making a device. Which backend it is, and how many threads it has, is said here and nowhere else.
 */
import { availableParallelism } from "node:os";
import { usageError } from "../util/errors.ts";
import { Device } from "./device.ts";
import { loadAddon } from "./native/addon.ts";
import { nativeBackend } from "./native/backend.ts";
import { type RefOptions, refBackend } from "./ref/backend.ts";

export type BackendName = "native" | "ref";

export interface DeviceOptions extends RefOptions {
  /**
   * `native`: C++ kernels. `ref`: plain loops in JavaScript, slow, needs nothing. `auto` (default): native where its
   * kernels were built, else ref, which is said through `onFallback`.
   */
  readonly backend?: BackendName | "auto";
  /** Threads of the native pool; default all cores. */
  readonly threads?: number;
  /** Gets one line when `auto` has to take ref; by default a warning of the process, once. */
  readonly onFallback?: (message: string) => void;
}

/** More threads than this only wait for each other. */
const MOST_THREADS = Math.max(64, 4 * availableParallelism());

/** A new device. Its tensors live until they are disposed; `close` frees them and releases its threads. */
export async function createDevice({
  backend = "auto",
  threads = availableParallelism(),
  onFallback = warnOnce,
  keepF64,
}: DeviceOptions = {}): Promise<Device> {
  if (!(Number.isInteger(threads) && threads >= 1)) {
    throw usageError(`createDevice: threads=${threads}, expected an integer of at least 1`);
  }
  if (threads > MOST_THREADS) {
    throw usageError(
      `createDevice: threads=${threads}, but this machine runs ${availableParallelism()} at once; at most ${MOST_THREADS} make sense`,
    );
  }
  switch (backend === "auto" ? available(onFallback) : backend) {
    case "native":
      return new Device(nativeBackend({ threads }));
    case "ref":
      return new Device(refBackend({ keepF64 }));
    default:
      throw usageError(`createDevice: backend=${backend}, expected auto, native or ref`);
  }
}

function available(onFallback: (message: string) => void): BackendName {
  try {
    loadAddon();
    return "native";
  } catch (error) {
    onFallback(`computing with the slow reference loops: ${(error as Error).message}`);
    return "ref";
  }
}

let warned = false;

function warnOnce(message: string): void {
  if (!warned) process.emitWarning(message, "SluiceWarning");
  warned = true;
}
