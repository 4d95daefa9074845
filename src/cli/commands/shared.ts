/**
 * Options that several commands have, and how they become devices, models and texts.
 */
import { z } from "zod";
import { type LanguageModel, openLanguageModel, openTextTokens } from "../../recipes/index.ts";
import { createDevice, type Device } from "../../tensor/index.ts";
import type { Split, TokenFile, Tokenizer } from "../../text/index.ts";
import type { CommandContext } from "../command.ts";

export const count = () => z.number().int().min(1);

export const deviceFields = {
  backend: z
    .enum(["native", "ref"])
    .default("native")
    .describe("native: C++ kernels; ref: slow plain loops, for checking"),
  threads: count().optional().describe("threads of the native kernels [all cores]"),
};

export const textFields = {
  text: z
    .array(z.string())
    .optional()
    .describe("corpora of the catalogue (see `sluice text`), text files, .jsonl files or folders"),
  field: z.string().optional().describe("JSON lines: the field that holds the text [text]"),
  split: z
    .enum(["train", "heldout", "all"])
    .optional()
    .describe("which documents; held-out ones are chosen by document"),
  context: count().optional().describe("tokens of a window, BOS included [the model's context]"),
};

/** Runs `work` on a device that is closed afterwards. */
export async function withDevice<T>(
  { backend, threads }: { backend: "native" | "ref"; threads?: number },
  work: (device: Device) => Promise<T>,
): Promise<T> {
  const device = await createDevice({ backend, threads });
  try {
    return await work(device);
  } finally {
    device.close();
  }
}

export async function loadModel(device: Device, folder: string): Promise<LanguageModel> {
  return openLanguageModel(device, folder);
}

/** A text's tokens, with progress while they are made. */
export async function tokensOf(
  options: { text: readonly string[]; field?: string; split: Split },
  tokenizer: Tokenizer,
  context: CommandContext,
): Promise<TokenFile> {
  const progress = context.progress({ label: `tokenizing ${options.text.join(", ")}`, unit: "tokens" });
  let any = false;
  const tokens = await openTextTokens({
    ...options,
    tokenizer,
    signal: context.signal,
    log: (message) => context.log(message),
    onProgress: (p) => {
      any = true;
      progress.update(p.tokens);
    },
  });
  if (any) progress.finish();
  return tokens;
}
