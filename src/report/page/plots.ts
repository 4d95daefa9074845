/**
 * Drawing with Observable Plot, whatever the report is of: the page's frame, tips and numbers, and lines of several series.
 */
import * as Plot from "@observablehq/plot";
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
}

export interface Series {
  readonly label: string;
  /** CSS colour. */
  readonly color: string;
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
}

/** Lines through measured points, under a legend. */
export function linesChart(series: readonly Series[], options: LinesOptions): Element {
  const { width, height, x, format, tick = format, marked } = options;
  const lines = series
    .map((one) => ({ ...one, points: one.points.filter((p) => Number.isFinite(p.y)) }))
    .filter(({ points }) => points.length > 0);
  const all = lines.flatMap(({ points, label, color }) => points.map((p) => ({ ...p, label, color })));
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
      Plot.lineY(all, { x: "x", y: "y", z: "label", stroke: "color", strokeWidth: 1.75 }),
      Plot.dot(all, { x: "x", y: "y", r: 3, fill: "color" }),
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
          title: (p: Point & { label: string }) => `${p.label} ${format(p.y)}\nat ${short(p.x)}`,
        }),
      ),
    ],
  });
  const key = ({ label, color }: Series) => element("span", { style: `--c:${color}` }, label);
  return element("div", {}, element("p", { class: "legend" }, ...lines.map(key)), chart);
}
