/**
 * The report page from a feature database: no model and no SAE is needed.
 */
import {
  chooseFeatures,
  type Explanation,
  type Feature,
  type FeatureDatabase,
  type Vocabulary,
} from "../interpret/index.ts";
import {
  densityHistogram,
  type FeatureCard,
  type Histogram,
  type ReportData,
  type TokenText,
  tokenText,
} from "../report/index.ts";

export interface FeatureReportOptions {
  /** Features to show; default those with the best explanations, or a random choice where there are none. */
  readonly features?: readonly number[];
  /** Features to choose. */
  readonly count: number;
  /** Passages of each; default 10. */
  readonly contexts?: number;
  readonly seed: number;
  readonly command: string;
  readonly version: string;
}

/** What the page shows. */
export async function featureReport(
  database: FeatureDatabase,
  options: FeatureReportOptions,
): Promise<ReportData> {
  const { index } = database;
  const settings = index.settings as {
    model: { id: string };
    hook: string;
    text: { text?: string };
  };
  const { ids, choice } = await choose(database, options);
  const densities = await database.numbers("density");
  const dead = densities.reduce((n, d) => n + (d === 0 ? 1 : 0), 0) / index.features;
  const tokens = (index.tokens ?? 0).toLocaleString("en-US");
  const text = settings.text.text ?? "a text";
  return {
    title: `${index.features.toLocaleString("en-US")} features of ${settings.hook}`,
    summary:
      `What the features of a sparse autoencoder on ${settings.model.id} at ${settings.hook} do on ${tokens} tokens of ${text}: ` +
      "where they fire, which tokens they raise and lower, and which are near each other.",
    createdAt: new Date().toISOString(),
    version: options.version,
    facts: [
      ["model", settings.model.id],
      ["hook", settings.hook],
      ["text", text],
      ["read", `${tokens} tokens`],
    ],
    features: index.features,
    metrics: { l0: index.l0 ?? 0, dead_fraction: dead },
    density: densityHistogram(densities),
    cards: await featureCardsFrom(database, ids, options.contexts),
    cardsChoice: choice,
    cardsNote: "Raised and lowered logits are the direct path from the decoder row through the final norm.",
    run: { command: options.command, config: index.settings, timings: [] },
  };
}

async function choose(
  database: FeatureDatabase,
  { features, count, seed }: FeatureReportOptions,
): Promise<{ ids: readonly number[]; choice: string }> {
  if (features) return { ids: features, choice: "chosen" };
  if ((await database.explanations()).some((e) => e.detection?.score != null)) {
    const query = { sort: "detection", descending: true, where: { detection: { min: 0 } }, limit: count };
    return { ids: (await database.features(query)).map((f) => f.id), choice: "best explained" };
  }
  return { ids: await chooseFeatures(database, { count, seed }), choice: "randomly chosen" };
}

/** Cards of features, with the passages of their highest peaks. */
export async function featureCardsFrom(
  database: FeatureDatabase,
  ids: readonly number[],
  contexts = 10,
): Promise<FeatureCard[]> {
  const vocabulary = await database.vocabulary();
  const explanations = await database.explanations(ids);
  const text = (id: number): TokenText => textOf(vocabulary, id);
  const weigh = (list: Feature["promoted"]) =>
    (list ?? []).map(({ token, weight }) => ({ token: text(token), weight }));
  const cards: FeatureCard[] = [];
  for (const id of ids) {
    const feature = await database.feature(id);
    const examples = await database.examples(id, { from: "top", limit: contexts });
    cards.push({
      id,
      label: best(explanations.filter((e) => e.feature === id))?.explanation,
      density: feature.density,
      maxActivation: feature.maxActivation,
      activations: histogramOf(feature),
      contexts: examples.map((e) => ({ tokens: e.tokens.map(text), activations: e.activations })),
      promoted: weigh(feature.promoted),
      suppressed: weigh(feature.suppressed),
      nearest: feature.nearest.slice(0, 5),
    });
  }
  return cards;
}

function textOf(vocabulary: Vocabulary, id: number): TokenText {
  const { bytes, text } = vocabulary.token(id);
  return bytes ? tokenText(bytes) : text.replaceAll("▁", " ");
}

/** The one that detection speaks for most; one without a score is better than none. */
function best(explanations: readonly Explanation[]): Explanation | undefined {
  const scoreOf = (e: Explanation) => e.detection?.score ?? -1;
  return [...explanations].sort((a, b) => scoreOf(b) - scoreOf(a))[0];
}

/** Without the empty bins above the largest activation. */
function histogramOf({ histogram }: Feature): Histogram {
  if (!histogram) return { edges: [0, 1], counts: [0] };
  const last = histogram.counts.findLastIndex((n) => n > 0);
  const counts = histogram.counts.slice(0, last + 1);
  return { counts, edges: Array.from({ length: counts.length + 1 }, (_, i) => i * histogram.width) };
}
