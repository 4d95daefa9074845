/**
 * Heat maps as files.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseHTML } from "linkedom";
import { drawHeatMaps, type HeatMap } from "../../src/report/heat-map.ts";

const MAP: HeatMap = {
  title: "T & U",
  x: "sources",
  y: "readers",
  columns: ["0", "1", "2"],
  rows: ["a", "b"],
  values: [
    [0.25, 0.75],
    [0, undefined, 1],
  ],
  unit: "share",
  label: (value) => `${100 * value}%`,
};

const read = (svg: string) => {
  const { document } = parseHTML(`<!doctype html><html><body>${svg}</body></html>`);
  const fields = [...document.querySelectorAll('[aria-label="cell"] rect')];
  const texts = [...document.querySelectorAll("text")].map((text) => text.textContent);
  return { fields: fields.map((field) => field.getAttribute("fill")), texts };
};

test("a map has a field for each value, blank where there is none, with its words around", () => {
  const svg = drawHeatMaps([MAP]);
  const { fields, texts } = read(svg);
  assert.equal(fields.length, 4);
  assert.equal(new Set(fields).size, 4);
  for (const word of ["T & U", "sources", "readers", "0", "1", "2", "a", "b", "25%", "75%", "0%", "100%"])
    assert.ok(texts.includes(word), word);
  assert.ok(texts.includes("share: 0 (white) to 1 (dark)"));
  assert.match(svg, /aria-label="T &amp; U"/); // a bare & would be no XML
  assert.match(svg, /xmlns="http:\/\/www.w3.org\/2000\/svg"/);
});

test("dark fields are written on in white, and without a label nothing is written", () => {
  assert.match(drawHeatMaps([MAP]), /fill="#222"[^>]*>25%<.*fill="white"[^>]*>100%</);
  const { fields, texts } = read(drawHeatMaps([{ ...MAP, label: undefined }]));
  assert.equal(fields.length, 4);
  assert.ok(!texts.some((text) => text?.endsWith("%")));
});

test("maps beside each other share one scale; the same numbers give the same bytes", () => {
  const twice = { ...MAP, title: "V", values: [[0.5], [2]] };
  const svg = drawHeatMaps([MAP, twice]);
  assert.equal(drawHeatMaps([MAP, twice]), svg);
  const { fields, texts } = read(svg);
  assert.equal(fields.length, 6);
  assert.ok(texts.includes("V") && texts.includes("share: 0 (white) to 2 (dark)"));
  const alone = read(drawHeatMaps([MAP])).fields;
  assert.notEqual(fields[3], alone[3]); // 1 is half of the larger scale
  assert.ok(read(drawHeatMaps([{ ...MAP, domain: [0, 4] }])).texts.includes("share: 0 (white) to 4 (dark)"));
});

test("nothing to draw is refused", () => {
  assert.throws(() => drawHeatMaps([]), /nothing to draw/);
  assert.throws(() => drawHeatMaps([{ ...MAP, values: [[], [undefined]] }]), /T & U: no field has a value/);
});
