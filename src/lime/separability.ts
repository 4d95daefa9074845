/**
 * How well a linear probe tells from a layer's states which of a few words stands there (LIMe, arXiv 2502.09245, section 5.2).
 * Differs from the paper, or fills what it leaves open: folds are stratified by word, the probe starts from zeros.
 * n occurrences · B windows of a pass · T tokens of a window · D width.
 */
import type { Transformer } from "../models/index.ts";
import { gatherRows, reshape } from "../tensor/index.ts";
import type { Tokenizer, TokenPacker } from "../text/index.ts";
import { inputError, mean, std, throwIfAborted, usageError } from "../util/index.ts";
import { type CrossValidation, crossValidate } from "./softmax-probe.ts";
import { STATE_KINDS, type StateKind, statePoint } from "./states.ts";

/** The paper's words, and how often it takes each. */
export const SEPARABLE_WORDS = ["is", "are", "was", "were"] as const;
export const OCCURRENCES_PER_WORD = 1668;

/** Tokens of a forward pass, about. */
const PASS = 2048;

/** Ids of words inside a text, with the blank in front where the tokenizer keeps it; refuses those that are not one token. */
export function wordTokens(tokenizer: Tokenizer, words: readonly string[]): Int32Array {
  const blank = words.some((word) => word.trim() === "");
  if (blank || words.length < 2 || new Set(words).size < words.length) {
    throw usageError(
      `separability: ${JSON.stringify(words)}: two or more words were expected, each once and none empty`,
    );
  }
  const before = tokenizer.encode("a").length;
  const ids = words.map((word) => tokenizer.encode(`a ${word}`).subarray(before));
  const broken = words.flatMap((word, i) => {
    const [id] = ids[i];
    if (ids[i].length === 1 && !tokenizer.specialIds.has(id)) return [];
    const parts = Array.from(ids[i], (part) => JSON.stringify(tokenizer.tokenText(part)));
    return [`${JSON.stringify(word)} is ${parts.join(" + ")}`];
  });
  if (broken.length > 0) {
    throw usageError(
      `separability: no single token of this tokenizer: ${broken.join("; ")}; choose words that are, with --words`,
    );
  }
  const found = Int32Array.from(ids, ([id]) => id);
  if (new Set(found).size < words.length) {
    const same = words.filter((_, i) => found.filter((id) => id === found[i]).length > 1);
    throw usageError(
      `separability: ${same.join(" and ")} are the same token; choose other words with --words`,
    );
  }
  return found;
}

/** Where a word stands; `window` counts those of `Occurrences`, `word` the words looked for. */
export interface Place {
  readonly window: number;
  readonly position: number;
  readonly word: number;
}

export interface Occurrences {
  /** Windows with at least one of the places, in the order of the text, [T] each. */
  readonly windows: readonly Int32Array[];
  /** As many of each word, in the order of the text. */
  readonly places: readonly Place[];
  readonly perWord: number;
}

export interface OccurrenceOptions {
  /** Most occurrences of a word; default the paper's. */
  readonly perWord?: number;
  /** Fewest, below which the text is refused; default 1. */
  readonly least?: number;
  /** What messages call the words; default their ids. */
  readonly names?: readonly string[];
  readonly signal?: AbortSignal;
}

/**
 * As many places of each word as there are of the rarest, but at most `perWord`, evenly spread over all that there are. Of a text
 * that is read as far as needed, windows are looked at until there are enough.
 */
export async function findOccurrences(
  packer: Pick<TokenPacker, "windows" | "at" | "reach">,
  words: Int32Array,
  { perWord = OCCURRENCES_PER_WORD, least = 1, names, signal }: OccurrenceOptions = {},
): Promise<Occurrences> {
  if (perWord < least)
    throw usageError(`separability: perWord=${perWord}, but at least ${least} of each word are needed`);
  const all = Array.from(words, (): Place[] => []);
  const rarest = () => Math.min(...all.map((places) => places.length));
  for (let seen = 0; rarest() < perWord; ) {
    throwIfAborted(signal);
    await packer.reach(Math.max(64, 2 * seen));
    const { windows } = packer;
    if (windows === seen) break;
    for (; seen < windows; seen++) {
      packer.at(seen).tokens.forEach((id, position) => {
        const word = words.indexOf(id);
        if (word >= 0) all[word].push({ window: seen, position, word });
      });
    }
  }
  const count = Math.min(perWord, rarest());
  if (count < least) {
    const few = all.findIndex((places) => places.length === count);
    throw inputError(
      `separability: ${JSON.stringify(names?.[few] ?? words[few])} is in the text ${count} times, but ${least} are needed; give more text, or other words with --words`,
    );
  }
  const chosen = all
    .flatMap((places) =>
      Array.from({ length: count }, (_, i) => places[Math.floor((i * places.length) / count)]),
    )
    .sort((a, b) => a.window - b.window || a.position - b.position);
  const numbers = [...new Set(chosen.map(({ window }) => window))];
  const place = new Map(numbers.map((window, i) => [window, i]));
  return {
    windows: numbers.map((window) => packer.at(window).tokens),
    places: chosen.map((p) => ({ ...p, window: place.get(p.window) as number })),
    perWord: count,
  };
}

export interface OccurrenceStates {
  readonly width: number;
  /** [n, D] */
  readonly x: Float32Array;
}

export interface SeparabilityProgress {
  readonly part: "windows" | "probes";
  readonly done: number;
  readonly total: number;
}

/** States at the places, hook point by hook point. No other position's states leave the device. */
export async function occurrenceStates(
  model: Transformer,
  { windows, places }: Pick<Occurrences, "windows" | "places">,
  {
    points,
    signal,
    onProgress,
  }: {
    readonly points: readonly string[];
    readonly signal?: AbortSignal;
    readonly onProgress?: (progress: SeparabilityProgress) => void;
  },
): Promise<Map<string, OccurrenceStates>> {
  const { device } = model;
  const states = new Map<string, OccurrenceStates>();
  const T = windows[0].length;
  const together = Math.max(1, Math.floor(PASS / T));
  for (let first = 0, done = 0; first < windows.length; first += together) {
    throwIfAborted(signal);
    const part = windows.slice(first, first + together);
    const here = places.slice(done).filter(({ window }) => window < first + part.length);
    const found = device.scope(() => {
      const ids = Int32Array.from({ length: part.length * T }, (_, i) => part[Math.floor(i / T)][i % T]);
      const tokens = device.tensor(ids, [part.length, T], "i32"); // [B, T]
      const { captured } = model.forward(tokens, { capture: points, stopEarly: true });
      const rows = here.map(({ window, position }) => (window - first) * T + position);
      const index = device.tensor(rows, [rows.length], "i32");
      return points.map((point) => gatherRows(reshape(captured[point], [part.length * T, -1]), index));
    });
    for (const [i, point] of points.entries()) {
      const width = found[i].shape[1];
      if (!states.has(point)) states.set(point, { width, x: new Float32Array(places.length * width) });
      states.get(point)?.x.set(await found[i].floats(), done * width);
      found[i].dispose();
    }
    done += here.length;
    onProgress?.({ part: "windows", done: first + part.length, total: windows.length });
  }
  return states;
}

/** Accuracy on the folds that the probe has not seen; 1 / words is guessing. */
export interface LayerSeparability {
  readonly mean: number;
  readonly std: number;
  readonly folds: readonly number[];
}

export interface SeparabilityOptions extends CrossValidation {
  readonly onProgress?: (progress: SeparabilityProgress) => void;
}

/** Separability of the words in each layer's states of each kind. Folds and orders are the same for all of them. */
export async function layerSeparability(
  model: Transformer,
  occurrences: Occurrences,
  options: SeparabilityOptions = {},
): Promise<Record<StateKind, LayerSeparability[]>> {
  const { windows, places } = occurrences;
  const pointsOf = (kind: StateKind): string[] =>
    Array.from({ length: model.spec.nLayers }, (_, l) => statePoint(model, kind, l));
  const points = [...new Set(STATE_KINDS.flatMap(pointsOf))];
  const states = await occurrenceStates(model, { windows, places }, { ...options, points });
  const labels = Int32Array.from(places, ({ word }) => word);
  const classes = new Set(labels).size;
  const found = new Map<string, LayerSeparability>();
  for (const [point, samples] of states) {
    const folds = await crossValidate({ ...samples, labels, classes }, options);
    found.set(point, { mean: mean(folds), std: std(folds), folds });
    options.onProgress?.({ part: "probes", done: found.size, total: points.length });
  }
  const of = (kind: StateKind) => pointsOf(kind).map((point) => found.get(point) as LayerSeparability);
  return { values: of("values"), read: of("read"), hidden: of("hidden") };
}
