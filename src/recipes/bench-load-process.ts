/**
 * The process that `benchLmLoad` starts: loads a model, captures the middle layer for one window, prints what it took.
 */
import { writeSync } from "node:fs";
import { loadTransformer } from "../models/index.ts";
import { createDevice } from "../tensor/index.ts";
import { peakRssMb } from "./bench-clock.ts";

export interface LoadWork {
  readonly folder: string;
  readonly dtype: "f32" | "f16" | "bf16";
  readonly tokens: number;
  readonly threads: number;
}

/** Milliseconds, and MB of 2^20 bytes. */
export interface LoadedIn {
  readonly loadMs: number;
  /** From the start of the process. */
  readonly firstMs: number;
  /** Weights as held. */
  readonly heldMb: number;
  /** Resident set before loading, and the most of it until the model was loaded. */
  readonly startMb: number;
  readonly peakMb: number;
}

const { folder, dtype, tokens, threads } = JSON.parse(process.argv[2]) as LoadWork;
const device = await createDevice({ backend: "native", threads });
const startMb = process.memoryUsage().rss / 2 ** 20;
const began = performance.now();
const model = await loadTransformer(device, folder, { dtype });
const loadMs = performance.now() - began;
const [peakMb, heldMb] = [peakRssMb(), device.memory().bytes / 2 ** 20];
const point = `blocks.${Math.max(0, Math.floor(model.spec.nLayers / 2) - 1)}.hook_resid_post`;
const captured = device.scope(() => {
  const ids = device.tensor(
    Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % model.spec.vocabSize),
    [1, tokens],
    "i32",
  );
  return model.forward(ids, { capture: [point], stopEarly: true }).captured[point];
});
await captured.floats();
const loaded: LoadedIn = { loadMs, firstMs: process.uptime() * 1000, heldMb, startMb, peakMb };
writeSync(1, JSON.stringify(loaded));
device.close();
