/**
 * What the commands that train SAEs share: where activations come from, how a run is kept, its line of progress.
 */
import { z } from "zod";
import { type RowSource, type SaeRunOptions, type SaeSource, trainSaeRun } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { disposeSae, saeTrainSchema } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, type Progress, usageError } from "../../util/index.ts";
import type { CommandContext, CommandResult } from "../command.ts";
import { packageCommit, packageVersion } from "../package.ts";
import { EXCLUDE_TOKENS } from "./harvest.ts";
import {
  count,
  modelFields,
  modelHelp,
  refuseLiveFlags,
  textFields,
  withModel,
  withTokens,
} from "./shared.ts";

/** Where activations come from. */
export const sourceFields = {
  activations: z
    .string()
    .optional()
    .describe("folder of harvested activations, instead of --model and --text"),
  model: z.string().optional().describe(modelHelp("; for activations as they are computed")),
  ...modelFields,
  ...textFields("train"),
  hook: z.string().optional().describe("hook point, as in blocks.3.hook_resid_post"),
  windows: count().default(16).describe("windows per forward pass of the model"),
  maxNorm: z
    .number()
    .min(0)
    .default(0)
    .describe("leave out rows above this multiple of the median norm; 0 keeps all"),
  excludeTokens: z.string().optional().describe(EXCLUDE_TOKENS),
};
const sourceSchema = z.object(sourceFields);
type SourceOptions = z.output<typeof sourceSchema>;

/** How a run is done and kept, besides its training. */
export const keepFields = {
  dataSeed: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe("seed of the order of the activations [that of --seed]"),
  buffer: count().default(262_144).describe("activation vectors held in memory for shuffling"),
  logEvery: count().default(50).describe("steps between records in metrics.jsonl"),
  checkpointMinutes: z
    .number()
    .min(0)
    .default(10)
    .describe("minutes between checkpoints; 0 for none but the last"),
};

/** How a run is done and kept. */
export const runFields = {
  out: z.string().describe("run folder: the SAE (SAELens layout), run.json, metrics.jsonl, checkpoints"),
  ...saeTrainSchema.shape,
  ...keepFields,
};
const runSchema = z.object(runFields);
type RunOptions = z.output<typeof runSchema>;

/** Opens the activations that flags name, on disk or live. */
export function withSource<T>(
  device: Device,
  options: SourceOptions & { readonly targetHook?: string },
  context: CommandContext,
  work: (source: SaeSource) => Promise<T>,
): Promise<T> {
  const { activations, hook, targetHook } = options;
  if (activations === undefined && hook === undefined) throw usageError(NO_SOURCE);
  return withRows(device, options, context, (rows) =>
    work(rows.kind === "store" ? { ...rows, hook } : { ...rows, hook: hook ?? "", targetHook }),
  );
}

const NO_SOURCE = "activations come from --activations DIR, or from --model, --text and --hook together";

/** The same without the hook point. */
export function withRows<T>(
  device: Device,
  options: Omit<SourceOptions, "hook">,
  context: CommandContext,
  work: (rows: RowSource) => Promise<T>,
): Promise<T> {
  const { activations, model, text } = options;
  if (activations !== undefined) {
    if (model !== undefined || text !== undefined) {
      throw usageError("--activations stands alone: leave out --model and --text, or leave it out");
    }
    refuseLiveFlags(context, ["windows", "maxNorm", "excludeTokens", "targetHook"]);
    return work({ kind: "store", folder: activations });
  }
  if (model === undefined || text === undefined) throw usageError(NO_SOURCE);
  return withModel(device, { ...options, model }, context, (lm) =>
    withTokens({ ...options, text }, lm.tokenizer, context, (tokens) => {
      const name = `${text.join(", ")} (${options.split})`;
      const excludeTokens = parseExcludedTokens(lm.tokenizer, options.excludeTokens);
      const { context: window, windows, maxNorm } = options;
      return work({ kind: "live", lm, tokens, text: name, context: window, windows, maxNorm, excludeTokens });
    }),
  );
}

interface Trained extends Pick<SaeRunOptions, "config" | "base" | "start"> {
  /** The command to say next. */
  readonly next: string;
}

/** Trains into a run folder, with a line of progress, and says how it went. */
export async function train(
  device: Device,
  source: SaeSource,
  options: RunOptions,
  context: CommandContext,
  { config, base, start, next }: Trained,
): Promise<CommandResult> {
  const { out } = options;
  const rssAtStart = process.memoryUsage.rss();
  const progress = trainProgress(options, context);
  const { sae, tokens, record, stopped, resumedFrom, finishedBefore } = await trainSaeRun(device, {
    ...options,
    config,
    base,
    start,
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
    text: `${out}: explained variance ${ev} on the last batch, ${formatCount(tokens)} tokens, dead ${dead}. Next: ${next}`,
  };
}

const MB = 2 ** 20;

/** One line while the shuffle buffer is first filled, then one for the training. */
export function trainProgress(
  { tokens, buffer, batch }: Pick<RunOptions, "tokens" | "buffer" | "batch">,
  context: CommandContext,
) {
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
export function trainInput(options: Readonly<Record<string, unknown>>) {
  return saeTrainSchema.parse(
    Object.fromEntries(Object.keys(saeTrainSchema.shape).map((key) => [key, options[key]])),
  );
}
