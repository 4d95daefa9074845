/**
 * `sluice harvest`: activations of a model to disk.
 */
import { z } from "zod";
import { harvest, tokensHash, windowsOf } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { formatCount } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import {
  count,
  deviceFields,
  modelFields,
  modelHelp,
  TEXTS,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

/** Of `--exclude-tokens`. */
export const EXCLUDE_TOKENS =
  "tokens whose rows are left out: ids or texts separated by commas, `special` for all special ones, or `none` [special]";

export const harvestCommand = defineCommand({
  name: "harvest",
  summary: "write a model's activations to disk",
  description:
    "Runs text through the model and writes the rows at one or several hook points as safetensors shards with their " +
    "tokens and positions. One forward pass serves all points and stops after the last. BOS and other special tokens " +
    "are left out unless --exclude-tokens chooses others. The same command continues an interrupted harvest.",
  schema: z.object({
    model: z.string().describe(modelHelp(" (config.json, model.safetensors, tokenizer.json)")),
    ...modelFields,
    ...textFields("train"),
    text: z.array(z.string()).describe(TEXTS),
    hook: z.array(z.string()).describe("hook points, as in blocks.3.hook_resid_post"),
    tokens: count().describe("rows to write per hook point"),
    out: z.string().describe("folder; one subfolder per hook point if there are several"),
    dtype: z.enum(["f32", "f16"]).default("f32").describe("how activations are stored"),
    maxNorm: z
      .number()
      .min(0)
      .default(0)
      .describe("leave out rows above this multiple of the median norm; 0 keeps all"),
    excludeTokens: z.string().optional().describe(EXCLUDE_TOKENS),
    shuffle: z.boolean().default(true).describe("take the windows of the text in random order"),
    seed: z.number().int().min(0).default(0).describe("seed of that order"),
    windows: count().default(16).describe("windows per forward pass"),
    shardRows: count().optional().describe("rows per shard [64 MB, or a sixteenth of the harvest]"),
    ...deviceFields,
  }),
  examples: [
    "sluice harvest --model models/brook --text sotu --hook blocks.3.hook_resid_post --tokens 60000 --out acts",
  ],
  run: (options, context) =>
    withDevice(options, (device) =>
      withModel(device, options, context, (lm) =>
        withTokens(options, lm.tokenizer, context, async (tokens) => {
          const packer = windowsOf(lm, tokens, options);
          const progress = context.progress({ label: "harvest", unit: "rows", total: options.tokens });
          const { text, split, shuffle } = options;
          const result = await harvest({
            ...options,
            lm,
            excludeTokens: parseExcludedTokens(lm.tokenizer, options.excludeTokens),
            packer,
            hooks: options.hook,
            source: {
              text: text.join(", "),
              split,
              tokens: tokensHash(tokens),
              context: packer.context,
              shuffle,
            },
            signal: context.signal,
            onProgress: (rows) => progress.update(rows),
          });
          progress.finish();
          const rows = formatCount(result.rows);
          if (result.exhausted) {
            context.log(
              `the text ended after ${rows} of ${formatCount(options.tokens)} rows; add text with --text`,
            );
          }
          const from = result.resumedFrom > 0 ? `, ${formatCount(result.resumedFrom)} of them before` : "";
          return {
            json: { out: options.out, ...result },
            text: `${rows} rows of ${result.hooks.join(", ")} in ${options.out}${from}`,
          };
        }),
      ),
    ),
});
