/**
 * Proxies of how clear SAEs' features are, of several SAEs and budgets on the same text: one forward pass for all.
 */
import { nearestFeatures, ProxyCounts, type ProxyMeans } from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { encode, type Sae, TRAITS } from "../sae/index.ts";
import type { TokenSource } from "../text/index.ts";
import { throwIfAborted, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { liveActivations, rowWidth } from "./live-activations.ts";
import { readCodes } from "./live-codes.ts";
import { refuseOtherModel, refuseOtherWidth } from "./sae-eval.ts";

export interface ProxyOptions {
  readonly lm: LanguageModel;
  readonly saes: readonly { readonly sae: Sae; readonly hook: string }[];
  readonly text: TokenSource;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  /** Tokens of text to read, in windows chosen at random. */
  readonly tokens: number;
  /** Active features per token of topk SAEs besides their own k; those above an SAE's k do not count for it. */
  readonly budgets?: readonly number[];
  /** Firings that a feature needs to count, and that its entropy is over. */
  readonly firings: number;
  readonly excludeTokens: ReadonlySet<number>;
  /** Of the choice of windows. */
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { tokens: number; total: number }) => void;
}

export interface BudgetProxies extends ProxyMeans {
  /** Undefined of an SAE whose number of active features is free. */
  readonly k?: number;
}

export interface SaeProxies {
  /** Mean over all features of the cosine to the nearest other decoder row. */
  readonly maxDecoderCosine: number;
  /** Ascending. */
  readonly budgets: readonly BudgetProxies[];
}

/** One result for each SAE, in their order. */
export async function proxiesOnText(options: ProxyOptions): Promise<SaeProxies[]> {
  const { lm, saes, text, tokens, seed, firings, excludeTokens, signal, onProgress } = options;
  const { device, spec } = lm.model;
  const counted = saes.map(({ sae, hook }) => {
    refuseOtherModel(sae, lm.hash, `this is ${lm.name}`);
    refuseOtherWidth(sae, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
    const budgets = budgetsOf(sae, options.budgets).map((k) => ({
      k,
      counts: new ProxyCounts(sae.config.features, spec.vocabSize, firings),
    }));
    return { sae, point: resolveHook(spec, hook), budgets };
  });
  const packer = windowsOf(lm, text, { context: options.context, shuffle: true, seed });
  const wanted = Math.ceil(tokens / packer.context);
  await packer.reach(wanted);
  const until = Math.min(packer.windows, wanted);
  let read = 0;
  for await (const block of liveActivations({
    model: lm.model,
    packer,
    hooks: [...new Set(counted.map(({ point }) => point))],
    filter: { excludeTokens },
    until,
    signal,
  })) {
    const ends = contextEnds(block.windows);
    for (const { sae, point, budgets } of counted) {
      const x = block.activations[point];
      const codes = device.scope(() => encode(sae, device.tensor(x, [block.rows, sae.config.dIn])));
      const { values, indices } = await readCodes(codes);
      const K = values.length / block.rows;
      let begin = 0;
      for (const end of ends) {
        for (const { k = K, counts } of budgets) {
          for (let row = begin; row < end; row++) {
            for (let s = row * K; s < row * K + Math.min(k, K) && values[s] > 0; s++)
              counts.add(indices[s], block.tokens[row], values[s]);
          }
          counts.endContext(end - begin);
        }
        begin = end;
      }
    }
    read += ends.length * packer.context;
    onProgress?.({ tokens: Math.min(read, until * packer.context), total: until * packer.context });
  }
  throwIfAborted(signal);
  const results: SaeProxies[] = [];
  for (const { sae, budgets } of counted) {
    results.push({
      maxDecoderCosine: await meanNearest(sae),
      budgets: budgets.map(({ k, counts }) => ({ k, ...counts.finish() })),
    });
  }
  return results;
}

/** Rows at which a context is over. */
function contextEnds(windows: Int32Array): number[] {
  return Array.from(windows.keys(), (row) => row + 1).filter(
    (end) => end === windows.length || windows[end] !== windows[end - 1],
  );
}

/** Strongest first, so that a smaller budget is a prefix of the codes. */
function budgetsOf({ config: { activation } }: Sae, budgets: readonly number[] = []): (number | undefined)[] {
  if (!TRAITS[activation.kind].ranked || !("k" in activation)) return [undefined];
  const own = activation.k;
  return [...new Set([...budgets.filter((k) => k < own), own])].sort((a, b) => a - b);
}

/** Decoder rows compared at a time. */
const CHUNK = 1024;

async function meanNearest(sae: Sae): Promise<number> {
  const { features } = sae.config;
  if (features < 2) throw usageError("proxies: an SAE of one feature has no nearest one");
  let total = 0;
  for (let from = 0; from < features; from += CHUNK) {
    const ids = Array.from({ length: Math.min(CHUNK, features - from) }, (_, i) => from + i);
    for (const [nearest] of await nearestFeatures(sae, ids, 1)) total += nearest.cosine;
  }
  return total / features;
}
