/**
 * One self-contained HTML page from a `ReportData`. What a person reads stands in the page itself; charts and feature
 * cards are drawn by the bundled script (src/report/page) from the data embedded as JSON.
 */
import { inputError } from "../util/index.ts";
import { type Budget, METRIC_NAMES, type PageData, type ReportData } from "./data.ts";
import { renderPage, runSection } from "./frame.ts";
import { type Html, html } from "./html.ts";
import { METRICS, notation } from "./metrics.ts";
import { headlineOf, type Texts, textsOf, whole } from "./texts.ts";

/** Points from which on the page draws a running median too. */
const SMOOTHED = 60;

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
    card.contexts.forEach(({ tokens, activations, ranks }, i) => {
      for (const [name, values] of Object.entries(data.budgets ? { activations, ranks } : { activations })) {
        if (values?.length === tokens.length) continue;
        throw inputError(
          `renderReport: feature ${card.id}, context ${i}: ${tokens.length} tokens but ${values?.length ?? "no"} ${name}`,
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
  if (data.budgets) checkBudgets(data, data.budgets);
}

function checkBudgets({ k, cards }: ReportData, budgets: readonly Budget[]): void {
  const all = budgets.map((budget) => budget.k);
  if (all.length < 2 || all.some((one, i) => i > 0 && one <= all[i - 1])) {
    throw inputError(`renderReport: budgets of k=${all.join(",")}; a slider needs two, ascending`);
  }
  if (k === undefined || !all.includes(k)) {
    throw inputError(`renderReport: k=${k} is none of the budgets ${all.join(",")}`);
  }
  const card = cards.find((card) => card.budgets?.length !== all.length);
  if (card) {
    throw inputError(
      `renderReport: feature ${card.id} has ${card.budgets?.length ?? 0} budgets, the report ${all.length}`,
    );
  }
}

/** Text that the slider may change. */
const place = (texts: Texts, name: string): Html => html`<span data-text="${name}">${texts[name]}</span>`;

/** Behind the title of what the slider changes. */
const atK = (data: ReportData, texts: Texts): Html | false =>
  data.budgets !== undefined && html` <small>at <i>k</i> = ${place(texts, "k")}</small>`;

/** The stops are the measured budgets; the page's script brings it to life. */
function slider(data: ReportData, texts: Texts): Html | false {
  const { budgets, k } = data;
  if (!budgets) return false;
  const last = budgets.length - 1;
  const kept = headlineOf(data)
    .slice(0, 2)
    .map(
      ({ name, unit, label }) => html`<span>${place(texts, `headline.${name}`)}${unit} ${label}</span><br>`,
    );
  return html`<p class="note" id="k-says" hidden>The slider sets <i>k</i>: a feature counts as active on a token only if it is among that token’s <i>k</i> strongest, and all below follows, but for the training curves.</p>
<form class="slider" id="slider" hidden>
<label for="k">Active features per token</label>
<div><input type="range" id="k" min="0" max="${last}" step="1" value="${budgets.findIndex((b) => b.k === k)}" autocomplete="off" aria-describedby="k-says"><p class="stops" aria-hidden="true">${budgets.map(({ k }) => html`<span>${k}</span>`)}</p></div>
<output for="k" aria-live="off"><i>k</i> = ${place(texts, "k")}</output>
${kept.length > 0 && html`<p class="kept" aria-hidden="true">${kept}</p>`}
</form>`;
}

function headline(data: ReportData, texts: Texts): Html {
  return html`<dl class="headline">${headlineOf(data).map(
    ({ name, label, unit }) =>
      html`<div data-metric="${name}"><dt>${label}</dt><dd>${place(texts, `headline.${name}`)}${unit && html`<i>${unit}</i>`}</dd></div>`,
  )}</dl>`;
}

function budgetCurve({ budgets }: ReportData, texts: Texts): Html | false {
  if (!budgets) return false;
  return html`<section id="curve"><h2>One autoencoder, every <i>k</i></h2>
<p class="lead">What is kept with more or fewer features per token, all measured on the same held-out text with the same weights; the line marks <i>k</i> = ${place(texts, "k")}.</p>
<figure><div class="chart" data-chart="budgets"></div></figure></section>`;
}

function metricsTable(data: ReportData, texts: Texts): Html {
  const known = METRIC_NAMES.filter((name) => name in data.metrics);
  const others = Object.keys(data.metrics).filter(
    (name) => !(METRIC_NAMES as readonly string[]).includes(name),
  );
  return html`<table class="metrics">
<thead><tr><th scope="col">metric</th><th scope="col" class="number">value</th><th scope="col">formula</th><th scope="col">what it says</th></tr></thead>
<tbody>
${known.map((name) => {
  const { label, formula, meaning } = METRICS[name];
  return html`<tr><th scope="row">${label}<code>${name}</code></th><td class="number">${place(texts, `metric.${name}`)}</td><td class="formula">${formula}</td><td>${meaning}</td></tr>
`;
})}</tbody></table>
${notation}${
  others.length > 0 &&
  html`<details><summary>${others.length} further number${others.length === 1 ? "" : "s"}</summary><dl class="others">${others.map(
    (name) => html`<div><dt><code>${name}</code></dt><dd>${place(texts, `metric.${name}`)}</dd></div>`,
  )}</dl></details>`
}`;
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
<p class="lead">Against tokens seen.${data.curves.tokens.length >= SMOOTHED ? " Faint: as logged; strong: running median." : ""}${data.curvesNote ? ` ${data.curvesNote}` : ""}</p>
<div class="charts">${charts.map(
    ([name, title]) =>
      html`<figure><figcaption>${title}</figcaption><div class="chart" data-curve="${name}"></div></figure>`,
  )}</div></section>`;
}

function lossLadder(data: ReportData, texts: Texts): Html | false {
  if (!Number.isFinite(data.metrics.ce_clean) || !Number.isFinite(data.metrics.ce_spliced)) return false;
  return html`<section id="loss"><h2>What the model loses${atK(data, texts)}</h2>
<p class="lead">Cross-entropy of the language model on held-out text, in nats per token: untouched, with the reconstruction in place of the activations, and with the activations knocked out.</p>
<figure><div class="chart" data-chart="ladder"></div></figure></section>`;
}

function densitySection(data: ReportData, texts: Texts): Html {
  return html`<section id="density"><h2>How often features fire${atK(data, texts)}</h2>
<p class="lead">Features by density, the share of tokens on which they are active, on a logarithmic axis. ${place(texts, "never")}</p>
<figure><div class="chart" data-chart="density"></div></figure></section>`;
}

function featuresSection(data: ReportData, texts: Texts): Html {
  const { cardsChoice = "most telling" } = data;
  return html`<section id="features"><h2>Features${atK(data, texts)}</h2>
<p class="lead">The ${whole(data.cards.length)} ${cardsChoice} of ${whole(data.features)}. Each line is a stretch of text in which the feature fired, strongest first; the deeper the shade the stronger, the peak is framed, and pointing at a token shows its value.${data.budgets !== undefined && html` Lines in which it does not fire at the chosen <i>k</i> are grey.`}${data.cardsNote ? ` ${data.cardsNote}` : ""}</p>
<form class="toolbar" role="search">
<label class="grow"><span>Find</span><input id="find" type="search" placeholder="text, token or #id" autocomplete="off" spellcheck="false"></label>
<label><span>Sort by</span><select id="sort"><option value="rank">${cardsChoice}</option><option value="density-down">density, frequent first</option><option value="density-up">density, rare first</option><option value="max">largest activation</option><option value="id">id</option></select></label>
<output id="count" aria-live="polite"></output>
</form>
<div id="cards"></div></section>`;
}

function pageData({ metrics, curves, density, cards, k, budgets, features }: ReportData): PageData {
  return {
    metrics,
    curves,
    density,
    cards,
    k,
    budgets: budgets?.map((budget) => ({ ...budget, texts: textsOf({ ...budget, features }) })),
  };
}

/** The report as one HTML document: no network, readable from a file, dark and light. */
export function renderReport(data: ReportData): string {
  check(data);
  const texts = textsOf(data);
  const parts = [
    budgetCurve(data, texts),
    curves(data),
    lossLadder(data, texts),
    densitySection(data, texts),
  ];
  const body = html`${slider(data, texts)}
${headline(data, texts)}
<noscript><p class="note">Charts and feature cards need JavaScript; the tables below do not.</p></noscript>
${parts}
<section id="metrics"><h2>Metrics${atK(data, texts)}</h2><div class="scroll">${metricsTable(data, texts)}</div></section>
${data.cards.length > 0 && featuresSection(data, texts)}
${runSection(data.run)}`;
  return renderPage(data, body, { script: "page", data: pageData(data) });
}
