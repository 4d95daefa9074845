/**
 * `sluice bench lm-load`: how soon a model is there, and what memory that takes.
 */
import { z } from "zod";
import { benchLmLoad, LOAD_SHAPES } from "../../recipes/bench-load.ts";
import { usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { benchFields, runBench, size } from "./bench-shared.ts";

const shapes = Object.keys(LOAD_SHAPES) as (keyof typeof LOAD_SHAPES)[];

export const benchLmLoadCommand = defineCommand({
  name: "bench lm-load",
  summary: "time and memory of loading a model",
  description:
    "Starts a process for every step, which loads a model (step) and captures its middle layer for one window; " +
    "first_activation counts from the start of that process, beyond_reading is what is left of it without reading the " +
    "file once (read), which is done just before, so the disk is warm. memory_multiple is what the process grew by while " +
    "it loaded, at its peak, over the weights as held.",
  schema: z.object({
    model: z.string().optional().describe("folder of a model [random weights of --shape]"),
    shape: z
      .enum(shapes as [string, ...string[]])
      .default("gpt2-small")
      .describe("size of the random model"),
    dtype: z
      .enum(["f32", "f16", "bf16"])
      .default("f32")
      .describe("how weights are held, and those of --shape stored"),
    tokens: size(256, "tokens of the window"),
    ...benchFields(5, 1),
  }),
  examples: ["sluice bench lm-load", "sluice bench lm-load --shape llama-512 --dtype bf16 --json"],
  run: ({ steps, warmup, threads, shape, ...options }, context) => {
    if (options.model !== undefined && context.given.has("shape"))
      throw usageError("--shape is of the random model that is made without --model; leave one of them out");
    return runBench({ steps, warmup, threads }, context, async (device, repeats) => [
      await benchLmLoad(device, { ...options, ...repeats, threads, shape: shape as (typeof shapes)[number] }),
    ]);
  },
});
