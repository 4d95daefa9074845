/**
 * How soon a model is there: loading it, and the time from the start of a process to its first captured activation. Every
 * step is a process of its own, as a user would start one; the file was read just before, so the disk is warm.
 */
import { execFile } from "node:child_process";
import { createReadStream } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { saveTransformer } from "../models/index.ts";
import type { Device } from "../tensor/index.ts";
import { Rng } from "../util/index.ts";
import type { BenchFigures, BenchRepeats } from "./bench.ts";
import { repeatTimed, spreadOf } from "./bench-clock.ts";
import { benchConfig, type LmArch, type LmSizes, randomModel, type WeightType } from "./bench-lm.ts";
import type { LoadedIn, LoadWork } from "./bench-load-process.ts";

/** What checkpoints are made of where no folder is given. */
export const LOAD_SHAPES = {
  "gpt2-small": {
    arch: "gpt2",
    sizes: { d: 768, layers: 12, heads: 12, kvHeads: 12, ffn: 3072, vocab: 50_257, ctx: 1024, batch: 1 },
  },
  "llama-512": {
    arch: "llama",
    sizes: { d: 512, layers: 8, heads: 8, kvHeads: 2, ffn: 1408, vocab: 32_000, ctx: 2048, batch: 1 },
  },
} as const satisfies Record<string, { arch: LmArch; sizes: LmSizes }>;

export interface LoadBench extends BenchRepeats {
  /** Folder of a model; without one a checkpoint of random weights is made, of `shape` and stored in `dtype`. */
  readonly model?: string;
  readonly shape: keyof typeof LOAD_SHAPES;
  /** How weights are held. */
  readonly dtype: WeightType;
  /** Tokens of the first window. */
  readonly tokens: number;
  readonly threads: number;
}

/** Loading a model and its first captured activation, process by process. `device` only makes the checkpoint. */
export async function benchLmLoad(device: Device, options: LoadBench): Promise<BenchFigures> {
  const { model, shape, dtype, tokens, threads, ...repeats } = options;
  const own = model === undefined ? await mkdtemp(join(tmpdir(), "sluice-load-")) : undefined;
  try {
    const folder = model ?? (await writeRandom(device, own as string, { shape, dtype }));
    const found: LoadedIn[] = [];
    const clock = await repeatTimed(repeats, async (c) => {
      const began = performance.now();
      const bytes = await readThrough(folder);
      c.add("read", performance.now() - began);
      const loaded = await inProcess({ folder, dtype, tokens, threads }, repeats.signal);
      c.add("step", loaded.loadMs);
      c.add("first_activation", loaded.firstMs);
      c.add("beyond_reading", loaded.firstMs - (c.of("read").at(-1) as number));
      found.push(loaded);
      if (bytes === 0) throw new Error("bench: the model has no weights");
    });
    const last = found.slice(-repeats.steps);
    const middle = (of: (l: LoadedIn) => number) => spreadOf(last.map(of)).median;
    const memory = (l: LoadedIn) => (l.peakMb - l.startMb) / l.heldMb;
    return {
      benchmark: "lm-load",
      sizes: { model: model ?? shape, dtype, tokens },
      step: spreadOf(clock.of("step")),
      phases: clock.medians("step"),
      more: {
        held_mb: middle((l) => l.heldMb),
        load_peak_rss_mb: middle((l) => l.peakMb),
        memory_multiple: middle(memory),
        loads_per_second: 1000 / spreadOf(clock.of("step")).median,
        first_activations_per_second: 1000 / spreadOf(clock.of("first_activation")).median,
      },
    };
  } finally {
    if (own) await rm(own, { recursive: true, force: true });
  }
}

async function writeRandom(
  device: Device,
  folder: string,
  { shape, dtype }: Pick<LoadBench, "shape" | "dtype">,
): Promise<string> {
  const { arch, sizes } = LOAD_SHAPES[shape];
  const model = randomModel(device, benchConfig(arch, sizes), dtype, new Rng(0));
  await saveTransformer(model, folder, { dtype }).finally(() => model.dispose());
  return folder;
}

/** Bytes of the weights, read once from their beginning to their end. */
async function readThrough(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) {
    const file = join(folder, name);
    if (!/^model.*\.safetensors$/.test(name) || !(await stat(file)).isFile()) continue;
    for await (const chunk of createReadStream(file, { highWaterMark: 4 << 20 })) bytes += chunk.length;
  }
  return bytes;
}

const program = fileURLToPath(new URL(`./bench-load-process${import.meta.url.slice(-3)}`, import.meta.url));

async function inProcess(work: LoadWork, signal?: AbortSignal): Promise<LoadedIn> {
  const { stdout } = await promisify(execFile)(process.execPath, [program, JSON.stringify(work)], { signal });
  return JSON.parse(stdout) as LoadedIn;
}
