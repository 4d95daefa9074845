/**
 * `sluice sae train`: a sparse autoencoder from activations on disk or from a live model.
 */
import { z } from "zod";
import { type SaeSource, trainSaeRun } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { configOfShape, refuseIdleK, saeShapeSchema } from "../../recipes/sae-shape.ts";
import { disposeSae, saeTrainSchema } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, type Progress, usageError } from "../../util/index.ts";
import { type CommandContext, type CommandResult, defineCommand } from "../command.ts";
import { commandName, packageCommit, packageVersion, shellWord } from "../package.ts";
import { EXCLUDE_TOKENS } from "./harvest.ts";
import {
  count,
  deviceFields,
  refuseLiveFlags,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  activations: z
    .string()
    .optional()
    .describe("folder of harvested activations, instead of --model and --text"),
  model: z.string().optional().describe("model folder, for activations as they are computed"),
  ...textFields("train"),
  hook: z.string().optional().describe("hook point, as in blocks.3.hook_resid_post"),
  targetHook: z.string().optional().describe("trains a transcoder: reads --hook and reconstructs this point"),
  skip: z.boolean().default(false).describe("transcoder: add a linear map of the input to the output"),
  ...saeShapeSchema.shape,
  out: z.string().describe("run folder: the SAE (SAELens layout), run.json, metrics.jsonl, checkpoints"),
  ...saeTrainSchema.shape,
  seed: saeTrainSchema.shape.seed.describe("seed of the initial weights and of the order of the activations"),
  buffer: count().default(262_144).describe("activation vectors held in memory for shuffling"),
  windows: count().default(16).describe("windows per forward pass of the model"),
  maxNorm: z
    .number()
    .min(0)
    .default(0)
    .describe("leave out rows above this multiple of the median norm; 0 keeps all"),
  excludeTokens: z.string().optional().describe(EXCLUDE_TOKENS),
  logEvery: count().default(50).describe("steps between records in metrics.jsonl"),
  checkpointMinutes: z
    .number()
    .min(0)
    .default(10)
    .describe("minutes between checkpoints; 0 for none but the last"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeTrain = defineCommand({
  name: "sae train",
  summary: "train a sparse autoencoder",
  description:
    "Trains an SAE on harvested activations, or on those of a live model, which pass through a shuffle buffer. " +
    "The result is written in SAELens' layout. Ctrl-C writes a checkpoint; the same command continues, to the same bits.",
  schema,
  examples: [
    "sluice sae train --activations acts --k 32 --features 4096 --tokens 500k --out out/sae",
    "sluice sae train --model models/brook --text sotu --hook blocks.3.hook_resid_post --features 4096 --tokens 2M --out out/sae",
    "sluice sae train --activations acts --objective hierarchical --k 128 --features 4096 --tokens 2M --out out/every-k",
    "sluice sae train --activations acts --encoder kron --features 16k --tokens 2M --out out/kron",
    "sluice sae train --activations acts --arch jumprelu --target-l0 32 --features 4096 --tokens 2M --out out/jumprelu",
  ],
  run: (options, context) =>
    withDevice(options, (device) => {
      const { activations, model, text, hook, targetHook } = options;
      refuseIdleK(options.arch, context.given.has("k"));
      if (activations !== undefined) {
        if (model !== undefined || text !== undefined) {
          throw usageError("--activations stands alone: leave out --model and --text, or leave it out");
        }
        refuseLiveFlags(context, ["windows", "maxNorm", "excludeTokens", "targetHook"]);
        return train(device, { kind: "store", folder: activations, hook }, options, context);
      }
      if (model === undefined || text === undefined || hook === undefined) {
        throw usageError(
          "activations come from --activations DIR, or from --model, --text and --hook together",
        );
      }
      return withModel(device, model, (lm) =>
        withTokens({ ...options, text }, lm.tokenizer, context, (tokens) => {
          const name = `${text.join(", ")} (${options.split})`;
          const excludeTokens = parseExcludedTokens(lm.tokenizer, options.excludeTokens);
          const { context: window, windows, maxNorm } = options;
          const rows = { context: window, windows, maxNorm, excludeTokens, targetHook };
          return train(device, { ...rows, kind: "live", lm, hook, tokens, text: name }, options, context);
        }),
      );
    }),
});

async function train(
  device: Device,
  source: SaeSource,
  options: Options,
  context: CommandContext,
): Promise<CommandResult> {
  const { out } = options;
  const rssAtStart = process.memoryUsage.rss();
  const progress = trainProgress(options, context);
  const { sae, tokens, record, stopped, resumedFrom, finishedBefore } = await trainSaeRun(device, {
    ...options,
    config: { ...configOfShape(options), skip: options.skip },
    source: source.kind === "live" ? { ...source, onRows: progress.reading } : source,
    train: trainInput(options),
    version: packageVersion(),
    commit: packageCommit(),
    signal: context.signal,
    onMetrics: (r) => progress.details({ ev: r.explained_variance.toFixed(4) }),
    onStep: (s) => progress.training(s.tokens, s.loss),
  });
  progress.finish();
  disposeSae(sae);
  if (finishedBefore) context.log(`${out} holds this run already, finished; nothing was done`);
  else if (stopped === "source") context.log(`the activations ended after ${formatCount(tokens)} tokens`);
  const ev = record.explained_variance.toFixed(4);
  const dead = `${(100 * record.dead_fraction).toFixed(1)} %`;
  return {
    json: {
      out,
      stopped,
      finished_before: finishedBefore,
      resumed_from: resumedFrom ?? null,
      steps: record.step,
      tokens,
      last_record: record,
      rss_start_mb: rssAtStart / MB,
      rss_end_mb: process.memoryUsage.rss() / MB,
      peak_rss_mb: process.resourceUsage().maxRSS / 1024, // which is in kB
    },
    text: `${out}: explained variance ${ev} on the last batch, ${formatCount(tokens)} tokens, dead ${dead}. Next: ${nextCommand(options)}`,
  };
}

const MB = 2 ** 20;

/** The command that measures the SAE, on the activations or through the model that it was trained on. */
function nextCommand({ out, activations, model, text, field, split, context }: Options): string {
  const live = {
    model,
    text: text?.join(","),
    field,
    split: split === "all" ? split : undefined, // else the held-out documents, as is the default there
    context,
  };
  const flags = { sae: out, ...(activations === undefined ? live : { activations }) };
  const words = Object.entries(flags).filter(([, value]) => value !== undefined);
  return [
    commandName(),
    "sae eval",
    ...words.map(([name, value]) => `--${name} ${shellWord(String(value))}`),
  ].join(" ");
}

/** One line while the shuffle buffer is first filled, then one for the training. */
function trainProgress({ tokens, buffer, batch }: Options, context: CommandContext) {
  let filling: Progress | undefined;
  let line: Progress | undefined;
  let shown: Record<string, string> = {};
  return {
    reading(rows: number): void {
      if (line) return;
      const total = Math.min(buffer, tokens);
      filling ??= context.progress({ label: "filling the shuffle buffer", unit: "rows", total });
      filling.update(Math.min(rows, total));
    },
    details(more: Record<string, string>): void {
      shown = { ...shown, ...more };
    },
    training(done: number, loss: number): void {
      filling?.finish();
      filling = undefined;
      line ??= context.progress({ label: "sae train", unit: "tokens", total: tokens, start: done - batch });
      line.update(done, { loss: loss.toFixed(3), ...shown });
    },
    finish(): void {
      line?.finish();
    },
  };
}

/** Only the fields of the training schema. */
function trainInput(options: Options) {
  return saeTrainSchema.parse(
    Object.fromEntries(Object.keys(saeTrainSchema.shape).map((key) => [key, options[key as keyof Options]])),
  );
}
