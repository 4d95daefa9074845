/**
 * `sluice bench gemm`: bare matrix products.
 */
import { z } from "zod";
import { benchGemm, DEFAULT_PRODUCTS } from "../../recipes/bench-gemm.ts";
import { defineCommand } from "../command.ts";
import { benchFields, runBench } from "./bench-shared.ts";

const extent = (what: string) =>
  z.number().int().min(1).optional().describe(`${what} [1024³, then 4096 × 512 × 8192]`);

export const benchGemmCommand = defineCommand({
  name: "bench gemm",
  summary: "speed of matrix products",
  description:
    "Times products [m, k] × [k, n] of f32 and gives GFLOP/s, two operations a multiply-add. Without sizes it measures " +
    "1024³ and [4096, 512] × [512, 8192], the encoder of the SAE benchmarks; with some, the others are 1024.",
  schema: z.object({
    m: extent("rows of the first matrix"),
    k: extent("columns of the first matrix"),
    n: extent("columns of the second matrix"),
    transposed: z.boolean().default(false).describe("the second matrix is stored [n, k], as weights are"),
    ...benchFields(20, 3),
  }),
  examples: ["sluice bench gemm", "sluice bench gemm --m 4096 --k 768 --n 24576 --transposed --json"],
  run: ({ m, k, n, transposed, ...options }, context) =>
    runBench(options, context, async (device, repeats) => {
      const named = m !== undefined || k !== undefined || n !== undefined;
      const products = named ? [{ m: m ?? 1024, k: k ?? 1024, n: n ?? 1024 }] : DEFAULT_PRODUCTS;
      const found = [];
      for (const product of products)
        found.push(await benchGemm(device, { ...product, transposed }, repeats));
      return found;
    }),
});
