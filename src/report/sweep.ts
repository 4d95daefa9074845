/**
 * One self-contained HTML page that compares the SAEs of a sweep: a table to sort, what they keep against how many features
 * they use, and their trainings on top of each other. Charts are drawn by src/report/page/sweep.ts.
 */
import { inputError } from "../util/index.ts";
import { METRIC_NAMES, type MetricName } from "./data.ts";
import { renderPage, runSection } from "./frame.ts";
import { type Html, html } from "./html.ts";
import { METRICS, notation } from "./metrics.ts";
import type { Ink, Spread, SweepEntry, SweepPageData, SweepReportData } from "./sweep-data.ts";

/** Colours of the style, `--s0` and on; then they come again with dashes and hollow dots. */
const INKS = 8;
const DASHES = [undefined, "6,3", "2,2", "8,2,2,2"];

const inkOf = (index: number): Ink => ({
  color: `var(--s${index % INKS})`,
  dash: DASHES[Math.floor(index / INKS) % DASHES.length],
});

/** Metrics of the tables, in the order of their columns. */
const COLUMNS: readonly MetricName[] = [
  "explained_variance",
  "l0",
  "dead_fraction",
  "loss_recovered",
  "ce_spliced",
  "kl",
];

/** Over a column, where the metric's own label leans on the one before it. */
const TITLES: Partial<Record<MetricName, string>> = { ce_spliced: "cross-entropy, spliced" };
const titleOf = (name: MetricName): string => TITLES[name] ?? METRICS[name].label;

/** The curves of a training. */
const CURVES: readonly (readonly [name: string, title: string])[] = [
  ["loss", "Loss"],
  ["explainedVariance", "Explained variance"],
  ["l0", "L0, active features per token"],
  ["deadFraction", "Dead features, share of the dictionary"],
];

function check({ saes, settings }: SweepReportData): void {
  const names = new Set(settings.map(({ name }) => name));
  for (const { name, setting, curves } of saes) {
    if (!names.has(setting))
      throw inputError(`renderSweep: ${name} is of the setting ${setting}, which is missing`);
    const length = curves?.tokens.length;
    for (const [curve, values] of Object.entries(curves ?? {})) {
      if (values.length === length) continue;
      throw inputError(
        `renderSweep: ${name}: curves.${curve} has ${values.length} points, curves.tokens has ${length}`,
      );
    }
  }
}

/** Keys of the shapes that not all SAEs have the same value of. */
function varying(saes: readonly SweepEntry[]): string[] {
  const keys = [...new Set(saes.flatMap(({ shape }) => Object.keys(shape)))];
  return keys.filter((key) => new Set(saes.map(({ shape }) => shape[key])).size > 1);
}

const measured = (all: readonly (Readonly<Record<string, unknown>> | undefined)[]): MetricName[] =>
  COLUMNS.filter((name) => all.some((metrics) => metrics?.[name] !== undefined));

const header = (label: string, number: boolean): Html =>
  html`<th scope="col"${number && html` class="number"`}><button type="button">${label}</button></th>`;

const swatch = (data: SweepReportData, setting: string): Html => {
  const index = data.settings.findIndex(({ name }) => name === setting);
  const { color, dash } = inkOf(index);
  return html`<i class="swatch${dash !== undefined && " hollow"}" style="--c:${color}"></i>`;
};

function cell(name: MetricName, value: number | undefined): Html {
  if (value === undefined || !Number.isFinite(value)) return html`<td class="number">–</td>`;
  return html`<td class="number" data-value="${value}">${METRICS[name].format(value)}</td>`;
}

function shapeCell(value: string | number | null | undefined, number: boolean): Html {
  if (!number) return html`<td>${value ?? "–"}</td>`;
  if (typeof value !== "number") return html`<td class="number">–</td>`;
  return html`<td class="number shape" data-value="${value}">${Number.isInteger(value) ? value : value.toPrecision(3)}</td>`;
}

function saesTable(data: SweepReportData): Html {
  const { saes } = data;
  const keys = varying(saes);
  const metrics = measured(saes.map((sae) => sae.metrics));
  const isNumber = (key: string): boolean => saes.some(({ shape }) => typeof shape[key] === "number");
  return html`<div class="scroll"><table class="sortable" id="saes">
<thead><tr>${header("SAE", false)}${metrics.map((name) => header(titleOf(name), true))}${keys.map((key) => header(key, isNumber(key)))}</tr></thead>
<tbody>
${saes.map(
  ({ name, setting, shape, metrics: own }) =>
    html`<tr><th scope="row">${swatch(data, setting)}${name}</th>${metrics.map((metric) => cell(metric, own?.[metric]))}${keys.map((key) => shapeCell(shape[key], isNumber(key)))}</tr>
`,
)}</tbody></table></div>${saes
    .filter(({ failure }) => failure !== undefined)
    .map(({ name, failure }) => html`<p class="note failure"><b>${name}</b> failed: ${failure}</p>`)}`;
}

/** Mean over the seeds, and the extremes below it. */
function spreadCell(name: MetricName, spread: Spread | undefined): Html {
  if (!spread || !Number.isFinite(spread.mean)) return html`<td class="number">–</td>`;
  const { mean, min, max } = spread;
  const { format } = METRICS[name];
  return html`<td class="number" data-value="${mean}">${format(mean)}${min < max && html`<small>${format(min)} to ${format(max)}</small>`}</td>`;
}

const severalSeeds = ({ settings }: SweepReportData): boolean => settings.some(({ saes }) => saes.length > 1);

function settingsTable(data: SweepReportData): Html | false {
  if (!severalSeeds(data)) return false;
  const metrics = measured(data.settings.map((setting) => setting.metrics));
  return html`<section id="seeds"><h2>Over seeds</h2>
<p class="lead">Settings that were trained with several seeds: the mean, and below it the least and the most.</p>
<div class="scroll"><table class="sortable" id="settings">
<thead><tr>${header("setting", false)}${header("seeds", true)}${metrics.map((name) => header(titleOf(name), true))}</tr></thead>
<tbody>
${data.settings.map(
  ({ name, saes, metrics: own }) =>
    html`<tr><th scope="row">${swatch(data, name)}${name}</th>${shapeCell(saes.length, true)}${metrics.map((metric) => spreadCell(metric, own[metric]))}</tr>
`,
)}</tbody></table></div></section>`;
}

function frontier(data: SweepReportData): Html {
  const along = data.saes.some(({ budgets }) => budgets !== undefined);
  const model = data.saes.some(({ metrics }) => metrics?.loss_recovered !== undefined);
  const bars = severalSeeds(data) ? " Bars span the seeds of a setting." : "";
  return html`<section id="frontier"><h2>What is kept, against how many features it takes</h2>
<p class="lead">Up and to the left is better.${along ? " A line is one SAE measured with fewer or more of each token’s strongest features; its own k is the large dot." : ""}${bars}</p>
<div class="charts"><figure><figcaption>Explained variance against L0</figcaption><div class="chart" data-frontier="explained_variance"></div></figure>${
    model &&
    html`<figure><figcaption>Loss recovered (zero) against L0</figcaption><div class="chart" data-frontier="loss_recovered"></div></figure>`
  }</div></section>`;
}

function training({ saes }: SweepReportData): Html | false {
  if (!saes.some(({ curves }) => (curves?.tokens.length ?? 0) > 1)) return false;
  return html`<section id="training"><h2>Training</h2>
<p class="lead">Against tokens seen, as running medians. All read the same activations in the same order.</p>
<div class="charts">${CURVES.map(
    ([name, title]) =>
      html`<figure><figcaption>${title}</figcaption><div class="chart" data-curve="${name}"></div></figure>`,
  )}</div></section>`;
}

function meanings(data: SweepReportData): Html {
  const shown = METRIC_NAMES.filter((name) => measured(data.saes.map((sae) => sae.metrics)).includes(name));
  return html`<section id="metrics"><h2>The numbers</h2>
<div class="scroll"><table class="metrics meanings">
<thead><tr><th scope="col">metric</th><th scope="col">formula</th><th scope="col">what it says</th></tr></thead>
<tbody>${shown.map((name) => {
    const { formula, meaning } = METRICS[name];
    return html`<tr><th scope="row">${titleOf(name)}<code>${name}</code></th><td class="formula">${formula}</td><td>${meaning}</td></tr>
`;
  })}</tbody></table></div>${notation}</section>`;
}

function pageData({ saes, settings }: SweepReportData): SweepPageData {
  return {
    saes: saes.map(({ name, setting, shape, metrics, budgets, curves }) => ({
      name,
      setting,
      seed: String(shape.seed ?? name),
      metrics,
      budgets,
      curves,
    })),
    settings: settings.map((setting, i) => ({ ...setting, ...inkOf(i) })),
  };
}

/** The page as one HTML document: no network, readable from a file, dark and light. */
export function renderSweep(data: SweepReportData): string {
  check(data);
  const body = html`<noscript><p class="note">Charts and sorting need JavaScript; the tables do not.</p></noscript>
<section id="table"><h2>The autoencoders</h2>
<p class="lead">A column’s title sorts by it.</p>
${saesTable(data)}</section>
${settingsTable(data)}
<div class="keyed"><div class="key" id="key" role="group" aria-label="Series to show"></div>
${frontier(data)}
${training(data)}</div>
${meanings(data)}
${runSection(data.run)}`;
  return renderPage(data, body, { script: "sweep-page", data: pageData(data) });
}
