/**
 * Where activations come from: batches of any size, cut into the loop's own. A live model, shards on disk and an array
 * in a test all look like this.
 */
import type { NamedArray } from "../formats/index.ts";
import { inputError } from "../util/index.ts";
import type { SaeConfig } from "./config.ts";

/**
 * Row-major activations [rows, D]. The memory may be reused once the next batch is asked for. A source that needs long for
 * the next rows may hand out 0 of them when its signal was raised, so that the loop comes to look at the same signal.
 */
export interface ActivationBatch {
  readonly x: Float32Array;
  readonly rows: number;
}

/** A source's position in its own terms: plain JSON and, when it needs them, arrays. */
export interface SourceState {
  readonly json: unknown;
  readonly arrays?: Readonly<Record<string, NamedArray>>;
}

export interface ActivationSource extends AsyncIterable<ActivationBatch> {
  /** The position right after the last batch that was handed out, also when the next one failed. Without it no resume. */
  state?(): SourceState | Promise<SourceState>;
}

/** Opens a source at its start, or where `state` was taken. */
export type OpenSource = (state?: SourceState) => ActivationSource | Promise<ActivationSource>;

interface Chunk {
  readonly x: Float32Array;
  /** First row not yet used. */
  at: number;
  readonly rows: number;
}

/**
 * Where an SAE finds its numbers in the rows of a source: an autoencoder reads `dIn` numbers from `input` on; a transcoder
 * also has its target, `dOut` numbers from `target` on. Several SAEs may read one source.
 */
export interface Columns {
  /** Numbers of a row. */
  readonly width: number;
  readonly input: number;
  readonly target?: number;
}

/** Rows that hold nothing but what this SAE reads and reconstructs. */
export function ownColumns({ dIn, dOut, transcoder }: SaeConfig): Columns {
  return transcoder ? { width: dIn + dOut, input: 0, target: dIn } : { width: dIn, input: 0 };
}

/** Cuts a source into batches of a fixed number of rows. Rows are never dropped or reordered. */
export class Batcher {
  readonly #source: ActivationSource;
  readonly #iterator: AsyncIterator<ActivationBatch>;
  /** Numbers of a row. */
  readonly width: number;
  /** Owned rows first (peeked or restored), then at most one chunk that belongs to the source. */
  readonly #chunks: Chunk[] = [];
  #ended = false;
  /** Rows that came from the source, restored ones included. */
  received = 0;

  /** `pending`: rows that a checkpoint had received but not used. */
  constructor(source: ActivationSource, width: number, pending?: Float32Array) {
    this.#source = source;
    this.#iterator = source[Symbol.asyncIterator]();
    this.width = width;
    if (pending && pending.length > 0) this.#append(pending);
  }

  #append(x: Float32Array): void {
    const rows = x.length / this.width;
    this.#chunks.push({ x, at: 0, rows });
    this.received += rows;
  }

  /** Asks the source for one more batch; false at its end. */
  async #pull(): Promise<boolean> {
    if (this.#ended) return false;
    const { done, value } = await this.#iterator.next();
    if (done) {
      this.#ended = true;
      return false;
    }
    if (value.x.length !== value.rows * this.width) {
      throw inputError(
        `sae: the source gave ${value.x.length} numbers as ${value.rows} rows, but rows are ${this.width} wide`,
      );
    }
    if (value.rows > 0) this.#append(value.x);
    return true;
  }

  /** Rows waiting here, in a copy. */
  pending(): Float32Array {
    const parts = this.#chunks.map((c) => c.x.subarray(c.at * this.width, c.rows * this.width));
    const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
    let at = 0;
    for (const part of parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  /** Up to `rows` of the coming rows, in a copy; they stay to be used. Fewer at the source's end or when `signal` is raised. */
  async peek(rows: number, signal?: AbortSignal): Promise<Float32Array> {
    const owned: Float32Array[] = [];
    let have = 0;
    for (;;) {
      for (const c of this.#chunks.splice(0)) {
        owned.push(c.x.slice(c.at * this.width, c.rows * this.width));
        have += c.rows - c.at;
        this.received -= c.rows - c.at;
      }
      if (have >= rows || signal?.aborted || !(await this.#pull())) break;
    }
    for (const x of owned) this.#append(x);
    return this.pending().subarray(0, Math.min(have, rows) * this.width);
  }

  /** Gives back the batch that was taken last: its rows are the next ones again. */
  unread(x: Float32Array): void {
    this.#chunks.unshift({ x: x.slice(), at: 0, rows: x.length / this.width });
  }

  /**
   * Fills `out` [rows, D]; false when the source has too few left or `signal` was raised. Then, and when the source fails, the
   * rows it had stay pending.
   */
  async fill(out: Float32Array, signal?: AbortSignal): Promise<boolean> {
    const wanted = out.length / this.width;
    let at = 0;
    while (at < wanted) {
      const chunk = this.#chunks[0];
      if (!chunk) {
        let more = false;
        try {
          more = !signal?.aborted && (await this.#pull());
        } finally {
          if (!more && at > 0) this.unread(out.subarray(0, at * this.width));
        }
        if (more) continue;
        return false;
      }
      const take = Math.min(wanted - at, chunk.rows - chunk.at);
      out.set(chunk.x.subarray(chunk.at * this.width, (chunk.at + take) * this.width), at * this.width);
      chunk.at += take;
      at += take;
      if (chunk.at === chunk.rows) this.#chunks.shift();
    }
    return true;
  }

  async state(): Promise<SourceState | undefined> {
    return this.#source.state?.();
  }

  /** Lets the source clean up. */
  async close(): Promise<void> {
    await this.#iterator.return?.();
  }
}
