/**
 * `sluice lm generate`: a model continues a prompt.
 */
import { z } from "zod";
import { generate, type TokenEvent } from "../../models/index.ts";
import type { Tokenizer } from "../../text/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { count, deviceFields, modelFields, modelHelp, withDevice, withModel } from "./shared.ts";

const sampling = { group: "Sampling" };

const schema = z.object({
  model: z.string().describe(modelHelp()),
  prompt: z.string().default("").describe("text to continue; without one the model begins a document"),
  chat: z
    .string()
    .optional()
    .describe("a message to answer, put to the model in its own chat template, instead of a prompt"),
  system: z.string().optional().describe("with --chat: the system message"),
  maxNewTokens: count().default(128).describe("most tokens to write"),
  samples: count().default(1).describe("continuations, written in one batch"),
  temperature: z
    .number()
    .min(0)
    .default(0.8)
    .describe("divides the logits; 0 always takes the likeliest token")
    .meta(sampling),
  topK: z.number().int().min(0).default(0).describe("only the k likeliest tokens; 0 for all").meta(sampling),
  topP: z
    .number()
    .gt(0)
    .max(1)
    .default(0.95)
    .describe("only the fewest tokens that together have this probability")
    .meta(sampling),
  seed: z.number().int().min(0).default(0).describe("seed of the draws").meta(sampling),
  stop: z.array(z.string()).default([]).describe("texts that end a continuation; they are left out"),
  slide: z
    .boolean()
    .default(false)
    .describe("past the model's context, go on from the second half of the text"),
  ...modelFields,
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const lmGenerate = defineCommand({
  name: "lm generate",
  summary: "let a language model write",
  description:
    "Continues the prompt token by token, or answers --chat where the model has a chat template. The text comes as it is written; with --samples above 1, one after the other " +
    "at the end. The same seed gives the same text.",
  schema,
  positional: ["prompt"],
  examples: [
    'sluice lm generate --model models/brook --prompt "The people of"',
    'sluice lm generate --model models/brook "function parse(" --temperature 0 --max-new-tokens 60',
    "sluice lm generate --model models/brook --samples 4 --seed 7 --json",
    'sluice lm generate --model org/name-instruct --chat "What is a sluice?" --system "Be brief."',
  ],
  run(options, context) {
    refuseMixed(options);
    const { samples, chat } = options;
    // An answer is shown without what was put to the model.
    const prompt = chat === undefined ? options.prompt : "";
    return withDevice(options, (device) =>
      withModel(device, options, context, async (lm) => {
        const ids = chat === undefined ? promptIds(lm.tokenizer, prompt) : chatIds(lm.tokenizer, options);
        const start = performance.now();
        const streams = samples === 1 && !context.json;
        if (streams) context.write(prompt);
        const texts = await generate(lm.model, new Array(samples).fill(ids), {
          ...options,
          tokenizer: lm.tokenizer,
          stopTokens: lm.endTokens,
          stopStrings: options.stop,
          overflow: options.slide ? "slide" : "stop",
          signal: context.signal,
          onToken: streams ? (e: TokenEvent) => context.write(e.text) : progressOf(options, context),
        });
        const seconds = (performance.now() - start) / 1000;
        const written = texts.reduce((n, t) => n + t.tokens.length, 0);
        if (streams) context.write("\n");
        context.log(
          `${formatCount(written)} tokens, ${formatCount(written / seconds)} a second, ${ending(texts[0].finish)}`,
        );
        return {
          json: {
            model: options.model,
            ...(chat === undefined ? { prompt } : { chat, system: options.system }),
            prompt_tokens: ids.length,
            texts: texts.map(({ text, finish, tokens }) => ({ text, finish, tokens: [...tokens] })),
            tokens_per_second: written / seconds,
          },
          text: streams ? undefined : texts.map(({ text }) => `${prompt}${text}`).join("\n\n---\n\n"),
        };
      }),
    );
  },
});

function refuseMixed({ prompt, chat, system }: Options): void {
  if (chat !== undefined && prompt !== "")
    throw usageError("lm generate: --chat and a prompt exclude each other");
  if (chat === undefined && system !== undefined) throw usageError("lm generate: --system goes with --chat");
}

/** BOS, if the tokenizer has one, and the prompt. */
function promptIds(tokenizer: Tokenizer, prompt: string): Int32Array {
  const ids = tokenizer.encode(prompt, { bos: tokenizer.bosId !== undefined });
  if (ids.length === 0) throw usageError("lm generate: this tokenizer has no BOS token; give a --prompt");
  return ids;
}

/** The messages in the model's template, up to where its answer begins. */
function chatIds(tokenizer: Tokenizer, { chat = "", system }: Options): Int32Array {
  const messages = [
    ...(system === undefined ? [] : [{ role: "system", content: system }]),
    { role: "user", content: chat },
  ];
  return tokenizer.encodeChat(messages, { addGenerationPrompt: true });
}

function progressOf({ samples, maxNewTokens }: Options, context: CommandContext): () => void {
  const progress = context.progress({ label: "writing", unit: "tokens", total: samples * maxNewTokens });
  let written = 0;
  return () => progress.update(++written);
}

function ending(finish: "stop" | "length" | "context"): string {
  switch (finish) {
    case "stop":
      return "ended by itself";
    case "length":
      return "as many as asked for";
    case "context":
      return "the model's context is full; --slide goes on";
    default:
      return finish satisfies never;
  }
}
