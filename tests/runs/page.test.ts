/**
 * Result pages and their charts.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fillPage, markdownTable, showSpread, spreadOf } from "../../runs/lib/page.ts";
import { drawChart } from "../../src/report/chart.ts";
import { temporaryFolder } from "../temporary.ts";

test("blocks stand between their marks, again and again, and none may be missing", () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "page.md");
  writeFileSync(file, "# T\n\n<!-- begin a -->\n<!-- end a -->\n\nwords\n");
  fillPage(file, { a: "first" });
  fillPage(file, { a: markdownTable(["x", "y"], [["1", "2"]]) });
  const table = "| x | y |\n| --- | ---: |\n| 1 | 2 |";
  assert.equal(readFileSync(file, "utf8"), `# T\n\n<!-- begin a -->\n${table}\n<!-- end a -->\n\nwords\n`);
  assert.throws(() => fillPage(file, { a: "x", b: "y" }), /no pair of marks and block for b/);
  assert.throws(() => fillPage(file, {}), /no pair of marks and block for a/);
});

test("a program that fills one group of marks leaves the others alone", () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "page.md");
  writeFileSync(
    file,
    "<!-- begin a-x -->\nold\n<!-- end a-x -->\n<!-- begin b-x -->\nold\n<!-- end b-x -->\n",
  );
  fillPage(file, { "a-x": "new" }, { group: "a" });
  assert.equal(
    readFileSync(file, "utf8"),
    "<!-- begin a-x -->\nnew\n<!-- end a-x -->\n<!-- begin b-x -->\nold\n<!-- end b-x -->\n",
  );
  assert.throws(() => fillPage(file, {}, { group: "a" }), /no pair of marks and block for a-x/);
  assert.throws(() => fillPage(file, { "a-x": "", "b-x": "" }, { group: "a" }), /for b-x/);
});

test("a spread names its extremes where they differ in what is shown", () => {
  assert.equal(showSpread(spreadOf([0.5, 0.75, 1]), 2), "0.75 (0.50 to 1.00)");
  assert.equal(showSpread(spreadOf([0.50001, 0.50002]), 3), "0.500");
});

test("a chart holds its lines, bars and names, and is the same file from the same numbers", () => {
  const chart = {
    title: "T & U",
    x: { label: "k", log: true, ticks: [8, 16] },
    y: { label: "v" },
    series: [
      {
        name: "one",
        points: [
          { x: 8, mean: 1, min: 0.9, max: 1.2 },
          { x: 16, mean: 2 },
        ],
      },
      {
        name: "two",
        dashed: true,
        points: [
          { x: 8, mean: 0.5 },
          { x: 16, mean: 0.7 },
        ],
      },
    ],
  };
  const svg = drawChart(chart);
  assert.equal(drawChart(chart), svg);
  assert.match(svg, /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"|^<svg [^>]*xmlns=/);
  for (const text of ["T &amp; U", "● one", "● two", ">8<", ">16<"]) assert.ok(svg.includes(text), text);
  assert.match(svg, /stroke-dasharray/);
  assert.match(svg, /aria-label="T &amp; U"/); // a bare & would be no XML
});

test("more lines than there are colours are told apart by their dots", () => {
  const series = Array.from({ length: 9 }, (_, i) => ({ name: `arm ${i}`, points: [{ x: 1, mean: i }] }));
  const svg = drawChart({ title: "t", x: { label: "x" }, y: { label: "y" }, series });
  const dots = [...svg.matchAll(/<circle [^>]*>/g)].map(([dot]) => dot.replace(/ c[xy]="[^"]*"/g, ""));
  assert.equal(new Set(dots).size, 9, dots.join("\n"));
  assert.ok(svg.includes("● arm 7") && svg.includes("○ arm 8"));
});
