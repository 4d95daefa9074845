/**
 * Building a feature database: counts and examples from one pass over a text, then what can be read off the weights.
 * A folder belongs to its build: whoever opens it with the same settings goes on where the last save was.
 */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Transformer } from "../models/index.ts";
import { differences, type Notes, type Sae } from "../sae/index.ts";
import { fromParquet, ParquetSession, type Row } from "../store/index.ts";
import { removeStaleTemps, throwIfAborted, usageError, writeJson } from "../util/index.ts";
import {
  CONTROL_COLUMNS,
  EXAMPLE_COLUMNS,
  FEATURE_COLUMNS,
  type FeatureIndex,
  INDEX_FILE,
  newIndex,
  readFeatureIndex,
  refuseStrangers,
  TABLES,
  type TableName,
  TOKEN_COLUMNS,
  tableFile,
} from "./feature-index.ts";
import { FeatureScan, type ScanBatch, type ScanOptions } from "./feature-scan.ts";
import { logitEffects, nearestFeatures } from "./logits.ts";
import { tokenEntropy } from "./proxies.ts";
import { ScanFiles } from "./scan-state.ts";

export interface FeatureBuildOptions {
  readonly scan: ScanOptions;
  /** All that decides the contents; plain JSON. Other ones are refused in a folder that holds a build. */
  readonly settings: Notes;
  /** Of the program. */
  readonly version?: string;
  /** Bytes that DuckDB may use before it spills to the folder; default 500 MB. */
  readonly memory?: number;
  /** See `ScanFiles`. */
  readonly keepRows?: number;
}

export interface TokenRow {
  readonly id: number;
  readonly text: string;
  readonly bytes: Uint8Array | null;
  readonly special: boolean;
}

export interface FinishOptions {
  readonly sae: Sae;
  /** Where the decoder writes to its residual stream: then promoted and suppressed tokens are found. */
  readonly model?: Transformer;
  readonly vocabulary: Iterable<TokenRow>;
  readonly signal?: AbortSignal;
  /** Features described so far. */
  readonly onProgress?: (features: number) => void;
}

/** By feature; no entry for one that never fired. */
interface FiredOn {
  /** Over all tokens, [F]. */
  readonly entropies: Float64Array;
  /** The tokens that it fired on most, and how often. */
  readonly tokens: number[][];
  readonly counts: number[][];
}

/** Features described at a time. */
const SLICE = 256;
/** Tokens each way, tokens fired on most, and neighbours. */
const LISTED = 10;

export class FeatureBuild {
  readonly folder: string;
  readonly scan: FeatureScan;
  readonly #parquet: ParquetSession;
  readonly #files: ScanFiles;
  #index: FeatureIndex;

  private constructor(folder: string, index: FeatureIndex, parquet: ParquetSession, files: ScanFiles) {
    this.folder = folder;
    this.#index = index;
    this.#parquet = parquet;
    this.#files = files;
    this.scan = files.scan;
  }

  /** The finished database of a folder, if it has these settings; undefined if there is none yet or it is unfinished. */
  static finished(folder: string, settings: Notes): FeatureIndex | undefined {
    const index = readFeatureIndex(folder);
    if (!index) {
      refuseStrangers(folder);
      return undefined;
    }
    // As it would come back from JSON: undefined fields vanish.
    const differing = differences(index.settings, JSON.parse(JSON.stringify(settings)));
    if (differing.length > 0) {
      throw usageError(
        `${folder} holds ${index.complete ? "a finished" : "an unfinished"} feature database with other settings: ` +
          `${differing.join("; ")}. Choose another folder, or the same settings`,
      );
    }
    return index.complete ? index : undefined;
  }

  /** Begins, or goes on: `scan.contexts` contexts of the text are behind it. The caller holds the folder's lock. */
  static async open(folder: string, options: FeatureBuildOptions): Promise<FeatureBuild> {
    const { settings, version, memory } = options;
    if (FeatureBuild.finished(folder, settings)) throw usageError(`${folder}: this build is finished`);
    removeStaleTemps(folder);
    const index =
      readFeatureIndex(folder) ??
      newIndex({ settings, version, complete: false, features: options.scan.features });
    if (!existsSync(join(folder, INDEX_FILE))) await writeJson(join(folder, INDEX_FILE), index);
    const work = join(folder, "build");
    await rm(join(work, "spill"), { recursive: true, force: true });
    const parquet = await ParquetSession.open({ memory, spill: join(work, "spill") });
    try {
      const scan = new FeatureScan(options.scan);
      const { keepRows } = options;
      return new FeatureBuild(
        folder,
        index,
        parquet,
        new ScanFiles({ folder: join(work, "scan"), scan, parquet, keepRows }),
      );
    } catch (error) {
      parquet.close();
      throw error;
    }
  }

  close(): void {
    this.#parquet.close();
  }

  /** Counts the next contexts, and writes out what memory should not hold. */
  async add(batch: ScanBatch): Promise<void> {
    this.scan.add(batch);
    await this.#files.relieve();
  }

  /** After this, a process that is killed loses nothing. */
  save(): Promise<void> {
    return this.#files.save();
  }

  /** Writes the tables and the index, and removes what the build needed. */
  async finish(options: FinishOptions): Promise<FeatureIndex> {
    await this.save();
    const rows = await this.#writeTables(options);
    const { contexts, measured, counters } = this.scan;
    const firings = counters.firings.reduce((a, b) => a + b, 0);
    this.#index = {
      ...this.#index,
      complete: true,
      contexts,
      tokens: measured,
      l0: measured > 0 ? firings / measured : 0,
      rows,
    };
    await writeJson(join(this.folder, INDEX_FILE), this.#index);
    await rm(join(this.folder, "build"), { recursive: true, force: true });
    return this.#index;
  }

  async #writeTables(options: FinishOptions): Promise<Record<TableName, number>> {
    const file = (name: TableName) => join(this.folder, tableFile(name));
    const parquet = this.#parquet;
    const files = this.#files;
    const examples = Object.keys(EXAMPLE_COLUMNS).join(", ");
    await parquet.copy(
      `SELECT ${examples} FROM ${files.from("examples")} JOIN (${files.chosen()}) USING (feature, context)
       ORDER BY feature, activation DESC, context`,
      file("examples"),
    );
    const controls = Object.keys(CONTROL_COLUMNS).join(", ");
    await parquet.copy(
      `SELECT ${controls} FROM ${files.from("controls")} ORDER BY context`,
      file("controls"),
    );
    const counts = this.scan.counters.tokens;
    await parquet.write(
      file("tokens"),
      TOKEN_COLUMNS,
      map(options.vocabulary, (t) => [t.id, t.text, t.bytes, t.special, counts[t.id]]),
    );
    const firedOn = await this.#tokensFiredOn();
    await parquet.write(file("features"), FEATURE_COLUMNS, this.#featureRows(options, firedOn));
    const rows: Partial<Record<TableName, number>> = {};
    for (const name of TABLES) {
      const [{ n }] = await parquet.rows<{ n: number }>(
        `SELECT count(*)::INTEGER AS n FROM ${fromParquet([file(name)])}`,
      );
      rows[name] = n;
    }
    return rows as Record<TableName, number>;
  }

  async *#featureRows(
    { sae, model, signal, onProgress }: FinishOptions,
    firedOn: FiredOn,
  ): AsyncGenerator<Row> {
    const { features, borders } = this.scan.options;
    const seen = Array.from(this.scan.counters.tokens.keys()).filter(
      (t) => this.scan.counters.tokens[t] > 0 && !borders.has(t),
    );
    for (let from = 0; from < features; from += SLICE) {
      throwIfAborted(signal, "the pass over the text is saved, and the same command goes on from there");
      const ids = Array.from({ length: Math.min(SLICE, features - from) }, (_, i) => from + i);
      const nearest = await nearestFeatures(sae, ids, LISTED);
      const effects =
        model && seen.length > 0
          ? await logitEffects(model, sae, ids, { count: LISTED, among: seen })
          : undefined;
      for (const [n, id] of ids.entries()) {
        const { promoted, suppressed } = effects?.[n] ?? {};
        yield [
          id,
          ...this.#counted(id, firedOn.entropies[id]),
          nearest[n][0]?.cosine ?? null,
          nearest[n].map((f) => f.id),
          nearest[n].map((f) => f.cosine),
          firedOn.tokens[id] ?? [],
          firedOn.counts[id] ?? [],
          promoted?.map((t) => t.token) ?? null,
          promoted?.map((t) => t.weight) ?? null,
          suppressed?.map((t) => t.token) ?? null,
          suppressed?.map((t) => t.weight) ?? null,
          ...this.#histogram(id),
        ];
      }
      onProgress?.(from + ids.length);
    }
  }

  /** From `firings` to `multi_token_ratio`; null where a feature that never fired has no value. */
  #counted(id: number, entropy: number): Row {
    const { firings, contexts, sums, shares, maxima } = this.scan.counters;
    const n = firings[id];
    const density = n / Math.max(1, this.scan.measured);
    if (n === 0) return [0, 0, density, 0, null, null, null];
    return [n, contexts[id], density, maxima[id], sums[id] / n, entropy, shares[id] / contexts[id]];
  }

  #histogram(id: number): Row {
    const read = this.scan.histograms.read(id);
    return read ? [read.counts, read.width] : [null, null];
  }

  /** Reads the merged pairs, feature by feature. */
  async #tokensFiredOn(): Promise<FiredOn> {
    const F = this.scan.options.features;
    const entropies = new Float64Array(F).fill(Number.NaN);
    const firedOn: FiredOn = { entropies, tokens: new Array(F), counts: new Array(F) };
    let feature = -1;
    let all: number[] = [];
    const close = (): void => {
      if (feature >= 0) entropies[feature] = tokenEntropy(all);
    };
    const pairs = this.#parquet.columns(
      `SELECT feature, token, sum(count)::INTEGER AS n FROM ${this.#files.from("pairs")}
       GROUP BY feature, token ORDER BY feature, n DESC, token`,
    );
    for await (const [features, tokens, counts] of pairs as AsyncGenerator<number[][]>) {
      for (let i = 0; i < features.length; i++) {
        if (features[i] !== feature) {
          close();
          feature = features[i];
          all = [];
          firedOn.tokens[feature] = [];
          firedOn.counts[feature] = [];
        }
        all.push(counts[i]);
        if (all.length > LISTED) continue;
        firedOn.tokens[feature].push(tokens[i]);
        firedOn.counts[feature].push(counts[i]);
      }
    }
    close();
    return firedOn;
  }
}

function* map<A, B>(items: Iterable<A>, fn: (item: A) => B): Generator<B> {
  for (const item of items) yield fn(item);
}
