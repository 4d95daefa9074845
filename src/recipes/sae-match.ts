/**
 * Features of SAEs compared by what they do on the same text. One pass over it for all pairs; SAEs of two models, or of one.
 */
import {
  CROSS_BYTES,
  crossBytes,
  FeatureCorrelation,
  type FeatureMatch,
  type Partners,
} from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { encode, type Sae } from "../sae/index.ts";
import type { TokenSource } from "../text/index.ts";
import { inputError, throwIfAborted, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { type LiveBlock, liveActivations, rowWidth } from "./live-activations.ts";
import { type HostCodes, readCodes } from "./live-codes.ts";
import { refuseOtherModel, refuseOtherWidth } from "./sae-eval.ts";

/** An SAE and the model that it reads. */
export interface PlacedSae {
  readonly sae: Sae;
  /** What errors call it. */
  readonly name: string;
  readonly hook: string;
  readonly lm: LanguageModel;
}

export interface SaeMatchOptions {
  /** Any number of pairs; an SAE or a model that stands in several is the same object and runs once. */
  readonly pairs: readonly (readonly [PlacedSae, PlacedSae])[];
  readonly text: TokenSource;
  /** Tokens of a window, BOS included; default the context of the model that has the shortest. */
  readonly context?: number;
  /** Tokens of text to read, in windows chosen at random. */
  readonly tokens: number;
  /** Firings that a feature needs to be compared. */
  readonly firings: number;
  readonly excludeTokens: ReadonlySet<number>;
  /** Of the choice of windows. */
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { tokens: number; total: number }) => void;
}

/** One result for each pair, in their order. */
export async function matchOnText(options: SaeMatchOptions): Promise<FeatureMatch[]> {
  const { pairs, text, tokens, firings, excludeTokens, seed, signal, onProgress } = options;
  const saes = [...new Set(pairs.flat())];
  const models = [...new Set(saes.map(({ lm }) => lm))];
  refuseOtherTokenizers(models);
  refuseTooMany(pairs);
  for (const { sae, hook, lm } of saes) {
    refuseOtherModel(sae, lm.hash, `this is ${lm.name}`);
    refuseOtherWidth(sae, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  }
  const sums = pairs.map(([a, b]) => new FeatureCorrelation(a.sae.config.features, b.sae.config.features));
  const context = options.context ?? Math.min(...models.map(({ model }) => model.spec.contextLength));
  const wanted = Math.ceil(tokens / context);
  const readers = models.map((lm) => {
    const mine = saes.filter((one) => one.lm === lm);
    const packer = windowsOf(lm, text, { context, shuffle: true, seed });
    const hooks = mine.map(({ hook }) => hook);
    const live = liveActivations({
      model: lm.model,
      packer,
      hooks,
      filter: { excludeTokens },
      until: wanted,
    });
    return { mine, packer, counts: live.counts, blocks: live[Symbol.asyncIterator]() };
  });
  for (;;) {
    throwIfAborted(signal);
    // Windows are drawn by the seed, rows left out by their tokens: all models give the same ones.
    const steps = await Promise.all(readers.map(({ blocks }) => blocks.next()));
    if (steps.some(({ done }) => done)) break;
    const { rows } = steps[0].value;
    const codes = new Map<PlacedSae, HostCodes>();
    for (const [i, { mine }] of readers.entries()) {
      for (const place of rows > 0 ? mine : []) codes.set(place, await codesOf(place, steps[i].value));
    }
    for (const [i, [a, b]] of pairs.entries()) {
      if (rows > 0) sums[i].add(codes.get(a)!, codes.get(b)!, rows);
    }
    const { packer, counts } = readers[0];
    onProgress?.({ tokens: counts.seen, total: Math.min(wanted, packer.windows) * context });
  }
  return sums.map((sum, i) => {
    const match = sum.finish({ firings });
    refuseSilent(pairs[i][0], match.first, match.tokens, firings);
    refuseSilent(pairs[i][1], match.second, match.tokens, firings);
    return match;
  });
}

async function codesOf({ sae, hook, lm }: PlacedSae, block: LiveBlock): Promise<HostCodes> {
  const { device, spec } = lm.model;
  const x = block.activations[resolveHook(spec, hook)];
  return readCodes(device.scope(() => encode(sae, device.tensor(x, [block.rows, sae.config.dIn]))));
}

function refuseOtherTokenizers([first, ...others]: readonly LanguageModel[]): void {
  const { hash, bosId, eosId } = first.tokenizer;
  for (const { name, tokenizer } of others) {
    if (tokenizer.hash === hash && tokenizer.bosId === bosId && tokenizer.eosId === eosId) continue;
    throw inputError(
      `sae match: ${name} has another tokenizer than ${first.name}, so that their tokens are not the same; compare SAEs of models of one tokenizer`,
    );
  }
}

function refuseTooMany(pairs: SaeMatchOptions["pairs"]): void {
  const bytes = pairs.reduce((n, [a, b]) => n + crossBytes(a.sae.config.features, b.sae.config.features), 0);
  if (bytes <= CROSS_BYTES) return;
  const gib = (n: number): string => (n / 2 ** 30).toFixed(1);
  throw usageError(
    `sae match: the cross products of ${pairs.length} pair${pairs.length === 1 ? "" : "s"} need ${gib(bytes)} GiB (8 bytes for ` +
      `each two features), more than ${gib(CROSS_BYTES)} GiB; compare fewer SAEs at a time, or narrower ones`,
  );
}

function refuseSilent(
  { name }: PlacedSae,
  { compared, alive }: Partners,
  tokens: number,
  firings: number,
): void {
  if (compared > 0) return;
  throw inputError(
    `sae match: no feature of ${name} fired ${firings} times on ${tokens} tokens (${alive} fired at all); read more text ` +
      "(--tokens), lower --firings, or use an SAE that is not dead",
  );
}
