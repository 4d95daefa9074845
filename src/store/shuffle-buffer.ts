/**
 * A shuffle buffer in memory: rows are pushed in any order and pulled at random without replacement. It is refilled when
 * half empty, so each batch mixes rows of the last half buffer and of all before (as dictionary_learning's buffer does).
 * Exact resume: the rows themselves are saved (`capacity × D × 4` bytes at most), since a buffer that is refilled by halves
 * remembers arbitrarily old rows and could only be replayed from the beginning.
 */
import { fromFloat32, type NamedArray, toFloat32 } from "../formats/index.ts";
import { inputError, Rng, type RngState, usageError } from "../util/index.ts";

/** Default capacity, in rows. */
export const SHUFFLE_CAPACITY = 262_144;

export class ShuffleBuffer {
  readonly width: number;
  readonly capacity: number;
  readonly #rows: Float32Array;
  readonly #rng: Rng;
  #size = 0;

  constructor({ width, capacity = SHUFFLE_CAPACITY, rng }: { width: number; capacity?: number; rng: Rng }) {
    for (const [name, value] of Object.entries({ width, capacity })) {
      if (!Number.isInteger(value) || value < 1) {
        throw usageError(`shuffle buffer: ${name}=${value} must be a positive whole number`);
      }
    }
    this.width = width;
    this.capacity = capacity;
    this.#rng = rng;
    this.#rows = new Float32Array(capacity * width);
  }

  /** Rows held. */
  get size(): number {
    return this.#size;
  }

  /** True when half the rows are gone. */
  get wantsRefill(): boolean {
    return this.#size <= this.capacity / 2;
  }

  /** Takes as many rows of `x` [n, D] as there is room for, beginning with row `from`; returns how many. */
  push(x: Float32Array, from = 0): number {
    const n = Math.min(x.length / this.width - from, this.capacity - this.#size);
    this.#rows.set(x.subarray(from * this.width, (from + n) * this.width), this.#size * this.width);
    this.#size += n;
    return n;
  }

  /** Removes `count` random rows into `out` [count, D] (from row `at`). The gap is filled with the last row. */
  pull(count: number, out: Float32Array = new Float32Array(count * this.width), at = 0): Float32Array {
    if (count > this.#size)
      throw usageError(`shuffle buffer: ${count} rows asked for, ${this.#size} are there`);
    const { width } = this;
    const rows = this.#rows;
    for (let i = 0; i < count; i++) {
      const r = this.#rng.int(this.#size) * width;
      out.set(rows.subarray(r, r + width), (at + i) * width);
      this.#size--;
      const last = this.#size * width;
      if (r !== last) rows.copyWithin(r, last, last + width);
    }
    return out;
  }

  rngState(): RngState {
    return this.#rng.state();
  }

  /** The rows held, [size, D]; shares memory: write it out before the next pull or push. */
  contents(): NamedArray {
    return fromFloat32(this.#rows.subarray(0, this.#size * this.width), [this.#size, this.width]);
  }
}

/** Small part of a shuffled stream's state; plain JSON. The rows are in `tensors()`. */
export interface ShuffledState {
  rng: RngState;
  capacity: number;
  /** Blocks and rows taken from the source so far: restart the source behind them. */
  blocks: number;
  rows: number;
  /** Stopped by the signal while the buffer was being refilled. */
  refilling?: boolean;
}

export interface SourceBlock {
  x: Float32Array;
  rows: number;
}

export interface ShuffledOptions {
  /** Rows per batch. */
  batch: number;
  rng: Rng;
  /** Rows held in memory. */
  capacity?: number;
  /** Hand out a last batch that is not full. Default true. */
  keepLast?: boolean;
  /**
   * When raised, a refill stops after the block at hand, and batches of 0 rows come from then on. The state stays exact, also
   * when the source fails: it is then that before the failed block.
   */
  signal?: AbortSignal;
  /** From `state()` and `tensors()` of the stream to continue; the source must begin behind `state.blocks` blocks. */
  resume?: { state: ShuffledState; tensors: ReadonlyMap<string, NamedArray> | Record<string, NamedArray> };
}

/** A source of blocks, shuffled. Between two batches, `state()` and `tensors()` describe the stream exactly. */
export class ShuffledStream implements AsyncIterable<SourceBlock> {
  readonly #source: AsyncIterator<SourceBlock>;
  readonly #options: ShuffledOptions;
  #buffer: ShuffleBuffer | undefined;
  /** Rows of the block that did not fit. */
  #pending: { x: Float32Array; from: number } | undefined;
  #blocks = 0;
  #rows = 0;
  #ended = false;
  #refilling = false;

  constructor(source: AsyncIterable<SourceBlock>, options: ShuffledOptions) {
    const { batch, capacity = SHUFFLE_CAPACITY } = options;
    if (!Number.isInteger(batch) || batch < 1 || batch > capacity / 2) {
      throw usageError(`shuffle: batch=${batch} must be between 1 and half the capacity (${capacity / 2})`);
    }
    this.#source = source[Symbol.asyncIterator]();
    this.#options = options;
    if (options.resume) this.#restore(options.resume);
  }

  #restore({ state, tensors }: NonNullable<ShuffledOptions["resume"]>): void {
    const map = tensors instanceof Map ? tensors : new Map(Object.entries(tensors));
    const held = map.get("buffer");
    const pending = map.get("pending");
    if (!held || !pending) throw inputError("shuffle: the checkpoint lacks the tensors buffer and pending");
    const { capacity = SHUFFLE_CAPACITY } = this.#options;
    if (state.capacity !== capacity) {
      throw usageError(`shuffle: the checkpoint has capacity ${state.capacity}, not ${capacity}`);
    }
    this.#buffer = new ShuffleBuffer({ width: held.shape[1], capacity, rng: Rng.fromState(state.rng) });
    this.#buffer.push(toFloat32(held));
    if (pending.shape[0] > 0) this.#pending = { x: toFloat32(pending), from: 0 };
    this.#blocks = state.blocks;
    this.#rows = state.rows;
    this.#refilling = state.refilling ?? false;
  }

  state(): ShuffledState {
    const { rng, capacity = SHUFFLE_CAPACITY } = this.#options;
    const at = this.#buffer?.rngState() ?? rng.state();
    const place = { rng: at, capacity, blocks: this.#blocks, rows: this.#rows };
    return this.#refilling ? { ...place, refilling: true } : place;
  }

  /** The rows held: `buffer` [size, D] and `pending` [n, D]. Shares memory: write before the next batch. */
  tensors(): Record<string, NamedArray> {
    const width = this.#buffer?.width ?? 1;
    const rest = this.#pending ? this.#pending.x.subarray(this.#pending.from * width) : new Float32Array(0);
    return {
      buffer: this.#buffer?.contents() ?? fromFloat32(new Float32Array(0), [0, width]),
      pending: fromFloat32(rest, [rest.length / width, width]),
    };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<SourceBlock> {
    try {
      for (let batch = await this.next(); batch; batch = await this.next()) yield batch;
    } finally {
      await this.#source.return?.();
    }
  }

  /** The next batch, or undefined when the source and the buffer are empty. */
  async next(): Promise<SourceBlock | undefined> {
    const { batch, keepLast = true } = this.#options;
    if (this.#refilling || !this.#buffer || this.#buffer.wantsRefill) {
      await this.#refill();
      if (this.#refilling) return { x: new Float32Array(0), rows: 0 };
    }
    const buffer = this.#buffer;
    if (!buffer) return undefined;
    const rows = Math.min(batch, buffer.size);
    if (rows === 0 || (rows < batch && !keepLast)) return undefined;
    return { x: buffer.pull(rows), rows };
  }

  /** Fills the buffer to the brim, or to the end of the source; goes on being `#refilling` when the signal is raised. */
  async #refill(): Promise<void> {
    this.#refilling = true;
    while (!this.#buffer || this.#buffer.size < this.#buffer.capacity) {
      if (this.#options.signal?.aborted) return;
      const block = this.#pending ?? (await this.#take());
      const buffer = this.#buffer;
      if (!block || !buffer) {
        if (this.#ended) break;
        continue; // a block without rows
      }
      const from = block.from + buffer.push(block.x, block.from);
      this.#pending = from * buffer.width < block.x.length ? { x: block.x, from } : undefined;
    }
    this.#refilling = false;
  }

  /** The next block; undefined for one without rows, and at the end. */
  async #take(): Promise<{ x: Float32Array; from: number } | undefined> {
    if (this.#ended) return undefined;
    const { done, value } = await this.#source.next();
    if (done) {
      this.#ended = true;
      return undefined;
    }
    this.#blocks++;
    this.#rows += value.rows;
    if (value.rows === 0) return undefined;
    this.#buffer ??= this.#newBuffer(value.x.length / value.rows);
    return { x: value.x, from: 0 };
  }

  #newBuffer(width: number): ShuffleBuffer {
    const { rng, capacity } = this.#options;
    return new ShuffleBuffer({ width, capacity, rng });
  }
}

/** Batches of random rows of `source`; see ShuffledStream. */
export function shuffled(source: AsyncIterable<SourceBlock>, options: ShuffledOptions): ShuffledStream {
  return new ShuffledStream(source, options);
}
