/**
 * Result pages: written by hand, with tables that a program fills in between marks.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { type Chart, writeChart } from "../../src/report/chart.ts";

/**
 * Puts each block's lines between `<!-- begin NAME -->` and `<!-- end NAME -->`; every block and every pair of marks must meet.
 * With a group, of the marks whose names begin with `GROUP-`: a page that several programs fill.
 */
export function fillPage(
  file: string,
  blocks: Readonly<Record<string, string>>,
  { group }: { readonly group?: string } = {},
): void {
  let text = readFileSync(file, "utf8");
  const marks = [...text.matchAll(/<!-- begin (\S+) -->/g)].map(([, name]) => name);
  const found = marks.filter((name) => group === undefined || name.startsWith(`${group}-`));
  const strays = [
    ...found.filter((name) => !(name in blocks)),
    ...Object.keys(blocks).filter((n) => !found.includes(n)),
  ];
  if (strays.length > 0) throw new Error(`${file}: no pair of marks and block for ${strays.join(", ")}`);
  for (const [name, block] of Object.entries(blocks)) {
    const [begin, end] = [`<!-- begin ${name} -->`, `<!-- end ${name} -->`];
    const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)];
    if (to < from) throw new Error(`${file}: ${begin} is not closed`);
    text = `${text.slice(0, from)}\n${block.trim()}\n${text.slice(to)}`;
  }
  writeFileSync(file, text);
}

/** The same, and a folder for pictures beside the page; or, without a page, the blocks on the screen and no pictures. */
export function publish(
  page: string,
  blocks: Readonly<Record<string, string>>,
  { group, pictures }: { readonly group: string; readonly pictures: Readonly<Record<string, Chart>> },
): void {
  if (page === "") {
    for (const [name, block] of Object.entries(blocks)) console.log(`${name}\n\n${block}\n`);
    return;
  }
  for (const [name, chart] of Object.entries(pictures))
    writeChart(page.replace(/\.md$/, `/${name}.svg`), chart);
  fillPage(page, blocks, { group });
}

/** A Markdown table; columns after the first are set to the right. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}

export interface Spread {
  readonly mean: number;
  readonly min: number;
  readonly max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return { mean, min: Math.min(...values), max: Math.max(...values) };
}

/** `0.9320 (0.9310 to 0.9331)`: the mean and the extremes over seeds. */
export function showSpread({ mean, min, max }: Spread, digits = 4): string {
  const show = (v: number): string => v.toFixed(digits);
  return show(min) === show(max) ? show(mean) : `${show(mean)} (${show(min)} to ${show(max)})`;
}
