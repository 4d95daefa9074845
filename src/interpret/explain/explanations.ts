/**
 * The table of explanations beside a feature database: a row for each feature, explainer and settings.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Columns, fromParquet, ParquetSession, type Row } from "../../store/index.ts";
import type { Score } from "./scoring.ts";

export const EXPLANATIONS_FILE = "explanations.parquet";

const SCORE = {
  score: "DOUBLE",
  tpr: "DOUBLE",
  tnr: "DOUBLE",
  positives: "INTEGER",
  negatives: "INTEGER",
  dropped: "INTEGER",
} as const satisfies Record<keyof Score, string>;
const SCORE_NAMES = Object.keys(SCORE) as (keyof Score)[];
const scoreColumns = (kind: string): Columns =>
  Object.fromEntries(
    Object.entries(SCORE).map(([name, type]) => [name === "score" ? kind : `${kind}_${name}`, type]),
  );

export const EXPLANATION_COLUMNS: Columns = {
  feature: "INTEGER",
  explanation: "VARCHAR",
  explainer: "VARCHAR",
  scorer: "VARCHAR",
  settings: "VARCHAR",
  prompt_tokens: "INTEGER",
  completion_tokens: "INTEGER",
  ...scoreColumns("detection"),
  ...scoreColumns("fuzzing"),
};

export interface Explanation {
  readonly feature: number;
  readonly explanation: string;
  /** The model that explained. */
  readonly explainer: string;
  /** The model that was asked for the scores; null without scores. */
  readonly scorer: string | null;
  /** All that decides the questions, as JSON. */
  readonly settings: string;
  /** Of all its questions and answers, as the server counted. */
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Null where it was not asked for. */
  readonly detection: Score | null;
  readonly fuzzing: Score | null;
}

/** All rows, by feature; none where nothing was explained yet. */
export async function readExplanations(
  folder: string,
  parquet: ParquetSession,
  features?: readonly number[],
): Promise<Explanation[]> {
  const file = join(folder, EXPLANATIONS_FILE);
  if (!existsSync(file)) return [];
  const where = features ? `WHERE feature IN (${features.map(Number).join(", ") || "NULL"})` : "";
  const rows = await parquet.rows<Record<string, never>>(
    `SELECT * FROM ${fromParquet([file])} ${where} ORDER BY feature, explainer, settings`,
  );
  return rows.map((row) => ({
    feature: row.feature,
    explanation: row.explanation,
    explainer: row.explainer,
    scorer: row.scorer,
    settings: row.settings,
    promptTokens: row.prompt_tokens,
    completionTokens: row.completion_tokens,
    detection: scoreIn(row, "detection"),
    fuzzing: scoreIn(row, "fuzzing"),
  }));
}

/** Adds rows; those of the same feature, explainer and settings give way. */
export async function addExplanations(folder: string, added: readonly Explanation[]): Promise<void> {
  const parquet = await ParquetSession.open();
  try {
    const keyOf = ({ feature, explainer, settings }: Explanation) =>
      JSON.stringify([feature, explainer, settings]);
    const rows = new Map((await readExplanations(folder, parquet)).map((e) => [keyOf(e), e]));
    for (const explanation of added) rows.set(keyOf(explanation), explanation);
    await parquet.write(join(folder, EXPLANATIONS_FILE), EXPLANATION_COLUMNS, [...rows.values()].map(rowOf), {
      orderBy: "feature, explainer, settings",
    });
  } finally {
    parquet.close();
  }
}

function scoreIn(row: Record<string, never>, kind: string): Score | null {
  if (row[`${kind}_positives`] === null) return null;
  return Object.fromEntries(
    SCORE_NAMES.map((name) => [name, row[name === "score" ? kind : `${kind}_${name}`]]),
  ) as unknown as Score;
}

function rowOf(e: Explanation): Row {
  const scores = [e.detection, e.fuzzing].flatMap((score) =>
    SCORE_NAMES.map((name) => score?.[name] ?? null),
  );
  return [
    e.feature,
    e.explanation,
    e.explainer,
    e.scorer,
    e.settings,
    e.promptTokens,
    e.completionTokens,
    ...scores,
  ];
}
