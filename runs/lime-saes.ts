/**
 * Tables and pictures of docs/results/lime.md's section on features from what runs/lime-saes.sh measured.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Point, type Series, writeChart } from "../src/report/chart.ts";
import { drawHeatMaps, type HeatMap } from "../src/report/heat-map.ts";
import { writeSvg } from "../src/report/svg.ts";
import { fillPage, markdownTable, type Spread, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/lime-saes"] = process.argv.slice(2);
const PAGE = "docs/results/lime.md";
const FIGURES = "docs/results/lime";

const TITLES = { plain: "brook", lime: "brook-lime" } as const;
type Model = keyof typeof TITLES;
const MODELS = Object.keys(TITLES) as Model[];

interface Comparison {
  readonly settings: readonly { readonly name: string; readonly metrics: Readonly<Record<string, Spread>> }[];
}
interface Side {
  readonly features: number;
  readonly alive: number;
  readonly compared: number;
  readonly mean_best: number;
  readonly shares: readonly number[];
}
interface Pair {
  readonly sae: string;
  readonly other: string;
  readonly sae_in_other: Side;
  readonly other_in_sae: Side;
}
interface Matches {
  readonly tokens: number;
  readonly firings: number;
  readonly thresholds: readonly number[];
  readonly pairs: readonly Pair[];
}

const read = <T>(file: string): T => JSON.parse(readFileSync(join(out, file), "utf8")) as T;
const comparisons = {
  plain: read<Comparison>("plain/comparison.json"),
  lime: read<Comparison>("lime/comparison.json"),
};
const files = readdirSync(out).filter((name) => /^match-.*\.json$/.test(name));
const matches = new Map(files.map((name) => [name.replace(/^match-|\.json$/g, ""), read<Matches>(name)]));
const layers = comparisons.plain.settings
  .map(({ name }) => Number(name.replace("layer", "")))
  .sort((a, b) => a - b);

function metric(model: Model, layer: number, name: string): Spread {
  const found = comparisons[model].settings.find((setting) => setting.name === `layer${layer}`);
  if (!found) throw new Error(`${out}/${model} has no SAE of block ${layer}`);
  return found.metrics[name];
}

const layerOf = (sae: string): number => Number(/layer(\d+)-seed\d+$/.exec(sae)?.[1]);

/** A pair of SAEs of these blocks. */
function pairOf(match: string, layer: number, other: number): Pair {
  const found = matches.get(match)?.pairs.find((p) => layerOf(p.sae) === layer && layerOf(p.other) === other);
  if (!found) throw new Error(`${out} has no match ${match} of blocks ${layer} and ${other}`);
  return found;
}

/** Features of `from` at a block in `to` at a block; each pair of SAEs that says so. */
function found(from: Model, to: Model, layer: number, other = layer): Side[] {
  if (from !== to) {
    return ["plain-lime-seed0", "plain-lime-seed1"].map((match) => {
      const pair = pairOf(match, layer, other);
      return from === "plain" ? pair.sae_in_other : pair.other_in_sae;
    });
  }
  const match = `${from}-${from}-seed0`;
  return [pairOf(match, layer, other).sae_in_other, pairOf(match, other, layer).other_in_sae];
}

const WAYS = [
  ["plain", "plain", "brook, its other seed"],
  ["lime", "lime", "brook-lime, its other seed"],
  ["plain", "lime", "brook's in brook-lime"],
  ["lime", "plain", "brook-lime's in brook"],
] as const;

const best = (sides: readonly Side[]): Spread => spreadOf(sides.map(({ mean_best }) => mean_best));
const fvu = (model: Model, layer: number): Spread => {
  const { mean, min, max } = metric(model, layer, "explained_variance");
  return { mean: 1 - mean, min: 1 - max, max: 1 - min };
};
/** Share of features that are silent on the tokens that features were compared on, of both seeds. */
function silent(model: Model, layer: number): Spread {
  const pair = pairOf(`${model}-${model}-seed0`, layer, layer);
  return spreadOf([pair.sae_in_other, pair.other_in_sae].map(({ alive, features }) => 1 - alive / features));
}

function qualityTable(): string {
  const columns = [
    ["FVU", fvu, 4],
    ["loss recovered (mean)", (m: Model, l: number) => metric(m, l, "loss_recovered_mean"), 3],
    ["silent", silent, 3],
  ] as const;
  return markdownTable(
    ["block", ...columns.flatMap(([title]) => MODELS.map((model) => `${title}, ${TITLES[model]}`))],
    layers.map((layer) => [
      String(layer),
      ...columns.flatMap(([, of, digits]) => MODELS.map((model) => showSpread(of(model, layer), digits))),
    ]),
  );
}

function bestTable(): string {
  return markdownTable(
    ["block", ...WAYS.map(([, , title]) => title)],
    layers.map((layer) => [
      String(layer),
      ...WAYS.map(([from, to]) => showSpread(best(found(from, to, layer)), 3)),
    ]),
  );
}

const { thresholds } = [...matches.values()][0];

function shareTable(): string {
  const shares = (sides: readonly Side[]): string =>
    thresholds
      .map((_, i) => (100 * spreadOf(sides.map((side) => side.shares[i])).mean).toFixed(0))
      .join(" / ");
  return markdownTable(
    [`block; r ≥ ${thresholds.join(" / ")}, %`, ...WAYS.map(([, , title]) => title)],
    layers.map((layer) => [String(layer), ...WAYS.map(([from, to]) => shares(found(from, to, layer)))]),
  );
}

/** Features of a block in the next, and the other way. */
function nextTable(): string {
  return markdownTable(
    ["blocks", ...MODELS.flatMap((m) => [`${TITLES[m]}, forwards`, `${TITLES[m]}, backwards`])],
    layers
      .slice(1)
      .map((next, i) => [
        `${layers[i]}, ${next}`,
        ...MODELS.flatMap((m) => [
          showSpread(best(found(m, m, layers[i], next)), 3),
          showSpread(best(found(m, m, next, layers[i])), 3),
        ]),
      ]),
  );
}

const byLayer = (of: (layer: number) => Spread): Point[] => layers.map((x) => ({ x, ...of(x) }));
const X_AXIS = { label: "block", ticks: layers };

writeChart(`${FIGURES}/saes-fvu.svg`, {
  title: "Share of variance that an SAE leaves unexplained (FVU), by block",
  x: X_AXIS,
  y: { label: "FVU" },
  series: MODELS.map((m): Series => ({ name: TITLES[m], points: byLayer((layer) => fvu(m, layer)) })),
});
writeChart(`${FIGURES}/saes-best.svg`, {
  title: "Mean correlation of a feature with its best partner, at the same block",
  x: X_AXIS,
  y: { label: "mean best r" },
  series: WAYS.map(([from, to, name]) => ({
    name,
    points: byLayer((layer) => best(found(from, to, layer))),
    dashed: from === to,
  })),
});

/** Features of the block down in the block to the right. */
function heatMap(from: Model, to: Model): HeatMap {
  const cell = (row: number, column: number): number =>
    from === to
      ? best(found(from, to, row, column)).mean
      : pairOf("plain-lime-seed0", row, column).sae_in_other.mean_best;
  return {
    title: from === to ? `${TITLES[from]}, two seeds` : `${TITLES[from]} in ${TITLES[to]}`,
    x: "found in block",
    y: "features of block",
    columns: layers.map(String),
    rows: layers.map(String),
    values: layers.map((row) => layers.map((column) => cell(row, column))),
    unit: "mean best r",
    label: (value) => value.toFixed(2).replace(/^0/, ""),
  };
}
const maps = [heatMap("plain", "plain"), heatMap("lime", "lime"), heatMap("plain", "lime")];
writeSvg(`${FIGURES}/saes-blocks.svg`, drawHeatMaps(maps));

interface Run {
  readonly settings: {
    readonly sae: {
      readonly dIn: number;
      readonly features: number;
      readonly activation: { readonly k: number };
    };
    readonly train: { readonly tokens: number; readonly lr: number };
    readonly source: { readonly dataset_path: string };
  };
}

/** What the SAEs were trained and compared on, by their own records. */
function settingsLine(): string {
  const { sae, train, source } = read<Run>(`plain/layer${layers[0]}-seed0/run.json`).settings;
  const { tokens, firings } = matches.get("plain-lime-seed0")!;
  const silence = [...matches.values()].flatMap(({ pairs }) =>
    pairs.flatMap((pair) => [pair.sae_in_other, pair.other_in_sae].map((s) => s.compared / s.features)),
  );
  const active = spreadOf(MODELS.flatMap((m) => layers.map((layer) => metric(m, layer, "l0").mean)));
  const number = (n: number): string => n.toLocaleString("en-US");
  return (
    `d ${sae.dIn}, ${number(sae.features)} features, k ${sae.activation.k} (measured L0 ${showSpread(active, 1)}), ${number(train.tokens)} ` +
    `tokens of ${source.dataset_path}, learning rate ${train.lr}. Compared on ${number(tokens)} tokens of the held-out documents: the ` +
    `features that fire at least ${firings} times on them, ${(100 * spreadOf(silence).mean).toFixed(1)} % of all.`
  );
}

const picture = (title: string, file: string): string => `![${title}](lime/${file}.svg)`;

fillPage(
  PAGE,
  {
    "saes-settings": settingsLine(),
    "saes-quality": `${qualityTable()}\n\n${picture("FVU by block", "saes-fvu")}`,
    "saes-best": `${bestTable()}\n\n${picture("Mean best correlation by block", "saes-best")}`,
    "saes-shares": shareTable(),
    "saes-next": `${nextTable()}\n\n${picture("All blocks against all", "saes-blocks")}`,
  },
  { group: "saes" },
);
console.log(`${PAGE}: tables and pictures are written`);
