/**
 * An n-gram language model, the yardstick of a trained one: interpolated, modified Kneser-Ney smoothing (Kneser & Ney 1995;
 * Chen & Goodman 1998). History runs on over documents' ends, as in a window of the trained model, with EOS and BOS between.
 * p(w | h) = max(c(hw) - D(c), 0) / c(h·) + γ(h) p(w | h'), where lower orders count the distinct words before (not occurrences).
 * Kept as sorted arrays of packed n-grams: about 16 bytes a training token, at most 24 while building.
 */
import type { TokenPacker } from "../text/index.ts";
import { inputError, throwIfAborted, usageError } from "../util/index.ts";

/** n-grams of one order, ascending; a key holds its tokens in equal bit fields, the oldest highest. */
interface Order {
  /** Low and high words of the 64-bit keys: [2 · unique]. */
  readonly words: Uint32Array;
  readonly counts: Uint32Array;
  /** D(1), D(2), D(3 and more). */
  readonly discounts: readonly [number, number, number];
}

export interface NgramOptions {
  /** Longest n-gram; 5 by default. Tokens of `order` must fit into 64 bits. */
  readonly order?: number;
  readonly vocabSize: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (stage: { order: number; ngrams: number }) => void;
}

export class NgramModel {
  readonly order: number;
  readonly vocabSize: number;
  readonly #bits: number;
  /** Order n at index n - 1. */
  readonly #orders: readonly Order[];
  readonly #unigrams: Float64Array;

  constructor(orders: readonly Order[], vocabSize: number) {
    this.order = orders.length;
    this.vocabSize = vocabSize;
    this.#bits = bitsOf(vocabSize);
    this.#orders = orders;
    this.#unigrams = unigramProbabilities(orders[0], vocabSize);
  }

  /** Distinct n-grams of each order, from 1. */
  get sizes(): number[] {
    return this.#orders.map(({ counts }) => counts.length);
  }

  /** Probability of `ids[at]` after the tokens before it. */
  probability(ids: ArrayLike<number>, at: number): number {
    let p = this.#unigrams[ids[at]];
    for (let n = 2; n <= Math.min(this.order, at + 1); n++) {
      const next = this.#interpolate(this.#orders[n - 1], ids, at, n, p);
      if (next === undefined) break; // an unseen context has no longer ones
      p = next;
    }
    return p;
  }

  #interpolate(
    { words, counts, discounts }: Order,
    ids: ArrayLike<number>,
    at: number,
    n: number,
    lower: number,
  ): number | undefined {
    const mask = 2 ** this.#bits - 1;
    const [high, low] = pack(ids, at - n + 1, n, this.#bits);
    const first = (low & ~mask) >>> 0;
    const start = lowerBound(words, high, first);
    let total = 0;
    let own = 0;
    const kinds = [0, 0, 0]; // successors seen once, twice, more often
    for (let i = start; i < counts.length; i++) {
      const word = words[2 * i];
      if (words[2 * i + 1] !== high || (word & ~mask) >>> 0 !== first) break;
      const c = counts[i];
      total += c;
      kinds[Math.min(c, 3) - 1]++;
      if (word === low) own = c;
    }
    if (total === 0) return undefined;
    const kept = own === 0 ? 0 : own - discounts[Math.min(own, 3) - 1];
    const freed = kinds.reduce((sum, k, i) => sum + k * discounts[i], 0);
    return (kept + freed * lower) / total;
  }
}

/** Trains on a stream of tokens, given in pieces that follow one another. */
export function trainNgram(pieces: Iterable<Int32Array>, options: NgramOptions): NgramModel {
  const { order = 5, vocabSize, signal, onProgress } = options;
  const bits = bitsOf(vocabSize);
  if (!(Number.isInteger(order) && order >= 1 && order * bits <= 64)) {
    throw usageError(
      `ngram: order=${order} must be at least 1, and ${order} tokens of ${bits} bits must fit into 64; at most ${Math.floor(64 / bits)} here`,
    );
  }
  let keys = collect(pieces, order, bits, vocabSize);
  const orders: Order[] = [];
  for (let n = order; n >= 1; n--) {
    throwIfAborted(signal);
    const found = countSorted(keys.sort());
    orders.unshift(found);
    onProgress?.({ order: n, ngrams: found.counts.length });
    if (n > 1) keys = withoutOldest(found.words, n, bits);
  }
  return new NgramModel(orders, vocabSize);
}

const bitsOf = (vocabSize: number): number => Math.max(Math.ceil(Math.log2(vocabSize)), 1);

/** Every run of `order` tokens in the stream, packed. */
function collect(
  pieces: Iterable<Int32Array>,
  order: number,
  bits: number,
  vocabSize: number,
): BigUint64Array<ArrayBuffer> {
  const all = [...pieces];
  const total = all.reduce((n, p) => n + p.length, 0);
  if (total < order) throw inputError(`ngram: ${total} tokens are too few for order ${order}`);
  const keys = new BigUint64Array(total - order + 1);
  const words = new Uint32Array(keys.buffer);
  const push = roller(order, bits);
  let seen = 0;
  for (const piece of all) {
    for (const id of piece) {
      if (!(id >= 0 && id < vocabSize))
        throw inputError(`ngram: token ${id} is outside the vocabulary of ${vocabSize}`);
      const [high, low] = push(id);
      const at = ++seen - order;
      if (at < 0) continue;
      words[2 * at] = low;
      words[2 * at + 1] = high;
    }
  }
  return keys;
}

/** Shifts tokens through a field of `count` tokens; the same array is returned each time: high word, low word. */
function roller(count: number, bits: number): (id: number) => [number, number] {
  const width = count * bits;
  const highMask = width >= 64 ? 0xffffffff : width <= 32 ? 0 : 2 ** (width - 32) - 1;
  const lowMask = width >= 32 ? 0xffffffff : 2 ** width - 1;
  const field: [number, number] = [0, 0];
  return (id) => {
    const [high, low] = field;
    field[0] = (((high << bits) | (low >>> (32 - bits))) & highMask) >>> 0;
    field[1] = (((low << bits) | id) & lowMask) >>> 0;
    return field;
  };
}

/** `count` tokens from `start` as high and low word. */
function pack(ids: ArrayLike<number>, start: number, count: number, bits: number): [number, number] {
  const push = roller(count, bits);
  for (let i = 0; i < count - 1; i++) push(ids[start + i]);
  return push(ids[start + count - 1]);
}

/** Distinct keys of a sorted array, how often each occurs, and the discounts that these counts call for. */
function countSorted(keys: BigUint64Array<ArrayBuffer>): Order {
  const words = new Uint32Array(keys.buffer, keys.byteOffset, 2 * keys.length);
  let unique = 0;
  for (let i = 0; i < keys.length; i++) if (i === 0 || !same(words, i, i - 1)) unique++;
  const kept = new Uint32Array(2 * unique);
  const counts = new Uint32Array(unique);
  let at = -1;
  for (let i = 0; i < keys.length; i++) {
    if (i === 0 || !same(words, i, i - 1)) {
      at++;
      kept[2 * at] = words[2 * i];
      kept[2 * at + 1] = words[2 * i + 1];
    }
    counts[at]++;
  }
  return { words: kept, counts, discounts: discountsOf(counts) };
}

const same = (words: Uint32Array, i: number, j: number): boolean =>
  words[2 * i] === words[2 * j] && words[2 * i + 1] === words[2 * j + 1];

/** Each distinct n-gram without its oldest token: how often one occurs is how many tokens stand before it. */
function withoutOldest(words: Uint32Array, n: number, bits: number): BigUint64Array<ArrayBuffer> {
  const width = (n - 1) * bits;
  const highMask = width <= 32 ? 0 : 2 ** (width - 32) - 1;
  const lowMask = width >= 32 ? 0xffffffff : 2 ** width - 1;
  const shorter = Uint32Array.from(words);
  for (let i = 0; i < shorter.length; i += 2) {
    shorter[i] = (shorter[i] & lowMask) >>> 0;
    shorter[i + 1] = (shorter[i + 1] & highMask) >>> 0;
  }
  return new BigUint64Array(shorter.buffer);
}

/**
 * With n_i the n-grams counted i times and Y = n1 / (n1 + 2 n2): D(i) = i - (i + 1) Y n_{i+1} / n_i. Where a small text leaves
 * one of n1 … n4 empty, Y for all; where nothing occurs once, a half.
 */
function discountsOf(counts: Uint32Array): [number, number, number] {
  const n = [0, 0, 0, 0, 0];
  for (const c of counts) if (c < 5) n[c]++;
  const Y = n[1] === 0 ? 0.5 : n[1] / (n[1] + 2 * n[2]);
  if (n.slice(1).includes(0)) return [Y, Y, Y];
  const D = (i: number) => Math.min(Math.max(i - ((i + 1) * Y * n[i + 1]) / n[i], 0), i);
  return [D(1), D(2), D(3)];
}

/** The lowest order, interpolated with the uniform distribution: [V]. */
function unigramProbabilities({ words, counts, discounts }: Order, vocabSize: number): Float64Array {
  let total = 0;
  let freed = 0;
  for (const c of counts) {
    total += c;
    freed += discounts[Math.min(c, 3) - 1];
  }
  const p = new Float64Array(vocabSize).fill(freed / total / vocabSize);
  counts.forEach((c, i) => {
    p[words[2 * i]] += (c - discounts[Math.min(c, 3) - 1]) / total;
  });
  return p;
}

/** First index whose key is at least (high, low). */
function lowerBound(words: Uint32Array, high: number, low: number): number {
  let from = 0;
  let to = words.length / 2;
  while (from < to) {
    const middle = (from + to) >>> 1;
    const h = words[2 * middle + 1];
    if (h < high || (h === high && words[2 * middle] < low)) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** The packer's stream in the order of the text, `windows` windows of it, one array a window. `bos` stands where nothing counts. */
export function* streamOf(
  packer: TokenPacker,
  bos: number | undefined,
  windows: number,
): Generator<Int32Array> {
  for (let w = 0; w < Math.min(windows, packer.windows); w++) yield windowIds(packer, w, bos);
}

/** Tokens that a window predicts, its targets: together with the windows around it they are the text. */
function windowIds(packer: TokenPacker, window: number, bos: number | undefined): Int32Array {
  return packer.at(window).targets.map((t) => (t < 0 ? (bos ?? 0) : t));
}

/** Cross-entropies of a window's targets in nats, with the text before the window as history; NaN where nothing counts. */
export function ngramLosses(
  model: NgramModel,
  packer: TokenPacker,
  window: number,
  bos?: number,
): Float64Array {
  const { targets } = packer.at(window);
  const before = window > 0 ? windowIds(packer, window - 1, bos) : new Int32Array();
  const ids = Int32Array.from([...before, ...windowIds(packer, window, bos)]);
  return Float64Array.from(targets, (t, i) =>
    t < 0 ? Number.NaN : -Math.log(model.probability(ids, before.length + i)),
  );
}
