/**
 * The charts, drawn by Observable Plot into the page's `.chart` elements and redrawn when their width changes.
 */
import * as Plot from "@observablehq/plot";
import type { Budget, DensityHistogram, PageData, TrainingCurves } from "../data.ts";
import { CURVE_FORMAT, type CurveName, curvesChart, frame, keepDrawn, linesChart, tip } from "./plots.ts";

const LINE = "var(--blue)";

function curve(all: TrainingCurves, name: CurveName, width: number): Element {
  const values = all[name] ?? [];
  return curvesChart([{ label: "", color: LINE, points: all.tokens.map((x, i) => ({ x, y: values[i] })) }], {
    width,
    height: name === "learningRate" ? 120 : 190,
    format: CURVE_FORMAT[name],
    share: name === "deadFraction",
    smooth: name !== "learningRate",
  });
}

/** `all`: the same at every k, on whose axes it is drawn, so that they stay when k changes. */
function density(histogram: DensityHistogram, all: readonly DensityHistogram[], width: number): Element {
  const bins = histogram.counts.map((count, i) => ({
    x1: histogram.edges[i],
    x2: histogram.edges[i + 1],
    count,
  }));
  const edges = all.flatMap((one) => one.edges);
  const decade = (log: number): string => {
    const percent = 10 ** (log + 2);
    return `${percent >= 0.001 ? String(+percent.toPrecision(1)) : percent.toExponential(0)}%`;
  };
  return Plot.plot({
    ...frame(width, 240),
    marginRight: 14,
    marginBottom: 40,
    x: {
      domain: [Math.min(...edges), Math.max(...edges)],
      label: "share of tokens on which a feature is active",
      labelAnchor: "center",
      labelArrow: "none",
      ticks: [...new Set(edges.map(Math.round))],
      tickFormat: decade,
      tickSize: 4,
    },
    y: {
      domain: [0, Math.max(1, ...all.flatMap((one) => one.counts))],
      grid: true,
      label: null,
      ticks: 4,
      tickSize: 0,
    },
    marks: [
      Plot.rectY(bins, {
        x1: "x1",
        x2: "x2",
        y: "count",
        fill: "var(--gold)",
        insetLeft: 0.5,
        insetRight: 0.5,
      }),
      Plot.ruleY([0], { stroke: "var(--soft)" }),
      Plot.tip(
        bins,
        Plot.pointerX({
          ...tip,
          x: (b: { x1: number; x2: number }) => (b.x1 + b.x2) / 2,
          y: "count",
          title: (b: { x1: number; x2: number; count: number }) =>
            `${b.count} features\n${(10 ** (b.x1 + 2)).toPrecision(2)}% – ${(10 ** (b.x2 + 2)).toPrecision(2)}% of tokens`,
        }),
      ),
    ],
  });
}

/** The cross-entropies as marks on one scale, that of `all`. */
function ladder(metrics: Metrics, all: readonly Metrics[], width: number): Element {
  const names: [string, string, string][] = [
    ["ce_clean", "untouched", "var(--ink)"],
    ["ce_spliced", "reconstructed", "var(--blue)"],
    ["ce_mean", "mean-ablated", "var(--soft)"],
    ["ce_zero", "zero-ablated", "var(--soft)"],
  ];
  const rungs = names
    .filter(([name]) => Number.isFinite(metrics[name]))
    .map(([name, label, color]) => ({ label, color, value: metrics[name] }));
  const start = metrics.ce_clean;
  const values = all.flatMap((one) => names.map(([name]) => one[name])).filter(Number.isFinite);
  const roomy = width > 560;
  return Plot.plot({
    ...frame(width, 34 * rungs.length + 36),
    marginLeft: roomy ? 112 : 100,
    marginRight: 60,
    marginTop: 4,
    marginBottom: 28,
    x: {
      domain: [Math.min(...values), Math.max(...values)],
      nice: true,
      grid: true,
      ticks: roomy ? 8 : 4,
      label: null,
      tickSize: 0,
    },
    y: { domain: rungs.map((r) => r.label), label: null, tickSize: 0, padding: 0.6 },
    marks: [
      Plot.axisY({ tickSize: 0, fontSize: 13, label: null, fill: "var(--ink)" }),
      Plot.ruleX([start], { stroke: "var(--soft)", strokeDasharray: "2,3" }),
      Plot.ruleY(rungs, {
        x1: () => start,
        x2: "value",
        y: "label",
        stroke: "color",
        strokeWidth: 3,
        strokeOpacity: 0.55,
      }),
      Plot.dot(rungs, { x: "value", y: "label", fill: "color", r: 5 }),
      Plot.text(rungs, {
        x: "value",
        y: "label",
        text: (r: { value: number }) => r.value.toFixed(3),
        textAnchor: "start",
        dx: 11,
        fontSize: 13,
        fill: "var(--ink)",
      }),
    ],
  });
}

/** What is kept at each k: shares, the higher the better. */
function budgetCurve(budgets: readonly Budget[], k: number, width: number): Element {
  const series = (name: string, label: string, color: string) => ({
    label,
    color,
    points: budgets.map((b) => ({ x: b.k, y: b.metrics[name] })),
  });
  return linesChart(
    [
      series("loss_recovered", "loss recovered", "var(--rust)"),
      series("explained_variance", "explained variance", "var(--blue)"),
    ],
    {
      width,
      height: 250,
      x: { label: "active features per token, k", type: "log", ticks: budgets.map((b) => b.k) },
      format: (share) => `${(100 * share).toFixed(1)}%`,
      tick: (share) => `${+(100 * share).toPrecision(3)}%`,
      marked: k,
    },
  );
}

type Metrics = PageData["metrics"];

/** What of the data the charts show: all of it, or that of one k. */
type Shown = Pick<PageData, "metrics" | "density" | "k">;

function draw(data: PageData, shown: Shown, target: HTMLElement, width: number): Element | undefined {
  const name = target.dataset.curve as CurveName | undefined;
  const all = data.budgets ?? [data];
  if (name && data.curves) return curve(data.curves, name, width);
  switch (target.dataset.chart) {
    case "density":
      return density(
        shown.density,
        all.map((one) => one.density),
        width,
      );
    case "ladder":
      return ladder(
        shown.metrics,
        all.map((one) => one.metrics),
        width,
      );
    case "budgets":
      return data.budgets && budgetCurve(data.budgets, shown.k ?? Number.NaN, width);
    default:
      return undefined;
  }
}

/** Draws every chart of the page and keeps it as wide as its place. Returns what draws those anew that depend on k. */
export function drawCharts(data: PageData): (shown: Shown) => void {
  let current: Shown = data;
  const redraw = keepDrawn((target, width) => draw(data, current, target, width));
  return (shown) => {
    current = shown;
    redraw(".chart[data-chart]");
  };
}
