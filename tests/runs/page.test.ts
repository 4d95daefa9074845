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

test("several programs fill a page, each the marks of its prefix", () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "page.md");
  writeFileSync(file, "<!-- begin a-x -->\n<!-- end a-x -->\n<!-- begin b-x -->\n<!-- end b-x -->\n");
  fillPage(file, { "b-x": "two" }, "b-");
  assert.equal(
    readFileSync(file, "utf8"),
    "<!-- begin a-x -->\n<!-- end a-x -->\n<!-- begin b-x -->\ntwo\n<!-- end b-x -->\n",
  );
  assert.throws(
    () => fillPage(file, { "b-x": "two", "a-x": "one" }, "b-"),
    /no pair of marks and block for a-x/,
  );
  assert.throws(() => fillPage(file, {}, "a-"), /no pair of marks and block for a-x/);
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
});
