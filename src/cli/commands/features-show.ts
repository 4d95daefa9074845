/**
 * `sluice features show`: everything a database knows of some features.
 */
import { z } from "zod";
import {
  type Example,
  type Explanation,
  type Feature,
  type FeatureDatabase,
  openFeatureDatabase,
  type Score,
  type Vocabulary,
} from "../../interpret/index.ts";
import { formatCount } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { featuresField, withTexts } from "./features-list.ts";
import { count } from "./shared.ts";

export const featuresShow = defineCommand({
  name: "features show",
  summary: "what a database knows of some features, with the texts they fire on",
  description:
    "Numbers, tokens and neighbours of each feature, then the passages of its highest peaks, and of peaks drawn at random, " +
    "spread over the ranks from the highest to the lowest. «Marks» stand around the tokens on which it fires. --json has all " +
    "examples with the activation on each token.",
  schema: z.object({
    id: z.array(z.number().int().min(0)).min(1).describe("features"),
    features: featuresField,
    examples: count().default(8).describe("passages of each kind to show"),
  }),
  positional: ["id"],
  examples: [
    "sluice features show 17 --features out/features",
    "sluice features show 3 4 5 --features out/features --json",
  ],
  async run({ id, features, examples }) {
    const database = await openFeatureDatabase(features);
    try {
      const vocabulary = await database.vocabulary();
      const found = [];
      for (const one of id) found.push(await describe(database, one, examples));
      return {
        json: {
          features: found.map(({ feature, explanations, all }) => ({
            ...withTexts(feature, vocabulary),
            explanations,
            examples: all.map((e) => ({ ...e, texts: vocabulary.pieces(e.tokens) })),
          })),
        },
        text: found.map((f) => page(f, vocabulary)).join("\n\n"),
      };
    } finally {
      database.close();
    }
  },
});

interface Described {
  readonly feature: Feature;
  readonly explanations: readonly Explanation[];
  readonly all: readonly Example[];
  readonly top: readonly Example[];
  readonly sample: readonly Example[];
}

async function describe(database: FeatureDatabase, id: number, count: number): Promise<Described> {
  const feature = await database.feature(id);
  const all = await database.examples(id);
  const drawn = all.filter((e) => e.quantile !== null);
  const sample = Array.from(
    { length: Math.min(count, drawn.length) },
    (_, i) => drawn[Math.floor(((i + 0.5) * drawn.length) / Math.min(count, drawn.length))],
  );
  const explanations = await database.explanations([id]);
  return { feature, explanations, all, top: all.filter((e) => e.top !== null && e.top <= count), sample };
}

function page({ feature: f, explanations, top, sample }: Described, vocabulary: Vocabulary): string {
  const word = ({ token }: { token: number }) => JSON.stringify(vocabulary.token(token).text);
  const number = (value: number | null) => (value === null ? "–" : value.toPrecision(4));
  const score = (s: Score | null) => (s?.score == null ? "–" : s.score.toFixed(3));
  const lines = [
    `feature ${f.id}`,
    ...explanations.map(
      (e) =>
        `  ${e.explainer}: ${e.explanation} (detection ${score(e.detection)}, fuzzing ${score(e.fuzzing)})`,
    ),
    `  fires on ${(100 * f.density).toPrecision(3)}% of tokens (${formatCount(f.firings)} times in ${formatCount(f.contexts)} contexts), ` +
      `mean ${number(f.meanActivation)}, highest ${number(f.maxActivation)}`,
    `  token entropy ${number(f.tokenEntropy)} nats, multi-token ratio ${number(f.multiTokenRatio)}, largest decoder cosine ${number(f.maxDecoderCosine)}`,
    `  fires on    ${f.topTokens.map((t) => `${word(t)} ${t.firings}`).join(", ")}`,
  ];
  if (f.promoted) lines.push(`  promotes    ${f.promoted.map(word).join(" ")}`);
  if (f.suppressed) lines.push(`  suppresses  ${f.suppressed.map(word).join(" ")}`);
  lines.push(`  nearest     ${f.nearest.map(({ id, cosine }) => `${id} (${cosine.toFixed(2)})`).join(", ")}`);
  const passages = (title: string, list: readonly Example[]) => {
    if (list.length > 0) lines.push(`  ${title}`, ...list.map((e) => `    ${passage(e, vocabulary)}`));
  };
  passages("highest peaks", top);
  passages("peaks drawn at random, by rank", sample);
  return lines.join("\n");
}

function passage(example: Example, vocabulary: Vocabulary): string {
  const texts = vocabulary.pieces(example.tokens);
  const marked = texts.map((text, i) =>
    example.activations[i] > 0 ? text.replace(/^(\s*)(.*)$/s, "$1«$2»") : text,
  );
  return `${example.activation.toPrecision(3).padStart(6)}  ${marked.join("").replace(/\s+/g, " ").trim()}`;
}
