/**
 * `sluice features build`: a database of what an SAE's features do on a text.
 */
import { z } from "zod";
import { buildFeatureDatabase, saeFilesHash } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { disposeSae, loadSae } from "../../sae/index.ts";
import { formatBytes, formatCount, type Progress, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { commandName, packageVersion, shellWord } from "../package.ts";
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

const LABELS = {
  reading: { label: "reading the text", unit: "tokens" },
  describing: { label: "describing features", unit: "features" },
} as const;

export const featuresBuild = defineCommand({
  name: "features build",
  summary: "a database of what each feature does on a text",
  description:
    "Runs the text through model and SAE once and writes Parquet tables: of every feature how often and how strongly it " +
    "fires, on which tokens, which tokens its decoder row promotes and suppresses, its nearest features and proxies of its " +
    "clarity; and windows of text around its peaks: the highest ones, and a random sample of all, ranked by activation. " +
    "One peak is taken from each context. Memory does not grow with the text: about 4 bytes for each of the --top and " +
    "--sample peaks of each feature, and --memory. The same command continues a build that was interrupted or " +
    "killed, with the same rows in the end. Look at it with `sluice features list` and `show`.",
  schema: z.object({
    sae: z.string().describe("SAE folder (SAELens layout)"),
    model: z.string().describe(modelHelp("; the SAE belongs to it")),
    ...modelFields,
    ...textFields("train"),
    text: z.array(z.string()).describe(TEXTS),
    hook: z.string().optional().describe("hook point [the one the SAE was trained on]"),
    tokens: count().default(1_000_000).describe("tokens to read, in windows chosen at random"),
    out: z.string().describe("folder for the database"),
    top: count().default(20).describe("highest peaks to keep of each feature"),
    sample: count().default(384).describe("peaks to draw at random of each feature"),
    side: count().default(15).describe("tokens to keep on each side of a peak"),
    controls: count()
      .default(2048)
      .describe(
        "windows to keep whatever fires in them: the silent examples that explanations are tested on",
      ),
    excludeTokens: z
      .string()
      .optional()
      .describe("tokens that do not count, as in `sluice harvest` [those left out of the SAE's training]"),
    seed: z.number().int().min(0).default(0).describe("seed of the order of windows and of all draws"),
    windows: count().default(16).describe("windows per forward pass"),
    saveMinutes: z
      .number()
      .min(0)
      .default(5)
      .describe("minutes between saves: what a killed process may lose"),
    memory: z
      .number()
      .int()
      .min(100e6)
      .default(500e6)
      .describe("bytes that DuckDB may use before it spills to --out"),
    ...deviceFields,
  }),
  examples: [
    "sluice features build --sae out/sae --model models/brook --text sotu --out out/features",
    "sluice features build --sae out/sae --model models/brook --text sotu --tokens 200k --sample 64 --out out/few",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae, warnings } = await loadSae(device, options.sae);
      for (const warning of warnings) context.log(warning);
      try {
        const hook = options.hook ?? sae.metadata.hook_name;
        if (typeof hook !== "string")
          throw usageError("the SAE does not say where it belongs; name the point with --hook");
        return await withModel(device, options, context, (lm) =>
          withTokens(options, lm.tokenizer, context, async (text) => {
            const progress = progressOf(context);
            const { excludeTokens } = options;
            const result = await buildFeatureDatabase({
              ...options,
              lm,
              sae,
              saeHash: await saeFilesHash(options.sae),
              hook,
              text,
              source: { text: options.text.join(", "), split: options.split },
              excludeTokens:
                excludeTokens === undefined ? undefined : parseExcludedTokens(lm.tokenizer, excludeTokens),
              version: packageVersion(),
              signal: context.signal,
              onProgress: progress.update,
            });
            progress.finish();
            const { index, exhausted, scanBytes } = result;
            if (exhausted)
              context.log(
                `the text ended after ${formatCount(index.tokens ?? 0)} tokens; add text with --text`,
              );
            const { contexts, tokens, l0, rows } = index;
            const next = `${commandName()} features list --features ${shellWord(options.out)}`;
            return {
              json: { out: options.out, ...result, index: undefined, contexts, tokens, l0, rows, scanBytes },
              text:
                `${formatCount(index.features)} features, ${formatCount(rows?.examples ?? 0)} examples from ` +
                `${formatCount(tokens ?? 0)} tokens in ${options.out}${result.finishedBefore ? ", as it was" : ""} ` +
                `(counts took ${formatBytes(scanBytes)} of memory)\nNext: ${next}`,
            };
          }),
        );
      } finally {
        disposeSae(sae);
      }
    }),
});

/** One line for each part of the work. */
function progressOf(context: CommandContext) {
  let line: Progress | undefined;
  let current: keyof typeof LABELS | undefined;
  const finish = (): void => line?.finish();
  const update = ({ part, done, total }: { part: keyof typeof LABELS; done: number; total: number }) => {
    if (part !== current) {
      finish();
      line = context.progress({ ...LABELS[part], total, start: done });
      current = part;
    }
    line?.update(done);
  };
  return { update, finish };
}
