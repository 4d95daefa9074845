/**
 * `sluice sae train --config sweep.yaml`: many SAEs from one pass over the activations, measured side by side.
 */
import { z } from "zod";
import {
  type CompareOptions,
  type Comparison,
  checkBudgets,
  compareSweep,
  type RowSource,
  type SweepResult,
  type SweepSae,
  type SweptSae,
  trainSweep,
  writeSweepPage,
} from "../../recipes/index.ts";
import { configOfShape, refuseIdleK, saeShapeSchema } from "../../recipes/sae-shape.ts";
import { type Architecture, saeTrainSchema, TRAITS, type TrainRecord } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, SluiceError, usageError } from "../../util/index.ts";
import type { CommandContext, CommandResult, GivenOptions } from "../command.ts";
import { fieldsOf, kebab } from "../flags.ts";
import { expandGrid, type GridItem } from "../grid.ts";
import { resolveOptions } from "../options.ts";
import { commandName, packageCommit, packageVersion, shellWord } from "../package.ts";
import { keepFields, runFields, sourceFields, trainInput, trainProgress, withRows } from "./sae-shared.ts";
import { columnsOf, count, deviceFields, evalProgress, withDevice, withTokens } from "./shared.ts";

/** Where an SAE reads and what it reconstructs. */
export const pointFields = {
  hook: sourceFields.hook,
  targetHook: z.string().optional().describe("trains a transcoder: reads --hook and reconstructs this point"),
  skip: z.boolean().default(false).describe("transcoder: add a linear map of the input to the output"),
};

const group = { group: "Sweeps (a list saes in --config)" };

/** How the SAEs of a sweep are measured. */
export const sweepFields = {
  evalK: z
    .array(count())
    .optional()
    .describe("active features per token that topk SAEs are measured at, besides their own k")
    .meta(group),
  evalTokens: z
    .number()
    .int()
    .min(2)
    .default(100_000)
    .describe("most tokens that the SAEs are measured on")
    .meta(group),
  evalText: z
    .array(z.string())
    .optional()
    .describe("text to measure on [held-out documents of --text]")
    .meta(group),
  evalActivations: z
    .string()
    .optional()
    .describe("folder of harvested activations to measure on [--activations, which is not held out]")
    .meta(group),
};

const { tokens, batch, ...ownTraining } = saeTrainSchema.shape;
const { hook: _, ...rowFields } = sourceFields;

const itemSchema = z.object({ ...pointFields, ...saeShapeSchema.shape, ...ownTraining });
const commonSchema = z.object({
  ...rowFields,
  out: runFields.out,
  tokens,
  batch,
  ...keepFields,
  ...sweepFields,
  ...deviceFields,
});
type Options = z.output<typeof commonSchema>;

/** Refuses options of a sweep that were given for a single SAE. */
export function refuseSweepFlags({ given }: CommandContext): void {
  const found = Object.keys(sweepFields).filter((name) => given.has(name));
  if (found.length === 0) return;
  const flags = found.map((name) => `--${kebab(name)}`).join(", ");
  throw usageError(
    `${flags}: only for sweeps (a list saes in --config); a single SAE is measured by \`sluice sae eval\``,
  );
}

interface NamedSae extends SweepSae {
  readonly setting: string;
}

/** The SAEs that a config file names, and what they share. */
export function readSweep(given: GivenOptions): {
  readonly options: Options;
  readonly saes: readonly NamedSae[];
} {
  const { saes: _, ...beside } = given.values;
  const ownNames = Object.keys(itemSchema.shape);
  const values = Object.fromEntries(Object.entries(beside).filter(([name]) => !ownNames.includes(name)));
  const options = resolveOptions(commonSchema, { ...given, values });
  const items = expandGrid(given, {
    key: "saes",
    fields: fieldsOf(itemSchema),
    common: Object.keys(commonSchema.shape).flatMap((name) => [name, kebab(name)]),
    applies,
  });
  const saes = items.map((item) => saeOf(item, options));
  return { options: { ...options, dataSeed: options.dataSeed ?? firstSeed(given) }, saes };
}

/** The order of the activations is that of a run with the first seed that stands beside the list. */
function firstSeed({ values: { seed } }: GivenOptions): number {
  const first: unknown = Array.isArray(seed) ? seed[0] : seed;
  return typeof first === "number" ? first : ownTraining.seed.parse(undefined);
}

/** Options that mean something only for some SAEs; as a default of all they are for those. */
const ONLY_FOR: Readonly<Record<string, (of: Shape) => boolean>> = {
  k: ({ arch }) => TRAITS[arch]?.counted,
  kronM: ({ encoder }) => encoder === "kron",
  kronN: ({ encoder }) => encoder === "kron",
  kronProduct: ({ encoder }) => encoder === "kron",
  budgets: ({ objective }) => objective === "hierarchical",
  levels: ({ objective }) => objective === "matryoshka",
  l1: ({ arch }) => arch === "relu" || arch === "gated",
  l0: ({ arch }) => arch === "jumprelu",
  targetL0: ({ arch }) => arch === "jumprelu",
  bandwidth: ({ arch }) => arch === "jumprelu",
  thresholdInit: ({ arch }) => arch === "jumprelu",
  thresholdRate: ({ arch }) => arch === "batchtopk",
};

interface Shape {
  readonly arch: Architecture;
  readonly encoder: string;
  readonly objective: string;
}

function applies(field: string, values: Readonly<Record<string, unknown>>): boolean {
  const { arch = "topk", encoder = "dense", objective = "mse" } = values as Partial<Shape>;
  return ONLY_FOR[field]?.({ arch, encoder, objective }) ?? true;
}

function saeOf({ name, setting, values, place }: GridItem, { tokens, batch }: Options): NamedSae {
  const result = itemSchema.strict().safeParse(values);
  if (!result.success) {
    const lines = result.error.issues.map((issue) => {
      const field = String(issue.path[0]);
      const value = values[field];
      const what = value === undefined ? "is missing" : `${JSON.stringify(value)}: ${issue.message}`;
      return `${place(field)}${name}: ${field} ${what}`;
    });
    throw usageError([...new Set(lines)].join("\n"));
  }
  const sae = result.data;
  const { hook, targetHook, skip } = sae;
  try {
    refuseIdleK(sae.arch, values.k !== undefined);
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    throw usageError(`${place("k")}${name}: ${error.message}`);
  }
  return {
    name,
    setting,
    hook,
    targetHook,
    config: { ...configOfShape(sae), skip },
    train: trainInput({ ...sae, tokens, batch }),
  };
}

/** Trains, measures and compares. */
export function runSweep(given: GivenOptions, context: CommandContext): Promise<CommandResult> {
  const { options, saes } = readSweep(given);
  checkBudgets(saes, options.evalK ?? []);
  return withDevice(options, (device) =>
    withRows(device, options, context, (rows) =>
      withHeldOut(options, rows, context, async (on) => {
        const swept = await train(device, { options, saes, rows, context });
        const { onProgress, finish } = evalProgress(context);
        const comparison = await compareSweep(device, {
          out: options.out,
          saes: swept.saes,
          settings: Object.fromEntries(saes.map(({ name, setting }) => [name, setting])),
          on,
          tokens: options.evalTokens,
          budgets: options.evalK,
          version: packageVersion(),
          signal: context.signal,
          onProgress,
        });
        finish();
        const page = await writeSweepPage({
          out: options.out,
          saes: swept.saes,
          comparison,
          source: rows.kind === "live" ? `${rows.lm.name} over ${rows.text}` : rows.folder,
          run: {
            command: commandLine(given, options),
            config: given.values,
            timings: [],
            machine: `${device.backend.threads} threads, ${device.name} kernels, node ${process.versions.node}`,
          },
          version: packageVersion(),
        });
        return resultOf(options, swept, { comparison, page });
      }),
    ),
  );
}

/** What the SAEs are measured on, opened before they are trained. */
function withHeldOut<T>(
  options: Options,
  rows: RowSource,
  context: CommandContext,
  work: (on: CompareOptions["on"]) => Promise<T>,
): Promise<T> {
  const { evalText, evalActivations, activations = "", text = [], split } = options;
  if (rows.kind === "store") {
    if (evalText)
      throw usageError("--eval-text needs a --model; activations are measured on --eval-activations");
    return work({
      kind: "store",
      folder: evalActivations ?? activations,
      heldOut: evalActivations !== undefined,
    });
  }
  if (evalActivations !== undefined)
    throw usageError("--eval-activations is for --activations; with a model there is --eval-text");
  const other = evalText !== undefined;
  const part = split === "all" ? "all" : "heldout";
  const chosen = evalText ?? text;
  return withTokens({ ...options, text: chosen, split: part }, rows.lm.tokenizer, context, (file) =>
    work({
      kind: "live",
      lm: rows.lm,
      text: file,
      name: `${chosen.join(", ")} (${part})`,
      heldOut: other || split === "train",
      context: options.context,
      excludeTokens: rows.excludeTokens ?? rows.lm.tokenizer.specialIds,
    }),
  );
}

interface Training {
  readonly options: Options;
  readonly saes: readonly NamedSae[];
  readonly rows: RowSource;
  readonly context: CommandContext;
}

async function train(device: Device, { options, saes, rows, context }: Training): Promise<SweepResult> {
  const progress = trainProgress(options, context);
  const explained = new Map<string, number>();
  const onMetrics = (name: string, { explained_variance }: TrainRecord): void => {
    explained.set(name, explained_variance);
    const all = [...explained.values()].map((ev) => ev.toFixed(3)).sort();
    progress.details({ SAEs: String(saes.length), ev: `${all[0]} to ${all[all.length - 1]}` });
  };
  const swept = await trainSweep(device, {
    ...options, // out, buffer, logEvery, checkpointMinutes
    dataSeed: options.dataSeed ?? 0, // given: filled in by readSweep
    saes,
    source: rows.kind === "live" ? { ...rows, onRows: progress.reading } : rows,
    version: packageVersion(),
    commit: packageCommit(),
    signal: context.signal,
    onMetrics,
    onStep: (s) => progress.training(s.tokens, s.loss),
  });
  progress.finish();
  const [{ stopped, tokens }] = swept.saes;
  if (swept.finishedBefore) context.log(`${options.out} holds this sweep already, trained`);
  else if (stopped === "source") context.log(`the activations ended after ${formatCount(tokens)} tokens`);
  return swept;
}

/** As it would be typed; the file is the one that holds the configuration. */
const commandLine = ({ file = "sweep.yaml" }: GivenOptions, { out }: Options): string =>
  `${commandName()} sae train --config ${shellWord(file)} --out ${shellWord(out)}`;

interface Compared {
  readonly comparison: Comparison;
  /** Path of the report. */
  readonly page: string;
}

function resultOf({ out }: Options, swept: SweepResult, { comparison, page }: Compared): CommandResult {
  const failed = swept.saes.filter(({ stopped }) => stopped === "failed");
  const lines = [
    tableOf(comparison),
    ...(comparison.evaluation.held_out ? [] : ["measured on what the SAEs may have been trained on"]),
    ...failed.map(({ name, failure }) => `${name} failed: ${failure}`),
    `${out}: ${swept.saes.length} SAEs${failed.length > 0 ? `, ${failed.length} failed` : ""}. Look at ${page}`,
  ];
  const outline = ({ name, folder, stopped, failure, steps, tokens }: SweptSae) => ({
    name,
    out: folder,
    stopped,
    failure: failure ?? null,
    steps,
    tokens,
  });
  return {
    json: {
      out,
      finished_before: swept.finishedBefore,
      resumed_from: swept.resumedFrom ?? null,
      saes: swept.saes.map(outline),
      settings: comparison.settings,
      report: page,
    },
    text: lines.join("\n"),
    failed: failed.length > 0,
  };
}

/** Columns of the table; metrics that were not measured are left out. */
const COLUMNS: readonly (readonly [metric: string, title: string, show: (value: number) => string])[] = [
  ["l0", "L0", (v) => v.toFixed(1)],
  ["explained_variance", "explained variance", (v) => v.toFixed(4)],
  ["dead_fraction", "dead", (v) => `${(100 * v).toFixed(1)}%`],
  ["loss_recovered", "loss recovered", (v) => v.toFixed(4)],
  ["ce_spliced", "CE", (v) => v.toFixed(4)],
];

/** One line for each setting, and one for each other budget; several seeds as mean (min to max). */
function tableOf({ saes, settings }: Comparison): string {
  const measured = settings.filter(({ metrics }) => metrics.explained_variance);
  if (measured.length === 0) return "no SAE was measured";
  const columns = COLUMNS.filter(([metric]) => measured[0].metrics[metric]);
  const head = ["SAE", "seeds", ...columns.map(([, title]) => title)];
  const rows = measured.flatMap(({ name, seeds, metrics, budgets = [] }) => {
    const own = new Set(saes.filter((sae) => sae.setting === name).map(({ shape }) => shape.k));
    const others = budgets.filter(({ k }) => !own.has(k));
    const cells = (of: typeof metrics) => columns.map(([metric, , show]) => spread(of[metric], show));
    return [
      [name, String(seeds.length), ...cells(metrics)],
      ...others.map(({ k, metrics: at }) => [`  at k ${k}`, "", ...cells(at)]),
    ];
  });
  return columnsOf([head, ...rows], { left: 1 });
}

function spread(
  { mean, min, max }: Comparison["settings"][number]["metrics"][string],
  show: (value: number) => string,
): string {
  return min === max ? show(mean) : `${show(mean)} (${show(min)} to ${show(max)})`;
}
