/**
 * Byte-level BPE training (Sennrich et al. 2016) on word counts: the most frequent pair is merged, counts are updated only in
 * the words that hold it, and a heap with lazy updates gives the next pair. Ties go to the pair of lower ids, so that the
 * result depends on nothing but the counts.
 */

import { usageError } from "../util/errors.ts";
import { byteSymbols, splitPattern, wordRegExp } from "./byte-level.ts";
import { PairHeap } from "./pair-heap.ts";

export interface BpeTrainOptions {
  /** Ids in all: special tokens, 256 bytes, merges. */
  vocabSize: number;
  /** Get the first ids, in this order; the first is BOS, the second EOS, the third padding. */
  specialTokens?: readonly string[];
  /** A pair is merged only if it occurs this often; 2 by default. */
  minCount?: number;
  onProgress?: (merges: number, wanted: number) => void;
}

/** A trained vocabulary: ids are special tokens, then bytes 0..255, then merges in order. */
export interface BpeModel {
  specialTokens: readonly string[];
  /** Token strings in the byte alphabet by id; special tokens as they are. */
  vocab: readonly string[];
  /** Pairs of token strings, most frequent first. */
  merges: readonly (readonly [string, string])[];
}

export const defaultSpecialTokens = ["<|bos|>", "<|eos|>", "<|pad|>"] as const;

/** Counts words of texts; memory grows with the number of different words. */
export class WordCounter {
  readonly counts = new Map<string, number>();
  /** UTF-16 units seen. */
  characters = 0;
  readonly #words = wordRegExp(splitPattern);

  add(text: string): void {
    this.characters += text.length;
    for (const word of text.match(this.#words) ?? []) this.counts.set(word, (this.counts.get(word) ?? 0) + 1);
  }
}

/** Trains on the counts of a `WordCounter`. Throws if the vocabulary cannot hold the bytes. */
export function trainBpe(counts: ReadonlyMap<string, number>, options: BpeTrainOptions): BpeModel {
  const { vocabSize, specialTokens = defaultSpecialTokens, minCount = 2, onProgress } = options;
  const base = specialTokens.length + 256;
  if (vocabSize < base) {
    throw usageError(
      `bpe: vocabSize=${vocabSize} is too small for ${specialTokens.length} special tokens and 256 bytes`,
    );
  }
  if (counts.size === 0) throw usageError("bpe: there is no text to train on");

  const vocab = [...specialTokens, ...byteSymbols];
  const merges: [string, string][] = [];
  const table = new PairTable(counts, specialTokens.length);
  while (vocab.length < vocabSize) {
    const best = table.popMostFrequent(minCount);
    if (!best) break; // nothing occurs often enough: the vocabulary stays smaller
    merges.push([vocab[best.left], vocab[best.right]]);
    table.merge(best, vocab.length);
    vocab.push(vocab[best.left] + vocab[best.right]);
    if (merges.length % 256 === 0) onProgress?.(merges.length, vocabSize - base);
  }
  return { specialTokens, vocab, merges };
}

interface Pair {
  left: number;
  right: number;
  count: number;
  /** Words that held the pair when it was counted; some may not any more. */
  words: number[];
}

const keyBase = 2 ** 22;

/** Words as id sequences, with the counts of their adjacent pairs. */
class PairTable {
  readonly #words: number[][] = [];
  readonly #frequency: number[] = [];
  readonly #pairs = new Map<number, Pair>();
  readonly #heap = new PairHeap();

  constructor(counts: ReadonlyMap<string, number>, firstByteId: number) {
    const encoder = new TextEncoder();
    for (const [word, frequency] of counts) {
      const symbols = Array.from(encoder.encode(word), (byte) => byte + firstByteId);
      if (symbols.length < 2) continue;
      const index = this.#words.push(symbols) - 1;
      this.#frequency.push(frequency);
      for (let i = 0; i + 1 < symbols.length; i++) this.#change(symbols[i], symbols[i + 1], frequency, index);
    }
    for (const [key, pair] of this.#pairs) this.#heap.push(pair.count, key);
  }

  /** The most frequent pair, taken out of the table. */
  popMostFrequent(minCount: number): Pair | undefined {
    for (;;) {
      const top = this.#heap.pop();
      if (!top || top.count < minCount) return undefined;
      const pair = this.#pairs.get(top.key);
      if (!pair || pair.count <= 0) continue;
      if (pair.count !== top.count) {
        this.#heap.push(pair.count, top.key);
        continue;
      }
      this.#pairs.delete(top.key);
      return pair;
    }
  }

  /** Replaces the pair by `id` in every word. */
  merge(pair: Pair, id: number): void {
    const grown = new Set<number>();
    for (const index of pair.words) this.#mergeWord(index, pair, id, grown);
    for (const key of grown) this.#heap.push(this.#pairs.get(key)?.count ?? 0, key);
  }

  /** Left to right: each (a, b) becomes id, which turns the pairs (before, a) and (b, after) into (before, id) and (id, after). */
  #mergeWord(index: number, { left, right }: Pair, id: number, grown: Set<number>): void {
    const word = this.#words[index];
    const frequency = this.#frequency[index];
    const merged: number[] = [];
    for (let i = 0; i < word.length; i++) {
      if (word[i] !== left || word[i + 1] !== right) {
        merged.push(word[i]);
        continue;
      }
      if (merged.length > 0) {
        const before = merged[merged.length - 1];
        this.#change(before, left, -frequency, index);
        grown.add(this.#change(before, id, frequency, index));
      }
      if (i + 2 < word.length) {
        const after = word[i + 2];
        this.#change(right, after, -frequency, index);
        grown.add(this.#change(id, after, frequency, index));
      }
      merged.push(id);
      i++;
    }
    this.#words[index] = merged;
  }

  /** Adds to a pair's count and returns its key. */
  #change(left: number, right: number, by: number, word: number): number {
    const key = left * keyBase + right;
    const pair = this.#pairs.get(key);
    if (!pair) {
      if (by > 0) this.#pairs.set(key, { left, right, count: by, words: [word] });
      return key;
    }
    pair.count += by;
    if (by > 0 && pair.words[pair.words.length - 1] !== word) pair.words.push(word);
    return key;
  }
}
