/**
 * The charts, drawn by Observable Plot into the page's `.chart` elements and redrawn when their width changes.
 */
import * as Plot from "@observablehq/plot";
import type { DensityHistogram, PageData, TrainingCurves } from "../data.ts";

const AXIS = { fontSize: "11px", color: "var(--soft)", background: "transparent" };
const LINE = "var(--blue)";

/** 1234567 → 1.23M, 0.0004 → 4e-4 */
function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-2) return (+value.toPrecision(3)).toExponential().replace("-", "−");
  return String(+value.toPrecision(4)).replace("-", "−");
}

type CurveName = Exclude<keyof TrainingCurves, "tokens">;

const CURVE_FORMAT: Record<CurveName, (value: number) => string> = {
  loss: (v) => v.toPrecision(4),
  explainedVariance: (v) => v.toFixed(4),
  l0: (v) => v.toFixed(1),
  deadFraction: (v) => `${(100 * v).toFixed(2)}%`,
  learningRate: (v) => v.toExponential(2),
};

function curve(all: TrainingCurves, name: CurveName, width: number): Element {
  const values = all[name] ?? [];
  const points = all.tokens
    .map((x, i) => ({ x, y: values[i] }))
    .filter((p): p is { x: number; y: number } => p.y !== null && Number.isFinite(p.y));
  const window = name === "learningRate" ? 1 : Math.max(1, Math.round(points.length / 40));
  const share = name === "deadFraction";
  // The first steps are off the scale of all that follows; the axis is that of the rest.
  const settled = points.slice(Math.floor(points.length / 60)).map((p) => p.y);
  const low = Math.min(...settled);
  const high = Math.max(...settled);
  const flat = high - low < 1e-9 * Math.max(1, Math.abs(high));
  const domain = flat ? [Math.min(0, low), high === 0 ? (share ? 0.01 : 1) : high * 1.2] : [low, high];
  const format = CURVE_FORMAT[name];
  return Plot.plot({
    width,
    height: name === "learningRate" ? 120 : 190,
    marginLeft: 46,
    marginRight: 18,
    marginTop: 12,
    marginBottom: 26,
    style: AXIS,
    x: { tickFormat: short, ticks: Math.max(3, width / 110), label: null, tickSize: 0 },
    y: {
      domain,
      nice: true,
      grid: true,
      ticks: 4,
      label: null,
      tickSize: 0,
      tickFormat: share ? (v: number) => `${+(100 * v).toPrecision(3)}%` : short,
    },
    marks: [
      Plot.ruleX([0], { stroke: "var(--line)" }),
      Plot.lineY(points, {
        x: "x",
        y: "y",
        stroke: LINE,
        strokeWidth: 1,
        strokeOpacity: window > 1 ? 0.28 : 1,
        clip: true,
      }),
      window > 1
        ? Plot.lineY(
            points,
            Plot.windowY(
              { k: window, reduce: "median" },
              { x: "x", y: "y", stroke: LINE, strokeWidth: 1.75, clip: true },
            ),
          )
        : null,
      Plot.ruleX(points, Plot.pointerX({ x: "x", stroke: "var(--soft)", strokeOpacity: 0.6 })),
      Plot.tip(
        points,
        Plot.pointerX({
          x: "x",
          y: "y",
          title: (p: { x: number; y: number }) => `${format(p.y)}\nat ${short(p.x)} tokens`,
          stroke: "var(--line)",
          fill: "var(--raised)",
        }),
      ),
    ],
  });
}

function density(histogram: DensityHistogram, width: number): Element {
  const bins = histogram.counts.map((count, i) => ({
    x1: histogram.edges[i],
    x2: histogram.edges[i + 1],
    count,
  }));
  const decade = (log: number): string => {
    const percent = 10 ** (log + 2);
    return `${percent >= 0.001 ? String(+percent.toPrecision(1)) : percent.toExponential(0)}%`;
  };
  return Plot.plot({
    width,
    height: 240,
    marginLeft: 46,
    marginRight: 14,
    marginBottom: 40,
    marginTop: 12,
    style: AXIS,
    x: {
      label: "share of tokens on which a feature is active",
      labelAnchor: "center",
      labelArrow: "none",
      ticks: bins.length > 0 ? [...new Set(histogram.edges.map(Math.round))] : [],
      tickFormat: decade,
      tickSize: 4,
    },
    y: { grid: true, label: null, ticks: 4, tickSize: 0 },
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
          x: (b: { x1: number; x2: number }) => (b.x1 + b.x2) / 2,
          y: "count",
          title: (b: { x1: number; x2: number; count: number }) =>
            `${b.count} features\n${(10 ** (b.x1 + 2)).toPrecision(2)}% – ${(10 ** (b.x2 + 2)).toPrecision(2)}% of tokens`,
          stroke: "var(--line)",
          fill: "var(--raised)",
        }),
      ),
    ],
  });
}

/** The cross-entropies as marks on one scale. */
function ladder(metrics: PageData["metrics"], width: number): Element {
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
  const roomy = width > 560;
  return Plot.plot({
    width,
    height: 34 * rungs.length + 36,
    marginLeft: roomy ? 112 : 100,
    marginRight: 60,
    marginTop: 4,
    marginBottom: 28,
    style: AXIS,
    x: { zero: false, nice: true, grid: true, ticks: roomy ? 8 : 4, label: null, tickSize: 0 },
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

function draw(data: PageData, target: HTMLElement, width: number): Element | undefined {
  const name = target.dataset.curve as CurveName | undefined;
  if (name && data.curves) return curve(data.curves, name, width);
  if (target.dataset.chart === "density") return density(data.density, width);
  if (target.dataset.chart === "ladder") return ladder(data.metrics, width);
  return undefined;
}

/** Draws every chart of the page and keeps it as wide as its place. */
export function drawCharts(data: PageData): void {
  const widths = new WeakMap<Element, number>();
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const width = Math.round(contentRect.width);
      if (width < 40 || widths.get(target) === width) continue;
      widths.set(target, width);
      const title =
        target.closest("figure")?.querySelector("figcaption") ??
        target.closest("section")?.querySelector("h2");
      const chart = draw(data, target as HTMLElement, width);
      if (!chart) continue;
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", title?.textContent ?? "chart");
      target.replaceChildren(chart);
    }
  });
  for (const target of document.querySelectorAll(".chart")) observer.observe(target);
}
