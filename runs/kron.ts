/**
 * Tables and pictures of docs/results/kron.md from what runs/kron.sh measured.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { writeChart } from "../src/report/chart.ts";
import type { Found } from "./kron-synthetic.ts";
import { fillPage, markdownTable, type Spread, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/kron"] = process.argv.slice(2);
const PAGE = "docs/results/kron.md";
const FIGURES = "docs/results/kron";

interface Setting {
  readonly name: string;
  readonly metrics: Readonly<Record<string, Spread>>;
}
interface Comparison {
  readonly settings: readonly Setting[];
  readonly saes: readonly { readonly setting: string; readonly ms_per_step: number | null }[];
}
type Absorbed = { readonly sae: string } & Readonly<Record<string, number>>;

const read = <T>(file: string): T => JSON.parse(readFileSync(join(out, file), "utf8")) as T;
const sweep = read<Comparison>("sweep/comparison.json");
const rates = read<Comparison>("lr/comparison.json").settings;
const absorption = read<{ saes: Absorbed[] }>("absorption.json").saes;
const synthetic = read<Found[]>("synthetic.json");

function metric(setting: string, name: string, settings: readonly Setting[] = sweep.settings): Spread {
  const found = settings.find((one) => one.name === setting);
  if (!found) throw new Error(`${out} has no setting ${setting}`);
  return found.metrics[name];
}

const [D, F, K] = [256, 4096, 32];
const HEADS = [
  [2, 2],
  [2, 4],
  [4, 4],
  [4, 8],
  [8, 8],
] as const;
const rows = (m: number, n: number): number => (F / (m * n)) * (m + n);
/** Multiplications of an encoder and the sparse decoder, the paper's equation 7. */
const cost = (m: number, n: number): number => D * rows(m, n) + F + K * D;
const TOPK_COST = D * F + K * D;

const step = (setting: string): Spread =>
  spreadOf(
    sweep.saes.filter((sae) => sae.setting === setting).map(({ ms_per_step }) => ms_per_step ?? Number.NaN),
  );

function headTable(): string {
  const cells = (name: string): string[] => [
    showSpread(metric(name, "explained_variance")),
    showSpread(metric(name, "loss_recovered_mean")),
    showSpread(metric(name, "dead_fraction"), 3),
  ];
  const time = (name: string): string => (step("topk").mean / step(name).mean).toFixed(2);
  return markdownTable(
    ["", "encoder rows / F", "cost / TopK", "steps a second / TopK", "EV", "loss recovered (mean)", "dead"],
    [
      ["TopK", "1", "1", "1", ...cells("topk")],
      ...HEADS.map(([m, n]) => [
        `Kron m ${m}, n ${n}, h ${F / (m * n)}`,
        (rows(m, n) / F).toFixed(3),
        (cost(m, n) / TOPK_COST).toFixed(2),
        time(`kron-${m}x${n}`),
        ...cells(`kron-${m}x${n}`),
      ]),
    ],
  );
}

function productTable(): string {
  const names = [
    ["mAND, √(uv)", "kron-4x4"],
    ["ReLU(u) · ReLU(v)", "kron-4x4-relu"],
    ["u · v", "kron-4x4-raw"],
  ] as const;
  return markdownTable(
    ["product, m = n = 4", "EV", "loss recovered (mean)", "dead"],
    names.map(([label, name]) => [
      label,
      showSpread(metric(name, "explained_variance")),
      showSpread(metric(name, "loss_recovered_mean")),
      showSpread(metric(name, "dead_fraction"), 3),
    ]),
  );
}

function flopsTable(): string {
  const line = HEADS.filter(([m, n]) => ["2x4", "4x4", "8x8"].includes(`${m}x${n}`)).map(([m, n]) => {
    const name = `${m}x${n}`;
    const same = read<Comparison>(`as-${name}/comparison.json`).settings;
    return [
      `m ${m}, n ${n}`,
      showSpread(metric(`kron-${name}`, "explained_variance")),
      showSpread(metric("topk", "explained_variance", same)),
      showSpread(metric("topk", "explained_variance")),
    ];
  });
  return markdownTable(["heads", "Kron, 1M tokens", "TopK, equal FLOPs", "TopK, equal tokens"], line);
}

function rateTable(): string {
  const names = ["topk", "kron-4x4", "kron-4x4-relu", "kron-4x4-raw"];
  const lrs = [...new Set(rates.map(({ name }) => name.replace(/.*-lr/, "")))];
  return markdownTable(
    ["EV", ...lrs],
    names.map((name) => [
      name,
      ...lrs.map((lr) => metric(`${name}-lr${lr}`, "explained_variance", rates).mean.toFixed(4)),
    ]),
  );
}

function absorptionTable(): string {
  const line = ["topk", "kron-2x4", "kron-4x4", "kron-8x8"].map((name) => {
    const mine = absorption.filter(({ sae }) => new RegExp(`/${name}-seed\\d+$`).test(sae));
    const of = (key: string): string => showSpread(spreadOf(mine.map((one) => one[key])), 3);
    return [name, of("mean_absorption_fraction"), of("mean_full_absorption"), of("mean_num_split_features")];
  });
  return markdownTable(["", "absorption fraction", "full absorption", "features a class"], line);
}

const NAMES = [...new Set(synthetic.map(({ name }) => name))];
const SETUPS = [...new Set(synthetic.map(({ size, correlation }) => `${size}, ${correlation}`))];

/** Mean over set-ups of each seed, then the spread over seeds. */
function overSetups(name: string, key: keyof Found): Spread {
  const seeds = [...new Set(synthetic.map(({ seed }) => seed))];
  return spreadOf(
    seeds.map((seed) => {
      const values = synthetic
        .filter((one) => one.name === name && one.seed === seed)
        .map((one) => Number(one[key]));
      return values.reduce((a, b) => a + b, 0) / values.length;
    }),
  );
}

function syntheticTable(): string {
  return markdownTable(
    ["mean of 8 set-ups", "RV", "effective rank", "rank less that of S", "mean correlation", "EV"],
    NAMES.map((name) => [
      name,
      showSpread(overSetups(name, "rv"), 3),
      showSpread(overSetups(name, "effectiveRank"), 1),
      showSpread(overSetups(name, "rankDelta"), 1),
      showSpread(overSetups(name, "meanCorrelation"), 3),
      showSpread(overSetups(name, "explainedVariance"), 3),
    ]),
  );
}

function setupTable(): string {
  const cell = (name: string, setup: string): string => {
    const mine = synthetic.filter((one) => one.name === name && `${one.size}, ${one.correlation}` === setup);
    return spreadOf(mine.map(({ rv }) => rv)).mean.toFixed(3);
  };
  return markdownTable(
    ["RV; blocks of, correlation", ...SETUPS],
    NAMES.map((name) => [name, ...SETUPS.map((setup) => cell(name, setup))]),
  );
}

writeChart(`${FIGURES}/cost.svg`, {
  title: "Explained variance against the cost of encoder and decoder, F = 4096, k = 32",
  x: { label: "multiplications a token / TopK's (equation 7)" },
  y: { label: "explained variance" },
  series: [
    {
      name: "Kron (8, 8), (4, 8), (4, 4), (2, 4), (2, 2)",
      points: [...HEADS].reverse().map(([m, n]) => ({
        x: cost(m, n) / TOPK_COST,
        ...metric(`kron-${m}x${n}`, "explained_variance"),
      })),
    },
    { name: "TopK, equal tokens", points: [{ x: 1, ...metric("topk", "explained_variance") }] },
    {
      name: "TopK with the FLOPs of (8, 8), (4, 4), (2, 4)",
      dashed: true,
      points: (
        [
          [8, 8],
          [4, 4],
          [2, 4],
        ] as const
      ).map(([m, n]) => ({
        x: cost(m, n) / TOPK_COST,
        ...metric("topk", "explained_variance", read<Comparison>(`as-${m}x${n}/comparison.json`).settings),
      })),
    },
  ],
});

fillPage(PAGE, {
  heads: headTable(),
  products: productTable(),
  flops: flopsTable(),
  rates: rateTable(),
  absorption: absorptionTable(),
  synthetic: syntheticTable(),
  setups: setupTable(),
});
console.log(`${PAGE}: tables and pictures are written`);
