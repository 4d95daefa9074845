/**
 * Writes activations to disk in shards. A shard is whole or absent, and the index names only shards that are whole, so
 * a harvest that is killed at any moment can be resumed and ends with the same bytes as one that was not.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { fromFloat32, fromInt32, writeSafetensors } from "../formats/index.ts";
import { inputError, removeStaleTemps, usageError, writeJson } from "../util/index.ts";
import {
  type ActivationIndex,
  type ActivationSpec,
  INDEX_FILE,
  newIndex,
  openShard,
  readIndex,
  sha256OfFile,
  shardFile,
  specDifferences,
  specId,
} from "./activation-index.ts";

/** n rows and where they come from. */
export interface ActivationRows {
  /** [n, D] */
  activations: Float32Array;
  /** Token ids, [n]. */
  tokens: Int32Array;
  /** Position of each token in its context, [n]. */
  positions: Int32Array;
  /** Number of the document, [n]. */
  documents: Int32Array;
}

export interface ActivationWriterOptions {
  /** Rows per shard. Default: about 64 MB. Held in memory while a shard fills. */
  shardRows?: number;
}

const DEFAULT_SHARD_BYTES = 64e6;

export class ActivationWriter {
  readonly folder: string;
  readonly shardRows: number;
  readonly #index: ActivationIndex;
  readonly #x: Float32Array;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #documents: Int32Array;
  #held = 0;

  private constructor(folder: string, index: ActivationIndex, shardRows: number) {
    this.folder = folder;
    this.shardRows = shardRows;
    this.#index = index;
    this.#x = new Float32Array(shardRows * index.width);
    this.#tokens = new Int32Array(shardRows);
    this.#positions = new Int32Array(shardRows);
    this.#documents = new Int32Array(shardRows);
  }

  /**
   * Starts a store, or continues one of the same spec. A folder that holds something else is refused.
   * After resuming, `rows` are on disk already and `last` is the place of the last of them: append what follows.
   */
  static async open(
    folder: string,
    spec: ActivationSpec,
    options: ActivationWriterOptions = {},
  ): Promise<ActivationWriter> {
    const fresh = newIndex(spec);
    const perRow = spec.width * (spec.dtype === "f16" ? 2 : 4);
    const shardRows = options.shardRows ?? Math.max(1, Math.floor(DEFAULT_SHARD_BYTES / perRow));
    if (!Number.isInteger(shardRows) || shardRows < 1) {
      throw usageError(`activation store: shardRows=${shardRows} must be a positive whole number`);
    }
    if (!fs.existsSync(path.join(folder, INDEX_FILE))) {
      await writeJson(path.join(folder, INDEX_FILE), fresh);
      return new ActivationWriter(folder, fresh, shardRows);
    }
    const index = readIndex(folder);
    const differences = specDifferences(index, fresh);
    if (differences.length > 0) {
      throw inputError(
        `${folder}: holds other activations (${differences.join("; ")}); choose another folder or delete this one`,
      );
    }
    removeStaleTemps(folder);
    for (let i = 0; i < index.shards.length; i++) openShard(folder, index, i).close();
    return new ActivationWriter(folder, index, shardRows);
  }

  /** Rows in whole shards on disk. */
  get rows(): number {
    return this.#index.rows;
  }

  /** Place of the last row on disk, for a resumed harvest to continue behind. */
  get last(): { document: number; position: number } | undefined {
    return this.#index.shards.at(-1)?.last;
  }

  get complete(): boolean {
    return this.#index.complete;
  }

  /** Remarks stored so far. */
  get notes(): ActivationIndex["notes"] {
    return this.#index.notes;
  }

  /** Copies the rows; writes a shard whenever one is full. */
  async append(rows: ActivationRows): Promise<void> {
    if (this.complete) throw usageError(`${this.folder}: this store is complete; nothing can be appended`);
    const { width } = this.#index;
    const n = rows.tokens.length;
    if (rows.activations.length !== n * width || rows.positions.length !== n || rows.documents.length !== n) {
      throw usageError(
        `${this.folder}: append got ${rows.activations.length} numbers, ${n} tokens, ${rows.positions.length} positions ` +
          `and ${rows.documents.length} documents; with width ${width} they do not agree`,
      );
    }
    for (let from = 0; from < n; ) {
      const count = Math.min(n - from, this.shardRows - this.#held);
      this.#x.set(rows.activations.subarray(from * width, (from + count) * width), this.#held * width);
      this.#tokens.set(rows.tokens.subarray(from, from + count), this.#held);
      this.#positions.set(rows.positions.subarray(from, from + count), this.#held);
      this.#documents.set(rows.documents.subarray(from, from + count), this.#held);
      this.#held += count;
      from += count;
      if (this.#held === this.shardRows) await this.#writeShard();
    }
  }

  /** Writes what is held as a last, shorter shard and marks the store complete. */
  async finish(notes: ActivationIndex["notes"] = {}): Promise<void> {
    if (this.#held > 0) await this.#writeShard();
    Object.assign(this.#index.notes, notes);
    this.#index.complete = true;
    await writeJson(path.join(this.folder, INDEX_FILE), this.#index);
  }

  /** Takes back a store that got no row on disk: its index, and the folder if nothing else is in it. */
  discardEmpty(): void {
    if (this.#index.rows > 0) return;
    fs.rmSync(path.join(this.folder, INDEX_FILE), { force: true });
    if (fs.readdirSync(this.folder).length === 0) fs.rmdirSync(this.folder);
  }

  async #writeShard(): Promise<void> {
    const index = this.#index;
    const n = this.#held;
    const number = index.shards.length;
    const name = shardFile(number);
    const file = path.join(this.folder, name);
    await writeSafetensors(
      file,
      {
        activations: {
          dtype: index.dtype,
          shape: [n, index.width],
          load: () => fromFloat32(this.#x.subarray(0, n * index.width), [n, index.width], index.dtype),
        },
        tokens: fromInt32(this.#tokens.subarray(0, n)),
        positions: fromInt32(this.#positions.subarray(0, n)),
        documents: fromInt32(this.#documents.subarray(0, n)),
      },
      { sluice_store: specId(index), shard: String(number), hook: index.hook },
    );
    index.shards.push({
      file: name,
      rows: n,
      bytes: fs.statSync(file).size,
      sha256: await sha256OfFile(file),
      last: { document: this.#documents[n - 1], position: this.#positions[n - 1] },
    });
    index.rows += n;
    this.#held = 0;
    await writeJson(path.join(this.folder, INDEX_FILE), index);
  }
}
