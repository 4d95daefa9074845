/**
 * Measures an SAE on a stream of activations. Everything through a language model lives in the recipes.
 */
import { setImmediate } from "node:timers/promises";
import type { Device } from "../tensor/index.ts";
import { inputError, throwIfAborted } from "../util/index.ts";
import { MetricsAccumulator } from "./metrics.ts";
import { decode, encode, type Sae } from "./sae.ts";
import type { ActivationBatch } from "./source.ts";

export interface EvaluateOptions {
  /** Stop after this many tokens. */
  readonly maxTokens?: number;
  /** Tokens per pass. */
  readonly batch?: number;
  /** Active features per token, instead of the SAE's own k. */
  readonly k?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

/** Feeds every batch through the SAE; the accumulator gives metrics, densities and the histogram. */
export async function evaluateSae(
  device: Device,
  sae: Sae,
  source: AsyncIterable<ActivationBatch>,
  { maxTokens = Number.POSITIVE_INFINITY, batch = 4096, k, signal, onProgress }: EvaluateOptions = {},
): Promise<MetricsAccumulator> {
  const { dIn, features } = sae.config;
  const metrics = new MetricsAccumulator(dIn, features);
  for await (const { x, rows } of source) {
    if (x.length !== rows * dIn) {
      throw inputError(
        `sae evaluation: ${x.length} numbers as ${rows} rows, but the SAE's input width is ${dIn}`,
      );
    }
    const wanted = Math.min(rows, maxTokens - metrics.tokens);
    for (let at = 0; at < wanted; at += batch) {
      throwIfAborted(signal);
      const part = x.subarray(at * dIn, Math.min(at + batch, wanted) * dIn);
      await addBatch(device, sae, metrics, part, k);
      onProgress?.(metrics.tokens);
      await setImmediate();
    }
    if (metrics.tokens >= maxTokens) break;
  }
  if (metrics.tokens === 0) throw inputError("sae evaluation: the source has no activations");
  return metrics;
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
