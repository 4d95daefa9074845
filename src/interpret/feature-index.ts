/**
 * A feature database on disk: a folder of Parquet files and `index.json`, which names them and says what they were made of.
 * The columns stand here; their meaning in docs/files.md.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Notes } from "../sae/index.ts";
import type { Columns } from "../store/index.ts";
import { inputError, readJson, usageError } from "../util/index.ts";

const KIND = "sluice-features";
/** Raised when a reader of the old columns would go wrong. */
export const FEATURES_SCHEMA = 1;
export const INDEX_FILE = "index.json";

/** One row a feature, also for those that never fired. */
export const FEATURE_COLUMNS = {
  id: "INTEGER",
  firings: "INTEGER",
  contexts: "INTEGER",
  density: "DOUBLE",
  max_activation: "FLOAT",
  mean_activation: "DOUBLE",
  token_entropy: "DOUBLE",
  multi_token_ratio: "DOUBLE",
  max_decoder_cosine: "FLOAT",
  nearest: "INTEGER[]",
  nearest_cosine: "FLOAT[]",
  top_tokens: "INTEGER[]",
  top_token_firings: "INTEGER[]",
  promoted: "INTEGER[]",
  promoted_weight: "FLOAT[]",
  suppressed: "INTEGER[]",
  suppressed_weight: "FLOAT[]",
  histogram: "INTEGER[]",
  histogram_width: "DOUBLE",
} as const satisfies Columns;

/** Sorted by feature, then by activation, highest first. */
export const EXAMPLE_COLUMNS = {
  feature: "INTEGER",
  top: "INTEGER",
  quantile: "DOUBLE",
  context: "INTEGER",
  position: "INTEGER",
  peak: "INTEGER",
  activation: "FLOAT",
  tokens: "INTEGER[]",
  activations: "FLOAT[]",
} as const satisfies Columns;

/** Windows chosen without regard to what fires in them. */
export const CONTROL_COLUMNS = {
  context: "INTEGER",
  position: "INTEGER",
  tokens: "INTEGER[]",
  features: "INTEGER[]",
} as const satisfies Columns;

/** The vocabulary. `bytes` is missing where the tokenizer is not byte-level. */
export const TOKEN_COLUMNS = {
  id: "INTEGER",
  text: "VARCHAR",
  bytes: "BLOB",
  special: "BOOLEAN",
  count: "INTEGER",
} as const satisfies Columns;

export const TABLES = ["features", "examples", "controls", "tokens"] as const;
export type TableName = (typeof TABLES)[number];
export const tableFile = (name: TableName): string => `${name}.parquet`;

export interface FeatureIndex {
  readonly schema: number;
  readonly kind: typeof KIND;
  /** All that decides the contents; plain JSON. */
  readonly settings: Notes;
  /** Of the program that began it. */
  readonly version?: string;
  /** False until all tables are there. */
  readonly complete: boolean;
  /** F */
  readonly features: number;
  /** What was read, at the end: contexts, tokens that were measured, firings per token. */
  readonly contexts?: number;
  readonly tokens?: number;
  readonly l0?: number;
  /** Rows of each table. */
  readonly rows?: Readonly<Record<TableName, number>>;
}

export const newIndex = (fields: Omit<FeatureIndex, "schema" | "kind">): FeatureIndex => ({
  schema: FEATURES_SCHEMA,
  kind: KIND,
  ...fields,
});

/** The index of a folder; undefined where there is none. Refuses another kind or version. */
export function readFeatureIndex(folder: string): FeatureIndex | undefined {
  const file = join(folder, INDEX_FILE);
  if (!existsSync(file)) return undefined;
  const index = readJson(file) as Partial<FeatureIndex> | null;
  if (index?.kind !== KIND || index.settings === undefined) {
    throw inputError(`${file}: not the index of a feature database (sluice features build)`);
  }
  if (index.schema !== FEATURES_SCHEMA) {
    throw inputError(
      `${file}: schema ${index.schema} is not the one of this version (${FEATURES_SCHEMA}); build the database again`,
    );
  }
  return index as FeatureIndex;
}

/** Refuses a folder in which other things stand. */
export function refuseStrangers(folder: string): void {
  if (!existsSync(folder)) return;
  const found = readdirSync(folder).filter((name) => !name.startsWith("."));
  if (found.length === 0) return;
  const some = found.slice(0, 3).join(", ") + (found.length > 3 ? " …" : "");
  throw usageError(`${folder} holds ${some}, but no feature database; choose an empty or a new folder`);
}
