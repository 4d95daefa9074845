/**
 * Features of an SAE made ready to look at: where they fire in a text, what they write, which are near.
 */
import { setImmediate } from "node:timers/promises";
import {
  type Context,
  FeatureActivations,
  logitEffects,
  nearestFeatures,
  tellingFeatures,
  topContexts,
} from "../interpret/index.ts";
import { type FeatureCard, linearHistogram, type TokenText } from "../report/index.ts";
import { encode, type Sae } from "../sae/index.ts";
import { reshape } from "../tensor/index.ts";
import type { Tokenizer, TokenPacker } from "../text/index.ts";
import { throwIfAborted } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";

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

/** Runs the text through model and SAE and keeps every firing. Special tokens count as silent. */
export async function collectFirings(options: CollectOptions): Promise<FeatureActivations> {
  const { lm, sae, packer, signal, onProgress } = options;
  const windows = Math.min(options.windows, packer.windows);
  const T = packer.context;
  const { k } = sae.config.activation;
  const tokens = new Int32Array(windows * T);
  const table = new FeatureActivations({ features: sae.config.features, k, context: T, tokens });
  for (let at = 0; at < windows; at += 16) {
    throwIfAborted(signal);
    const rows = Math.min(16, windows - at);
    const batch = packer.next(rows);
    tokens.set(batch.tokens, at * T);
    const { values, indices } = codesOf(options, batch.tokens, rows);
    const host = await values.floats();
    batch.tokens.forEach((t, i) => {
      if (lm.tokenizer.specialIds.has(t)) host.fill(0, i * k, (i + 1) * k);
    });
    table.append(host, await indices.ints());
    values.dispose();
    indices.dispose();
    onProgress?.((at + rows) * T);
    await setImmediate();
  }
  return table;
}

function codesOf({ lm, sae, hook, packer }: CollectOptions, ids: Int32Array, rows: number) {
  const { device } = lm.model;
  return device.scope(() => {
    const tokens = device.tensor(ids, [rows, packer.context], "i32");
    const { captured } = lm.model.forward(tokens, { capture: [hook], stopEarly: true });
    const [x] = Object.values(captured);
    return encode(sae, reshape(x, [ids.length, -1]));
  });
}

export interface CardOptions {
  /** Cards to make. */
  readonly count: number;
  /** Passages on each. */
  readonly contexts?: number;
  /** Whether the hook is on the residual stream, so that decoder rows have a direct effect on logits. */
  readonly writesStream: boolean;
}

/** Cards of the most telling features, best first. */
export async function featureCards(
  lm: LanguageModel,
  sae: Sae,
  table: FeatureActivations,
  { count, contexts = 10, writesStream }: CardOptions,
): Promise<FeatureCard[]> {
  const chosen = tellingFeatures(table, { count }).map((t) => t.feature);
  if (chosen.length === 0) return [];
  const effects = writesStream ? await logitEffects(lm.model, sae, chosen) : undefined;
  const nearest = await nearestFeatures(sae, chosen);
  return chosen.map((id, n) => {
    const { values } = table.firings(id);
    const weigh = (list: readonly { token: number; weight: number }[] = []) =>
      list.map(({ token, weight }) => ({ token: display(lm.tokenizer, [token])[0], weight }));
    return {
      id,
      density: values.length / table.tokens.length,
      maxActivation: values.reduce((a, b) => Math.max(a, b), 0),
      activations: linearHistogram(values),
      contexts: topContexts(table, id, { count: contexts }).map((c) => contextCard(lm.tokenizer, c)),
      promoted: weigh(effects?.[n].promoted),
      suppressed: weigh(effects?.[n].suppressed),
      nearest: nearest[n],
    };
  });
}

function contextCard(tokenizer: Tokenizer, { tokens, activations }: Context) {
  return { tokens: display(tokenizer, tokens), activations: Array.from(activations) };
}

/** Each token as text; one that is only part of a character shows its bytes. */
function display(tokenizer: Tokenizer, ids: ArrayLike<number>): TokenText[] {
  return Array.from(ids, (id) => {
    const text = tokenizer.tokenText(id);
    const bytes = /^(?:<[0-9A-F]{2}(?: [0-9A-F]{2})*>)$/.test(text);
    return bytes ? { bytes: text.slice(1, -1).toLowerCase() } : text;
  });
}
