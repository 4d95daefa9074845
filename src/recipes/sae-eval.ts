/**
 * Measuring an SAE: on activations from disk, or on text through its model.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  type ActivationBatch,
  evaluateSae,
  type MetricsAccumulator,
  type Sae,
  type SaeMetrics,
} from "../sae/index.ts";
import { openActivations } from "../store/index.ts";
import type { Device } from "../tensor/index.ts";
import type { PackedBatch, TokenPacker, TokenSource } from "../text/index.ts";
import { inputError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { liveActivations, rowWidth } from "./live-activations.ts";
import { type SpliceMetrics, spliceBatch, spliceMetrics } from "./splice.ts";

export interface SaeEvalOptions {
  /** Most tokens to measure; special tokens do not count. */
  readonly tokens: number;
  /** Active features per token, instead of the SAE's own k. */
  readonly k?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { part: "activations" | "model"; tokens: number; total: number }) => void;
}

export interface SaeEvaluation {
  readonly metrics: SaeMetrics;
  /** Through the model; absent for activations from disk. */
  readonly splice?: SpliceMetrics;
  /** Counts behind the metrics: densities and their histogram. */
  readonly accumulator: MetricsAccumulator;
}

/** Metrics on a store of activations, read in order. `hook` also allows a point that the SAE was not trained on. */
export async function evaluateOnStore(
  device: Device,
  sae: Sae,
  { folder, hook }: { folder: string; hook?: string },
  options: SaeEvalOptions,
): Promise<SaeEvaluation> {
  const store = await openActivations(folder, { hook: hook ?? hookIn(folder, sae) });
  try {
    const { index, width } = store;
    if (hook === undefined) refuseOtherHook(sae, index.hook, folder);
    refuseOtherModel(sae, index.model.hash, `${folder} was harvested from ${index.model.id}`);
    refuseOtherWidth(sae, width, `${folder} holds ${index.hook}`);
    const total = Math.min(options.tokens, store.rows);
    const rows = store.batches({ batch: 4096, rows: total });
    return await measure(device, sae, finite(rows, folder), { ...options, total });
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
}

/**
 * Metrics on the first windows of a text, then the same windows through the model with the SAE in place. Special tokens are
 * not measured, and keep their activation when the SAE is spliced in.
 */
export async function evaluateOnModel(
  device: Device,
  sae: Sae,
  { lm, hook, text, context }: ModelEvalSource,
  options: SaeEvalOptions,
): Promise<SaeEvaluation> {
  refuseOtherModel(sae, lm.hash, `this is ${lm.name}`);
  refuseOtherWidth(sae, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  const packer = windowsOf(lm, text, { context, shuffle: false });
  const T = packer.context;
  const windows = Math.min(packer.windows, Math.ceil(options.tokens / (T - 1)));
  const total = Math.min(options.tokens, windows * T);
  const evaluation = await measure(device, sae, finite(rowsOf(lm, hook, packer, windows), lm.name), {
    ...options,
    total,
  });
  const splice = await spliceMetrics({
    model: lm.model,
    sae,
    hook,
    batches: () => inOrder(packer, windows, spliceBatch(lm.model, T)),
    context: T,
    keep: (token) => lm.tokenizer.specialIds.has(token),
    k: options.k,
    signal: options.signal,
    onProgress: (tokens) => options.onProgress?.({ part: "model", tokens, total: windows * T }),
  });
  return { ...evaluation, splice };
}

/** The first `windows` windows of the text, `batch` at a time. */
function* inOrder(packer: TokenPacker, windows: number, batch: number): Generator<PackedBatch> {
  for (let at = 0; at < windows; at += batch) yield packer.at(at, Math.min(batch, windows - at));
}

async function* rowsOf(
  lm: LanguageModel,
  hook: string,
  packer: TokenPacker,
  windows: number,
): AsyncGenerator<ActivationBatch> {
  const filter = { excludeTokens: lm.tokenizer.specialIds };
  const live = liveActivations({ model: lm.model, packer, hooks: [hook], filter, until: windows });
  for await (const { activations, rows } of live) yield { x: activations[live.hooks[0]], rows };
}

async function measure(
  device: Device,
  sae: Sae,
  source: AsyncIterable<ActivationBatch>,
  { tokens, k, signal, onProgress, total }: SaeEvalOptions & { total: number },
): Promise<SaeEvaluation> {
  const accumulator = await evaluateSae(device, sae, source, {
    maxTokens: tokens,
    k,
    signal,
    onProgress: (n) => onProgress?.({ part: "activations", tokens: n, total }),
  });
  return { metrics: accumulator.finish(), accumulator };
}

/** Passes batches on; a number that is not finite would silently spoil every metric. */
async function* finite(
  source: AsyncIterable<ActivationBatch>,
  what: string,
): AsyncGenerator<ActivationBatch> {
  let first = 0;
  for await (const batch of source) {
    const at = batch.x.findIndex((v) => !Number.isFinite(v));
    if (at >= 0) {
      const width = batch.x.length / batch.rows;
      throw inputError(
        `${what}: row ${first + Math.floor(at / width)} of the activations holds ${batch.x[at]} at dimension ${at % width}; nothing can be measured on it`,
      );
    }
    first += batch.rows;
    yield batch;
  }
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
