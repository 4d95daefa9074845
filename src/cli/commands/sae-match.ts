/**
 * `sluice sae match`: which features of one SAE another has too, by what they do on the same text.
 */
import { z } from "zod";
import { type FeatureMatch, type Partners, summarizePartners } from "../../interpret/index.ts";
import { matchOnText, type PlacedSae } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { disposeSae, loadSae } from "../../sae/index.ts";
import { usageError, writeAtomic } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { EXCLUDE_TOKENS } from "./harvest.ts";
import {
  columnsOf,
  count,
  deviceFields,
  modelFields,
  modelHelp,
  TEXTS,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  sae: z.array(z.string()).min(1).describe("SAE folders (SAELens layout)"),
  model: z.string().describe(modelHelp("; the SAEs of --sae belong to it")),
  other: z.array(z.string()).min(1).describe("SAE folders to compare them with"),
  otherModel: z.string().optional().describe(modelHelp(" that the SAEs of --other belong to [--model]")),
  ...modelFields,
  pairs: z
    .enum(["each", "all"])
    .default("each")
    .describe(
      "each: the first of --sae with the first of --other, and so on; all: every one with every other",
    ),
  ...textFields("heldout"),
  text: z.array(z.string()).describe(TEXTS),
  context: z
    .number()
    .int()
    .min(2)
    .optional()
    .describe("tokens of a window, BOS included [the shorter context of the two models]"),
  tokens: count().default(200_000).describe("tokens to read, in windows chosen at random"),
  firings: count()
    .default(10)
    .describe("firings that a feature needs to be compared; rarer ones correlate by chance"),
  thresholds: z
    .array(z.number().gt(0).max(1))
    .min(1)
    .default([0.5, 0.7, 0.9])
    .describe("correlations from which on a partner counts as found"),
  partners: z
    .string()
    .optional()
    .describe("file to write every compared feature and its best partner to, as JSON lines"),
  excludeTokens: z.string().optional().describe(EXCLUDE_TOKENS),
  seed: z.number().int().min(0).default(0).describe("seed of the choice of windows"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeMatch = defineCommand({
  name: "sae match",
  summary: "features of SAEs compared by what they do on the same text: best partners, what is shared",
  description:
    "Pearson correlation over tokens of every feature's activation with every feature of another SAE. Each feature's best partner " +
    "is the one with the largest; said are their mean, and the share of features with a partner at or above each threshold, in " +
    "both directions. The SAEs may be of other seeds, layers or models with the same tokenizer. What two seeds of one SAE share " +
    "is the measure to read other numbers by. Features that fire fewer than --firings times are left out. Needs 8 bytes for each " +
    "two features of a pair.",
  schema,
  examples: [
    "sluice sae match --sae out/seed0 --other out/seed1 --model models/brook --text sotu,brown",
    "sluice sae match --sae out/a --model models/brook --other out/b --other-model models/brook-lime --text sotu --partners out/partners.jsonl",
  ],
  run: (options, context) =>
    withDevice(options, (device) =>
      withModel(device, options, context, (lm) => {
        const { otherModel = options.model } = options;
        if (otherModel === options.model) return match(options, context, lm, lm);
        return withModel(device, { ...options, model: otherModel }, context, (otherLm) =>
          match(options, context, lm, otherLm),
        );
      }),
    ),
});

async function match(
  options: Options,
  context: CommandContext,
  lm: PlacedSae["lm"],
  otherLm: PlacedSae["lm"],
) {
  const { partners, thresholds, firings } = options;
  const wanted = pairsOf(options);
  const placed = new Map<string, PlacedSae>();
  const place = async (name: string, of: PlacedSae["lm"]): Promise<PlacedSae> => {
    const key = `${of === lm ? "" : "other "}${name}`;
    const found = placed.get(key) ?? (await open(name, of));
    placed.set(key, found);
    return found;
  };
  try {
    const pairs: [PlacedSae, PlacedSae][] = [];
    for (const [sae, other] of wanted) pairs.push([await place(sae, lm), await place(other, otherLm)]);
    const matches = await withTokens(options, lm.tokenizer, context, async (text) => {
      const line = context.progress({ label: "comparing", unit: "tokens", total: options.tokens });
      const found = await matchOnText({
        ...options, // context, tokens, firings, seed
        ...{ pairs, text, excludeTokens: parseExcludedTokens(lm.tokenizer, options.excludeTokens) },
        signal: context.signal,
        onProgress: ({ tokens, total }) =>
          line.update(Math.min((tokens * options.tokens) / total, options.tokens)),
      });
      line.finish();
      return found;
    });
    if (partners !== undefined) await writeAtomic(partners, Buffer.from(partnerLines(wanted, matches)));
    const results = matches.map(({ first, second }, i) => ({
      sae: wanted[i][0],
      other: wanted[i][1],
      sae_in_other: said(first, thresholds),
      other_in_sae: said(second, thresholds),
    }));
    return {
      json: { tokens: matches[0].tokens, firings, thresholds, pairs: results },
      text: table(results, thresholds),
    };
  } finally {
    for (const { sae } of placed.values()) disposeSae(sae);
  }
}

/** Folders of each pair. */
function pairsOf({ sae, other, pairs }: Options): [string, string][] {
  if (pairs === "all") return sae.flatMap((one) => other.map((two): [string, string] => [one, two]));
  if (sae.length === other.length) return sae.map((one, i) => [one, other[i]]);
  throw usageError(
    `--sae names ${sae.length} and --other ${other.length}: name as many, or compare every one with every other by --pairs all`,
  );
}

async function open(name: string, lm: PlacedSae["lm"]): Promise<PlacedSae> {
  const { sae } = await loadSae(lm.model.device, name);
  const hook = sae.metadata.hook_name;
  if (typeof hook === "string") return { sae, name, hook, lm };
  disposeSae(sae);
  throw usageError(`${name} does not say where it belongs (hook_name in its metadata)`);
}

function said(partners: Partners, thresholds: readonly number[]) {
  const { features, alive, compared, meanBest, shares } = summarizePartners(partners, thresholds);
  return { features, alive, compared, mean_best: meanBest, shares };
}
type Said = ReturnType<typeof said>;

interface Result {
  readonly sae: string;
  readonly other: string;
  readonly sae_in_other: Said;
  readonly other_in_sae: Said;
}

function table(results: readonly Result[], thresholds: readonly number[]): string {
  const row = (from: string, to: string, { compared, features, mean_best, shares }: Said): string[] => [
    from,
    to,
    `${compared} of ${features}`,
    mean_best.toFixed(3),
    ...shares.map((share) => `${(100 * share).toFixed(1)} %`),
  ];
  const head = ["features of", "in", "compared", "mean best r", ...thresholds.map((r) => `r >= ${r}`)];
  const rows = results.flatMap(({ sae, other, sae_in_other, other_in_sae }) => [
    row(sae, other, sae_in_other),
    row(other, sae, other_in_sae),
  ]);
  return columnsOf([head, ...rows], { left: 2 });
}

/** One line for each compared feature. */
function partnerLines(pairs: readonly [string, string][], matches: readonly FeatureMatch[]): string {
  const lines = (sae: string, other: string, { firings, partner, correlation }: Partners): string[] =>
    Array.from(partner.keys())
      .filter((feature) => partner[feature] >= 0)
      .map((feature) =>
        JSON.stringify({
          ...{ sae, feature, firings: firings[feature] },
          ...{ other, partner: partner[feature], correlation: correlation[feature] },
        }),
      );
  return matches
    .flatMap(({ first, second }, i) => {
      const [sae, other] = pairs[i];
      return [...lines(sae, other, first), ...lines(other, sae, second)];
    })
    .map((line) => `${line}\n`)
    .join("");
}
