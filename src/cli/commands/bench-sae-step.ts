/**
 * `sluice bench sae-step`: one training step of an SAE on random activations.
 */
import { z } from "zod";
import { benchSaeStep } from "../../recipes/bench-sae.ts";
import { defineCommand } from "../command.ts";
import { benchFields, runBench, size } from "./bench-shared.ts";

export const benchSaeStepCommand = defineCommand({
  name: "bench sae-step",
  summary: "speed and memory of an SAE training step",
  description:
    "Times whole training steps on random activations: forward, loss, backward, removal of parallel gradients, " +
    "clipping, Adam, renormalisation of the decoder, firing statistics. Before each it times the bare encoder product " +
    "[batch, d] × [d, features]; ×GEMM is the step divided by that, and says more than milliseconds on a busy machine. " +
    "peak_rss_steps_mb is the peak memory before the first such product.",
  schema: z.object({
    arch: z.enum(["topk"]).default("topk").describe("architecture of the SAE"),
    d: size(512, "width of the activations"),
    features: size(8192, "features"),
    k: size(32, "active features per token"),
    batch: size(4096, "activations per step"),
    ...benchFields(7, 2),
  }),
  examples: [
    "sluice bench sae-step",
    "sluice bench sae-step --d 768 --features 24576 --json",
    "sluice bench sae-step --d 2304 --features 16384 --k 64 --batch 2048 --json",
  ],
  run: ({ d, features, k, batch, ...options }, context) =>
    runBench(options, context, async (device, repeats) => [
      await benchSaeStep(device, { d, features, k, batch }, repeats),
    ]),
});
