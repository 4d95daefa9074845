/**
 * Parquet files through DuckDB, in memory: a session writes tables, queries files with SQL, and forgets. DuckDB is loaded with
 * the first session; Parquet is linked into it, and nothing is ever fetched.
 */
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import type { DuckDBConnection, DuckDBInstance, DuckDBType, DuckDBValue } from "@duckdb/node-api";
import { commitFile, discard, formatBytes, ioError, SluiceError, tempPath } from "../util/index.ts";

type Scalar = "INTEGER" | "UINTEGER" | "FLOAT" | "DOUBLE" | "VARCHAR" | "BOOLEAN" | "BLOB";
/** `[]`: a list in every row. */
export type ColumnType = Scalar | "INTEGER[]" | "FLOAT[]";
/** Types by name, in the order of the file. */
export type Columns = Readonly<Record<string, ColumnType>>;
/** Values in the order of the columns; lists may be typed arrays. */
export type Row = readonly (number | string | boolean | Uint8Array | ArrayLike<number> | null)[];

export interface ParquetOptions {
  /** Bytes that DuckDB may use before it spills; default 500 MB. */
  readonly memory?: number;
  /** Where it spills, made when needed; without one a query that needs more memory fails. */
  readonly spill?: string;
}

/** Rows of a chunk: DuckDB's own vector size. */
const CHUNK = 2048;
/** Rows of a group within a file: what a reader of a few rows has to unpack. */
const ROW_GROUP = 10 * CHUNK;

type Api = typeof import("@duckdb/node-api");

export class ParquetSession {
  readonly #api: Api;
  readonly #memory: number;
  readonly #instance: DuckDBInstance;
  readonly #connection: DuckDBConnection;
  #tables = 0;

  private constructor(api: Api, instance: DuckDBInstance, connection: DuckDBConnection, memory: number) {
    this.#memory = memory;
    this.#api = api;
    this.#instance = instance;
    this.#connection = connection;
  }

  static async open({ memory = 500e6, spill = "" }: ParquetOptions = {}): Promise<ParquetSession> {
    const api = await loadApi();
    const instance = await api.DuckDBInstance.create(":memory:", {
      memory_limit: `${Math.ceil(memory / 1e6)}MB`,
      temp_directory: spill,
      threads: "1", // sums and row groups do not depend on who came first
      autoinstall_known_extensions: "false",
      autoload_known_extensions: "false",
    });
    return new ParquetSession(api, instance, await instance.connect(), memory);
  }

  close(): void {
    this.#connection.closeSync();
    this.#instance.closeSync();
  }

  /** Rows as objects by column; lists are arrays, missing values null. `$1` in the SQL stands for `values[0]`. */
  async rows<T>(sql: string, values: readonly (number | string)[] = []): Promise<T[]> {
    const reader = await this.#guard(() => this.#connection.runAndReadAll(sql, [...values]));
    return reader.getRowObjectsJS() as T[];
  }

  /** The columns of a result, a few thousand rows at a time. */
  async *columns(sql: string): AsyncGenerator<DuckDBValue[][]> {
    const result = await this.#guard(() => this.#connection.stream(sql));
    for (;;) {
      const chunk = await this.#guard(() => result.fetchChunk());
      if (!chunk || chunk.rowCount === 0) return;
      yield chunk.getColumns();
    }
  }

  /** Writes rows to a file, whole or not at all; returns how many. `orderBy`: columns to sort by. */
  async write(
    path: string,
    columns: Columns,
    rows: Iterable<Row> | AsyncIterable<Row>,
    { orderBy }: { readonly orderBy?: string } = {},
  ): Promise<number> {
    const table = `rows_${this.#tables++}`;
    const fields = Object.entries(columns).map(([name, type]) => `"${name}" ${type}`);
    await this.run(`CREATE TABLE ${table} (${fields.join(", ")})`);
    try {
      const count = await this.#append(table, Object.values(columns), rows);
      await this.copy(`SELECT * FROM ${table}${orderBy ? ` ORDER BY ${orderBy}` : ""}`, path);
      return count;
    } finally {
      await this.run(`DROP TABLE ${table}`);
    }
  }

  /** Writes the result of a query to a file, whole or not at all. */
  async copy(select: string, path: string): Promise<void> {
    const temp = tempPath(path);
    try {
      mkdirSync(dirname(path), { recursive: true });
      const options = `FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE ${ROW_GROUP}`;
      await this.#connection.run(`COPY (${select}) TO ${quoted(temp)} (${options})`);
    } catch (cause) {
      discard(temp);
      throw this.#failure(`write ${path}`, cause);
    }
    await commitFile(temp, path);
  }

  /** A statement without a result. */
  async run(sql: string): Promise<void> {
    await this.#guard(() => this.#connection.run(sql));
  }

  async #append(
    table: string,
    types: readonly ColumnType[],
    rows: Iterable<Row> | AsyncIterable<Row>,
  ): Promise<number> {
    const appender = await this.#connection.createAppender(table);
    const kinds = types.map((type) => this.#typeOf(type));
    let held: DuckDBValue[][] = types.map(() => []);
    let count = 0;
    const flush = (): void => {
      const chunk = this.#api.DuckDBDataChunk.create(kinds);
      chunk.setColumns(held);
      appender.appendDataChunk(chunk);
      held = types.map(() => []);
    };
    for await (const row of rows) {
      types.forEach((type, c) => {
        held[c].push(this.#valueOf(type, row[c]));
      });
      count++;
      if (held[0].length === CHUNK) flush();
    }
    if (held[0].length > 0) flush();
    appender.closeSync();
    return count;
  }

  #typeOf(type: ColumnType): DuckDBType {
    const { LIST, ...api } = this.#api;
    if (type === "INTEGER[]") return LIST(api.INTEGER);
    if (type === "FLOAT[]") return LIST(api.FLOAT);
    return api[type];
  }

  #valueOf(type: ColumnType, value: Row[number]): DuckDBValue {
    if (value === null) return null;
    // A list's items are only indexed and counted, which a typed array allows as well.
    if (type.endsWith("[]")) return this.#api.listValue(value as readonly number[]);
    return type === "BLOB" ? this.#api.blobValue(value as Uint8Array) : (value as DuckDBValue);
  }

  #failure(action: string, cause: unknown): Error {
    const message = (cause as Error).message;
    if (!/out of memory/i.test(message)) return ioError(action, cause);
    return new SluiceError(
      "io",
      `cannot ${action}: DuckDB needs more than the ${formatBytes(this.#memory)} that it may use; allow it more`,
      { cause },
    );
  }

  async #guard<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      throw this.#failure("read or write Parquet", cause);
    }
  }
}

/** A text as an SQL literal. */
export const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`;

/** Files as the source of a query; the columns are those that all of them have. */
export const fromParquet = (files: readonly string[]): string =>
  `read_parquet([${files.map(quoted).join(", ")}])`;

async function loadApi(): Promise<Api> {
  try {
    return await import("@duckdb/node-api");
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0];
    throw new SluiceError(
      "io",
      `Parquet files need DuckDB, which does not load here (${why}); run npm install again on this machine, for ${process.platform} ${process.arch}`,
      { cause },
    );
  }
}
