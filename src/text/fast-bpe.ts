/**
 * Byte-level BPE encoder: words by regular expression, each word's ids from a cache, merges by rank. Gives exactly the ids of
 * the reference (`@huggingface/tokenizers`); short words are merged by scanning, long ones with a heap.
 */

import { inputError } from "../util/errors.ts";
import { byteSymbols, tokenBytes, wordRegExp } from "./byte-level.ts";
import { PairHeap } from "./pair-heap.ts";
import type { TokenizerJson } from "./tokenizer-json.ts";

/** Words whose ids are remembered; beyond it the cache starts anew. */
const cacheLimit = 1 << 17;
/** Words longer than this, in bytes, are merged with a heap: O(n log n) rather than O(n^2). */
const scanLimit = 48;
/** Longer words are not remembered. */
const cachedLength = 64;

export class FastBpe {
  readonly #byteIds = new Int32Array(256);
  /** (left, right) as left * vocabSize + right -> rank. */
  readonly #ranks = new Map<number, number>();
  readonly #mergedIds: Int32Array;
  readonly #size: number;
  readonly #words: RegExp;
  readonly #specials: RegExp | undefined;
  readonly #specialIds = new Map<string, number>();
  readonly #cache = new Map<string, Int32Array>();
  readonly #encoder = new TextEncoder();
  #out = new Int32Array(1 << 12);
  #count = 0;

  constructor(json: TokenizerJson, pattern: string) {
    const { vocab, merges = [] } = json.model;
    for (const [byte, symbol] of byteSymbols.entries()) this.#byteIds[byte] = vocab[symbol];
    this.#size = 1 + Object.values(vocab).reduce((most, id) => Math.max(most, id), 0);
    this.#mergedIds = new Int32Array(merges.length);
    for (const [rank, merge] of merges.entries()) {
      const [left, right] = typeof merge === "string" ? merge.split(" ") : merge;
      const ids = [vocab[left], vocab[right], vocab[left + right]];
      if (ids.includes(undefined as never))
        throw inputError(
          `tokenizer.json: merge ${rank} (${left} ${right}) names a token that the vocabulary lacks`,
        );
      this.#ranks.set(ids[0] * this.#size + ids[1], rank);
      this.#mergedIds[rank] = ids[2];
    }
    this.#words = wordRegExp(pattern);
    for (const { content, id } of json.added_tokens ?? []) this.#specialIds.set(content, id);
    const contents = [...this.#specialIds.keys()].sort((a, b) => b.length - a.length);
    if (contents.length > 0) {
      this.#specials = new RegExp(
        contents.map((content) => content.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"),
        "g",
      );
    }
  }

  /** Ids of a text; special tokens in it become their ids unless `plain`. */
  encode(text: string, plain = false): Int32Array {
    this.#count = 0;
    let from = 0;
    if (this.#specials && !plain) {
      for (const match of text.matchAll(this.#specials)) {
        this.#section(text.slice(from, match.index));
        this.#push(this.#specialIds.get(match[0])!);
        from = match.index + match[0].length;
      }
    }
    this.#section(from === 0 ? text : text.slice(from));
    return this.#out.slice(0, this.#count);
  }

  #section(text: string): void {
    const words = this.#words;
    // The words follow one another without gaps, so their ends are all that is needed.
    for (let start = 0; start < text.length; start = words.lastIndex) {
      words.lastIndex = start;
      words.test(text);
      const word = text.slice(start, words.lastIndex);
      let ids = this.#cache.get(word);
      if (!ids) {
        ids = this.#mergeWord(this.#encoder.encode(word));
        if (word.length <= cachedLength) {
          if (this.#cache.size >= cacheLimit) this.#cache.clear();
          this.#cache.set(word, ids);
        }
      }
      if (ids.length === 1) this.#push(ids[0]);
      else for (const id of ids) this.#push(id);
    }
  }

  #push(id: number): void {
    if (this.#count === this.#out.length) {
      const grown = new Int32Array(2 * this.#out.length);
      grown.set(this.#out);
      this.#out = grown;
    }
    this.#out[this.#count++] = id;
  }

  #mergeWord(bytes: Uint8Array): Int32Array {
    const ids = Int32Array.from(bytes, (byte) => this.#byteIds[byte]);
    return ids.length > scanLimit ? this.#mergeByHeap(ids) : this.#mergeByScan(ids);
  }

  /** Merges the lowest rank, leftmost first, until no pair has one. */
  #mergeByScan(ids: Int32Array): Int32Array {
    let length = ids.length;
    for (;;) {
      let best = Number.POSITIVE_INFINITY;
      let at = -1;
      for (let i = 0; i + 1 < length; i++) {
        const rank = this.#ranks.get(ids[i] * this.#size + ids[i + 1]);
        if (rank !== undefined && rank < best) {
          best = rank;
          at = i;
        }
      }
      if (at < 0) return ids.slice(0, length);
      ids[at] = this.#mergedIds[best];
      ids.copyWithin(at + 1, at + 2, length);
      length--;
    }
  }

  /** The same on a linked list: heap entries are (rank, position) and are checked when they come up. */
  #mergeByHeap(ids: Int32Array): Int32Array {
    const length = ids.length;
    const next = Int32Array.from(ids, (_, i) => i + 1);
    const previous = Int32Array.from(ids, (_, i) => i - 1);
    const alive = new Uint8Array(length).fill(1);
    const heap = new PairHeap();
    const rankAt = (i: number): number | undefined =>
      next[i] < length ? this.#ranks.get(ids[i] * this.#size + ids[next[i]]) : undefined;
    const offer = (i: number): void => {
      const rank = rankAt(i);
      if (rank !== undefined) heap.push(-rank, i);
    };
    for (let i = 0; i < length; i++) offer(i);
    for (let top = heap.pop(); top; top = heap.pop()) {
      const i = top.key;
      if (!alive[i] || rankAt(i) !== -top.count) continue;
      const gone = next[i];
      ids[i] = this.#mergedIds[-top.count];
      alive[gone] = 0;
      next[i] = next[gone];
      if (next[i] < length) previous[next[i]] = i;
      if (previous[i] >= 0) offer(previous[i]);
      offer(i);
    }
    return ids.filter((_, i) => alive[i] === 1);
  }
}

/** Bytes of every id: special tokens in UTF-8, the others through the byte alphabet, [vocabSize]. */
export function vocabularyBytes(json: TokenizerJson): (Uint8Array | undefined)[] {
  const table: (Uint8Array | undefined)[] = [];
  for (const [token, id] of Object.entries(json.model.vocab)) table[id] = tokenBytes(token);
  for (const { content, id } of json.added_tokens ?? []) table[id] = new TextEncoder().encode(content);
  return table;
}
