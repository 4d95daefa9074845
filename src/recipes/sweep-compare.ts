/**
 * The SAEs of a sweep side by side: measured in one go on the same tokens, seeds of one setting summed up, in `comparison.json`.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { differences, disposeSae, loadSae, type Sae, TRAITS, type TrainRecord } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import type { TokenSource } from "../text/index.ts";
import { interruptedError, readJson, SluiceError, usageError, writeJson } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";
import {
  evaluateAllOnModel,
  evaluateAllOnStore,
  type SaeEvalOptions,
  type SaeEvaluation,
} from "./sae-eval.ts";
import { readRun } from "./sae-run.ts";
import { recordsIn, type SweepSae, type SweptSae } from "./sae-sweep.ts";
import { tokensHash } from "./text-tokens.ts";

export interface CompareOptions extends Pick<SaeEvalOptions, "tokens" | "seed" | "signal" | "onProgress"> {
  /** The sweep's folder. */
  readonly out: string;
  readonly saes: readonly SweptSae[];
  /** What an SAE is called together with those that differ in their seed alone, by its name; default its name. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly on: HeldOutText | HeldOutRows;
  /** Budgets of active features that topk SAEs are measured at, besides their own k. */
  readonly budgets?: readonly number[];
  readonly version?: string;
}

/** Text to measure on, through the model. */
export interface HeldOutText {
  readonly kind: "live";
  readonly lm: LanguageModel;
  readonly text: TokenSource;
  /** Names the text. */
  readonly name: string;
  /** Whether the SAEs were trained without it. */
  readonly heldOut: boolean;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  readonly excludeTokens: ReadonlySet<number>;
}

/** Activations on disk to measure on. */
export interface HeldOutRows {
  readonly kind: "store";
  readonly folder: string;
  readonly heldOut: boolean;
}

export interface Comparison {
  readonly schema: number;
  readonly kind: typeof KIND;
  readonly version?: string;
  /** ISO 8601. */
  readonly created: string;
  /** What was measured on: `on`, `name`, `held_out`, `tokens`, `seed`, `budgets` … */
  readonly evaluation: Evaluated;
  readonly saes: readonly ComparedSae[];
  readonly settings: readonly ComparedSetting[];
}

export interface Evaluated {
  readonly on: "model" | "activations";
  readonly name: string;
  readonly held_out: boolean;
  readonly tokens: number;
  readonly seed: number;
  readonly budgets: readonly number[];
  /** Fingerprint of the text's tokens. */
  readonly text?: string;
  readonly context?: number | null;
  readonly exclude_tokens?: readonly number[];
}

/** Names as in docs/metrics.md. */
export type Metrics = Readonly<Record<string, number>>;

export interface ComparedSae {
  readonly name: string;
  /** Of `settings`. */
  readonly setting: string;
  /** What a table shows of it. */
  readonly shape: SaeOutline;
  readonly stopped: SweptSae["stopped"];
  readonly failure?: string;
  readonly steps: number;
  /** Trained on. */
  readonly tokens: number;
  /** Time of its own part of a training step, mean over the run; null of one that failed at once. */
  readonly ms_per_step: number | null;
  /** None of an SAE that failed. */
  readonly metrics?: Metrics;
  /** Of a topk SAE, ascending: its metrics at each k, its own among them. */
  readonly budgets?: readonly ({ readonly k: number } & Metrics)[];
}

export interface SaeOutline {
  readonly arch: string;
  readonly features: number;
  readonly k: number | null;
  readonly encoder: string;
  readonly objective: string;
  readonly hook: string;
  readonly seed: number;
}

export interface Spread {
  readonly mean: number;
  readonly min: number;
  readonly max: number;
}

/** SAEs that differ in their seed alone. */
export interface ComparedSetting {
  readonly name: string;
  readonly saes: readonly string[];
  readonly seeds: readonly number[];
  /** Over those that did not fail. */
  readonly metrics: Readonly<Record<string, Spread>>;
  readonly budgets?: readonly { readonly k: number; readonly metrics: Readonly<Record<string, Spread>> }[];
}

const SCHEMA = 1;
const KIND = "sluice-sae-comparison";
const fileIn = (out: string): string => join(out, "comparison.json");

/** Refuses a budget that is larger than a topk SAE, before anything is trained. */
export function checkBudgets(saes: readonly SweepSae[], budgets: readonly number[]): void {
  const largest = Math.max(0, ...budgets);
  for (const { name, config } of saes) {
    if (!TRAITS[config.activation.kind].ranked || config.features >= largest) continue;
    throw usageError(
      `the budget ${largest} (--eval-k) is more than the ${config.features} features of the SAE ${name}`,
    );
  }
}

/**
 * Measures the SAEs that have come to their end and writes `comparison.json`. One that holds the same evaluation is given back
 * as it is.
 */
export async function compareSweep(device: Device, options: CompareOptions): Promise<Comparison> {
  const { out, saes, version } = options;
  const evaluation = evaluatedOn(options);
  const before = readComparison(out);
  const same = JSON.parse(JSON.stringify(evaluation)) as unknown;
  if (before && differences(before.evaluation, same).length === 0) return before;
  const trained = saes.filter(({ stopped }) => stopped !== "failed");
  const found = await measure(device, trained, options);
  const outlines = saes.map(outlineOf);
  const labels = labelsOf(saes, outlines, options.settings);
  const compared = saes.map((sae, i): ComparedSae => {
    const { name, stopped, failure, steps, tokens } = sae;
    const { shape, key } = outlines[i];
    const all = found.get(name);
    const own = all?.find(({ k }) => k === undefined);
    return {
      name,
      setting: labels.get(key)!,
      shape,
      stopped,
      failure,
      steps,
      tokens,
      ms_per_step: ownTime(sae),
      metrics: own && metricsOf(own),
      budgets: all && all.length > 1 ? curveOf(all, shape.k) : undefined,
    };
  });
  const settings = [...labels.values()].map((label) =>
    settingOf(
      label,
      compared.filter(({ setting }) => setting === label),
    ),
  );
  const created = new Date().toISOString();
  const comparison = {
    schema: SCHEMA,
    kind: KIND,
    version,
    created,
    evaluation,
    saes: compared,
    settings,
  } as const;
  await writeJson(fileIn(out), comparison);
  return JSON.parse(JSON.stringify(comparison)) as Comparison; // as it would be read
}

/** Reads the comparison of a folder; undefined where there is none, or one of another version. */
export function readComparison(out: string): Comparison | undefined {
  if (!existsSync(fileIn(out))) return undefined;
  const found = readJson(fileIn(out)) as Comparison | null;
  return found?.kind === KIND && found.schema === SCHEMA ? found : undefined;
}

function evaluatedOn({ on, tokens, seed = 0, budgets = [] }: CompareOptions): Evaluated {
  const shared = { held_out: on.heldOut, tokens, seed, budgets };
  if (on.kind === "store") return { on: "activations", name: on.folder, ...shared };
  return {
    on: "model",
    name: on.name,
    ...shared,
    text: tokensHash(on.text),
    context: on.context ?? null,
    exclude_tokens: [...on.excludeTokens].sort((a, b) => a - b),
  };
}

/** Evaluations by name: of each SAE its own (k undefined), then those at the budgets. */
async function measure(
  device: Device,
  trained: readonly SweptSae[],
  options: CompareOptions,
): Promise<Map<string, SaeEvaluation[]>> {
  const loaded: { readonly name: string; readonly sae: Sae; readonly budgets: (number | undefined)[] }[] = [];
  try {
    for (const { name, folder } of trained) {
      const { sae } = await loadSae(device, folder);
      loaded.push({ name, sae, budgets: [undefined, ...budgetsOf(sae, options.budgets)] });
    }
    const { on } = options;
    const all =
      on.kind === "live"
        ? await onModel(device, loaded, on, options)
        : await onStore(device, loaded, on, options);
    return new Map(loaded.map(({ name }, i) => [name, all[i]]));
  } catch (error) {
    if (!(error instanceof SluiceError) || error.code !== "interrupted") throw error;
    throw interruptedError(
      `interrupted; the SAEs in ${options.out} are trained, and the same command measures them`,
    );
  } finally {
    for (const { sae } of loaded) disposeSae(sae);
  }
}

type Loaded = { readonly sae: Sae; readonly budgets: readonly (number | undefined)[] };

const hookOf = ({ metadata }: Sae): string => String(metadata.hook_name);

const onModel = (
  device: Device,
  loaded: readonly Loaded[],
  { lm, text, context, excludeTokens }: HeldOutText,
  options: SaeEvalOptions,
): Promise<SaeEvaluation[][]> =>
  evaluateAllOnModel(
    device,
    loaded.map(({ sae, budgets }) => ({ sae, budgets, hook: hookOf(sae) })),
    { lm, text, context, excludeTokens },
    options,
  );

/** One pass for each hook point. */
async function onStore(
  device: Device,
  loaded: readonly Loaded[],
  { folder }: HeldOutRows,
  options: SaeEvalOptions,
): Promise<SaeEvaluation[][]> {
  const found = new Map<Loaded, SaeEvaluation[]>();
  for (const hook of new Set(loaded.map(({ sae }) => hookOf(sae)))) {
    const here = loaded.filter(({ sae }) => hookOf(sae) === hook);
    const all = await evaluateAllOnStore(device, here, { folder, hook }, options);
    here.forEach((one, i) => void found.set(one, all[i]));
  }
  return loaded.map((one) => found.get(one)!);
}

/** The budgets of a topk SAE besides its own k. */
function budgetsOf({ config: { activation } }: Sae, budgets: readonly number[] = []): number[] {
  if (!TRAITS[activation.kind].ranked || !("k" in activation)) return [];
  return [...new Set(budgets)].filter((k) => k !== activation.k);
}

const metricsOf = ({ metrics, splice }: SaeEvaluation): Metrics => ({ ...metrics, ...splice });

const curveOf = (all: readonly SaeEvaluation[], own: number | null) =>
  all.map((one) => ({ k: one.k ?? own ?? 0, ...metricsOf(one) })).sort((a, b) => a.k - b.k);

/** Settings as the run's record has them. */
interface Recorded {
  readonly sae: {
    readonly activation: { readonly kind: string; readonly k?: number };
    readonly encoder: { readonly kind: string };
    readonly features: number;
  };
  readonly source: { readonly hook_name: string };
  readonly train: { readonly seed: number; readonly objective: string };
}

/** What a table shows, and what SAEs have in common that differ in their seed alone. */
function outlineOf({ folder }: SweptSae): { readonly shape: SaeOutline; readonly key: string } {
  const { sae, source, train } = readRun(folder)!.settings as unknown as Recorded;
  const { seed, ...rest } = train;
  const { activation, encoder, features } = sae;
  const shape = {
    arch: activation.kind,
    features,
    k: activation.k ?? null,
    encoder: encoder.kind,
    objective: train.objective,
    hook: source.hook_name,
    seed,
  };
  return { shape, key: JSON.stringify([sae, source, rest]) };
}

/** Milliseconds of a step without the rows and the other SAEs. */
function ownTime({ folder }: SweptSae): number | null {
  const records = recordsIn(folder);
  const steps = records.at(-1)?.step;
  if (steps === undefined) return null;
  const own = ({ encode, decode, backward, aux, optimizer }: TrainRecord["ms"]): number =>
    encode + decode + backward + aux + optimizer;
  const total = records.reduce(
    (sum, { ms, step }, i) => sum + own(ms) * (step - (records[i - 1]?.step ?? 0)),
    0,
  );
  return Math.round((1000 * total) / steps) / 1000;
}

/** Of each key its name: that of its first SAE, if it was given one that no other has. */
function labelsOf(
  saes: readonly SweptSae[],
  outlines: readonly { readonly key: string }[],
  names: Readonly<Record<string, string>> = {},
): Map<string, string> {
  const labels = new Map<string, string>();
  for (const [i, { key }] of outlines.entries()) {
    if (labels.has(key)) continue;
    const { name } = saes[i];
    const wanted = names[name] ?? name;
    labels.set(key, [...labels.values()].includes(wanted) ? name : wanted);
  }
  return labels;
}

function settingOf(name: string, saes: readonly ComparedSae[]): ComparedSetting {
  const measured = saes.filter((sae) => sae.metrics);
  return {
    name,
    saes: saes.map((sae) => sae.name),
    seeds: saes.map(({ shape }) => shape.seed),
    metrics: spreads(measured.map((sae) => sae.metrics!)),
    budgets: measured[0]?.budgets?.map(({ k }, i) => ({
      k,
      metrics: spreads(measured.map((sae) => sae.budgets![i])),
    })),
  };
}

/** Mean and extremes of each metric. */
function spreads(all: readonly Metrics[]): Record<string, Spread> {
  if (all.length === 0) return {};
  const names = Object.keys(all[0]).filter((name) => name !== "k");
  return Object.fromEntries(
    names.map((name) => {
      const values = all.map((metrics) => metrics[name]);
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      return [name, { mean, min: Math.min(...values), max: Math.max(...values) }];
    }),
  );
}
