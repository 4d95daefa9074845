/**
 * One self-contained HTML page from a `ReportData`. What a person reads stands in the page itself; charts and feature
 * cards are drawn by the bundled script (src/report/page) from the data embedded as JSON.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { inputError, ioError } from "../util/index.ts";
import { METRIC_NAMES, type MetricName, type PageData, type ReportData } from "./data.ts";
import { embedJson, Html, html } from "./html.ts";
import { METRICS } from "./metrics.ts";
import { STYLE } from "./style.ts";

/** Points from which on the page draws a running median too. */
const SMOOTHED = 60;

let script: string | undefined;

/** The bundle of src/report/page, made by `npm run build`. */
function pageScript(): string {
  if (script !== undefined) return script;
  const url = new URL("./page.js", import.meta.url);
  try {
    script = readFileSync(url, "utf8").replaceAll("</script", "<\\/script");
  } catch (error) {
    throw ioError("read the report's page script dist/src/report/page.js (run `npm run build`)", error);
  }
  return script;
}

/** Lengths that must agree, checked before anything is drawn. */
function check(data: ReportData): void {
  const length = data.curves?.tokens.length;
  for (const [name, values] of Object.entries(data.curves ?? {})) {
    if (values.length !== length) {
      throw inputError(
        `renderReport: curves.${name} has ${values.length} points, curves.tokens has ${length}`,
      );
    }
  }
  for (const card of data.cards) {
    card.contexts.forEach(({ tokens, activations }, i) => {
      if (tokens.length !== activations.length) {
        throw inputError(
          `renderReport: feature ${card.id}, context ${i}: ${tokens.length} tokens but ${activations.length} activations`,
        );
      }
    });
  }
  const histograms = [data.density, ...data.cards.map((card) => card.activations)];
  const wrong = histograms.find(({ edges, counts }) => edges.length !== counts.length + 1);
  if (wrong) {
    throw inputError(
      `renderReport: a histogram of ${wrong.counts.length} counts needs one edge more, it has ${wrong.edges.length}`,
    );
  }
}

const whole = (value: number): string => Math.round(value).toLocaleString("en-US");
const plain = (value: number): string => String(Number(value.toPrecision(4))).replace("-", "−");
const share = (value: number): string => (100 * value).toFixed(1).replace("-", "−");

/** The few numbers that a reader wants first; those that were not measured are left out. */
function headline(data: ReportData): Html {
  const m = data.metrics;
  const shown: [string, Html, string][] = [];
  const add = (name: MetricName, value: (v: number) => Html, label: string): void => {
    if (Number.isFinite(m[name])) shown.push([name, value(m[name]), label]);
  };
  add("explained_variance", (v) => html`${share(v)}<i>%</i>`, "of the variance explained");
  add("loss_recovered", (v) => html`${share(v)}<i>%</i>`, "of the model’s loss recovered");
  add("l0", (v) => html`${v.toFixed(1)}`, "features active per token");
  if (Number.isFinite(m.ce_clean) && Number.isFinite(m.ce_spliced)) {
    const cost = m.ce_spliced - m.ce_clean;
    shown.push([
      "ce",
      html`${cost < 0 ? "−" : "+"}${Math.abs(cost).toFixed(3)}`,
      "nats of loss when spliced in",
    ]);
  }
  shown.push(["features", html`${whole(data.features)}`, "features in the dictionary"]);
  add("dead_fraction", (v) => html`${share(v)}<i>%</i>`, "of them dead");
  return html`<dl class="headline">${shown.map(
    ([name, value, label]) => html`<div data-metric="${name}"><dt>${label}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

function metricsTable(data: ReportData): Html {
  const known = METRIC_NAMES.filter((name) => name in data.metrics);
  const others = Object.keys(data.metrics).filter(
    (name) => !(METRIC_NAMES as readonly string[]).includes(name),
  );
  const cell = (value: number, format: (v: number) => string): string =>
    Number.isFinite(value) ? format(value) : "–";
  return html`<table class="metrics">
<thead><tr><th scope="col">metric</th><th scope="col" class="number">value</th><th scope="col">formula</th><th scope="col">what it says</th></tr></thead>
<tbody>
${known.map((name) => {
  const { label, format, formula, meaning } = METRICS[name];
  return html`<tr><th scope="row">${label}<code>${name}</code></th><td class="number">${cell(data.metrics[name], format)}</td><td class="formula">${formula}</td><td>${meaning}</td></tr>
`;
})}</tbody></table>
<p class="note"><i>x</i> is an activation at the hook point, <i>x̂</i> its reconstruction, <i>x̄</i> the mean activation, <i>z</i> the codes, <i>t</i> runs over tokens, <i>D</i> is the model’s width, <i>F</i> the number of features, <i>L</i> the language model’s cross-entropy.</p>${
    others.length > 0 &&
    html`<details><summary>${others.length} further number${others.length === 1 ? "" : "s"}</summary><dl class="others">${others.map(
      (name) => html`<div><dt><code>${name}</code></dt><dd>${cell(data.metrics[name], plain)}</dd></div>`,
    )}</dl></details>`
  }`;
}

function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
}

function timings(data: ReportData): Html {
  const longest = Math.max(...data.run.timings.map((t) => t.seconds), 1e-9);
  return html`<table class="timings"><tbody>${data.run.timings.map(
    ({ name, seconds }) =>
      html`<tr><th scope="row">${name}</th><td class="number">${duration(seconds)}</td><td class="bar"><span style="width:${((100 * seconds) / longest).toFixed(1)}%"></span></td></tr>`,
  )}</tbody></table>`;
}

function curves(data: ReportData): Html | false {
  if (!data.curves || data.curves.tokens.length < 2) return false;
  const charts: [string, string][] = [
    ["loss", "Loss"],
    ["explainedVariance", "Explained variance"],
    ["l0", "L0, active features per token"],
    ["deadFraction", "Dead features, share of the dictionary"],
  ];
  if (data.curves.learningRate) charts.push(["learningRate", "Learning rate"]);
  return html`<section id="training"><h2>Training</h2>
<p class="lead">Against tokens seen.${data.curves.tokens.length >= SMOOTHED ? " Faint: as logged; strong: running median." : ""}</p>
<div class="charts">${charts.map(
    ([name, title]) =>
      html`<figure><figcaption>${title}</figcaption><div class="chart" data-curve="${name}"></div></figure>`,
  )}</div></section>`;
}

function lossLadder(data: ReportData): Html | false {
  if (!Number.isFinite(data.metrics.ce_clean) || !Number.isFinite(data.metrics.ce_spliced)) return false;
  return html`<section id="loss"><h2>What the model loses</h2>
<p class="lead">Cross-entropy of the language model on held-out text, in nats per token: untouched, with the reconstruction in place of the activations, and with the activations knocked out.</p>
<figure><div class="chart" data-chart="ladder"></div></figure></section>`;
}

function densitySection(data: ReportData): Html {
  const never = data.density.never;
  return html`<section id="density"><h2>How often features fire</h2>
<p class="lead">Features by density, the share of tokens on which they are active, on a logarithmic axis. ${
    never > 0 ? `${whole(never)} of ${whole(data.features)} never fired here.` : "Every feature fired."
  }</p>
<figure><div class="chart" data-chart="density"></div></figure></section>`;
}

function featuresSection(data: ReportData): Html {
  const { cardsChoice = "most telling" } = data;
  return html`<section id="features"><h2>Features</h2>
<p class="lead">The ${whole(data.cards.length)} ${cardsChoice} of ${whole(data.features)}. Each line is a stretch of text in which the feature fired, strongest first; the deeper the shade the stronger, the peak is framed, and pointing at a token shows its value.${data.cardsNote ? ` ${data.cardsNote}` : ""}</p>
<form class="toolbar" role="search">
<label class="grow"><span>Find</span><input id="find" type="search" placeholder="text, token or #id" autocomplete="off" spellcheck="false"></label>
<label><span>Sort by</span><select id="sort"><option value="rank">${cardsChoice}</option><option value="density-down">density, frequent first</option><option value="density-up">density, rare first</option><option value="max">largest activation</option><option value="id">id</option></select></label>
<output id="count" aria-live="polite"></output>
</form>
<div id="cards"></div></section>`;
}

function runSection(data: ReportData): Html {
  const { command, config, machine } = data.run;
  return html`<section id="run"><h2>The run</h2>
<div class="command"><pre><code>${command}</code></pre><button type="button" id="copy">Copy</button></div>
${machine ? html`<p class="lead">${machine}</p>` : false}
${data.run.timings.length > 0 ? timings(data) : false}
<details><summary>Full configuration</summary><pre class="config">${JSON.stringify(config, null, 2) ?? ""}</pre></details></section>`;
}

/** The report as one HTML document: no network, readable from a file, dark and light. */
export function renderReport(data: ReportData): string {
  check(data);
  const code = pageScript();
  const hash = createHash("sha256").update(code).digest("base64");
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${hash}'; img-src data:`;
  const parts = [curves(data), lossLadder(data), densitySection(data)];
  const page = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="sluice ${data.version}">
<title>${data.title}</title>
<style>${new Html(STYLE)}</style></head>
<body>
<header><p class="brand">sluice <span>report</span></p><h1>${data.title}</h1>
<p class="summary">${data.summary}</p>
<dl class="facts">${data.facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></header>
<main>
${headline(data)}
<noscript><p class="note">Charts and feature cards need JavaScript; the tables below do not.</p></noscript>
${parts}
<section id="metrics"><h2>Metrics</h2><div class="scroll">${metricsTable(data)}</div></section>
${data.cards.length > 0 && featuresSection(data)}
${runSection(data)}
</main>
<footer>Made by sluice ${data.version} on <time datetime="${data.createdAt}">${data.createdAt.replace("T", " ").replace(/\.\d+Z?$|Z$/, " UTC")}</time>.</footer>
<div id="tip" aria-hidden="true" hidden></div>
<script type="application/json" id="data">${embedJson({
    metrics: data.metrics,
    curves: data.curves,
    density: data.density,
    cards: data.cards,
  } satisfies PageData)}</script>
<script>${new Html(code)}</script>
</body></html>
`;
  return page.text;
}
