/**
 * Absorption of an SAE on a language model: tokens of running text, labelled by their own letters, through model and SAE.
 */
import {
  type Absorption,
  type ClassAbsorption,
  encodeRows,
  type Labels,
  measureAbsorption,
  TOKEN_TASKS,
  type TokenTask,
  type TokenTaskName,
} from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { type AnySae, inParts } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import type { Tokenizer, TokenPacker, TokenSource } from "../text/index.ts";
import { inputError, Rng, throwIfAborted, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { liveActivations, rowWidth } from "./live-activations.ts";
import { refuseOtherModel, refuseOtherWidth } from "./sae-eval.ts";

export interface AbsorptionOptions {
  readonly lm: LanguageModel;
  /** SAEs of one point. */
  readonly saes: readonly AnySae[];
  readonly hook: string;
  readonly text: TokenSource;
  readonly task: TokenTaskName;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  /** Places in the text that each token is taken from, at most. */
  readonly places: number;
  /** Tokens of text to read, special ones included, at most. */
  readonly tokens: number;
  /** Share of the vocabulary's tokens that is kept from training. */
  readonly testShare: number;
  /** F1 score that a class's probe needs on these for the class to count. */
  readonly minF1: number;
  /** Different tokens that a class needs on either side. */
  readonly minTokens: number;
  /** Active features per token of a topk SAE; default its own. */
  readonly k?: number;
  /** Of the windows, and of which tokens are kept from training. */
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { samples: number; read: number; total: number }) => void;
  /** Called after each SAE with how many are done. */
  readonly onSae?: (done: number) => void;
}

export interface ClassResult extends ClassAbsorption {
  /** Different tokens to train on and to test on. */
  readonly trainTokens: number;
  readonly testTokens: number;
  /** Whether its probe is good enough for it to count. */
  readonly counted: boolean;
}

export interface AbsorptionResult {
  readonly l2: number;
  /** Different tokens, and places they were taken from. */
  readonly tokens: number;
  readonly samples: number;
  readonly classes: readonly ClassResult[];
  /** Classes with too few tokens to be looked at. */
  readonly tooFew: readonly string[];
  /** Means and standard deviations over the classes that count. */
  readonly fraction: Spread;
  readonly full: Spread;
  readonly features: Spread;
}

export interface Spread {
  readonly mean: number;
  readonly std: number;
}

/** One result for each SAE; each gets the numbers that it would get alone. */
export async function absorptionOnText(options: AbsorptionOptions): Promise<AbsorptionResult[]> {
  const { lm, saes, hook, seed, k, onSae } = options;
  for (const { base } of saes.map(inParts)) {
    refuseOtherModel(base, lm.hash, `this is ${lm.name}`);
    refuseOtherWidth(base, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
    if (base.config.transcoder)
      throw usageError("a transcoder's features do not reconstruct the point it reads");
  }
  const task: TokenTask = TOKEN_TASKS[options.task];
  const memberships = membershipsOf(lm.tokenizer, task);
  const packer = windowsOf(lm, options.text, { context: options.context, shuffle: true, seed });
  const { x, ids } = await collect(options, packer, memberships);
  const heldOut = heldOutTokens(new Set(ids), options.testShare, seed);
  const test = Uint8Array.from(ids, (id) => (heldOut.has(id) ? 1 : 0));
  const distinct = task.classes.map((_, c) => {
    const tokens = [...new Set(ids)].filter((id) => memberships.get(id)?.[c]);
    const held = tokens.filter((id) => heldOut.has(id)).length;
    return { trainTokens: tokens.length - held, testTokens: held };
  });
  const chosen = distinct.flatMap(({ trainTokens, testTokens }, c) =>
    Math.min(trainTokens, testTokens) >= options.minTokens ? [c] : [],
  );
  if (chosen.length === 0) {
    throw inputError(
      `absorption: no class has ${options.minTokens} different tokens to train on and as many to test on in ${ids.length} samples; read more text (--tokens)`,
    );
  }
  const labels: Labels = {
    rows: ids.length,
    classes: chosen.length,
    is: Uint8Array.from(ids.flatMap((id) => chosen.map((c) => memberships.get(id)![c]))),
  };
  const codesOf = (device: Device, sae: AnySae, x: Float32Array) => {
    throwIfAborted(options.signal);
    return encodeRows(device, sae, x, { k });
  };
  const samples = {
    x,
    labels,
    classNames: chosen.map((c) => task.classes[c].name),
    groups: Int32Array.from(ids),
    test,
  };
  const found = await measureAbsorption(lm.model.device, saes, samples, { codesOf, onSae });
  const tooFew = task.classes.filter((_, c) => !chosen.includes(c)).map(({ name }) => name);
  const counts = chosen.map((c) => distinct[c]);
  const about = { tokens: new Set(ids).size, samples: ids.length, tooFew };
  return found.map((one) => summary(one, counts, about, options.minF1));
}

function summary(
  { l2, classes }: Absorption,
  counts: readonly { trainTokens: number; testTokens: number }[],
  about: Pick<AbsorptionResult, "tokens" | "samples" | "tooFew">,
  minF1: number,
): AbsorptionResult {
  const all = classes.map((found, i): ClassResult => {
    const counted = found.probe.f1 >= minF1 && found.truePositives > 0;
    return { ...found, ...counts[i], counted };
  });
  const counted = all.filter((c) => c.counted);
  if (counted.length === 0) {
    const best = all.reduce((a, b) => (b.probe.f1 > a.probe.f1 ? b : a));
    throw inputError(
      `absorption: on tokens that it was not trained on, no class's probe reaches an F1 score of ${minF1} (the best is ${best.name} with ${best.probe.f1.toFixed(2)}), so the model does not hold them as directions; --min-f1 lowers the bar`,
    );
  }
  return {
    l2,
    ...about,
    classes: all,
    fraction: spread(counted.map((c) => c.fraction)),
    full: spread(counted.map((c) => c.full)),
    features: spread(counted.map((c) => c.features.length)),
  };
}

/** Mean and sample standard deviation, 0 for one value. */
function spread(values: readonly number[]): Spread {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / Math.max(1, values.length - 1)) };
}

/** Which classes each token that takes part belongs to. */
function membershipsOf(tokenizer: Tokenizer, task: TokenTask): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const text = tokenTextOf(tokenizer, id);
    if (text === undefined || !task.considers(text)) continue;
    found.set(
      id,
      task.classes.map((c) => (c.has(text) ? 1 : 0)),
    );
  }
  return found;
}

/** A token's characters, with a space for SentencePiece's mark; undefined for special tokens. */
function tokenTextOf(tokenizer: Tokenizer, id: number): string | undefined {
  if (tokenizer.specialIds.has(id)) return undefined;
  const bytes = tokenizer.tokenBytes(id);
  return bytes ? new TextDecoder().decode(bytes) : tokenizer.tokenText(id).replaceAll("▁", " ");
}

/** Activations of tokens that take part, [n, D], at most so many of each. */
async function collect(
  { lm, hook, places, tokens, signal, onProgress }: AbsorptionOptions,
  packer: TokenPacker,
  memberships: ReadonlyMap<number, unknown>,
): Promise<{ x: Float32Array; ids: number[] }> {
  const wanted = Math.ceil(tokens / packer.context);
  await packer.reach(wanted);
  const until = Math.min(packer.windows, wanted);
  const point = resolveHook(lm.model.spec, hook);
  const D = rowWidth(lm.model, hook);
  const taken = new Map<number, number>();
  const rows: Float32Array[] = [];
  const ids: number[] = [];
  const filter = { excludeTokens: lm.tokenizer.specialIds };
  let full = 0;
  for await (const block of liveActivations({
    model: lm.model,
    packer,
    hooks: [point],
    filter,
    until,
    signal,
  })) {
    const x = block.activations[point];
    for (let row = 0; row < block.rows; row++) {
      const id = block.tokens[row];
      const before = taken.get(id) ?? 0;
      if (before >= places || !memberships.has(id)) continue;
      taken.set(id, before + 1);
      if (before + 1 === places) full++;
      rows.push(x.slice(row * D, (row + 1) * D));
      ids.push(id);
    }
    const read = packer.state.epoch === 0 ? packer.state.index : packer.windows;
    onProgress?.({ samples: ids.length, read: read * packer.context, total: until * packer.context });
    if (full === memberships.size) break;
  }
  throwIfAborted(signal);
  const x = new Float32Array(ids.length * D);
  rows.forEach((row, i) => {
    x.set(row, i * D);
  });
  return { x, ids };
}

/** Tokens to test on. */
function heldOutTokens(tokens: ReadonlySet<number>, share: number, seed: number): Set<number> {
  const sorted = [...tokens].sort((a, b) => a - b);
  const shuffled = new Rng(seed).fork("held-out tokens").shuffle(sorted);
  return new Set(shuffled.slice(0, Math.round(share * shuffled.length)));
}
