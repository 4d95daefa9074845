/**
 * Measuring an SAE: on activations from disk, or on text through its model.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { resolveHook } from "../models/index.ts";
import {
  type ActivationBatch,
  type AnySae,
  evaluateBudgets,
  inParts,
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
import { type SpliceMetrics, spliceBatch, spliceMetrics } from "./splice.ts";

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
  const { base } = inParts(sae);
  if (base.config.transcoder)
    throw usageError("a transcoder is measured through its model: --model and --text");
  const store = await openActivations(folder, { hook: hook ?? hookIn(folder, base) });
  try {
    const { index, width } = store;
    if (hook === undefined) refuseOtherHook(base, index.hook, folder);
    refuseOtherModel(base, index.model.hash, `${folder} was harvested from ${index.model.id}`);
    refuseOtherWidth(base, width, `${folder} holds ${index.hook}`);
    const { tokens, seed = 0 } = options;
    const rows = () =>
      tokens < store.rows
        ? store.shuffled({ batch: BATCH, window: BATCH, seed })
        : store.batches({ batch: BATCH });
    return await measure(device, sae, rows, { ...options, total: Math.min(tokens, store.rows) });
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
  { lm, hook, text, context, ...source }: ModelEvalSource,
  options: SaeEvalOptions,
): Promise<SaeEvaluation[]> {
  const { base } = inParts(sae);
  const { excludeTokens = trainedWithout(base, lm) } = source;
  refuseOtherModel(base, lm.hash, `this is ${lm.name}`);
  refuseOtherWidth(base, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  const target = targetOf(base);
  const packer = windowsOf(lm, text, { context, shuffle: true, seed: options.seed });
  const T = packer.context;
  const { windows, tokens: total } = enough(packer, options.tokens, excludeTokens);
  const rows = () =>
    rowsOf(lm, { hooks: target === undefined ? [hook] : [hook, target], packer, windows, excludeTokens });
  const evaluations = await measure(device, sae, rows, { ...options, total });
  const splices = await spliceMetrics({
    model: lm.model,
    sae,
    hook: target ?? hook,
    reads: hook,
    batches: () => chosen(packer, windows, spliceBatch(lm.model, T)),
    context: T,
    keep: (token) => excludeTokens.has(token),
    mean: Float32Array.from(evaluations[0].accumulator.mean()),
    budgets: options.budgets,
    signal: options.signal,
    onProgress: (tokens) => options.onProgress?.({ part: "model", tokens, total: windows * T }),
  });
  return evaluations.map((evaluation, i) => ({ ...evaluation, splice: splices[i] }));
}

/** The point that a transcoder reconstructs. */
function targetOf({ config, metadata }: Sae): string | undefined {
  if (!config.transcoder) return undefined;
  const target = metadata.hook_name_out;
  if (typeof target === "string") return target;
  throw inputError("the transcoder does not say which point it reconstructs (hook_name_out in its metadata)");
}

/** SAELens' word for it is `exclude_special_tokens`: all, none, or these ids. */
function trainedWithout(sae: Sae, lm: LanguageModel): ReadonlySet<number> {
  const said = sae.metadata.exclude_special_tokens;
  if (Array.isArray(said)) return new Set(said.map(Number));
  return said === false ? new Set() : lm.tokenizer.specialIds;
}

/** The first windows of the packer's order that hold this many tokens to measure, and how many they hold, no more than asked. */
function enough(
  packer: TokenPacker,
  wanted: number,
  excluded: ReadonlySet<number>,
): { windows: number; tokens: number } {
  let windows = 0;
  let tokens = 0;
  for (const batch of chosen(packer, packer.windows, 1)) {
    for (const token of batch.tokens) if (!excluded.has(token)) tokens++;
    windows++;
    if (tokens >= wanted) break;
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
  sae: AnySae,
  open: () => AsyncIterable<ActivationBatch>,
  { tokens, budgets = [undefined], signal, onProgress, total }: SaeEvalOptions & { total: number },
): Promise<SaeEvaluation[]> {
  const part = { mean: "mean", metrics: "activations" } as const;
  const all = await evaluateBudgets(device, sae, open, budgets, {
    maxTokens: tokens,
    signal,
    onProgress: (n, pass) => onProgress?.({ part: part[pass], tokens: n, total }),
  });
  return all.map((accumulator, i) => ({ k: budgets[i], metrics: accumulator.finish(), accumulator }));
}

function refuseOtherWidth(sae: Sae, width: number, what: string): void {
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
function refuseOtherModel(sae: Sae, found: string, what: string): void {
  const hash = sae.metadata.model_hash;
  if (typeof hash !== "string" || hash === found) return;
  throw inputError(
    `the SAE was trained on ${String(sae.metadata.model_name)} with weights ${brief(hash)}, but ${what} with weights ${brief(found)}; use the model it belongs to`,
  );
}

const brief = (hash: string): string => hash.replace(/^sha256:/, "").slice(0, 12);
