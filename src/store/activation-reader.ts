/**
 * Reads activation stores: in order, at random, or shuffled across all shards with bounded memory.
 *
 * Shuffling: each epoch puts blocks of 128 consecutive rows into a random order, fills a window of `window` rows with them
 * and permutes the window. A store that fits into one window is shuffled perfectly; a larger one is read as windows of
 * random blocks from all shards, where two rows of a block can meet only inside one window.
 */
import * as path from "node:path";
import { type SafetensorsFile, toFloat32, toInt32 } from "../formats/index.ts";
import { inputError, Rng, usageError } from "../util/index.ts";
import {
  type ActivationIndex,
  ANOTHER_COPY,
  openShard,
  readIndex,
  resolveFolder,
  sha256OfFile,
} from "./activation-index.ts";
import { firstNonFinite } from "./row-filter.ts";

/** Rows for training or evaluation. */
export interface ActivationBatch {
  /** [rows, D] */
  x: Float32Array;
  rows: number;
  /** Token ids, [rows], where asked for. */
  tokens?: Int32Array;
}

export interface OpenOptions {
  /** Needed when the folder holds several hook points. */
  hook?: string;
  /** Compare every shard with its checksum (reads all files once). Default true. */
  verify?: boolean;
  /** Accept a store whose harvest has not ended. Default false. */
  allowIncomplete?: boolean;
}

/** Place in a shuffled stream: rows handed out since the start of an epoch. Plain JSON. */
export interface ShuffleState {
  epoch: number;
  row: number;
}

export interface ShuffleOptions {
  /** Rows per batch. */
  batch: number;
  seed: number;
  /** Default 1; Infinity goes on for ever. */
  epochs?: number;
  /** Rows held in memory. Default 262,144. */
  window?: number;
  /** Token ids too. */
  tokens?: boolean;
  /** Continue here; the batches that follow are those of an uninterrupted run. */
  resume?: ShuffleState;
  /** Leave out a last batch that is not full. Default false: every row is handed out once per epoch. */
  dropLast?: boolean;
}

const BLOCK = 128;

export class ActivationStore {
  readonly folder: string;
  readonly index: ActivationIndex;
  readonly #shards: SafetensorsFile[];
  /** First row of each shard, and the total at the end. */
  readonly #starts: number[];

  private constructor(folder: string, index: ActivationIndex, shards: SafetensorsFile[]) {
    this.folder = folder;
    this.index = index;
    this.#shards = shards;
    this.#starts = [0];
    for (const shard of index.shards) this.#starts.push(this.#starts.at(-1)! + shard.rows);
  }

  /** Opens a store and checks every shard against the index; the first that is wrong is named and refused. */
  static async open(folder: string, options: OpenOptions = {}): Promise<ActivationStore> {
    const at = resolveFolder(folder, options.hook);
    const index = readIndex(at);
    if (!index.complete && !options.allowIncomplete) {
      throw inputError(
        `${at}: this harvest has not ended (${index.rows} rows so far); run it again to resume`,
      );
    }
    if (index.rows === 0) throw inputError(`${at}: this store has no rows`);
    const shards: SafetensorsFile[] = [];
    try {
      for (let i = 0; i < index.shards.length; i++) shards.push(openShard(at, index, i));
      if (options.verify ?? true) await verifyChecksums(at, index);
    } catch (error) {
      for (const shard of shards) shard.close();
      throw error;
    }
    return new ActivationStore(at, index, shards);
  }

  get rows(): number {
    return this.index.rows;
  }

  /** D, numbers per row. */
  get width(): number {
    return this.index.width;
  }

  close(): void {
    for (const shard of this.#shards) shard.close();
  }

  /** Rows [first, first + count) into `out` [count, D], across shards. */
  async readRows(
    first: number,
    count: number,
    out: Float32Array = new Float32Array(count * this.width),
  ): Promise<Float32Array> {
    await this.#eachPart(first, count, async (shard, from, n, at) => {
      out.set(toFloat32(await shard.readRows("activations", from, n)), at * this.width);
    });
    return out;
  }

  /** Token ids, positions or document numbers of rows [first, first + count). */
  async readLabels(
    name: "tokens" | "positions" | "documents",
    first = 0,
    count = this.rows - first,
  ): Promise<Int32Array> {
    const out = new Int32Array(count);
    await this.#eachPart(first, count, async (shard, from, n, at) => {
      out.set(toInt32(await shard.readRows(name, from, n)), at);
    });
    return out;
  }

  async #eachPart(
    first: number,
    count: number,
    visit: (shard: SafetensorsFile, from: number, n: number, at: number) => Promise<void>,
  ): Promise<void> {
    if (!(first >= 0 && count >= 0 && first + count <= this.rows)) {
      throw usageError(`${this.folder}: rows ${first}..${first + count} are not within 0..${this.rows}`);
    }
    for (let s = this.#shardOf(first), row = first; row < first + count; s++) {
      const n = Math.min(this.#starts[s + 1], first + count) - row;
      await visit(this.#shards[s], row - this.#starts[s], n, row - first);
      row += n;
    }
  }

  /** As `readRows`, but NaN and infinity are refused by shard, row and dimension. */
  async readFinite(first: number, count: number, out?: Float32Array): Promise<Float32Array> {
    const x = await this.readRows(first, count, out);
    const bad = firstNonFinite(x, this.width);
    if (!bad) return x;
    const row = first + bad.row;
    const s = this.#shardOf(row);
    const file = path.join(this.folder, this.index.shards[s].file);
    throw inputError(
      `${file}: row ${row - this.#starts[s]} (row ${row} of the store) holds ${bad.value} at dimension ${bad.dim}; harvest again`,
    );
  }

  #shardOf(row: number): number {
    let low = 0;
    let high = this.#starts.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#starts[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Batches in stored order; the last may be shorter. `rows` limits how many are read. NaN is refused by its place. */
  async *batches(options: {
    batch: number;
    first?: number;
    rows?: number;
    tokens?: boolean;
  }): AsyncGenerator<ActivationBatch> {
    const { batch, first = 0, tokens = false } = options;
    checkBatch(batch);
    const end = Math.min(this.rows, first + (options.rows ?? Infinity));
    for (let row = first; row < end; row += batch) {
      const n = Math.min(batch, end - row);
      const x = await this.readFinite(row, n);
      yield tokens ? { x, rows: n, tokens: await this.readLabels("tokens", row, n) } : { x, rows: n };
    }
  }

  /** An endless-or-not shuffled stream that can say where it is. */
  shuffled(options: ShuffleOptions): ShuffledBatches {
    return new ShuffledBatches(this, options);
  }
}

function checkBatch(batch: number): void {
  if (!Number.isInteger(batch) || batch < 1)
    throw usageError(`batch=${batch} must be a positive whole number`);
}

async function verifyChecksums(folder: string, index: ActivationIndex): Promise<void> {
  for (const shard of index.shards) {
    const file = path.join(folder, shard.file);
    const found = await sha256OfFile(file);
    if (found !== shard.sha256) {
      throw inputError(
        `${file}: this shard is damaged: sha256 ${found.slice(0, 12)}…, the index says ${shard.sha256.slice(0, 12)}…; ${ANOTHER_COPY}`,
      );
    }
  }
}

export const openActivations = (folder: string, options?: OpenOptions): Promise<ActivationStore> =>
  ActivationStore.open(folder, options);

/** One window: rows in memory and the order in which they are handed out. */
interface Window {
  /** First row of the window within the epoch, and how many rows it has. */
  first: number;
  rows: number;
  order: Int32Array;
}

/** See the head of the file. `state()` may be asked between two batches. */
export class ShuffledBatches implements AsyncIterable<ActivationBatch> {
  readonly #store: ActivationStore;
  readonly #options: Required<Omit<ShuffleOptions, "resume">>;
  #epoch: number;
  #row: number;
  readonly #x: Float32Array;
  readonly #tokens: Int32Array | undefined;
  #window: Window | undefined;
  /** Blocks of the current epoch in reading order. */
  #blocks: { epoch: number; order: Int32Array } | undefined;

  constructor(store: ActivationStore, options: ShuffleOptions) {
    checkBatch(options.batch);
    this.#store = store;
    const window = options.window ?? 262_144;
    if (!Number.isInteger(window) || window < 1)
      throw usageError(`window=${window} must be a positive whole number`);
    const rows = Math.min(Math.ceil(window / BLOCK) * BLOCK, store.rows);
    this.#options = {
      epochs: 1,
      tokens: false,
      dropLast: false,
      ...options,
      window: Math.ceil(window / BLOCK) * BLOCK,
    };
    this.#epoch = options.resume?.epoch ?? 0;
    this.#row = options.resume?.row ?? 0;
    if (this.#row >= store.rows) {
      throw usageError(
        `shuffle: the checkpoint is at row ${this.#row}, but the store has only ${store.rows}`,
      );
    }
    this.#x = new Float32Array(rows * store.width);
    this.#tokens = options.tokens ? new Int32Array(rows) : undefined;
  }

  /** Where the next batch begins. */
  state(): ShuffleState {
    return { epoch: this.#epoch, row: this.#row };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ActivationBatch> {
    for (let batch = await this.next(); batch; batch = await this.next()) yield batch;
  }

  /**
   * The next batch, or undefined at the end. A batch may reach from one epoch into the next. NaN and infinity are refused by
   * their place on disk; after an error `state()` is still that before the batch.
   */
  async next(): Promise<ActivationBatch | undefined> {
    const { epoch, row } = this.state();
    try {
      return await this.#next();
    } catch (error) {
      this.#epoch = epoch;
      this.#row = row;
      this.#window = undefined; // its memory may hold rows of another one
      throw error;
    }
  }

  async #next(): Promise<ActivationBatch | undefined> {
    const { batch, epochs, dropLast } = this.#options;
    const { width, rows: total } = this.#store;
    const left = (epochs - this.#epoch) * total - this.#row;
    const rows = Math.min(batch, left);
    if (rows <= 0 || (dropLast && rows < batch)) return undefined;
    const x = new Float32Array(rows * width);
    const tokens = this.#tokens && new Int32Array(rows);
    for (let done = 0; done < rows; ) {
      const window = await this.#windowAt();
      const from = this.#row - window.first;
      const n = Math.min(rows - done, window.rows - from);
      for (let i = 0; i < n; i++) {
        const r = window.order[from + i];
        x.set(this.#x.subarray(r * width, (r + 1) * width), (done + i) * width);
        if (tokens) tokens[done + i] = this.#tokens![r];
      }
      done += n;
      this.#row += n;
      if (this.#row === total) {
        this.#row = 0;
        this.#epoch++;
        this.#window = undefined;
      }
    }
    return tokens ? { x, rows, tokens } : { x, rows };
  }

  /** Loads the window that holds the next row, unless it is there. The last block of the store may be short. */
  async #windowAt(): Promise<Window> {
    if (this.#window && this.#row < this.#window.first + this.#window.rows) return this.#window;
    const { seed, window: capacity } = this.#options;
    const { rows: total, width } = this.#store;
    const rng = new Rng(seed).fork("shuffle").fork(this.#epoch);
    const count = Math.ceil(total / BLOCK);
    if (this.#blocks?.epoch !== this.#epoch) {
      this.#blocks = { epoch: this.#epoch, order: rng.fork("blocks").permutation(count) };
    }
    const blocks = this.#blocks.order;
    const perWindow = capacity / BLOCK;
    let number = 0;
    let first = 0;
    for (;;) {
      const rows = this.#rowsOf(blocks, number * perWindow, perWindow);
      if (this.#row < first + rows) break;
      first += rows;
      number++;
    }
    let filled = 0;
    for (const block of blocks.subarray(number * perWindow, (number + 1) * perWindow)) {
      const n = Math.min(BLOCK, total - block * BLOCK);
      await this.#store.readFinite(block * BLOCK, n, this.#x.subarray(filled * width, (filled + n) * width));
      if (this.#tokens) this.#tokens.set(await this.#store.readLabels("tokens", block * BLOCK, n), filled);
      filled += n;
    }
    this.#window = { first, rows: filled, order: rng.fork("window").fork(number).permutation(filled) };
    return this.#window;
  }

  #rowsOf(blocks: Int32Array, from: number, count: number): number {
    const total = this.#store.rows;
    let rows = 0;
    for (const block of blocks.subarray(from, from + count)) rows += Math.min(BLOCK, total - block * BLOCK);
    return rows;
  }
}
