/**
 * Line charts as SVG files, drawn without a browser.
 */
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { attribute, finishSvg, SVG_STYLE, writeSvg } from "./svg.ts";

export interface Point {
  readonly x: number;
  readonly mean: number;
  /** Ends of a bar: least and largest over the seeds, or a deviation to either side. */
  readonly min?: number;
  readonly max?: number;
}

export interface Series {
  readonly name: string;
  readonly points: readonly Point[];
  /** Dashed: a bound, or another point of comparison. */
  readonly dashed?: boolean;
}

export interface Axis {
  readonly label: string;
  readonly log?: boolean;
  readonly ticks?: readonly number[];
  readonly domain?: readonly [number, number];
}

export interface Chart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

// Okabe and Ito's palette, which the colour-blind can tell apart. Series beyond it take the same colours with hollow dots.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/** Writes a chart; lines join the means, bars reach from `min` to `max`. */
export function writeChart(file: string, chart: Chart): void {
  writeSvg(file, drawChart(chart));
}

export function drawChart({ title, x, y, series }: Chart): string {
  const { document } = parseHTML("<!doctype html><html><body></body></html>");
  const points = series.flatMap(({ name, points, dashed = false }) =>
    points.map((p) => ({ ...p, name, dashed })),
  );
  const colour = new Map(series.map(({ name }, i) => [name, COLOURS[i % COLOURS.length]]));
  const hollow = new Set(series.slice(COLOURS.length).map(({ name }) => name));
  const stroke = ({ name }: { name: string }): string => colour.get(name) ?? "black";
  const bars = points.filter(({ min, max }) => min !== undefined && max !== undefined && max > min);
  const lines = (dashed: boolean) =>
    Plot.line(
      points.filter((p) => p.dashed === dashed),
      { x: "x", y: "mean", z: "name", stroke, strokeWidth: 1.8, strokeDasharray: dashed ? "5 4" : undefined },
    );
  const svg = Plot.plot({
    document,
    ariaLabel: attribute(title),
    width: 720,
    height: 420,
    marginTop: 44 + LINE * rowsOf(series),
    marginLeft: 66,
    marginBottom: 44,
    style: SVG_STYLE,
    x: {
      label: x.label,
      type: x.log ? "log" : "linear",
      labelAnchor: "center",
      labelArrow: "none",
      ...(x.ticks && { ticks: [...x.ticks], tickFormat: (v: number) => String(v) }),
      ...(x.domain && { domain: [...x.domain] }),
    },
    y: {
      label: y.label,
      grid: true,
      nice: true,
      labelAnchor: "center",
      labelArrow: "none",
      type: y.log ? "log" : "linear",
      ...(y.domain && { domain: [...y.domain] }),
    },
    marks: [
      Plot.frame({ stroke: "#ccc" }),
      lines(false),
      lines(true),
      Plot.ruleX(bars, { x: "x", y1: "min", y2: "max", stroke, strokeWidth: 1.2 }),
      Plot.dot(points, {
        x: "x",
        y: "mean",
        stroke,
        strokeWidth: 1,
        fill: (p) => (hollow.has(p.name) ? "white" : stroke(p)),
        r: 2.5,
      }),
      Plot.text([title], {
        frameAnchor: "top-left",
        dy: -32 - LINE * rowsOf(series),
        fontSize: 14,
        fontWeight: "bold",
      }),
      ...legend(series, colour),
    ],
  });
  return finishSvg(svg);
}

/** Height of a line of text. */
const LINE = 16;

/** Two names a line. */
const rowsOf = (series: readonly Series[]): number => Math.ceil(series.length / 2);

function legend(series: readonly Series[], colour: ReadonlyMap<string, string>) {
  return series.map(({ name }, i) =>
    Plot.text([`${i < COLOURS.length ? "●" : "○"} ${name}`], {
      frameAnchor: "top-left",
      dx: (i % 2) * 320,
      dy: -24 - LINE * (rowsOf(series) - 1 - Math.floor(i / 2)),
      fill: colour.get(name),
    }),
  );
}
