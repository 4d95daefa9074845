/**
 * A feature scan on disk while it runs: `state.safetensors` and the files that its logs were written to. The state names the
 * files that belong to it; others are of a process that was killed, and go. All is decided from the files at the end, so that
 * neither their number nor their order matters.
 */
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  bytesOf,
  type FileDType,
  type NamedArray,
  openSafetensors,
  writeSafetensors,
} from "../formats/index.ts";
import { type Columns, fromParquet, type ParquetSession, type Row } from "../store/index.ts";
import { inputError } from "../util/index.ts";
import { LOG_COLUMNS } from "./example-log.ts";
import { CONTROL_COLUMNS } from "./feature-index.ts";
import type { FeatureScan } from "./feature-scan.ts";

const STATE = "state.safetensors";

/** Tables that the logs become part by part. */
const PARTS = {
  examples: LOG_COLUMNS,
  pairs: { feature: "INTEGER", token: "INTEGER", count: "INTEGER" },
  controls: CONTROL_COLUMNS,
} as const satisfies Record<string, Columns>;
type PartName = keyof typeof PARTS;
const PART_NAMES = ["examples", "pairs", "controls"] as const satisfies readonly PartName[];

interface Part {
  files: string[];
  rows: number;
  /** More rows than this are thinned out. */
  limit: number;
}

/** Plain JSON beside the tensors. */
interface Saved {
  readonly contexts: number;
  readonly measured: number;
  readonly written: number;
  readonly parts: Record<PartName, Part>;
}

export interface ScanFilesOptions {
  readonly folder: string;
  readonly scan: FeatureScan;
  readonly parquet: ParquetSession;
  /** Rows of a log that are left alone, however many of them are superseded; default 4 million. */
  readonly keepRows?: number;
}

export class ScanFiles {
  readonly folder: string;
  readonly scan: FeatureScan;
  readonly #parquet: ParquetSession;
  #parts: Record<PartName, Part>;
  /** Files written so far; numbers their names. */
  #written = 0;

  /** Takes up what the folder holds: the scan goes on behind `scan.contexts`. */
  constructor({ folder, scan, parquet, keepRows = 4e6 }: ScanFilesOptions) {
    this.folder = folder;
    this.scan = scan;
    this.#parquet = parquet;
    const fresh = (): Part => ({ files: [], rows: 0, limit: keepRows });
    this.#parts = { examples: fresh(), pairs: fresh(), controls: fresh() };
    if (existsSync(join(folder, STATE))) this.#restore();
    this.#removeOthers();
  }

  /** Source of a query over all parts of a table; one without rows is an empty table. */
  from(name: PartName): string {
    const { files } = this.#parts[name];
    if (files.length > 0) return fromParquet(files.map((file) => join(this.folder, file)));
    const columns = Object.entries(PARTS[name]).map(([column, type]) => `NULL::${type} AS "${column}"`);
    return `(SELECT ${columns.join(", ")} LIMIT 0)`;
  }

  /** Writes the logs out if they are full. */
  async relieve(): Promise<void> {
    const { log, pairs } = this.scan;
    if (!log.isFull && !pairs.isFull) return;
    await this.#writeLogs();
    if (PART_NAMES.some((name) => this.#parts[name].rows > this.#parts[name].limit)) await this.save();
  }

  /** Writes everything, so that another process can go on from here. */
  async save(): Promise<void> {
    await this.#writeLogs();
    await this.#thinOut("examples", this.keptExamples());
    await this.#thinOut(
      "pairs",
      `SELECT feature, token, CAST(sum(count) AS INTEGER) AS count FROM ${this.from("pairs")} GROUP BY feature, token`,
    );
    const { contexts, measured } = this.scan;
    const saved: Saved = { contexts, measured, written: this.#written, parts: this.#parts };
    await writeSafetensors(join(this.folder, STATE), tensorsOf(this.scan), { state: JSON.stringify(saved) });
    this.#removeOthers();
  }

  /** Rows of the log that are among the highest peaks or in the sample. */
  keptExamples(): string {
    return `SELECT log.* FROM ${this.from("examples")} log SEMI JOIN (${this.chosen()}) USING (feature, context)`;
  }

  /**
   * feature, context, `top` (1 is the highest peak, else null) and `quantile` (of the sample: its middle rank as a share, else
   * null) of every example that is kept.
   */
  chosen(): string {
    const { top, sample } = this.scan.options;
    const rank = (order: string) => `row_number() OVER (PARTITION BY feature ORDER BY ${order}, context)`;
    return `
      WITH ranked AS (
        SELECT feature, context, activation, ${rank("activation DESC")} AS top, ${rank("priority")} AS drawn
        FROM ${this.from("examples")}),
      sampled AS (
        SELECT feature, context, (${rank("activation")} - 0.5) / count(*) OVER (PARTITION BY feature) AS quantile
        FROM ranked WHERE drawn <= ${sample})
      SELECT feature, context, CAST(CASE WHEN top <= ${top} THEN top END AS INTEGER) AS top,
        CAST(quantile AS DOUBLE) AS quantile
      FROM ranked LEFT JOIN sampled USING (feature, context)
      WHERE top <= ${top} OR quantile IS NOT NULL`;
  }

  async #writeLogs(): Promise<void> {
    const { log, pairs, controls } = this.scan;
    const controlRows = controls.map((c) => [c.context, c.position, c.tokens, c.features]);
    await this.#write("examples", log.size, log.rows());
    await this.#write("pairs", pairs.size, pairs.rows());
    await this.#write("controls", controlRows.length, controlRows);
    this.scan.clear();
  }

  async #write(name: PartName, count: number, rows: Iterable<Row>): Promise<void> {
    if (count === 0) return;
    const part = this.#parts[name];
    const file = this.#nextFile(name);
    await this.#parquet.write(join(this.folder, file), PARTS[name], rows);
    part.files.push(file);
    part.rows += count;
  }

  async #thinOut(name: PartName, select: string): Promise<void> {
    const part = this.#parts[name];
    if (part.rows <= part.limit) return;
    const file = this.#nextFile(name);
    await this.#parquet.copy(select, join(this.folder, file));
    const [{ rows }] = await this.#parquet.rows<{ rows: bigint }>(
      `SELECT count(*) AS rows FROM ${fromParquet([join(this.folder, file)])}`,
    );
    part.files = [file];
    part.rows = Number(rows);
    part.limit = Math.max(part.limit, 2 * part.rows);
  }

  #nextFile(name: PartName): string {
    return `${name}-${String(this.#written++).padStart(5, "0")}.parquet`;
  }

  #restore(): void {
    const file = openSafetensors(join(this.folder, STATE));
    try {
      const saved = JSON.parse(file.metadata.state ?? "null") as Saved | null;
      if (!saved) throw inputError(`${file.path}: not the state of a feature scan; delete its folder`);
      for (const [name, array] of Object.entries(tensorsOf(this.scan))) {
        const stored = file.readSync(name);
        if (stored.data.byteLength !== array.data.byteLength) {
          throw inputError(`${file.path}: ${name} has another size than this scan's; delete its folder`);
        }
        array.data.set(stored.data);
      }
      this.scan.contexts = saved.contexts;
      this.scan.measured = saved.measured;
      this.#written = saved.written;
      this.#parts = saved.parts;
    } finally {
      file.close();
    }
  }

  #removeOthers(): void {
    if (!existsSync(this.folder)) return;
    const own = new Set([STATE, ...PART_NAMES.flatMap((name) => this.#parts[name].files)]);
    for (const name of readdirSync(this.folder)) {
      if (!own.has(name)) rmSync(join(this.folder, name), { recursive: true, force: true });
    }
  }
}

const DTYPES: Record<string, FileDType> = {
  Uint32Array: "u32",
  Int32Array: "i32",
  Int16Array: "i16",
  Float32Array: "f32",
  Float64Array: "f64",
};

/** The arrays of a scan, sharing their memory. */
function tensorsOf(scan: FeatureScan): Record<string, NamedArray> {
  const arrays = {
    ...scan.counters,
    histograms: scan.histograms.counts,
    exponents: scan.histograms.exponents,
    top: scan.top.data,
    topFilled: scan.top.filled,
    sample: scan.sample.data,
    sampleFilled: scan.sample.filled,
  };
  return Object.fromEntries(
    Object.entries(arrays).map(([name, array]) => [
      name,
      { dtype: DTYPES[array.constructor.name], shape: [array.length], data: bytesOf(array) },
    ]),
  );
}
