/**
 * `sluice bench lm-forward`, `lm-train` and `generate`: language models of random weights.
 */
import { z } from "zod";
import {
  benchGenerate,
  benchLmForward,
  benchLmTrain,
  LM_TWINS,
  type LmSizes,
} from "../../recipes/bench-lm.ts";
import { defineCommand } from "../command.ts";
import { benchFields, runBench, size } from "./bench-shared.ts";

const lmFields = (defaults: LmSizes) => ({
  d: size(defaults.d, "width of the residual stream"),
  layers: size(defaults.layers, "blocks"),
  heads: size(defaults.heads, "query heads"),
  kvHeads: size(defaults.kvHeads, "key-value heads"),
  ffn: size(defaults.ffn, "width of the MLP"),
  vocab: size(defaults.vocab, "vocabulary"),
  ctx: size(defaults.ctx, "tokens of a window"),
  batch: size(defaults.batch, "windows"),
});

const dtypeField = z
  .enum(["f32", "f16", "bf16"])
  .default("f32")
  .describe("how weights are held; arithmetic is f32");

const SMALL: LmSizes = {
  d: 512,
  layers: 8,
  heads: 8,
  kvHeads: 2,
  ffn: 1408,
  vocab: 32000,
  ctx: 128,
  batch: 8,
};
const TRAINED: LmSizes = {
  d: 256,
  layers: 6,
  heads: 8,
  kvHeads: 4,
  ffn: 688,
  vocab: 4096,
  ctx: 256,
  batch: 32,
};

export const benchLmForwardCommand = defineCommand({
  name: "bench lm-forward",
  summary: "speed of a forward pass with one captured layer",
  description:
    "Times forward passes that capture the residual stream after one block: with logits (step), without the head " +
    "(no_head), and stopped after that block (stopped), as a collector of activations runs it.",
  schema: z.object({
    arch: z.enum(["llama", "gpt2"]).default("llama").describe("family of the model"),
    ...lmFields(SMALL),
    dtype: dtypeField,
    layer: z
      .number()
      .int()
      .min(0)
      .optional()
      .describe("block whose output is captured, from 0 [the middle one]"),
    ...benchFields(5, 1),
  }),
  examples: [
    "sluice bench lm-forward",
    "sluice bench lm-forward --d 256 --layers 6 --ffn 688 --vocab 4096 --json",
    "sluice bench lm-forward --arch gpt2 --d 768 --layers 12 --heads 12 --kv-heads 12 --ffn 3072 --vocab 50257",
  ],
  run: ({ arch, dtype, ...options }, context) => {
    const { steps, warmup, threads, layer, ...sizes } = options;
    return runBench({ steps, warmup, threads }, context, async (device, repeats) => [
      await benchLmForward(device, sizes, { ...repeats, arch, dtype, layer }),
    ]);
  },
});

export const benchLmTrainCommand = defineCommand({
  name: "bench lm-train",
  summary: "speed of a language model's training step",
  description:
    "Times steps of causal language-model training: forward and backward in passes of --micro windows, clipping at 1, " +
    "AdamW. The gradients are those of the whole batch, whatever --micro is.",
  schema: z.object({
    ...lmFields(TRAINED),
    micro: size(8, "windows per pass"),
    twin: z
      .enum(LM_TWINS)
      .optional()
      .describe(
        "beside every step one of a model of another architecture and the same sizes, and what it takes more: lime, average, " +
          "hidden-static and hidden-dynamic route keys and values as `lm train --kv-routing` does, hyper and dense are its --residual",
      ),
    ...benchFields(5, 1),
  }),
  examples: [
    "sluice bench lm-train",
    "sluice bench lm-train --batch 8 --json",
    "sluice bench lm-train --kv-heads 8 --twin lime",
  ],
  run: (options, context) => {
    const { steps, warmup, threads, micro, twin, ...sizes } = options;
    return runBench({ steps, warmup, threads }, context, async (device, repeats) => [
      await benchLmTrain(device, sizes, { ...repeats, micro, twin }),
    ]);
  },
});

export const benchGenerateCommand = defineCommand({
  name: "bench generate",
  summary: "speed of cached decoding",
  description:
    "Times whole generations with a key-value cache: tokens_per_second counts the new tokens of all rows over the whole " +
    "time, decode_tokens_per_second leaves out the prompt and the first new token.",
  schema: z.object({
    ...lmFields({ ...SMALL, ctx: 256, batch: 1 }),
    prompt: size(16, "tokens of a prompt"),
    newTokens: size(64, "new tokens per row"),
    sample: z
      .boolean()
      .default(false)
      .describe("sample at temperature 1 instead of taking the likeliest token"),
    dtype: dtypeField,
    ...benchFields(5, 1),
  }),
  examples: ["sluice bench generate --dtype f16", "sluice bench generate --batch 16 --sample --json"],
  run: (options, context) => {
    const { steps, warmup, threads, prompt, newTokens, sample, dtype, ...sizes } = options;
    return runBench({ steps, warmup, threads }, context, async (device, repeats) => [
      await benchGenerate(device, sizes, { ...repeats, prompt, newTokens, sample, dtype }),
    ]);
  },
});
