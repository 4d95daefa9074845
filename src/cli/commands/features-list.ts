/**
 * `sluice features list`: features of a database, sorted and filtered.
 */
import { z } from "zod";
import {
  type Explanation,
  type Feature,
  type FeatureQuery,
  openFeatureDatabase,
  SORT_COLUMNS,
  type Vocabulary,
} from "../../interpret/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { parseNumber } from "../flags.ts";
import { count } from "./shared.ts";

export const featuresField = z.string().describe("folder of `sluice features build`");

const bounds = (which: string) =>
  z
    .array(z.string())
    .default([])
    .describe(`only features with at ${which} this value of a column, as in density=0.001`);

export const featuresList = defineCommand({
  name: "features list",
  summary: "features of a database, sorted and filtered",
  description:
    `Columns to sort and filter by: ${SORT_COLUMNS.join(", ")}. density is the share of tokens on which a feature fires; ` +
    "token_entropy (nats) is 0 for a feature of one token and grows with their number; multi_token_ratio is the mean share of " +
    "a context's tokens on which it fires, where it fires at all; max_decoder_cosine is that of the nearest other decoder row; " +
    "detection and fuzzing are scores of `sluice features explain`.",
  schema: z.object({
    features: featuresField,
    sort: z.string().default("id").describe("column to sort by"),
    descending: z.boolean().default(false).describe("largest first"),
    min: bounds("least"),
    max: bounds("most"),
    token: z
      .array(z.string())
      .optional()
      .describe("only features that fire most often on one of these tokens, or promote it"),
    explained: z.string().optional().describe("only features whose explanation has these words"),
    limit: count().default(20).describe("features to show"),
    offset: z.number().int().min(0).default(0).describe("features to skip first"),
  }),
  examples: [
    "sluice features list --features out/features --sort density --descending",
    "sluice features list --features out/features --sort token_entropy --min firings=100 --max density=0.01",
    "sluice features list --features out/features --token war,peace --json",
  ],
  async run(options) {
    const database = await openFeatureDatabase(options.features);
    try {
      const vocabulary = await database.vocabulary();
      const query: FeatureQuery = {
        ...options,
        where: where(options.min, options.max),
        tokens: options.token?.flatMap((word) => idsOf(vocabulary, word)),
      };
      const [found, total] = [await database.features(query), await database.count(query)];
      const said = await database.explanations(found.map((f) => f.id));
      const explanationsOf = (id: number) => said.filter((e) => e.feature === id);
      return {
        json: {
          total,
          features: found.map((f) => ({ ...withTexts(f, vocabulary), explanations: explanationsOf(f.id) })),
        },
        text: table(found, total, vocabulary, explanationsOf),
      };
    } finally {
      database.close();
    }
  },
});

/** `name=value` as bounds of columns. */
function where(min: readonly string[], max: readonly string[]): FeatureQuery["where"] {
  const found: Record<string, { min?: number; max?: number }> = {};
  for (const [bound, texts] of [
    ["min", min],
    ["max", max],
  ] as const) {
    for (const text of texts) {
      const [name, number = "", more] = text.split("=");
      const value = parseNumber(number);
      if (value === undefined || more !== undefined) {
        throw usageError(`--${bound} ${text}: a column and a number were expected, as in density=0.001`);
      }
      found[name] = { ...found[name], [bound]: value };
    }
  }
  return found;
}

function idsOf(vocabulary: Vocabulary, word: string): number[] {
  const ids = vocabulary.idsOf(word);
  if (ids.length > 0) return ids;
  throw usageError(`--token ${word}: no token of the vocabulary is this word; use a shorter or commoner one`);
}

/** A feature with its tokens as text. */
export function withTexts(feature: Feature, vocabulary: Vocabulary) {
  const text = <T extends { readonly token: number }>(list: readonly T[] | null) =>
    list?.map((entry) => ({ ...entry, text: vocabulary.token(entry.token).text })) ?? null;
  return {
    ...feature,
    topTokens: text(feature.topTokens),
    promoted: text(feature.promoted),
    suppressed: text(feature.suppressed),
  };
}

/** With its scores, if it has any. */
export function briefly({ explanation, detection, fuzzing }: Explanation): string {
  const scores = [detection, fuzzing].flatMap((s) => (s ? [s.score?.toFixed(2) ?? "–"] : []));
  return scores.length > 0 ? `${explanation} (${scores.join(", ")})` : explanation;
}

const show = (value: number | null, digits = 3): string => (value === null ? "–" : value.toPrecision(digits));

function table(
  features: readonly Feature[],
  total: number,
  vocabulary: Vocabulary,
  explanationsOf: (id: number) => readonly Explanation[],
): string {
  const words = (list: readonly { token: number }[] | null) =>
    (list ?? [])
      .slice(0, 4)
      .map(({ token }) => JSON.stringify(vocabulary.token(token).text))
      .join(" ");
  const rows = features.map((f) => [
    String(f.id),
    `${(100 * f.density).toPrecision(3)}%`,
    show(f.maxActivation),
    show(f.tokenEntropy),
    show(f.multiTokenRatio),
    show(f.maxDecoderCosine),
    words(f.topTokens),
    words(f.promoted),
    explanationsOf(f.id).map(briefly).join("; "),
  ]);
  const head = ["id", "density", "max", "entropy", "multi", "cosine", "fires on", "promotes", "explanation"];
  if (rows.every((row) => row[8] === "")) head.pop();
  const widths = head.map((name, c) => Math.max(name.length, ...rows.map((row) => row[c].length)));
  const lines = [head, ...rows].map((row) =>
    row
      .map((cell, c) => (c < 6 ? cell.padStart(widths[c]) : cell.padEnd(widths[c])))
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n${features.length} of ${formatCount(total)} features`;
}
