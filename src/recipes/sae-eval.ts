/**
 * Measuring an SAE: on activations from disk, or on text through its model.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { resolveHook } from "../models/index.ts";
import {
  type ActivationBatch,
  type AnySae,
  type Columns,
  evaluateSaes,
  inParts,
  type MeasuredSae,
  type MetricsAccumulator,
  type Sae,
  type SaeMetrics,
} from "../sae/index.ts";
import { openActivations } from "../store/index.ts";
import type { Device } from "../tensor/index.ts";
import type { PackedBatch, TokenPacker, TokenSource } from "../text/index.ts";
import { inputError, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { liveActivations, rowWidth, sideBySide } from "./live-activations.ts";
import { type SpliceMetrics, spliceBatch, spliceSaes } from "./splice.ts";

export interface SaeEvalOptions {
  /** Most tokens to measure; excluded ones do not count. */
  readonly tokens: number;
  /** Chooses the windows of the text, or the rows of the store, where there are more than `tokens`; default 0. */
  readonly seed?: number;
  /** Active features per token, one evaluation for each; undefined (the default) is the SAE's own k. */
  readonly budgets?: readonly (number | undefined)[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { part: SaeEvalPart; tokens: number; total: number }) => void;
}

/** One after the other: the mean that variance is measured from, the reconstructions, the model with the SAE in place. */
export type SaeEvalPart = "mean" | "activations" | "model";

/** Rows read at a time. */
const BATCH = 4096;

export interface SaeEvaluation {
  /** The budget it was measured at, where one was asked for. */
  readonly k?: number;
  readonly metrics: SaeMetrics;
  /** Through the model; absent for activations from disk. */
  readonly splice?: SpliceMetrics;
  /** Counts behind the metrics: densities and their histogram. */
  readonly accumulator: MetricsAccumulator;
}

/**
 * Metrics on a store of activations, or on blocks of it chosen at random. `hook` also allows a point that the SAE was not
 * trained on.
 */
export async function evaluateOnStore(
  device: Device,
  sae: AnySae,
  { folder, hook }: { folder: string; hook?: string },
  options: SaeEvalOptions,
): Promise<SaeEvaluation[]> {
  const { budgets } = options;
  const [evaluations] = await evaluateAllOnStore(device, [{ sae, budgets }], { folder, hook }, options);
  return evaluations;
}

/** The same of several SAEs of one point on the same rows; each gets the numbers that it would get alone. */
export async function evaluateAllOnStore(
  device: Device,
  saes: readonly Omit<EvaluatedSae, "hook">[],
  { folder, hook }: { folder: string; hook?: string },
  options: SaeEvalOptions,
): Promise<SaeEvaluation[][]> {
  const bases = saes.map(({ sae }) => inParts(sae).base);
  if (bases.some(({ config }) => config.transcoder))
    throw usageError("a transcoder is measured through its model: --model and --text");
  const store = await openActivations(folder, { hook: hook ?? hookIn(folder, bases[0]) });
  try {
    const { index, width } = store;
    for (const base of bases) {
      if (hook === undefined) refuseOtherHook(base, index.hook, folder);
      refuseOtherModel(base, index.model.hash, `${folder} was harvested from ${index.model.id}`);
      refuseOtherWidth(base, width, `${folder} holds ${index.hook}`);
    }
    const { tokens, seed = 0 } = options;
    const rows = () =>
      tokens < store.rows
        ? store.shuffled({ batch: BATCH, window: BATCH, seed })
        : store.batches({ batch: BATCH });
    const measured = saes.map(({ sae, budgets = [undefined] }) => ({ sae, budgets }));
    return await measure(device, measured, rows, { ...options, total: Math.min(tokens, store.rows) });
  } finally {
    store.close();
  }
}

export interface ModelEvalSource {
  readonly lm: LanguageModel;
  readonly hook: string;
  /** Held-out text. */
  readonly text: TokenSource;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  /**
   * Ids that are not measured, and keep their activation when the SAE is spliced in; default those left out of the SAE's
   * training, or all special tokens if it does not say.
   */
  readonly excludeTokens?: ReadonlySet<number>;
}

/** Metrics on windows of a text chosen at random, then the same windows through the model with the SAE in place. */
export async function evaluateOnModel(
  device: Device,
  sae: AnySae,
  { hook, excludeTokens, ...source }: ModelEvalSource,
  options: SaeEvalOptions,
): Promise<SaeEvaluation[]> {
  const { budgets } = options;
  const excluded = excludeTokens ?? trainedWithout(inParts(sae).base, source.lm);
  const [evaluations] = await evaluateAllOnModel(
    device,
    [{ sae, hook, budgets }],
    { ...source, excludeTokens: excluded },
    options,
  );
  return evaluations;
}

/** One of several SAEs of a model, possibly at different points. */
export interface EvaluatedSae {
  readonly sae: AnySae;
  readonly hook: string;
  /** Active features per token, one evaluation for each; undefined (the default) is the SAE's own k. */
  readonly budgets?: readonly (number | undefined)[];
}

/** The same of several SAEs on the same tokens; each gets the numbers that it would get alone. */
export async function evaluateAllOnModel(
  device: Device,
  saes: readonly EvaluatedSae[],
  {
    lm,
    text,
    context,
    excludeTokens,
  }: Omit<ModelEvalSource, "hook"> & { excludeTokens: ReadonlySet<number> },
  options: SaeEvalOptions,
): Promise<SaeEvaluation[][]> {
  const { model } = lm;
  const places = saes.map(({ sae, hook, budgets = [undefined] }) => {
    const { base } = inParts(sae);
    refuseOtherModel(base, lm.hash, `this is ${lm.name}`);
    refuseOtherWidth(base, rowWidth(model, hook), `${lm.name} at ${hook}`);
    const point = resolveHook(model.spec, hook);
    const target = targetOf(base);
    return {
      sae,
      budgets,
      point,
      target: target === undefined ? undefined : resolveHook(model.spec, target),
    };
  });
  const { hooks, columnsOf } = columnsAt(
    lm,
    places.flatMap(({ point, target }) => [point, target ?? point]),
  );
  const packer = windowsOf(lm, text, { context, shuffle: true, seed: options.seed });
  const T = packer.context;
  const { windows, tokens: total } = await enough(packer, options.tokens, excludeTokens);
  const rows = () => rowsOf(lm, { hooks, packer, windows, excludeTokens });
  const measured = places.map((place) => ({ ...place, columns: columnsOf(place.point, place.target) }));
  const evaluations = await measure(device, measured, rows, { ...options, total });
  const splices = await spliceSaes(
    places.map(({ sae, budgets, point, target }, i) => ({
      sae,
      budgets,
      hook: target ?? point,
      reads: point,
      mean: Float32Array.from(evaluations[i][0].accumulator.mean()),
    })),
    {
      model,
      batches: () => chosen(packer, windows, spliceBatch(model, T)),
      context: T,
      keep: (token) => excludeTokens.has(token),
      signal: options.signal,
      onProgress: (tokens) => options.onProgress?.({ part: "model", tokens, total: windows * T }),
    },
  );
  return evaluations.map((all, s) => all.map((one, i) => ({ ...one, splice: splices[s][i] })));
}

/** Points whose rows stand side by side, each once, and where an SAE finds its own. */
function columnsAt({ model }: LanguageModel, points: readonly string[]) {
  const hooks = [...new Set(points)];
  const widths = hooks.map((hook) => rowWidth(model, hook));
  const width = widths.reduce((a, b) => a + b, 0);
  const start = (hook: string): number => widths.slice(0, hooks.indexOf(hook)).reduce((a, b) => a + b, 0);
  const columnsOf = (point: string, target?: string): Columns => ({
    width,
    input: start(point),
    target: target === undefined ? undefined : start(target),
  });
  return { hooks, columnsOf };
}

/** The point that a transcoder reconstructs. */
function targetOf({ config, metadata }: Sae): string | undefined {
  if (!config.transcoder) return undefined;
  const target = metadata.hook_name_out;
  if (typeof target === "string") return target;
  throw inputError("the transcoder does not say which point it reconstructs (hook_name_out in its metadata)");
}

/** SAELens' word for it is `exclude_special_tokens`: all, none, or these ids. */
export function trainedWithout(sae: Sae, lm: LanguageModel): ReadonlySet<number> {
  const said = sae.metadata.exclude_special_tokens;
  if (Array.isArray(said)) return new Set(said.map(Number));
  return said === false ? new Set() : lm.tokenizer.specialIds;
}

/** The first windows of the packer's order that hold this many tokens to measure, and how many they hold, no more than asked. */
async function enough(
  packer: TokenPacker,
  wanted: number,
  excluded: ReadonlySet<number>,
): Promise<{ windows: number; tokens: number }> {
  packer.restore({ epoch: 0, index: 0 });
  let windows = 0;
  let tokens = 0;
  while (tokens < wanted) {
    await packer.reach(windows + 1);
    if (windows === packer.windows) break;
    for (const token of packer.next(1).tokens) if (!excluded.has(token)) tokens++;
    windows++;
  }
  return { windows, tokens: Math.min(tokens, wanted) };
}

/** The first `windows` windows of the packer's order, `batch` at a time. */
function* chosen(packer: TokenPacker, windows: number, batch: number): Generator<PackedBatch> {
  packer.restore({ epoch: 0, index: 0 });
  for (let at = 0; at < windows; at += batch) yield packer.next(Math.min(batch, windows - at));
}

interface WindowRows {
  /** The points whose rows stand side by side. */
  readonly hooks: readonly string[];
  readonly packer: TokenPacker;
  readonly windows: number;
  readonly excludeTokens: ReadonlySet<number>;
}

async function* rowsOf(
  lm: LanguageModel,
  { hooks, packer, windows, excludeTokens }: WindowRows,
): AsyncGenerator<ActivationBatch> {
  packer.restore({ epoch: 0, index: 0 });
  const filter = { excludeTokens };
  const live = liveActivations({ model: lm.model, packer, hooks, filter, until: windows });
  const points = hooks.map((hook) => resolveHook(lm.model.spec, hook));
  for await (const { activations, rows } of live) {
    yield {
      x: sideBySide(
        points.map((point) => activations[point]),
        rows,
      ),
      rows,
    };
  }
}

async function measure(
  device: Device,
  saes: readonly MeasuredSae[],
  open: () => AsyncIterable<ActivationBatch>,
  { tokens, signal, onProgress, total }: SaeEvalOptions & { total: number },
): Promise<SaeEvaluation[][]> {
  const part = { mean: "mean", metrics: "activations" } as const;
  const all = await evaluateSaes(device, saes, open, {
    maxTokens: tokens,
    signal,
    onProgress: (n, pass) => onProgress?.({ part: part[pass], tokens: n, total }),
  });
  return all.map((accumulators, s) =>
    accumulators.map((accumulator, i) => ({
      k: saes[s].budgets[i],
      metrics: accumulator.finish(),
      accumulator,
    })),
  );
}

export function refuseOtherWidth(sae: Sae, width: number, what: string): void {
  if (sae.config.dIn === width) return;
  throw inputError(`the SAE reads activations of width ${sae.config.dIn}, but ${what} has width ${width}`);
}

/** The SAE's own point, if the folder has one subfolder per point. */
function hookIn(folder: string, sae: Sae): string | undefined {
  const hook = sae.metadata.hook_name;
  return typeof hook === "string" && existsSync(join(folder, hook)) ? hook : undefined;
}

function refuseOtherHook(sae: Sae, found: string, folder: string): void {
  const hook = sae.metadata.hook_name;
  if (typeof hook !== "string" || hook === found) return;
  throw inputError(
    `the SAE was trained on ${hook}, but ${folder} holds ${found}; to measure it there all the same, say --hook ${found}`,
  );
}

/** An SAE that names the weights it was trained on is only measured on those. */
export function refuseOtherModel(sae: Sae, found: string, what: string): void {
  const hash = sae.metadata.model_hash;
  if (typeof hash !== "string" || hash === found) return;
  throw inputError(
    `the SAE was trained on ${String(sae.metadata.model_name)} with weights ${brief(hash)}, but ${what} with weights ${brief(found)}; use the model it belongs to`,
  );
}

const brief = (hash: string): string => hash.replace(/^sha256:/, "").slice(0, 12);
