/**
 * Measuring an SAE: on activations from disk, or on held-out text through its model.
 */
import { evaluateSae, type MetricsAccumulator, type Sae, type SaeMetrics } from "../sae/index.ts";
import { openActivations } from "../store/index.ts";
import type { Device } from "../tensor/index.ts";
import type { TokenSource } from "../text/index.ts";
import { inputError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { liveActivations, rowWidth } from "./live-activations.ts";
import { type SpliceMetrics, spliceMetrics } from "./splice.ts";

export interface SaeEvalOptions {
  /** Most tokens to measure. */
  readonly tokens: number;
  /** Active features per token, instead of the SAE's own k. */
  readonly k?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

export interface SaeEvaluation {
  readonly metrics: SaeMetrics;
  /** Through the model; absent for activations from disk. */
  readonly splice?: SpliceMetrics;
  /** Counts behind the metrics: densities and their histogram. */
  readonly accumulator: MetricsAccumulator;
}

/** Metrics on a store of activations. Rows are read in order. */
export async function evaluateOnStore(
  device: Device,
  sae: Sae,
  { folder, hook }: { folder: string; hook?: string },
  options: SaeEvalOptions,
): Promise<SaeEvaluation> {
  const store = await openActivations(folder, { hook });
  try {
    refuseOtherWidth(sae, store.width, `${folder} holds ${store.index.hook}`);
    const { tokens, ...rest } = options;
    const source = store.batches({ batch: 4096, rows: Math.min(tokens, store.rows) });
    const accumulator = await evaluateSae(device, sae, source, { maxTokens: tokens, ...rest });
    return { metrics: accumulator.finish(), accumulator };
  } finally {
    store.close();
  }
}

export interface ModelEvalSource {
  readonly lm: LanguageModel;
  readonly hook: string;
  /** Held-out text. */
  readonly text: TokenSource;
  readonly context?: number;
}

/** Metrics on a text, then the same windows through the model with the SAE in place. */
export async function evaluateOnModel(
  device: Device,
  sae: Sae,
  { lm, hook, text, context }: ModelEvalSource,
  options: SaeEvalOptions,
): Promise<SaeEvaluation> {
  refuseOtherWidth(sae, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  refuseOtherModel(sae, lm);
  const packer = windowsOf(lm, text, { context, shuffle: false });
  const windows = Math.min(packer.windows, Math.max(1, Math.ceil(options.tokens / packer.context)));
  const accumulator = await evaluateSae(device, sae, rowsOf(lm, hook, packer, options.signal), {
    ...options,
    maxTokens: options.tokens,
  });
  const splice = await spliceMetrics({
    model: lm.model,
    sae,
    hook,
    packer,
    windows,
    keep: lm.tokenizer.specialIds,
    signal: options.signal,
    onProgress: options.onProgress,
  });
  return { metrics: accumulator.finish(), splice, accumulator };
}

async function* rowsOf(
  lm: LanguageModel,
  hook: string,
  packer: ReturnType<typeof windowsOf>,
  signal?: AbortSignal,
) {
  const filter = { excludeTokens: lm.tokenizer.specialIds };
  const live = liveActivations({ model: lm.model, packer, hooks: [hook], filter, signal });
  for await (const { activations, rows } of live) yield { x: activations[live.hooks[0]], rows };
}

function refuseOtherWidth(sae: Sae, width: number, what: string): void {
  if (sae.config.dIn === width) return;
  throw inputError(`the SAE reads activations of width ${sae.config.dIn}, but ${what} has width ${width}`);
}

/** An SAE that names the weights it was trained on is only measured on those. */
function refuseOtherModel(sae: Sae, lm: LanguageModel): void {
  const hash = sae.metadata.model_hash;
  if (typeof hash !== "string" || hash === lm.hash) return;
  throw inputError(
    `the SAE was trained on ${String(sae.metadata.model_name)} with weights ${hash.slice(0, 12)}, but ${lm.name} has ${lm.hash.slice(0, 12)}; name the model it belongs to`,
  );
}
