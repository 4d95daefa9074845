/**
 * Reading a feature database. Every call is a query on Parquet files, so that nothing is held in memory but what was asked for.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fromParquet, ParquetSession, quoted } from "../store/index.ts";
import { didYouMean, inputError, usageError } from "../util/index.ts";
import { EXPLANATIONS_FILE, type Explanation, readExplanations } from "./explain/explanations.ts";
import {
  FEATURE_COLUMNS,
  type FeatureIndex,
  readFeatureIndex,
  TABLES,
  type TableName,
  tableFile,
} from "./feature-index.ts";
import { Vocabulary } from "./vocabulary.ts";

export interface TokenWeight {
  readonly token: number;
  /** What the feature's decoder row, at unit norm, adds to this token's logit. */
  readonly weight: number;
}

/** Null where a feature that never fired has no value, or a point does not write to the residual stream. */
export interface Feature {
  readonly id: number;
  /** Tokens on which it fired. */
  readonly firings: number;
  /** Contexts in which it fired. */
  readonly contexts: number;
  /** Share of the measured tokens on which it fired. */
  readonly density: number;
  readonly maxActivation: number;
  /** Over its firings. */
  readonly meanActivation: number | null;
  /** Nats; see `tokenEntropy`. */
  readonly tokenEntropy: number | null;
  /** Mean, over the contexts in which it fired, of the share of tokens on which it did. */
  readonly multiTokenRatio: number | null;
  /** Cosine of the nearest other decoder row. */
  readonly maxDecoderCosine: number | null;
  /** Features with the most similar decoder rows, nearest first. */
  readonly nearest: readonly { readonly id: number; readonly cosine: number }[];
  /** The tokens on which it fired most often. */
  readonly topTokens: readonly { readonly token: number; readonly firings: number }[];
  readonly promoted: readonly TokenWeight[] | null;
  readonly suppressed: readonly TokenWeight[] | null;
  /** Of its values; `counts[i]` are in [i · width, (i + 1) · width). */
  readonly histogram: { readonly counts: readonly number[]; readonly width: number } | null;
}

/** A peak in a context, and the window around it. */
export interface Example {
  readonly feature: number;
  /** 1 for the highest peak; null if it is none of the highest that were kept. */
  readonly top: number | null;
  /** Its middle rank in the sample, ascending by activation, as a share; null if it was not drawn. */
  readonly quantile: number | null;
  readonly context: number;
  /** Of the peak in its context. */
  readonly position: number;
  /** Of the peak in the window. */
  readonly peak: number;
  readonly activation: number;
  readonly tokens: readonly number[];
  /** Of the feature on each token of the window. */
  readonly activations: readonly number[];
}

/** A window chosen without regard to what fires in it. */
export interface Control {
  readonly context: number;
  readonly tokens: readonly number[];
  /** Features that fire in it, ascending. */
  readonly features: readonly number[];
}

const isNumeric = (type: string): boolean => type === "INTEGER" || type === "FLOAT" || type === "DOUBLE";
/** Columns of explanations: the best score that a feature got. */
const SCORE_COLUMNS: readonly string[] = ["detection", "fuzzing"];
/** Columns that features can be sorted and filtered by. */
export const SORT_COLUMNS = Object.entries(FEATURE_COLUMNS)
  .filter(([, type]) => isNumeric(type))
  .map(([name]) => name)
  .concat(SCORE_COLUMNS);

export interface FeatureQuery {
  /** A column with one number a feature; default id. */
  readonly sort?: string;
  readonly descending?: boolean;
  /** Only features between these values, ends included; those without a value are left out. */
  readonly where?: Readonly<Record<string, { readonly min?: number; readonly max?: number }>>;
  /** Only features of which one of these tokens is among those it fires on most, or that it promotes. */
  readonly tokens?: readonly number[];
  /** Only features with an explanation that has these words, in any case. */
  readonly explained?: string;
  readonly limit?: number;
  readonly offset?: number;
}

export type FeatureFilter = Pick<FeatureQuery, "where" | "tokens" | "explained">;

export interface ExampleQuery {
  /** `top`: the highest peaks, highest first; `sample`: those drawn at random, in the same order. Default: both. */
  readonly from?: "top" | "sample";
  /** Only those of the sample above this share of it. */
  readonly aboveQuantile?: number;
  readonly limit?: number;
}

/** Opens a finished database. The caller closes it. */
export async function openFeatureDatabase(folder: string): Promise<FeatureDatabase> {
  const index = readFeatureIndex(folder);
  if (!index) {
    throw inputError(`${folder}: no feature database; make one with sluice features build --out ${folder}`);
  }
  if (!index.complete) {
    throw inputError(`${folder}: this database is not finished; run its sluice features build again`);
  }
  for (const name of TABLES) {
    if (existsSync(join(folder, tableFile(name)))) continue;
    throw inputError(`${folder}: ${tableFile(name)} is missing; copy the folder again, or build it anew`);
  }
  return new FeatureDatabase(folder, index, await ParquetSession.open());
}

export class FeatureDatabase {
  readonly folder: string;
  readonly index: FeatureIndex;
  readonly #parquet: ParquetSession;
  #vocabulary: Vocabulary | undefined;

  constructor(folder: string, index: FeatureIndex, parquet: ParquetSession) {
    this.folder = folder;
    this.index = index;
    this.#parquet = parquet;
  }

  close(): void {
    this.#parquet.close();
  }

  /** One feature; refuses a number that is none. */
  async feature(id: number): Promise<Feature> {
    this.#check(id);
    const [row] = await this.#query("features", `WHERE id = ${id}`);
    if (!row) throw inputError(`${this.folder}: ${tableFile("features")} lacks feature ${id}; build it anew`);
    return featureOf(row);
  }

  async features(query: FeatureQuery = {}): Promise<Feature[]> {
    const { sort = "id", descending = false, limit, offset = 0 } = query;
    const order = `ORDER BY ${column(sort)} ${descending ? "DESC" : "ASC"} NULLS LAST, id`;
    const some = limit === undefined ? "" : `LIMIT ${whole("limit", limit)}`;
    const rows = await this.#parquet.rows<Record<string, unknown>>(
      `SELECT * FROM ${this.#found(query)} ${conditions(query)} ${order} ${some} OFFSET ${whole("offset", offset)}`,
    );
    return rows.map(featureOf);
  }

  /** Only the numbers of the features that a query finds, ascending. */
  async ids(query: FeatureFilter = {}): Promise<number[]> {
    const rows = await this.#parquet.rows<{ id: number }>(
      `SELECT id FROM ${this.#found(query)} ${conditions(query)} ORDER BY id`,
    );
    return rows.map((row) => row.id);
  }

  /** One number of every feature, by id; NaN where it has none. */
  async numbers(name: string): Promise<Float64Array> {
    const rows = await this.#parquet.rows<{ value: number | null }>(
      `SELECT ${column(name)} AS value FROM ${this.#found({ sort: name })} ORDER BY id`,
    );
    return Float64Array.from(rows, ({ value }) => value ?? Number.NaN);
  }

  /** What was said about features by `sluice features explain`; of all features without a list. */
  explanations(features?: readonly number[]): Promise<Explanation[]> {
    return readExplanations(this.folder, this.#parquet, features);
  }

  /** How many features a query finds without its limit. */
  async count(query: FeatureFilter = {}): Promise<number> {
    const [{ n }] = await this.#parquet.rows<{ n: number }>(
      `SELECT count(*)::INTEGER AS n FROM ${this.#found(query)} ${conditions(query)}`,
    );
    return n;
  }

  /** Examples of a feature, highest activation first. */
  async examples(id: number, { from, aboveQuantile, limit }: ExampleQuery = {}): Promise<Example[]> {
    this.#check(id);
    const parts = [`feature = ${id}`];
    if (from === "top") parts.push("top IS NOT NULL");
    if (from === "sample") parts.push("quantile IS NOT NULL");
    if (aboveQuantile !== undefined) parts.push(`quantile > ${Number(aboveQuantile)}`);
    const rows = await this.#query(
      "examples",
      `WHERE ${parts.join(" AND ")} ORDER BY activation DESC, context ${limit === undefined ? "" : `LIMIT ${whole("limit", limit)}`}`,
    );
    return rows as unknown as Example[];
  }

  /** All windows chosen without regard to what fires in them. */
  async controls(): Promise<Control[]> {
    return (await this.#query("controls", "ORDER BY context")) as unknown as Control[];
  }

  /** The tokens' texts; read once. */
  async vocabulary(): Promise<Vocabulary> {
    if (!this.#vocabulary) {
      const rows = await this.#query("tokens", "ORDER BY id");
      this.#vocabulary = new Vocabulary(rows as never);
    }
    return this.#vocabulary;
  }

  #check(id: number): void {
    if (Number.isInteger(id) && id >= 0 && id < this.index.features) return;
    throw usageError(`feature ${id}: there are ${this.index.features}, from 0 to ${this.index.features - 1}`);
  }

  /** The features as the source of a query, with their explanations if it asks for those. */
  #found({ sort, where = {}, explained }: FeatureQuery): string {
    const features = this.#from("features");
    const columns = [...Object.keys(where), sort ?? "id"];
    if (explained === undefined && !columns.some((name) => SCORE_COLUMNS.includes(name))) return features;
    const file = join(this.folder, EXPLANATIONS_FILE);
    if (!existsSync(file)) {
      throw usageError(
        `${this.folder} has no explanations yet; make some with sluice features explain --features ${this.folder}`,
      );
    }
    return `(SELECT features.*, detection, fuzzing, explanations FROM ${features} features LEFT JOIN (
      SELECT feature AS id, max(detection) AS detection, max(fuzzing) AS fuzzing, string_agg(explanation, chr(10)) AS explanations
      FROM ${fromParquet([file])} GROUP BY feature) USING (id))`;
  }

  #from(table: TableName): string {
    return fromParquet([join(this.folder, tableFile(table))]);
  }

  #query(table: TableName, rest: string): Promise<Record<string, unknown>[]> {
    return this.#parquet.rows(`SELECT * FROM ${this.#from(table)} ${rest}`);
  }
}

function column(name: string): string {
  if (!SORT_COLUMNS.includes(name))
    throw usageError(`column "${name}" is unknown${didYouMean(name, SORT_COLUMNS)}`);
  return name;
}

function whole(name: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0)
    throw usageError(`${name}=${value} must be a whole number of at least 0`);
  return value;
}

function conditions({ where = {}, tokens, explained }: FeatureFilter): string {
  const parts: string[] = [];
  for (const [name, { min, max }] of Object.entries(where)) {
    if (min !== undefined) parts.push(`${column(name)} >= ${Number(min)}`);
    if (max !== undefined) parts.push(`${column(name)} <= ${Number(max)}`);
  }
  if (tokens) {
    const list = `[${tokens.map((t) => whole("token", t)).join(", ")}]::INTEGER[]`;
    parts.push(`(list_has_any(top_tokens, ${list}) OR coalesce(list_has_any(promoted, ${list}), false))`);
  }
  if (explained !== undefined)
    parts.push(`contains(lower(explanations), ${quoted(explained.toLowerCase())})`);
  return parts.length > 0 ? `WHERE ${parts.join(" AND ")}` : "";
}

function featureOf(row: Record<string, unknown>): Feature {
  const r = row as Record<keyof typeof FEATURE_COLUMNS, never>;
  const ids: readonly number[] = r.nearest;
  const tokens: readonly number[] = r.top_tokens;
  const weights = (list: readonly number[] | null, values: readonly number[]) =>
    list?.map((token, i) => ({ token, weight: values[i] })) ?? null;
  return {
    id: r.id,
    firings: r.firings,
    contexts: r.contexts,
    density: r.density,
    maxActivation: r.max_activation,
    meanActivation: r.mean_activation,
    tokenEntropy: r.token_entropy,
    multiTokenRatio: r.multi_token_ratio,
    maxDecoderCosine: r.max_decoder_cosine,
    nearest: ids.map((id, i) => ({ id, cosine: r.nearest_cosine[i] })),
    topTokens: tokens.map((token, i) => ({ token, firings: r.top_token_firings[i] })),
    promoted: weights(r.promoted, r.promoted_weight),
    suppressed: weights(r.suppressed, r.suppressed_weight),
    histogram: r.histogram && { counts: r.histogram, width: r.histogram_width },
  };
}
