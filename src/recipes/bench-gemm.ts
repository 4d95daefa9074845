/**
 * Bare matrix products: GFLOP/s of C [M, N] = A [M, K] · B [K, N], two operations a multiply-add.
 */
import { type Device, matmul, transpose } from "../tensor/index.ts";
import { Rng } from "../util/index.ts";
import { type BenchFigures, type BenchRepeats, figuresOf } from "./bench.ts";
import { repeatTimed } from "./bench-clock.ts";

export interface Product {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  /** B is given as rows [N, K], as weights are. */
  readonly transposed?: boolean;
}

/** A square product, and the encoder of the SAE benchmarks. */
export const DEFAULT_PRODUCTS: readonly Product[] = [
  { m: 1024, k: 1024, n: 1024 },
  { m: 4096, k: 512, n: 8192 },
];

export async function benchGemm(
  device: Device,
  { m, k, n, transposed = false }: Product,
  repeats: BenchRepeats,
): Promise<BenchFigures> {
  const rng = new Rng(0);
  const normals = (size: number) => rng.fillNormal(new Float32Array(size));
  const a = device.tensor(normals(m * k), [m, k]);
  const b = device.tensor(normals(k * n), transposed ? [n, k] : [k, n]);
  try {
    const clock = await repeatTimed(repeats, (c) =>
      c.time("step", () => device.scope(() => void matmul(a, transposed ? transpose(b) : b))),
    );
    for (const ms of clock.of("step")) clock.add("gemm", ms); // a product is its own yardstick
    const figures = figuresOf(clock, {
      benchmark: "gemm",
      sizes: { m, k, n, transposed },
      tokens: m,
      flops: 2 * m * n * k,
      more: {},
    });
    const gflops = (ms: number) => (2 * m * n * k) / ms / 1e6;
    const { median, min, max } = figures.step;
    const more = { gflops: gflops(median), gflops_min: gflops(max), gflops_max: gflops(min) };
    return { ...figures, more };
  } finally {
    a.dispose();
    b.dispose();
  }
}
