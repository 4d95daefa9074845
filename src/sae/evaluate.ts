/**
 * Measures an SAE on a stream of activations. Everything through a language model lives in the recipes.
 */
import { setImmediate } from "node:timers/promises";
import type { Device } from "../tensor/index.ts";
import { ColumnMoments, inputError, throwIfAborted } from "../util/index.ts";
import { MetricsAccumulator } from "./metrics.ts";
import { type Codes, decode, encode, type Sae, type SparseCodes, sparseCodes } from "./sae.ts";
import type { ActivationBatch } from "./source.ts";
import { ownColumns } from "./train.ts";

export interface EvaluateOptions {
  /** Stop after this many tokens. */
  readonly maxTokens?: number;
  /** Tokens per pass. */
  readonly batch?: number;
  /** Active features per token, instead of the SAE's own k. */
  readonly k?: number;
  readonly signal?: AbortSignal;
  /** Told of both passes over a source that is opened twice: first the mean is taken. */
  readonly onProgress?: (tokens: number, pass: "mean" | "metrics") => void;
}

type Rows = AsyncIterable<ActivationBatch>;

/**
 * Feeds every batch through the SAE; the accumulator gives metrics, densities and the histogram. A function is called twice and
 * must open the same rows each time, in any order of batches; the rows of a mere iterable are kept in memory.
 */
export async function evaluateSae(
  device: Device,
  sae: Sae,
  source: Rows | (() => Rows),
  options: EvaluateOptions = {},
): Promise<MetricsAccumulator> {
  const { dIn, features } = sae.config;
  const moments = typeof source === "function" ? await momentsOf(source(), dIn, options) : undefined;
  const metrics = new MetricsAccumulator(dIn, features, { mean: moments?.mean });
  for await (const x of partsOf(typeof source === "function" ? source() : source, dIn, options)) {
    await addBatch(device, sae, metrics, x, options.k);
    options.onProgress?.(metrics.tokens, "metrics");
  }
  if (metrics.tokens === 0) throw inputError("sae evaluation: the source has no activations");
  if (moments && moments.count !== metrics.tokens) {
    throw inputError(
      `sae evaluation: the source gave ${moments.count} rows, and ${metrics.tokens} when it was opened again`,
    );
  }
  return metrics;
}

async function momentsOf(source: Rows, width: number, options: EvaluateOptions): Promise<ColumnMoments> {
  const moments = new ColumnMoments(width);
  for await (const x of partsOf(source, width, options)) {
    moments.addRows(x);
    options.onProgress?.(moments.count, "mean");
  }
  return moments;
}

/** The rows that are measured, [at most `batch`, D] at a time. */
async function* partsOf(
  source: Rows,
  width: number,
  { maxTokens = Number.POSITIVE_INFINITY, batch = 4096, signal }: EvaluateOptions,
): AsyncGenerator<Float32Array> {
  let left = maxTokens;
  for await (const { x, rows } of source) {
    if (x.length !== rows * width) {
      throw inputError(
        `sae evaluation: ${x.length} numbers as ${rows} rows, but the SAE's input width is ${width}`,
      );
    }
    const wanted = Math.min(rows, left);
    for (let at = 0; at < wanted; at += batch) {
      throwIfAborted(signal);
      yield x.subarray(at * width, Math.min(at + batch, wanted) * width);
      await setImmediate();
    }
    left -= wanted;
    if (left <= 0) return;
  }
}

async function addBatch(
  device: Device,
  sae: Sae,
  metrics: MetricsAccumulator,
  x: Float32Array,
  k: number | undefined,
): Promise<void> {
  const { values, indices, recon } = device.scope(() => {
    const input = device.tensor(x, [x.length / sae.config.dIn, sae.config.dIn]);
    const codes = encode(sae, input, { k });
    return { ...codes, recon: decode(sae, codes) };
  });
  try {
    metrics.addReconstruction(x, await recon.floats());
    metrics.addCodes({ values: await values.floats(), indices: await indices.ints() });
  } finally {
    for (const t of [values, indices, recon]) t.dispose();
  }
}
