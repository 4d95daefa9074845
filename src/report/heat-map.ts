/**
 * Heat maps as SVG files, drawn without a browser.
 */
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { usageError } from "../util/index.ts";
import { attribute, finishSvg, SVG_STYLE } from "./svg.ts";

export interface HeatMap {
  readonly title: string;
  /** What runs to the right and downwards. */
  readonly x: string;
  readonly y: string;
  readonly columns: readonly string[];
  readonly rows: readonly string[];
  /** [rows][columns]; undefined leaves a field blank. */
  readonly values: readonly (readonly (number | undefined)[])[];
  /** Named beside the scale of colours. */
  readonly unit: string;
  /** Ends of the scale; default 0 to the largest value. */
  readonly domain?: readonly [number, number];
  /** What is written into a field; nothing by default. */
  readonly label?: (value: number) => string;
}

const SIDE = 46;

/** One map, or several beside each other on one scale of colours. */
export function drawHeatMaps(maps: readonly HeatMap[]): string {
  const [first] = maps;
  if (!first) throw usageError("heat map: nothing to draw");
  const cells = maps.flatMap(({ title, rows, columns, values }) =>
    rows.flatMap((row, r) =>
      columns.flatMap((column, c) => {
        const value = values[r]?.[c];
        return value === undefined ? [] : [{ title, row, column, value }];
      }),
    ),
  );
  if (cells.length === 0)
    throw usageError(`heat map: ${maps.map(({ title }) => title).join(", ")}: no field has a value`);
  const largest = cells.reduce((m, { value }) => Math.max(m, value), 0);
  const [low, high] = first.domain ?? [0, largest || 1];
  const { document } = parseHTML("<!doctype html><html><body></body></html>");
  const names = (of: "rows" | "columns") => [...new Set(maps.flatMap((map) => map[of]))];
  const shade = ({ value }: { value: number }): number => (value - low) / (high - low || 1);
  const svg = Plot.plot({
    document,
    ariaLabel: attribute(maps.map(({ title }) => title).join(" | ")),
    width: 130 + maps.length * (20 + SIDE * names("columns").length),
    height: 116 + SIDE * 0.8 * names("rows").length,
    marginLeft: 70,
    marginTop: 62,
    marginBottom: 44,
    style: SVG_STYLE,
    fx: { domain: maps.map(({ title }) => title), label: null, padding: 0.08 },
    x: { domain: names("columns"), label: first.x, labelAnchor: "center", labelArrow: "none" },
    y: { domain: names("rows"), label: first.y, labelAnchor: "center", labelArrow: "none" },
    color: { type: "linear", scheme: "blues", domain: [low, high], label: first.unit },
    marks: [
      Plot.cell(cells, { fx: "title", x: "column", y: "row", fill: "value", inset: 0.5 }),
      ...(first.label
        ? [
            Plot.text(cells, {
              fx: "title",
              x: "column",
              y: "row",
              text: ({ value }) => first.label?.(value) ?? "",
              fill: (cell) => (shade(cell) > 0.6 ? "white" : "#222"),
            }),
          ]
        : []),
      Plot.text([`${first.unit}: ${show(low)} (white) to ${show(high)} (dark)`], {
        frameAnchor: "top-left",
        fx: () => first.title,
        dy: -48,
      }),
    ],
  });
  return finishSvg(svg);
}

const show = (value: number): string => String(Number(value.toPrecision(3)));
