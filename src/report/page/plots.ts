/**
 * Drawing with Observable Plot, whatever the report is of: the page's frame, tips and numbers, and lines of several series.
 */
import * as Plot from "@observablehq/plot";
import type { TrainingCurves } from "../data.ts";
import { element } from "./dom.ts";

/** Size, margins and type of every chart. */
export const frame = (width: number, height: number) => ({
  width,
  height,
  marginLeft: 46,
  marginRight: 18,
  marginTop: 12,
  marginBottom: 26,
  style: { fontSize: "11px", color: "var(--soft)", background: "transparent" },
});

/** The box with a point's numbers. */
export const tip = { stroke: "var(--line)", fill: "var(--raised)" };

/** 1234567 → 1.23M, 0.0004 → 4e-4 */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-2) return (+value.toPrecision(3)).toExponential().replace("-", "−");
  return String(+value.toPrecision(4)).replace("-", "−");
}

interface Point {
  readonly x: number;
  readonly y: number;
  /** Behind the series' name in its tip. */
  readonly note?: string;
  readonly large?: boolean;
}

interface Range {
  readonly mean: number;
  readonly min: number;
  readonly max: number;
}

/** Bars from the least to the most in both directions, crossing at the means. */
export interface Span {
  readonly color: string;
  readonly x: Range;
  readonly y: Range;
}

export interface Series {
  readonly label: string;
  /** CSS colour. */
  readonly color: string;
  /** Of the line, whose dots are then hollow; default solid. */
  readonly dash?: string;
  /** Ascending in x; points without a finite y are left out. */
  readonly points: readonly Point[];
}

export interface LinesOptions {
  readonly width: number;
  readonly height: number;
  readonly x: {
    readonly label: string;
    readonly type?: "linear" | "log";
    readonly ticks?: readonly number[];
  };
  /** A y value in words, for labels and tips, and on the axis. */
  readonly format: (y: number) => string;
  readonly tick?: (y: number) => string;
  /** An x that is pointed out, with every series' value there. */
  readonly marked?: number;
  readonly spans?: readonly Span[];
  /** Default true. */
  readonly legend?: boolean;
}

export type CurveName = Exclude<keyof TrainingCurves, "tokens">;

export const CURVE_FORMAT: Record<CurveName, (value: number) => string> = {
  loss: (v) => v.toPrecision(4),
  explainedVariance: (v) => v.toFixed(4),
  l0: (v) => v.toFixed(1),
  deadFraction: (v) => `${(100 * v).toFixed(2)}%`,
  learningRate: (v) => v.toExponential(2),
};

export interface CurvesOptions {
  readonly width: number;
  readonly height: number;
  readonly format: (y: number) => string;
  /** The values are shares, shown as percentages on the axis. */
  readonly share?: boolean;
  /** Draw a running median; of a single series also, faintly, what was logged. Default true. */
  readonly smooth?: boolean;
  /** There may be several series: tips name them, and nothing is drawn twice. */
  readonly several?: boolean;
}

/** Curves along a training, against tokens seen. */
export function curvesChart(series: readonly Series[], options: CurvesOptions): Element {
  const { width, height, format, share = false, smooth = true, several = false } = options;
  const lines = series.map((one) => {
    const points = one.points.filter((p) => p.y !== null && Number.isFinite(p.y));
    // The first steps are off the scale of all that follows; the axis is that of the rest.
    const settled = points.slice(Math.floor(points.length / 60)).map((p) => p.y);
    return { ...one, points, settled, window: smooth ? Math.max(1, Math.round(points.length / 40)) : 1 };
  });
  const settled = lines.flatMap((line) => line.settled);
  const low = Math.min(...settled);
  const high = Math.max(...settled);
  const flat = high - low < 1e-9 * Math.max(1, Math.abs(high));
  const domain = flat ? [Math.min(0, low), high === 0 ? (share ? 0.01 : 1) : high * 1.2] : [low, high];
  const all = lines.flatMap(({ points, label, color }) => points.map((p) => ({ ...p, label, color })));
  const point = several ? Plot.pointer : Plot.pointerX;
  return Plot.plot({
    ...frame(width, height),
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
      ...lines.flatMap(({ points, color, dash, window }) => {
        const line = { x: "x", y: "y", stroke: color, strokeDasharray: dash, clip: true } as const;
        const strong = { ...line, strokeWidth: several ? 1.4 : 1.75 };
        if (window === 1) return [Plot.lineY(points, several ? strong : { ...line, strokeWidth: 1 })];
        const median = Plot.lineY(points, Plot.windowY({ k: window, reduce: "median" }, strong));
        return several
          ? [median]
          : [Plot.lineY(points, { ...line, strokeWidth: 1, strokeOpacity: 0.28 }), median];
      }),
      Plot.ruleX(all, Plot.pointerX({ x: "x", stroke: "var(--soft)", strokeOpacity: 0.6 })),
      Plot.tip(
        all,
        point({
          ...tip,
          x: "x",
          y: "y",
          title: (p: Point & { label: string }) =>
            `${p.label && `${p.label}\n`}${format(p.y)}\nat ${short(p.x)} tokens`,
        }),
      ),
    ],
  });
}

/** Lines through measured points, under a legend. */
export function linesChart(series: readonly Series[], options: LinesOptions): Element {
  const { width, height, x, format, tick = format, marked, spans = [], legend = true } = options;
  const lines = series
    .map((one) => ({ ...one, points: one.points.filter((p) => Number.isFinite(p.y)) }))
    .filter(({ points }) => points.length > 0);
  const all = lines.flatMap(({ points, label, color, dash }) =>
    points.map((p) => ({ ...p, label, color, inner: dash === undefined ? color : "var(--paper)" })),
  );
  const here = all.filter((p) => p.x === marked);
  const xs = all.map((p) => p.x);
  const chart = Plot.plot({
    ...frame(width, height),
    marginTop: 20,
    marginBottom: 40,
    x: {
      type: x.type ?? "linear",
      domain: [Math.min(...xs), Math.max(...xs)],
      ticks: x.ticks as number[] | undefined,
      tickFormat: short,
      label: x.label,
      labelAnchor: "center",
      labelArrow: "none",
      tickSize: 4,
      inset: 26,
    },
    y: { nice: true, grid: true, ticks: 4, tickSize: 0, label: null, tickFormat: tick },
    marks: [
      marked === undefined ? null : Plot.ruleX([marked], { stroke: "var(--soft)", strokeDasharray: "2,3" }),
      ...lines.map(({ points, color, dash }) =>
        Plot.lineY(points, { x: "x", y: "y", stroke: color, strokeWidth: 1.75, strokeDasharray: dash }),
      ),
      Plot.ruleX(spans, {
        x: (s: Span) => s.x.mean,
        y1: (s: Span) => s.y.min,
        y2: (s: Span) => s.y.max,
        stroke: "color",
        strokeWidth: 6,
        strokeOpacity: 0.35,
      }),
      Plot.ruleY(
        spans.filter((s) => s.x.min < s.x.max),
        {
          y: (s: Span) => s.y.mean,
          x1: (s: Span) => s.x.min,
          x2: (s: Span) => s.x.max,
          stroke: "color",
          strokeWidth: 6,
          strokeOpacity: 0.35,
        },
      ),
      Plot.dot(all, { x: "x", y: "y", r: (p: Point) => (p.large ? 5 : 3), fill: "inner", stroke: "color" }),
      Plot.dot(here, { x: "x", y: "y", r: 6, fill: "color", stroke: "var(--paper)", strokeWidth: 2 }),
      Plot.text(here, {
        x: "x",
        y: "y",
        text: (p: Point) => format(p.y),
        fill: "color",
        fontSize: 13,
        dy: -14,
        stroke: "var(--paper)",
        strokeWidth: 4,
      }),
      Plot.tip(
        all,
        Plot.pointer({
          ...tip,
          x: "x",
          y: "y",
          title: (p: Point & { label: string }) =>
            `${p.label}${p.note ?? ""} ${format(p.y)}\nat ${short(p.x)}`,
        }),
      ),
    ],
  });
  if (!legend) return chart;
  const key = ({ label, color }: Series) => element("span", { style: `--c:${color}` }, label);
  return element("div", {}, element("p", { class: "legend" }, ...lines.map(key)), chart);
}

/**
 * Draws every `.chart` of the page and keeps it as wide as its place; what has nothing to draw stays as it is. Returns what
 * draws those of a selector anew.
 */
export function keepDrawn(
  draw: (target: HTMLElement, width: number) => Element | undefined,
): (selector?: string) => void {
  const widths = new WeakMap<Element, number>();
  const place = (target: HTMLElement): void => {
    const width = widths.get(target);
    if (width === undefined) return; // not laid out yet
    const title =
      target.closest("figure")?.querySelector("figcaption") ?? target.closest("section")?.querySelector("h2");
    const chart = draw(target, width);
    if (!chart) return;
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", title?.textContent ?? "chart");
    target.replaceChildren(chart);
  };
  const observer = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const width = Math.round(contentRect.width);
      if (width < 40 || widths.get(target) === width) continue;
      widths.set(target, width);
      place(target as HTMLElement);
    }
  });
  for (const target of document.querySelectorAll(".chart")) observer.observe(target);
  return (selector = ".chart") => {
    for (const target of document.querySelectorAll<HTMLElement>(selector)) place(target);
  };
}
