/**
 * `sluice lm eval`: cross-entropy, perplexity and bits per byte of a language model on text.
 */
import { z } from "zod";
import { evaluateLm, type LmEvalOptions, type LmEvaluation, openFiles } from "../../recipes/lm.ts";
import { TokenFile, type Tokenizer } from "../../text/index.ts";
import { formatCount, type Progress, usageError, writeJson } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import {
  count,
  deviceFields,
  modelFields,
  modelHelp,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  model: z.string().describe(modelHelp()),
  ...modelFields,
  ...textFields("heldout"),
  tokensFile: z
    .array(z.string())
    .optional()
    .describe("token files, or folders of them, instead of --text; each is scored by its name"),
  stride: count()
    .optional()
    .describe(
      "tokens from one window to the next: they overlap, and what overlaps is context only [windows side by side]",
    ),
  windowBos: z
    .boolean()
    .default(true)
    .describe("begin every window with BOS, if the tokenizer has one; else only documents do"),
  windows: count().optional().describe("most windows of each text, evenly spread [all]"),
  micro: count().default(8).describe("windows per forward pass"),
  out: z.string().optional().describe("file for the result as JSON"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const lmEval = defineCommand({
  name: "lm eval",
  summary: "measure a language model: cross-entropy, perplexity, bits per byte",
  description:
    "Reads text in windows of --context tokens, each beginning with BOS, and scores every token from those before it " +
    "in its window. With --stride the windows overlap, so that all tokens but the first have at least context − stride + 1 " +
    "tokens before them: that is how perplexities are compared (docs/metrics.md). The loss is the mean cross-entropy in nats a token, ends of documents included; bits per byte " +
    "divides all of it by the bytes of the text, which compares models of different tokenizers.",
  schema,
  examples: [
    "sluice lm eval --model models/brook --text sotu",
    "sluice lm eval --model models/brook --text sotu --context 256 --stride 128",
    "sluice lm eval --model out/brook --tokens-file out/brook/data/heldout --windows 128 --json",
  ],
  run: (options, context) =>
    withDevice(options, (device) =>
      withModel(device, options, context, async (lm) => {
        const { model, out } = options;
        const evaluation = await withTexts(options, lm.tokenizer, context, (texts) =>
          evaluateLm(lm, {
            ...options,
            texts,
            signal: context.signal,
            onProgress: evalProgress(context),
          }),
        );
        const json = { model, ...evaluation };
        if (out !== undefined) await writeJson(out, json);
        return { json, text: scoreTable(evaluation) };
      }),
    ),
});

/** Runs `work` with the texts that the options name, by name. */
async function withTexts<T>(
  { tokensFile, text, field, split }: Pick<Options, "tokensFile" | "text" | "field" | "split">,
  tokenizer: Tokenizer,
  context: CommandContext,
  work: (texts: LmEvalOptions["texts"]) => Promise<T>,
): Promise<T> {
  if ((tokensFile === undefined) === (text === undefined))
    throw usageError("lm eval: name the text by one of --text and --tokens-file");
  if (tokensFile === undefined) {
    const named = text ?? [];
    return withTokens({ text: named, field, split }, tokenizer, context, (tokens) =>
      work({ [named.join(",")]: tokens }),
    );
  }
  const files = openFiles(tokensFile, (path) => TokenFile.open(path, { tokenizer: tokenizer.hash }));
  try {
    return await work(files);
  } finally {
    for (const file of Object.values(files)) file.close();
  }
}

/** One line a text. */
export function evalProgress(context: CommandContext): NonNullable<LmEvalOptions["onProgress"]> {
  let line: { text: string; progress: Progress } | undefined;
  return ({ text, windows, total }) => {
    if (line?.text !== text) {
      line = { text, progress: context.progress({ label: `reading ${text}`, unit: "windows", total }) };
    }
    line.progress.update(windows);
    if (windows >= total) line.progress.finish();
  };
}

/** A row a text, and one over all where there are several. */
export function scoreTable({ texts, ...all }: LmEvaluation): string {
  const rows = [...Object.entries(texts), ...(Object.keys(texts).length > 1 ? [["all", all] as const] : [])];
  const width = Math.max(4, ...rows.map(([name]) => name.length));
  const columns = ["tokens", "nats/token", "perplexity", "bits/byte"].map((c) => c.padStart(12)).join("");
  return [
    `${"text".padEnd(width)}${columns}`,
    ...rows.map(([name, s]) => {
      const cells = [
        formatCount(s.tokens),
        s.loss.toFixed(4),
        s.perplexity.toFixed(2),
        s.bits_per_byte.toFixed(4),
      ];
      return `${name.padEnd(width)}${cells.map((c) => c.padStart(12)).join("")}`;
    }),
  ].join("\n");
}
