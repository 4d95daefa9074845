/**
 * Tables and pictures of docs/results/hierarchical.md from what runs/hierarchical.sh measured.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Chart, type Point, type Series, writeChart } from "../src/report/chart.ts";
import { fillPage, markdownTable, type Spread, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/hierarchical"] = process.argv.slice(2);
const PAGE = "docs/results/hierarchical.md";
const FIGURES = "docs/results/hierarchical";

type Metrics = Readonly<Record<string, Spread>>;
interface Setting {
  readonly name: string;
  readonly metrics: Metrics;
  readonly budgets?: readonly { readonly k: number; readonly metrics: Metrics }[];
}
interface Proxies {
  readonly sae: string;
  readonly max_decoder_cosine: number;
  readonly budgets: readonly ({ readonly k: number } & Readonly<Record<string, number | null>>)[];
}

const read = (file: string) => JSON.parse(readFileSync(join(out, file), "utf8"));
const settings: readonly Setting[] = read("sweep/comparison.json").settings;
const rates: readonly Setting[] = read("lr/comparison.json").settings;
const proxies: readonly Proxies[] = read("proxies.json").saes;

const named = (name: string): Setting => {
  const found = settings.find((setting) => setting.name === name);
  if (!found) throw new Error(`${out}/sweep has no setting ${name}`);
  return found;
};

const BUDGETS = [8, 16, 32, 64, 128];
const TRAINED = [16, 32, 64, 128];

function at(name: string, k: number, metric: string): Spread {
  const found = named(name).budgets?.find((budget) => budget.k === k);
  if (!found) throw new Error(`${name} was not measured at k ${k}`);
  return found.metrics[metric];
}

/** The curves of a metric against k: the hierarchical SAE, TopK SAEs each at the k it was trained for, two of them at other k. */
function curves(metric: string): Series[] {
  const points = (name: string, ks: readonly number[]): Point[] =>
    ks.map((k) => ({ x: k, ...at(name, k, metric) }));
  return [
    { name: "HierarchicalTopK-128", points: points("hierarchical-128", BUDGETS) },
    {
      name: "TopK, each at the k it was trained for",
      points: TRAINED.map((k) => ({ x: k, ...at(`topk-${k}`, k, metric) })),
    },
    { name: "TopK-128, cut to k", points: points("topk-128", BUDGETS), dashed: true },
    { name: "TopK-32 at other k", points: points("topk-32", BUDGETS), dashed: true },
  ];
}

const K_AXIS = { label: "k, active features per token", log: true, ticks: BUDGETS };
const draw = (name: string, chart: Omit<Chart, "x">): void =>
  writeChart(`${FIGURES}/${name}.svg`, { x: K_AXIS, ...chart });

draw("explained-variance", {
  title: "Explained variance on held-out text",
  y: { label: "explained variance", domain: [0.2, 1] },
  series: curves("explained_variance"),
});
draw("loss-recovered", {
  title: "Loss recovered, against mean ablation, on held-out text",
  y: { label: "loss recovered" },
  series: curves("loss_recovered_mean"),
});
draw("dead", {
  title: "Features that never fire on 20,000 held-out tokens",
  y: { label: "share of features" },
  series: curves("dead_fraction"),
});

/** A row for each k, a column for each way to have an SAE for it. */
function curveTable(metric: string, digits = 4): string {
  const rows = BUDGETS.map((k) => [
    String(k),
    showSpread(at("hierarchical-128", k, metric), digits),
    TRAINED.includes(k) ? showSpread(at(`topk-${k}`, k, metric), digits) : "",
    showSpread(at("topk-128", k, metric), digits),
  ]);
  return markdownTable(["k", "HierarchicalTopK-128 at k", "TopK trained for k", "TopK-128 cut to k"], rows);
}

/** The same for the two that were also trained at twice the learning rate. */
function fastTable(): string {
  const rows = [16, 32, 64, 128].map((k) => [
    String(k),
    showSpread(at("hierarchical-128-fast", k, "explained_variance")),
    showSpread(at("topk-128-fast", k, "explained_variance")),
    showSpread(at("hierarchical-128-fast", k, "dead_fraction"), 3),
    showSpread(at("topk-128-fast", k, "dead_fraction"), 3),
  ]);
  return markdownTable(
    ["k", "hierarchical, EV", "TopK-128, EV", "hierarchical, dead", "TopK-128, dead"],
    rows,
  );
}

function rateTable(): string {
  const groups = new Map<string, Setting[]>();
  for (const setting of rates) {
    const name = setting.name.replace(/-lr.*/, "");
    groups.set(name, [...(groups.get(name) ?? []), setting]);
  }
  const lr = (name: string): string => name.replace(/.*-lr/, "");
  const [first] = [...groups.values()];
  const cell = ({ metrics }: Setting): string =>
    `${metrics.explained_variance.mean.toFixed(4)}, ${(100 * metrics.dead_fraction.mean).toFixed(1)} %`;
  return markdownTable(
    ["EV, dead", ...first.map(({ name }) => lr(name))],
    [...groups].map(([name, all]) => [name, ...all.map(cell)]),
  );
}

/** Proxies of one setting at one k over its seeds. */
function proxy(setting: string, k: number, name: string): Spread {
  const values = proxies
    .filter(({ sae }) => new RegExp(`/${setting}-seed\\d+$`).test(sae))
    .map(({ budgets }) => Number(budgets.find((budget) => budget.k === k)?.[name]));
  if (values.length === 0) throw new Error(`no proxies of ${setting}`);
  return spreadOf(values);
}

const PROXIES = [
  ["token-entropy", "token_entropy", "Token entropy over a feature's first 100 firings, nats", 3],
  ["multi-token-ratio", "multi_token_ratio", "Share of a context's tokens on which a feature fires", 4],
] as const;
for (const [file, metric, title] of PROXIES) {
  draw(file, {
    title,
    y: { label: metric.replaceAll("_", " ") },
    series: [
      {
        name: "HierarchicalTopK-128",
        points: BUDGETS.map((k) => ({ x: k, ...proxy("hierarchical-128", k, metric) })),
      },
      {
        name: "TopK, each at the k it was trained for",
        points: TRAINED.map((k) => ({ x: k, ...proxy(`topk-${k}`, k, metric) })),
      },
      {
        name: "TopK-128, cut to k",
        points: BUDGETS.map((k) => ({ x: k, ...proxy("topk-128", k, metric) })),
        dashed: true,
      },
    ],
  });
}

function proxyTable(): string {
  const cells = (setting: string, k: number): string[] => [
    ...PROXIES.map(([, metric, , digits]) => showSpread(proxy(setting, k, metric), digits)),
    showSpread(proxy(setting, k, "features_counted"), 0),
  ];
  const rows = BUDGETS.flatMap((k) => [
    [`HierarchicalTopK-128 at ${k}`, ...cells("hierarchical-128", k)],
    ...(TRAINED.includes(k) ? [[`TopK-${k}`, ...cells(`topk-${k}`, k)]] : []),
  ]);
  return markdownTable(["", "token entropy", "multi-token ratio", "features counted"], rows);
}

function redundancyTable(): string {
  const rows = ["hierarchical-128", ...TRAINED.map((k) => `topk-${k}`)].map((setting) => {
    const values = proxies
      .filter(({ sae }) => new RegExp(`/${setting}-seed\\d+$`).test(sae))
      .map(({ max_decoder_cosine }) => max_decoder_cosine);
    return [setting, showSpread(spreadOf(values), 3)];
  });
  return markdownTable(["", "mean cosine to the nearest decoder row"], rows);
}

fillPage(PAGE, {
  "explained-variance": curveTable("explained_variance"),
  "loss-recovered": curveTable("loss_recovered_mean"),
  ce: curveTable("ce_spliced"),
  dead: curveTable("dead_fraction", 3),
  fast: fastTable(),
  rates: rateTable(),
  proxies: proxyTable(),
  redundancy: redundancyTable(),
});
console.log(`${PAGE}: tables and pictures are written`);
