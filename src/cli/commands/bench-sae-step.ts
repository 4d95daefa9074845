/**
 * `sluice bench sae-step`: one training step of an SAE on random activations.
 */
import { z } from "zod";
import { benchSaeStep } from "../../recipes/bench-sae.ts";
import { saeShapeSchema } from "../../recipes/sae-shape.ts";
import { saeTrainSchema } from "../../sae/index.ts";
import { defineCommand } from "../command.ts";
import { benchFields, runBench, size } from "./bench-shared.ts";

export const benchSaeStepCommand = defineCommand({
  name: "bench sae-step",
  summary: "speed and memory of an SAE training step",
  description:
    "Times whole training steps on random activations: forward, loss, backward, removal of parallel gradients, " +
    "clipping, Adam, renormalisation of the decoder, firing statistics. Before each it times the bare encoder product " +
    "[batch, d] × [d, features] of a dense encoder; ×GEMM is the step divided by that, and says more than milliseconds on a busy machine. " +
    "peak_rss_steps_mb is the peak memory before the first such product.",
  schema: z.object({
    ...saeShapeSchema.shape,
    d: size(512, "width of the activations"),
    features: size(8192, "features"),
    batch: size(4096, "activations per step"),
    objective: saeTrainSchema.shape.objective,
    threshold: z
      .number()
      .positive()
      .default(0.01)
      .describe("jumprelu: the thresholds; on normal activations 2.66 leaves 32 of 8192 features active"),
    ...benchFields(7, 2),
  }),
  examples: [
    "sluice bench sae-step",
    "sluice bench sae-step --d 768 --features 24576 --json",
    "sluice bench sae-step --objective hierarchical",
    "sluice bench sae-step --encoder kron --kron-m 4 --kron-n 4",
    "sluice bench sae-step --d 2304 --features 16384 --k 64 --batch 2048 --json",
  ],
  run: ({ d, batch, objective, threshold, ...options }, context) =>
    runBench(options, context, async (device, repeats) => [
      await benchSaeStep(device, { shape: options, objective, d, batch, threshold }, repeats),
    ]),
});
