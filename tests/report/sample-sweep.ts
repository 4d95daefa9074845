/**
 * A made-up sweep that looks like a real one: twelve settings, some with seeds, some at several k, one that failed.
 */
import type { Spread, SweepEntry, SweepReportData, SweepSetting } from "../../src/report/index.ts";

/** Small linear congruential generator: the same page on every run. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const metricsAt = (l0: number, quality: number) => {
  const explained_variance = 0.99 - quality / Math.sqrt(l0);
  const loss_recovered = 1 - (1 - explained_variance) ** 2;
  return {
    explained_variance,
    l0,
    dead_fraction: 0.001 * l0,
    loss_recovered,
    ce_spliced: 3.4 + 5 * (1 - loss_recovered),
    kl: 1 - loss_recovered,
    mse: 1 - explained_variance,
  };
};

const BUDGETS = [8, 16, 32, 64];

function entry(random: () => number, setting: string, arch: string, seed: number): SweepEntry {
  const quality = 0.8 + 0.4 * random();
  const ranked = arch === "topk";
  const points = 50;
  const at = Array.from({ length: points }, (_, i) => (i + 1) / points);
  return {
    name: `${setting}-seed${seed}`,
    setting,
    shape: { arch, features: 4096, k: ranked ? 32 : null, hook: "blocks.3.hook_resid_post", seed },
    metrics: metricsAt(ranked ? 32 : 20 + 30 * random(), quality),
    budgets: ranked ? BUDGETS.map((k) => ({ k, ...metricsAt(k, quality) })) : undefined,
    curves: {
      tokens: at.map((t) => Math.round(t * 1e6)),
      loss: at.map((t) => 40 + 200 * Math.exp(-10 * t) + 5 * random()),
      explainedVariance: at.map((t) => 0.9 * quality - 0.5 * Math.exp(-10 * t)),
      l0: at.map(() => 32 + random()),
      deadFraction: at.map((t) => 0.01 * t * random()),
    },
  };
}

function spread(values: readonly number[]): Spread {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return { mean, min: Math.min(...values), max: Math.max(...values) };
}

type Numbers = Readonly<Record<string, number>>;

const spreads = (all: readonly Numbers[]): Record<string, Spread> =>
  Object.fromEntries(Object.keys(all[0] ?? {}).map((name) => [name, spread(all.map((m) => m[name]))]));

function settingOf(name: string, saes: readonly SweepEntry[]): SweepSetting {
  const measured = saes.filter((sae) => sae.metrics);
  return {
    name,
    saes: saes.map((sae) => sae.name),
    metrics: spreads(measured.map((sae) => sae.metrics!)),
    budgets: measured[0]?.budgets?.map(({ k }, i) => ({
      k,
      metrics: spreads(measured.map((s) => s.budgets![i])),
    })),
  };
}

/** `extra` more settings of one SAE each. */
export function sampleSweep(extra = 0): SweepReportData {
  const random = generator(5);
  const saes = [
    ...[0, 1, 2].map((seed) => entry(random, "topk", "topk", seed)),
    ...[0, 1].map((seed) => entry(random, "jumprelu", "jumprelu", seed)),
    entry(random, "gated", "gated", 0),
    {
      name: "wild-seed0",
      setting: "wild",
      shape: { arch: "relu", features: 4096, k: null, hook: "blocks.3.hook_resid_post", seed: 0 },
      failure: "step 7 has loss NaN and gradient norm NaN",
    },
    ...Array.from({ length: extra }, (_, i) => entry(random, `relu-l1=${i}`, "relu", 0)),
  ];
  const settings = [...new Set(saes.map(({ setting }) => setting))].map((name) =>
    settingOf(
      name,
      saes.filter((sae) => sae.setting === name),
    ),
  );
  return {
    title: `${saes.length} autoencoders, one pass over the activations`,
    summary: "They were trained beside each other on the same 1.00M activations of brook over sotu (train).",
    createdAt: "2026-01-02T03:04:05.678Z",
    version: "0.1.0",
    facts: [["activations", "brook over sotu (train)"]],
    saes,
    settings,
    run: {
      command: "sluice sae train --config sweep.yaml --out out/sweep",
      config: { seed: [0, 1, 2] },
      timings: [],
      machine: "2 threads, native kernels, node 20.20.2",
    },
  };
}
