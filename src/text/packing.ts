/**
 * Documents to training windows of fixed length. The stream is [BOS] document [EOS] after document; window i takes the next T
 * tokens of it and predicts each from those before. Segment ids let attention stay inside a document.
 */

import { usageError } from "../util/errors.ts";
import { permutation } from "./hashing.ts";

/** Tokens with document ends: a `TokenFile`, `MemoryTokens`, or `LazyTokens`. */
export interface TokenSource {
  readonly tokens: number;
  /** End of each document in tokens, [documents]. */
  readonly documentEnds: Float64Array;
  /** `count` ids from `start`. */
  read(start: number, count: number): Int32Array;
  /** Of a text that is read as far as it is needed; `tokens` and `documentEnds` are then those that are there. */
  readonly lazy?: LazyText;
}

/** The rest of a text. */
export interface LazyText {
  /** Whether all of it is there. */
  readonly whole: boolean;
  /** What the text is: stands for its tokens where equal texts are told by them. */
  readonly identity: string;
  /** Tokens among which windows are shuffled: one stretch after the other, whatever is there behind it. */
  readonly shuffled: number;
  /** Reads on, until so many tokens are there in all or the text ends. */
  grow(tokens: number): Promise<void>;
}

/** The first documents of a text that together have `tokens` tokens, or all; of a lazy one, whatever more of it is there. */
export async function firstDocuments(source: TokenSource, tokens: number): Promise<TokenSource> {
  await source.lazy?.grow(tokens);
  const last = source.documentEnds.findIndex((end) => end >= tokens);
  const documentEnds = source.documentEnds.slice(0, last < 0 ? undefined : last + 1);
  return {
    tokens: documentEnds.at(-1) ?? 0,
    documentEnds,
    read: (start, count) => source.read(start, count),
  };
}

/** Documents held in memory. */
export class MemoryTokens implements TokenSource {
  readonly tokens: number;
  readonly documentEnds: Float64Array;
  readonly #ids: Int32Array;

  constructor(documents: readonly ArrayLike<number>[]) {
    const kept = documents.filter((document) => document.length > 0);
    this.documentEnds = new Float64Array(kept.length);
    let end = 0;
    for (const [i, document] of kept.entries()) {
      end += document.length;
      this.documentEnds[i] = end;
    }
    this.tokens = end;
    this.#ids = new Int32Array(end);
    for (const [i, document] of kept.entries())
      this.#ids.set(document, this.documentEnds[i] - document.length);
  }

  read(start: number, count: number): Int32Array {
    return this.#ids.slice(start, start + count);
  }
}

export interface PackOptions {
  /** T: tokens in a window. */
  context: number;
  /** Put before each document; null for none. */
  bos?: number | null;
  /** Put after each document; null for none. */
  eos?: number | null;
  /**
   * A BOS in front of every window, wherever in a document it begins; true by default if there is a BOS. Window w is then BOS
   * and the stream's tokens w·T to w·T + T - 2, and its targets are tokens w·T to w·T + T - 1. Where a document begins at w·T,
   * its own BOS follows the window's: `BOS BOS 2 5 …`, the first with no target. So it is in the first window of every text,
   * and the windows of trained models depend on it.
   */
  windowBos?: boolean;
  /** Windows in a new random order each epoch (default), or in the order of the text. */
  shuffle?: boolean;
  seed?: number;
  /** Give segment ids, and no target across a document's end. */
  segments?: boolean;
}

/** B windows. Rows are windows, columns positions. */
export interface PackedBatch {
  /** [B * T] */
  tokens: Int32Array;
  /** The next token of each position, or -1 where there is nothing to learn: before BOS, [B * T]. */
  targets: Int32Array;
  /** Number of the document within its window from 0, [B * T]; only with `segments`. */
  segments?: Int32Array;
}

/** Where a packer stands; a packer restored to it goes on with the same windows. */
export interface PackerState {
  epoch: number;
  /** Windows taken in this epoch. */
  index: number;
}

/** A text as a model reads it: [BOS] document [EOS] after document. */
export class TokenStream {
  readonly #source: TokenSource;
  readonly #bos: number | null;
  readonly #eos: number | null;
  /** BOS and EOS per document. */
  readonly #extra: number;

  constructor(source: TokenSource, { bos, eos }: { bos: number | null; eos: number | null }) {
    this.#source = source;
    this.#bos = bos;
    this.#eos = eos;
    this.#extra = (bos === null ? 0 : 1) + (eos === null ? 0 : 1);
  }

  /** Tokens in all. */
  get length(): number {
    return this.#source.tokens + this.#extra * this.#source.documentEnds.length;
  }

  /** `count` ids of the stream with BOS and EOS from `from`, and the document of each, counted from the first. */
  read(from: number, count: number): { ids: Int32Array; segment: Int32Array } {
    const bos = this.#bos;
    const eos = this.#eos;
    const ends = this.#source.documentEnds;
    const ids = new Int32Array(count);
    const segment = new Int32Array(count);
    let document = this.#documentAt(from);
    const first = document;
    let filled = 0;
    while (filled < count) {
      const textStart = document === 0 ? 0 : ends[document - 1];
      const length = ends[document] - textStart;
      const begin = textStart + this.#extra * document;
      const lead = bos === null ? 0 : 1;
      let offset = from + filled - begin;
      const runStart = filled;
      if (offset < lead) {
        ids[filled++] = bos as number;
        offset++;
      }
      const text = Math.min(count - filled, length + lead - offset);
      if (text > 0) {
        ids.set(this.#source.read(textStart + offset - lead, text), filled);
        filled += text;
        offset += text;
      }
      if (filled < count && eos !== null && offset === length + lead) ids[filled++] = eos;
      segment.fill(document - first, runStart, filled);
      document++;
    }
    return { ids, segment };
  }

  /** Document that holds position `at` of the stream. */
  #documentAt(at: number): number {
    const ends = this.#source.documentEnds;
    let low = 0;
    let high = ends.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ends[middle] + this.#extra * (middle + 1) <= at) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Windows in the order of the text, to be measured on. */
export interface WindowSource {
  /** T: tokens of a window. */
  readonly context: number;
  readonly windows: number;
  /** `batch` windows from `first`. */
  at(first: number, batch?: number): PackedBatch;
}

/** Windows to be trained on, in an order of its own, epoch after epoch. */
export interface TrainingWindows {
  readonly context: number;
  /** Of one epoch; where the source is lazy, as far as it was read. */
  readonly windows: number;
  /** How many windows an epoch has is not known from the start. */
  readonly lazy: boolean;
  readonly state: PackerState;
  restore(state: PackerState): void;
  /** Makes so many windows of an epoch ready, where not all are from the start. */
  reach(windows: number): Promise<void>;
  /** The next `batch` windows; goes on into the next epoch by itself. */
  next(batch: number): PackedBatch;
}

export interface WindowOrderOptions {
  /** Windows of an epoch, as far as they are known now. */
  readonly windows: () => number;
  /** Whether these are all; default yes. */
  readonly whole?: () => boolean;
  /** Windows that are shuffled among each other; default all. */
  readonly block?: number;
  /** Each epoch has an order of its own; without a seed windows come one after the other. */
  readonly seed?: number;
}

/** Where a packer stands among its windows: it can be restored to any place. */
export class WindowOrder {
  readonly #options: Required<Omit<WindowOrderOptions, "seed">> & Pick<WindowOrderOptions, "seed">;
  #state: PackerState = { epoch: 0, index: 0 };
  #order: { epoch: number; block: number; windows: Uint32Array } | undefined;

  constructor({ windows, whole = () => true, block = Number.POSITIVE_INFINITY, seed }: WindowOrderOptions) {
    this.#options = { windows, whole, block, seed };
  }

  get state(): PackerState {
    return { ...this.#state };
  }

  restore({ epoch, index }: PackerState): void {
    const { windows, whole } = this.#options;
    const counts = [epoch, index].every((n) => Number.isInteger(n) && n >= 0);
    if (!counts || (index > windows() && whole())) {
      throw usageError(
        `packing: state epoch=${epoch}, index=${index} does not fit ${windows()} windows: was the text or the context changed?`,
      );
    }
    this.#state = { epoch, index };
  }

  /** The next window; goes on into the next epoch. */
  next(): number {
    const { windows, whole } = this.#options;
    if (this.#state.index >= windows()) {
      if (!whole()) throw new Error("packing: windows of a lazy text are reached before they are taken");
      this.#state = { epoch: this.#state.epoch + 1, index: 0 };
    }
    const window = this.#windowAt(this.#state);
    this.#state.index++;
    return window;
  }

  #windowAt({ epoch, index }: PackerState): number {
    const { windows, block: size, seed } = this.#options;
    if (seed === undefined) return index;
    const block = Math.floor(index / size);
    const first = block === 0 ? 0 : block * size;
    if (this.#order?.epoch !== epoch || this.#order.block !== block) {
      const count = Math.min(size, windows() - first);
      const own = seed + Math.imul(epoch, 0x9e3779b1) + Math.imul(block, 0x85ebca77);
      this.#order = { epoch, block, windows: permutation(count, own) };
    }
    return first + this.#order.windows[index - first];
  }
}

/** Refuses windows that are not there. */
export function checkWindows(first: number, batch: number, windows: number): void {
  if (first >= 0 && first + batch <= windows) return;
  throw usageError(`packing: windows ${first} to ${first + batch} asked for, but there are ${windows}`);
}

export class TokenPacker implements WindowSource, TrainingWindows {
  readonly context: number;
  readonly #source: TokenSource;
  readonly #stream: TokenStream;
  readonly #options: Required<PackOptions>;
  /** Windows that are shuffled among each other. */
  readonly #block: number;
  readonly #order: WindowOrder;

  constructor(source: TokenSource, options: PackOptions) {
    const { context, bos = null, eos = null, shuffle = true, seed = 0, segments = false } = options;
    const windowBos = options.windowBos ?? bos !== null;
    if (!Number.isInteger(context) || context < 2)
      throw usageError(`packing: context=${context} must be an integer of at least 2`);
    if (windowBos && bos === null) throw usageError("packing: windowBos needs a BOS token");
    this.#source = source;
    this.#stream = new TokenStream(source, { bos, eos });
    this.#options = { context, bos, eos, windowBos, shuffle, seed, segments };
    const together = shuffle ? (source.lazy?.shuffled ?? Number.POSITIVE_INFINITY) : context;
    this.#block = Math.max(1, Math.floor(together / context));
    this.context = context;
    this.#order = new WindowOrder({
      windows: () => this.windows,
      whole: () => this.#whole,
      block: this.#block,
      seed: shuffle ? seed : undefined,
    });
    if (this.#whole) this.#refuseNone();
  }

  /** Windows in one epoch; the text's last, shorter stretch is left out. Of a lazy text, those that can be had now. */
  get windows(): number {
    const { windowBos } = this.#options;
    const { length } = this.#stream;
    const all = Math.max(0, Math.floor((windowBos ? length : length - 1) / this.context));
    return this.#whole ? all : all - (all % this.#block);
  }

  /** Whether the text is read as far as it is needed. */
  get lazy(): boolean {
    return this.#source.lazy !== undefined;
  }

  get #whole(): boolean {
    return this.#source.lazy?.whole ?? true;
  }

  /** Of a lazy text: reads on, until an epoch has so many windows or the text ends. `next` and `at` do not read on. */
  async reach(windows: number): Promise<void> {
    const { lazy } = this.#source;
    const epoch = this.state.epoch > 0 ? Number.POSITIVE_INFINITY : windows; // there is a second one behind the end only
    while (lazy && !lazy.whole && this.windows < epoch) {
      const wanted = Math.ceil(epoch / this.#block) * this.#block * this.context + 1;
      await lazy.grow(this.#source.tokens + Math.max(1, wanted - this.#stream.length));
    }
    if (this.#whole) this.#refuseNone();
  }

  #refuseNone(): void {
    if (this.windows >= 1) return;
    const { tokens, documentEnds } = this.#source;
    throw usageError(
      `packing: the text has ${tokens} tokens in ${documentEnds.length} documents, too few for one window of ${this.context}`,
    );
  }

  get state(): PackerState {
    return this.#order.state;
  }

  restore(state: PackerState): void {
    this.#order.restore(state);
  }

  /** The next `batch` windows; goes on into the next epoch by itself. */
  next(batch: number): PackedBatch {
    const packed = this.#empty(batch);
    for (let row = 0; row < batch; row++) this.#fill(this.#order.next(), packed, row);
    return packed;
  }

  /** Windows `first` to `first + batch` in the order of the text; moves nothing. */
  at(first: number, batch = 1): PackedBatch {
    checkWindows(first, batch, this.windows);
    const packed = this.#empty(batch);
    for (let row = 0; row < batch; row++) this.#fill(first + row, packed, row);
    return packed;
  }

  #empty(batch: number): PackedBatch {
    const size = batch * this.context;
    const packed: PackedBatch = { tokens: new Int32Array(size), targets: new Int32Array(size) };
    if (this.#options.segments) packed.segments = new Int32Array(size);
    return packed;
  }

  #fill(window: number, packed: PackedBatch, row: number): void {
    const { context, bos, windowBos, segments } = this.#options;
    // stream[0 .. context] are the targets' tokens, shifted by one unless BOS is put in front.
    const { ids, segment } = this.#stream.read(window * context, windowBos ? context : context + 1);
    const shift = windowBos ? 0 : 1;
    const start = row * context;
    for (let t = 0; t < context; t++) {
      const here = t - 1 + shift;
      const target = ids[t + shift];
      const crosses = here >= 0 && segment[here] !== segment[t + shift];
      packed.tokens[start + t] = here < 0 ? (bos as number) : ids[here];
      packed.targets[start + t] = target === bos || (segments && crosses) ? -1 : target;
      if (packed.segments) packed.segments[start + t] = segment[Math.max(0, here)];
    }
  }
}
