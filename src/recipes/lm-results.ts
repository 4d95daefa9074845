/**
 * What a language model's card reports: held-out cross-entropy beside an n-gram model's on the same tokens, and samples.
 * Both predict the same targets; the n-gram also sees the text before a window, which the language model does not.
 */
import { generate, heldOutBatches, spreadWindows, type Transformer } from "../models/index.ts";
import type { TokenFile } from "../text/index.ts";
import { std } from "../util/index.ts";

import { type LanguageModel, windowsOf } from "./language-model.ts";
import type { CardLoss, CardSample } from "./lm-card.ts";
import { type NgramModel, ngramLosses, streamOf, trainNgram } from "./ngram.ts";

export interface NgramTraining {
  readonly order: number;
  /** Tokens from the start of the file, BOS and EOS included; rounded down to whole windows. */
  readonly tokens: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (stage: { order: number; ngrams: number }) => void;
}

/** An n-gram model of the first tokens of a file, in the order of the file, and how many those were. */
export function ngramOf(
  lm: Pick<LanguageModel, "model" | "tokenizer">,
  file: TokenFile,
  { order, tokens, signal, onProgress }: NgramTraining,
): { ngram: NgramModel; tokens: number } {
  const packer = windowsOf(lm, file, { shuffle: false });
  const windows = Math.min(Math.max(Math.floor(tokens / packer.context), 1), packer.windows);
  const stream = streamOf(packer, lm.tokenizer.bosId, windows);
  const { vocabSize } = lm.model.spec;
  const ngram = trainNgram(stream, { order, vocabSize, signal, onProgress });
  return { ngram, tokens: windows * packer.context };
}

/** Both models, and a twin of the same tokenizer, on `windows` windows spread over a held-out file. */
export async function compareOn(
  lm: Pick<LanguageModel, "model" | "tokenizer">,
  ngram: NgramModel,
  {
    domain,
    file,
    windows,
    twin,
    signal,
  }: { domain: string; file: TokenFile; windows: number; twin?: LanguageModel; signal?: AbortSignal },
): Promise<CardLoss> {
  const { model, tokenizer } = lm;
  const packer = windowsOf(lm, file, { shuffle: false });
  const chosen = spreadWindows(packer.windows, windows);
  const own: number[] = []; // mean of each window, nats
  let [tokens, bytes, loss, baseline] = [0, 0, 0, 0];
  for await (const scored of scoredWindows(model, packer, { windows, signal })) {
    const ngrams = ngramLosses(ngram, packer, chosen[own.length], tokenizer.bosId);
    for (const { t, target } of scored.targets) {
      baseline += ngrams[t];
      if (!tokenizer.specialIds.has(target)) bytes += tokenizer.tokenBytes(target)?.length ?? 0;
    }
    own.push(scored.sum / scored.targets.length);
    tokens += scored.targets.length;
    loss += scored.sum;
  }
  let other: CardLoss["twin"];
  if (twin) {
    const differences: number[] = [];
    let sum = 0;
    for await (const scored of scoredWindows(twin.model, packer, { windows, signal })) {
      differences.push(own[differences.length] - scored.sum / scored.targets.length);
      sum += scored.sum;
    }
    other = { loss: sum / tokens, standardError: standardErrorOf(differences) };
  }
  return {
    domain,
    tokens,
    loss: loss / tokens,
    standardError: standardErrorOf(own),
    bitsPerByte: loss / Math.LN2 / bytes,
    ngram: baseline / tokens,
    ...(other && { twin: other }),
  };
}

const standardErrorOf = (xs: readonly number[]): number => std(xs) / Math.sqrt(xs.length);

/** What a model makes of each window: where its targets stand, and the sum of their cross-entropies in nats. */
async function* scoredWindows(
  model: Transformer,
  packer: ReturnType<typeof windowsOf>,
  options: { windows: number; signal?: AbortSignal },
): AsyncGenerator<{ targets: { t: number; target: number }[]; sum: number }> {
  const T = packer.context;
  for await (const { targets, losses } of heldOutBatches(model, packer, options)) {
    for (let start = 0; start < targets.length; start += T) {
      const found = Array.from({ length: T }, (_, t) => ({ t, target: targets[start + t] })).filter(
        ({ target }) => target >= 0,
      );
      yield { targets: found, sum: found.reduce((sum, { t }) => sum + losses[start + t], 0) };
    }
  }
}

export interface SampleOptions {
  /** Tokens of each prompt, from the start of the first held-out document. */
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly seed: number;
  readonly temperature: number;
  readonly topP: number;
  readonly signal?: AbortSignal;
}

/** One continuation for each held-out file. */
export async function sampleDomains(
  { model, tokenizer }: Pick<LanguageModel, "model" | "tokenizer">,
  files: readonly { domain: string; file: TokenFile }[],
  { promptTokens, newTokens, seed, temperature, topP, signal }: SampleOptions,
): Promise<CardSample[]> {
  const starts = files.map(({ file }) => file.read(0, Math.min(promptTokens, file.documentEnds[0])));
  const bos = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  const rows = await generate(
    model,
    starts.map((ids) => [...bos, ...ids]),
    { tokenizer, maxNewTokens: newTokens, seed, temperature, topP, signal },
  );
  return files.map(({ domain }, i) => ({
    domain,
    prompt: tokenizer.decode(starts[i]),
    text: rows[i].text ?? "",
  }));
}
