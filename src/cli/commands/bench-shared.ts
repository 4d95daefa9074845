/**
 * What the benchmarks have in common: flags, the device, JSON in the words of the PyTorch peers, a table for people.
 */
import { availableParallelism } from "node:os";
import { z } from "zod";
import type { BenchFigures } from "../../recipes/bench.ts";
import { peakRssMb, type Spread, watchNeighbours } from "../../recipes/bench-clock.ts";
import { createDevice, type Device } from "../../tensor/index.ts";
import { loadAddon } from "../../tensor/native/addon.ts";
import { formatCount, SluiceError } from "../../util/index.ts";
import type { CommandContext, CommandResult } from "../command.ts";

export const size = (value: number, what: string) => z.number().int().min(1).default(value).describe(what);

/** Flags of every benchmark. */
export const benchFields = (steps: number, warmup: number) => ({
  threads: z.number().int().min(1).default(availableParallelism()).describe("threads of the native kernels"),
  steps: size(steps, "measured steps"),
  warmup: z.number().int().min(0).default(warmup).describe("steps before the measured ones"),
});

/** Runs a benchmark on a native device of its own and reports it. */
export async function runBench(
  { threads, steps, warmup }: { threads: number; steps: number; warmup: number },
  { signal }: CommandContext,
  measure: (
    device: Device,
    repeats: { steps: number; warmup: number; signal: AbortSignal },
  ) => Promise<BenchFigures[]>,
): Promise<CommandResult> {
  const neighbours = watchNeighbours();
  const device = await nativeDevice(threads);
  try {
    const found = await measure(device, { steps, warmup, signal });
    const machine = {
      threads,
      steps,
      isa: loadAddon().isa(),
      peak_rss_mb: tenth(peakRssMb()),
      other_busy_cpus: hundredth(neighbours()),
    };
    const records = found.map((figures) => ({ ...asRecord(figures), ...machine }));
    const json = records.length === 1 ? records[0] : { ...records[0], all: records };
    return { json, text: `${found.map(asText).join("\n\n")}\n\n${machineLine(machine)}` };
  } finally {
    device.close();
  }
}

/** A benchmark of the reference loops would say nothing. */
async function nativeDevice(threads: number): Promise<Device> {
  try {
    loadAddon();
  } catch (cause) {
    const why = (cause as Error).message.replace(/, or use the `ref` backend/, "");
    throw new SluiceError("io", `benchmarks need the native kernels. ${why}`, { cause });
  }
  return createDevice({ backend: "native", threads });
}

const tenth = (v: number) => Math.round(v * 10) / 10;
const hundredth = (v: number | undefined) => (v === undefined ? null : Math.round(v * 100) / 100);
/** Four digits are more than the noise leaves. */
const short = (v: number) => Number(v.toPrecision(5));

function spread(name: string, value: Spread | undefined): Record<string, number> {
  if (!value) return {};
  return {
    [name]: short(value.median),
    [`${name}_min`]: short(value.min),
    [`${name}_max`]: short(value.max),
  };
}

function asRecord(figures: BenchFigures): Record<string, unknown> {
  const rounded = (values: Readonly<Record<string, unknown>>) =>
    Object.fromEntries(Object.entries(values).map(([k, v]) => [k, typeof v === "number" ? short(v) : v]));
  const sizes = Object.entries(figures.sizes).map(([name, v]) => [
    name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`),
    v,
  ]);
  return {
    benchmark: figures.benchmark,
    ...Object.fromEntries(sizes),
    ...spread("tokens_per_second", figures.tokensPerSecond),
    ...spread("step_ms", figures.step),
    ...spread("gemm_ms", figures.gemm),
    ...(figures.gemmGflops === undefined ? {} : { gemm_gflops: short(figures.gemmGflops) }),
    ...spread("gemm_multiple", figures.gemmMultiple),
    phases_ms: rounded(figures.phases),
    ...rounded(figures.more),
  };
}

const range = ({ median, min, max }: Spread, show: (v: number) => string) =>
  `${show(median)} (${show(min)} to ${show(max)})`;
const plain = (v: number) => (v >= 100 ? v.toFixed(0) : v.toPrecision(3));

function asText(f: BenchFigures): string {
  const sizes = Object.entries(f.sizes).map(([name, v]) => `${name} ${v}`);
  const rows: [string, string][] = [["step", `${range(f.step, plain)} ms`]];
  if (f.tokensPerSecond) rows.push(["tokens/s", range(f.tokensPerSecond, formatCount)]);
  if (f.gemm) rows.push(["bare product", `${range(f.gemm, plain)} ms, ${plain(f.gemmGflops ?? 0)} GFLOP/s`]);
  if (f.gemmMultiple) rows.push(["×GEMM", range(f.gemmMultiple, (v) => v.toFixed(2))]);
  for (const [phase, ms] of Object.entries(f.phases)) rows.push([`  ${phase}`, `${plain(ms)} ms`]);
  for (const [name, v] of Object.entries(f.more)) {
    rows.push([name.replaceAll("_", " "), typeof v === "number" ? formatCount(v) : String(v)]);
  }
  const width = Math.max(...rows.map(([name]) => name.length));
  return [`${f.benchmark}: ${sizes.join(", ")}`, ...rows.map(([n, v]) => `  ${n.padEnd(width)}  ${v}`)].join(
    "\n",
  );
}

function machineLine(m: {
  threads: number;
  isa: string;
  peak_rss_mb: number;
  other_busy_cpus: number | null;
}): string {
  const others = m.other_busy_cpus === null ? "" : `, other programs kept ${m.other_busy_cpus} CPUs busy`;
  return `${m.threads} threads, ${m.isa}, peak memory ${m.peak_rss_mb} MB${others}`;
}
