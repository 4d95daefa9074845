/**
 * What every benchmark measures with: a clock by phase, medians with their spread, peak memory, other load on the machine.
 * Backends compute synchronously, so a phase ends when its function returns.
 */
import { readFileSync } from "node:fs";
import { interruptedError, summarize } from "../util/index.ts";

/** Of repeated measurements. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export function spreadOf(values: ArrayLike<number>): Spread {
  const { median, min, max } = summarize(values);
  return { median, min, max };
}

/** Wall-clock milliseconds by phase. */
export class BenchClock {
  readonly ms = new Map<string, number[]>();

  add(phase: string, ms: number): void {
    const list = this.ms.get(phase);
    if (list) list.push(ms);
    else this.ms.set(phase, [ms]);
  }

  time<T>(phase: string, fn: () => T): T {
    const began = performance.now();
    const result = fn();
    this.add(phase, performance.now() - began);
    return result;
  }

  async timeAsync<T>(phase: string, fn: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const result = await fn();
    this.add(phase, performance.now() - began);
    return result;
  }

  of(phase: string): readonly number[] {
    return this.ms.get(phase) ?? [];
  }

  /** Median milliseconds of every phase but some. */
  medians(...without: string[]): Record<string, number> {
    const shown = [...this.ms].filter(([phase]) => !without.includes(phase));
    return Object.fromEntries(shown.map(([phase, ms]) => [phase, spreadOf(ms).median]));
  }
}

/** Runs `step` for the warm-up and then for the count, with a fresh clock for the latter. */
export async function repeatTimed(
  { warmup, steps, signal }: { warmup: number; steps: number; signal?: AbortSignal },
  step: (clock: BenchClock) => Promise<void> | void,
): Promise<BenchClock> {
  let clock = new BenchClock();
  for (let i = 0; i < warmup + steps; i++) {
    if (signal?.aborted) throw interruptedError(`bench: interrupted at step ${i} of ${warmup + steps}`);
    if (i === warmup) clock = new BenchClock();
    await step(clock);
  }
  return clock;
}

/**
 * Largest resident set of this process so far, MB of 2^20 bytes as the peers count them. Linux's own count begins anew in a
 * started program; that of getrusage begins at what its parent had.
 */
export function peakRssMb(): number {
  const own = procFile("/proc/self/status")?.match(/^VmHWM:\s*(\d+) kB$/m);
  return (own ? Number(own[1]) : process.resourceUsage().maxRSS) / 1024;
}

/** Content of a file of /proc; undefined on machines that have none. */
function procFile(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** Jiffies a second in /proc/stat: USER_HZ is 100 on every architecture that Node runs on. */
const TICKS = 100;

/** CPU seconds of all processors that were not idle (user to steal); undefined where there is no /proc. */
function busySeconds(): number | undefined {
  const line = procFile("/proc/stat")?.split("\n", 1)[0];
  if (line === undefined) return undefined;
  const [user, nice, system, , , irq, softirq, steal] = line.split(/\s+/).slice(1, 9).map(Number);
  return (user + nice + system + irq + softirq + steal) / TICKS;
}

/** CPU seconds of this process, and of those that it started and that have ended. */
function ownSeconds(): number {
  const { user, system } = process.cpuUsage();
  // Behind the name in brackets: user and system time of the children are fields 16 and 17 of the line.
  const fields = procFile("/proc/self/stat")?.split(") ").at(-1)?.split(" ").slice(13, 15).map(Number) ?? [];
  return (user + system) / 1e6 + fields.reduce((a, b) => a + b, 0) / TICKS;
}

/**
 * Watches what other programs use: CPUs kept busy since the call; this process and those it started are left out. Undefined
 * where not known.
 */
export function watchNeighbours(): () => number | undefined {
  const read = () => {
    const busy = busySeconds();
    return busy === undefined ? undefined : { other: busy - ownSeconds(), at: performance.now() };
  };
  const first = read();
  return () => {
    const last = read();
    if (!first || !last) return undefined;
    return ((last.other - first.other) / (last.at - first.at)) * 1000;
  };
}
