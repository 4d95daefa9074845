/**
 * What a benchmark reports, in the words of the PyTorch peers, and the yardstick that makes it comparable: a bare
 * product timed just before every step in the same process. ×GEMM is the step divided by it.
 */
import { type Device, matmul, type Tensor, transpose } from "../tensor/index.ts";
import { type BenchClock, type Spread, spreadOf } from "./bench-clock.ts";

export interface BenchFigures {
  readonly benchmark: string;
  /** Sizes by the names of their flags. */
  readonly sizes: Readonly<Record<string, number | string | boolean>>;
  /** Milliseconds. */
  readonly step: Spread;
  readonly tokensPerSecond?: Spread;
  /** The yardstick, milliseconds, and its speed. */
  readonly gemm?: Spread;
  readonly gemmGflops?: number;
  /** Step by step divided by the yardstick before it. */
  readonly gemmMultiple?: Spread;
  /** Median milliseconds of the parts. */
  readonly phases: Readonly<Record<string, number>>;
  /** Anything else, by the name it has in the JSON. */
  readonly more: Readonly<Record<string, unknown>>;
}

export interface BenchRepeats {
  readonly steps: number;
  readonly warmup: number;
  readonly signal?: AbortSignal;
}

/** A bare [M, K] · [K, N] product, thrown away; its buffer is mapped after the first call. */
export interface Yardstick {
  readonly flops: number;
  run(clock: BenchClock): void;
}

/** `w` is [K, N], or with `transposed` rows [N, K] as weights are stored. */
export function yardstick(device: Device, x: Tensor, w: Tensor, transposed = false): Yardstick {
  const [M, K] = x.shape;
  const N = w.shape[transposed ? 0 : 1];
  const product = () => device.scope(() => void matmul(x, transposed ? transpose(w) : w));
  product();
  return { flops: 2 * M * N * K, run: (clock) => clock.time("gemm", product) };
}

/** The figures of a clock with a phase `step`, and `gemm` if there was a yardstick. */
export function figuresOf(
  clock: BenchClock,
  {
    tokens,
    flops,
    ...rest
  }: Pick<BenchFigures, "benchmark" | "sizes" | "more"> & { tokens: number; flops?: number },
): BenchFigures {
  const steps = clock.of("step");
  const gemm = clock.of("gemm");
  const figures = {
    ...rest,
    step: spreadOf(steps),
    tokensPerSecond: spreadOf(steps.map((ms) => (tokens / ms) * 1000)),
    phases: clock.medians("step", "gemm"),
  };
  if (gemm.length === 0 || flops === undefined) return figures;
  return {
    ...figures,
    gemm: spreadOf(gemm),
    gemmGflops: flops / spreadOf(gemm).median / 1e6,
    gemmMultiple: spreadOf(steps.map((ms, i) => ms / gemm[i])),
  };
}
