/**
 * Features of an SAE made ready to look at: where they fire in a text, what they write, which are near.
 */
import {
  type Context,
  FeatureActivations,
  logitEffects,
  nearestFeatures,
  tellingFeatures,
  topContexts,
  type Words,
} from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { type FeatureCard, linearHistogram, type TokenText, tokenText } from "../report/index.ts";
import type { Sae } from "../sae/index.ts";
import type { Tokenizer, TokenPacker } from "../text/index.ts";
import { throwIfAborted } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";
import { liveCodes } from "./live-codes.ts";

export interface CollectOptions {
  readonly lm: LanguageModel;
  readonly sae: Sae;
  readonly hook: string;
  readonly packer: TokenPacker;
  /** Windows to look at. */
  readonly windows: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

/** Runs the text through model and SAE and keeps every firing. On special tokens every feature counts as silent. */
export async function collectFirings(options: CollectOptions): Promise<FeatureActivations> {
  const { lm, sae, packer, signal, onProgress } = options;
  const { specialIds } = lm.tokenizer;
  await packer.reach(options.windows);
  const until = Math.min(options.windows, packer.windows);
  const tokens = new Int32Array(until * packer.context);
  const table = new FeatureActivations({ features: sae.config.features, context: packer.context, tokens });
  let done = 0;
  for await (const block of liveCodes({ ...options, until, windows: 16 })) {
    tokens.set(block.tokens, done);
    table.append(block, block.tokens.length, (i) => specialIds.has(block.tokens[i]));
    done += block.tokens.length;
    onProgress?.(done);
  }
  throwIfAborted(signal);
  return table;
}

export interface CardOptions {
  readonly hook: string;
  /** Cards to make. */
  readonly count: number;
  /** Passages on each; default 10. */
  readonly contexts?: number;
  /**
   * Budgets of active features to describe each feature at, for an SAE whose codes are ranked, and the one by which features
   * and passages are chosen.
   */
  readonly budgets?: { readonly all: readonly number[]; readonly shown: number };
}

/** Decoder rows add to the residual stream at these points, so that they have a direct effect on the logits. */
export const WRITES_STREAM = /hook_(resid_(pre|mid|post)|attn_out|mlp_out|embed)$/;

/** Cards of the most telling features, best first. */
export async function featureCards(
  lm: LanguageModel,
  sae: Sae,
  table: FeatureActivations,
  { hook, count, contexts = 10, budgets }: CardOptions,
): Promise<FeatureCard[]> {
  const { tokenizer, model } = lm;
  const shown = budgets ? table.within(budgets.shown) : table;
  const windows = table.tokens.length / table.context;
  const chosen = tellingFeatures(shown, {
    count,
    words: wordsOf(tokenizer, table.tokens),
    minWindows: Math.min(8, Math.max(3, Math.floor(windows / 25))),
    // In a small dictionary every feature is frequent.
    maxDensity: Math.max(0.02, (3 * shown.l0()) / sae.config.features),
  }).map((t) => t.feature);
  if (chosen.length === 0) return [];
  const seen = [...new Set(table.tokens)].filter((t) => !tokenizer.specialIds.has(t)).sort((a, b) => a - b);
  const effects = WRITES_STREAM.test(resolveHook(model.spec, hook))
    ? await logitEffects(model, sae, chosen, { among: seen })
    : undefined;
  const nearest = await nearestFeatures(sae, chosen);
  const counted = table.tokens.reduce((n, t) => n + (tokenizer.specialIds.has(t) ? 0 : 1), 0);
  return chosen.map((id, n) => {
    const measure = measuresOf(table, id, counted);
    const weigh = (list: readonly { token: number; weight: number }[] = []) =>
      list.map(({ token, weight }) => ({ token: display(tokenizer, token), weight }));
    return {
      id,
      ...measure(budgets?.shown),
      contexts: topContexts(table, id, { count: contexts, before: 28, after: 16, peaks: shown }).map((c) => {
        const { ranks, ...card } = contextCard(tokenizer, table.context, c);
        return budgets ? { ...card, ranks } : card;
      }),
      promoted: weigh(effects?.[n].promoted),
      suppressed: weigh(effects?.[n].suppressed),
      nearest: nearest[n],
      ...(budgets && {
        budgets: budgets.all.map((k) => {
          const { activations, ...at } = measure(k);
          return { ...at, counts: activations.counts };
        }),
      }),
    };
  });
}

/** How often and how strongly a feature fires, by how many of each token's features count; `counted` tokens were measured. */
function measuresOf(table: FeatureActivations, feature: number, counted: number) {
  const { values } = table.firings(feature);
  const ranks = table.ranks(feature);
  return (k = Number.POSITIVE_INFINITY) => {
    const active = values.filter((_, i) => ranks[i] <= k);
    return {
      density: active.length / counted,
      maxActivation: active.reduce((a, b) => Math.max(a, b), 0),
      activations: linearHistogram(active, { range: values }),
    };
  };
}

/**
 * A passage as one would quote it: within one document, in whole words. What of its first and last word lies outside is
 * left out, unless the peak is in it.
 */
function contextCard(tokenizer: Tokenizer, window: number, context: Context) {
  const { start, tokens, activations, ranks, peak } = context;
  const special = (i: number) => tokenizer.specialIds.has(tokens[i]);
  let from = peak;
  while (from > 0 && !special(from - 1)) from--;
  let to = peak + 1;
  while (to < tokens.length && !special(to)) to++;
  const texts = Array.from(tokens, (id) => display(tokenizer, id));
  const begins = (i: number) => {
    const text = texts[i];
    return typeof text === "string" && /^\s/.test(text);
  };
  // Every window begins with BOS, wherever it cuts the text; elsewhere BOS begins a document.
  const documentStart = from > 0 && (start + from - 1) % window !== 0;
  if (!documentStart) from = firstWhere(from, peak, begins) ?? from;
  if (to === tokens.length) to = lastWhere(peak + 1, to, begins) ?? to;
  const first = texts[from];
  if (typeof first === "string" && first.trim() !== "") texts[from] = first.trimStart();
  return {
    tokens: texts.slice(from, to),
    activations: Array.from(activations.subarray(from, to)),
    ranks: Array.from(ranks.subarray(from, to)),
  };
}

/** The first i from `low` to `high` of which it is true. */
function firstWhere(low: number, high: number, is: (i: number) => boolean): number | undefined {
  for (let i = low; i <= high; i++) if (is(i)) return i;
  return undefined;
}

/** The last i from `low` up to below `high` of which it is true. */
function lastWhere(low: number, high: number, is: (i: number) => boolean): number | undefined {
  for (let i = high - 1; i >= low; i--) if (is(i)) return i;
  return undefined;
}

/** A token as text; one that is only part of a character as its bytes. */
function display(tokenizer: Tokenizer, id: number): TokenText {
  const bytes = tokenizer.tokenBytes(id);
  return bytes ? tokenText(bytes) : tokenizer.tokenText(id);
}

/** Groups tokens into words: letters and digits that follow each other, in lower case. All else is word -1. */
export function wordsOf(tokenizer: Tokenizer, tokens: Int32Array): Words {
  const at = new Int32Array(tokens.length);
  const words: string[] = [];
  let open = false; // whether the last token ended within a word
  tokens.forEach((id, i) => {
    const text = tokenizer.specialIds.has(id) ? "" : tokenizer.tokenText(id);
    const continues = open && /^[\p{L}\p{N}]/u.test(text);
    if (continues) words[words.length - 1] += text;
    else words.push(text);
    at[i] = words.length - 1;
    open = /[\p{L}\p{N}]$/u.test(text);
  });
  const numbers = new Map<string, number>();
  const number = Int32Array.from(words, (word) => {
    const bare = word.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");
    if (bare === "") return -1;
    if (!numbers.has(bare)) numbers.set(bare, numbers.size);
    return numbers.get(bare) as number;
  });
  return { at, number };
}
