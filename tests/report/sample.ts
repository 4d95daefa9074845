/**
 * A made-up report that looks like a real one, for the tests and for looking at the page.
 */
import {
  densityHistogram,
  type FeatureCard,
  type FeatureContext,
  linearHistogram,
  type ReportData,
  type TokenText,
  type TokenWeight,
  type TrainingCurves,
} from "../../src/report/index.ts";

/** Small linear congruential generator: the same page on every run. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const PASSAGES = [
  "the Congress assembled in December last, and the treaty with Great Britain was\nratified by the Senate. The revenue of the year exceeded the expenditures",
  "our relations with foreign powers continue to be peaceful; the commerce of the United States has increased by twelve million dollars since the last annual message",
  "I recommend to the consideration of both Houses a revision of the laws relating to the army and the navy, and the pay of the officers",
  "for (let i = 0; i < n; i++) {\n\tif (seen.has(keys[i])) continue;\n\ttotal += values[i]; // skip duplicates\n}\nreturn total;",
  "Call me Ishmael. Some years ago—never mind how long precisely—having little or no money in my purse, I thought I would sail about a little",
  "В начале сотворил Бог небо и землю. Земля же была безвидна и пуста, и тьма над бездною",
  "Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in the Software without restriction",
  "She was the youngest of the two daughters of a most affectionate, indulgent father; and had been mistress of his house from a very early period",
];

function tokensOf(passage: string): TokenText[] {
  const words = passage.match(/\s?[\p{L}']{1,7}|\s?\d+|\s|[^\s\p{L}\d]/gu) ?? [];
  return words.flatMap((word): TokenText[] =>
    word === "—" ? [{ bytes: "e2 80" }, { bytes: "94" }] : [word],
  );
}

function context(random: () => number, strength: number, at: number): FeatureContext {
  const tokens = tokensOf(PASSAGES[at % PASSAGES.length]);
  const peak = Math.floor(tokens.length * (0.25 + 0.5 * random()));
  const activations = tokens.map((_, i) => {
    if (i === peak) return strength;
    return random() < 0.5 / Math.abs(i - peak) ? strength * (0.1 + 0.6 * random()) : 0;
  });
  return { tokens, activations, source: at % 3 === 0 ? "sotu/1862_abraham_lincoln" : undefined };
}

const WORDS = [
  " treaty",
  " Congress",
  " army",
  ".\n",
  " of",
  "ing",
  " navy",
  "\t",
  " 1862",
  "ция",
  " the",
  ");",
  " pay",
  '"',
];

function weights(random: () => number, sign: number): TokenWeight[] {
  const values = Array.from({ length: 8 }, () => sign * (0.2 + random() * 1.4)).sort(
    (a, b) => sign * (b - a),
  );
  return values.map((weight) => ({ token: WORDS[Math.floor(random() * WORDS.length)], weight }));
}

function card(random: () => number, id: number, ids: readonly number[]): FeatureCard {
  const maxActivation = 2 + 10 * random();
  const values = Array.from({ length: 500 }, () => maxActivation * random() ** 3);
  return {
    id,
    density: 10 ** (-4 + 2.5 * random()),
    maxActivation,
    activations: linearHistogram(values),
    contexts: Array.from({ length: 10 }, (_, i) => context(random, maxActivation * (1 - 0.06 * i), id + i)),
    promoted: weights(random, 1),
    suppressed: weights(random, -1),
    nearest: [
      { id: ids[Math.floor(random() * ids.length)], cosine: 0.61 },
      { id: 4001, cosine: 0.44 },
      { id: ids[Math.floor(random() * ids.length)], cosine: 0.31 },
    ],
  };
}

function curves(random: () => number, points: number): TrainingCurves {
  const noise = (size: number): number => size * (random() + random() - 1);
  const at = Array.from({ length: points }, (_, i) => (i + 1) / points);
  return {
    tokens: at.map((t) => Math.round(t * 3_000_000)),
    loss: at.map((t) => 40 + 260 * Math.exp(-18 * t) + 40 * (1 - t) + noise(6)),
    explainedVariance: at.map((t) => 0.88 - 0.6 * Math.exp(-16 * t) - 0.05 * (1 - t) + noise(0.01)),
    l0: at.map(() => 32),
    deadFraction: at.map((t) => Math.max(0, 0.012 * (t - 0.3) + noise(0.0002))),
    learningRate: at.map((t) => 4e-4 * Math.min(1, 20 * t, 5 * (1 - t) + 1e-3)),
  };
}

export function sampleReport(cards = 40): ReportData {
  const random = generator(7);
  const ids = Array.from({ length: cards }, (_, i) => 17 + 97 * i);
  const densities = Array.from({ length: 4096 }, () => {
    const log = -2.6 + 0.75 * (random() + random() + random() + random() - 2);
    return random() < 0.008 ? 0 : 10 ** log;
  });
  return {
    title: "What layer 3 of brook knows",
    summary:
      "A TopK sparse autoencoder with 4,096 features, trained on 3.0 million activations of brook’s fourth layer over the State of " +
      "the Union addresses. With 32 active features per token it keeps 88% of the variance, and the model keeps 97% of its predictive power.",
    createdAt: "2026-01-02T03:04:05.678Z",
    version: "0.1.0",
    facts: [
      ["model", "models/brook (6 layers, D = 256)"],
      ["hook point", "blocks.3.hook_resid_post"],
      ["autoencoder", "TopK, k = 32, F = 4096"],
      ["trained on", "sotu, 3.0M tokens"],
      ["evaluated on", "sotu held out, 65,536 tokens"],
    ],
    features: 4096,
    metrics: {
      explained_variance: 0.8812,
      explained_variance_per_token: 0.8431,
      l0: 32,
      mse: 0.1312,
      cosine: 0.9413,
      dead_fraction: 0.0083,
      ce_clean: 3.4127,
      ce_spliced: 3.5519,
      ce_zero: 8.3177,
      ce_mean: 7.0145,
      loss_recovered: 0.9716,
      loss_recovered_mean: 0.9613,
      kl: 0.1391,
    },
    curves: curves(random, 400),
    density: densityHistogram(densities),
    cards: ids.map((id) => card(random, id, ids)),
    run: {
      command:
        "sluice sae train --model models/brook --text sotu --hook blocks.3.hook_resid_post --arch topk --k 32 --features 4096 --tokens 3M --out out/demo",
      config: {
        arch: "topk",
        k: 32,
        features: 4096,
        tokens: 3_000_000,
        lr: 4e-4,
        hook: "blocks.3.hook_resid_post",
        seed: 1,
      },
      timings: [
        { name: "activations", seconds: 61.2 },
        { name: "training", seconds: 148.7 },
        { name: "evaluation", seconds: 22.4 },
        { name: "features", seconds: 17.9 },
      ],
      machine: "linux-x64, 2 threads, avx512, node 20.20.2",
    },
  };
}

const STOPS = [4, 8, 16, 32, 64];

/** The same as one SAE for every k up to 64, opened at 32. */
export function sampleEveryK(cards = 40): ReportData {
  const random = generator(11);
  const report = sampleReport(cards);
  const { metrics, density } = report;
  const budgets = STOPS.map((k) => {
    const part = Math.log2(k) / 6; // 1 at k = 64
    const explained_variance = 0.97 * part ** 0.6 - 0.03;
    const loss_recovered = 1 - 0.3 * (1.05 - part) ** 2;
    const ce_spliced = metrics.ce_zero - loss_recovered * (metrics.ce_zero - metrics.ce_clean);
    const kl = ce_spliced - metrics.ce_clean;
    const dead_fraction = 0.2 * (1 - part);
    const fewer = density.counts.map((count) => Math.round(count * part));
    const never = report.features - fewer.reduce((a, b) => a + b, 0);
    return {
      k,
      metrics: { ...metrics, explained_variance, loss_recovered, ce_spliced, kl, dead_fraction, l0: k },
      density: { ...density, counts: fewer, never },
    };
  });
  const shown = budgets[3];
  return {
    ...report,
    ...shown,
    summary: report.summary.replace("A TopK", "A HierarchicalTopK"),
    budgets,
    curvesNote: "With all 64 features per token.",
    cards: report.cards.map((card, n) => {
      const least = n === 0 ? 5 : 1; // the first feature is silent at k = 4
      const rank = () => least + Math.floor((65 - least) * random() ** 3);
      const contexts = card.contexts.map((context) => ({
        ...context,
        ranks: context.activations.map((value) => (value > 0 ? rank() : 0)),
      }));
      const perBudget = STOPS.map((k) => {
        const part = k < least ? 0 : k / 64;
        return {
          density: card.density * part,
          maxActivation: part > 0 ? card.maxActivation : 0,
          counts: card.activations.counts.map((count) => Math.round(count * part)),
        };
      });
      return { ...card, contexts, budgets: perBudget, density: perBudget[3].density };
    }),
  };
}
