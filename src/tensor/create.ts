/**
 * Making a device. Which backend it is, and how many threads it has, is said here and nowhere else.
 */
import { availableParallelism } from "node:os";
import { Device } from "./device.ts";
import { nativeBackend } from "./native/backend.ts";
import { type RefOptions, refBackend } from "./ref/backend.ts";

export type BackendName = "native" | "ref";

export interface DeviceOptions extends RefOptions {
  /** `native` (default): C++ kernels. `ref`: plain loops in JavaScript, slow, needs nothing. */
  readonly backend?: BackendName;
  /** Threads of the native pool; default all cores. */
  readonly threads?: number;
}

/** A new device. Its tensors live until they are disposed; `close` releases its threads. */
export async function createDevice({
  backend = "native",
  threads = availableParallelism(),
  keepF64,
}: DeviceOptions = {}): Promise<Device> {
  if (!(Number.isInteger(threads) && threads >= 1)) {
    throw new Error(`createDevice: threads=${threads}, expected an integer of at least 1`);
  }
  switch (backend) {
    case "native":
      return new Device(nativeBackend({ threads }));
    case "ref":
      return new Device(refBackend({ keepF64 }));
    default:
      return backend satisfies never;
  }
}
