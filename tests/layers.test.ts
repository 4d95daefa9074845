/**
 * Reads the import statements under src/ and keeps the arrows between the folders pointing downwards.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, sep } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const core = ["models", "sae", "store", "nn", "tensor", "text", "tasks", "formats", "hub", "util"];

/** What each folder of src/ may import, besides itself. cli and server may import all but each other. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  util: [],
  tensor: ["util"],
  hub: ["util"],
  text: ["hub", "util"],
  tasks: ["util"],
  report: ["util"],
  nn: ["tensor", "util"],
  formats: ["tensor", "util"],
  store: ["formats", "tensor", "util"],
  models: ["nn", "text", "formats", "tensor", "util"],
  sae: ["nn", "formats", "tensor", "util"],
  flow: core,
  steering: core,
  lime: core,
  interpret: core,
  recipes: [...core, "flow", "steering", "lime", "interpret", "report"],
  server: [...core, "flow", "steering", "lime", "interpret", "report", "recipes"],
  cli: [...core, "flow", "steering", "lime", "interpret", "report", "recipes"],
};

/** Arrows that only types may travel along. */
const TYPES_ONLY = new Set(["formats -> tensor"]);

interface Import {
  readonly from: string;
  readonly specifier: string;
  readonly typeOnly: boolean;
}

const root = fileURLToPath(new URL("../../", import.meta.url));

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, String(name)))
    .filter((name) => name.endsWith(".ts"));
}

/** Static imports, re-exports and dynamic imports with a literal specifier. */
function importsOf(file: string): Import[] {
  const text = readFileSync(join(root, file), "utf8");
  const statement = /^\s*(?:import|export)\s+(type\s+)?(?:[^"';]*?\sfrom\s+)?["']([^"'\n]+)["']/gm;
  const dynamic = /\bimport\(\s*["']([^"'\n]+)["']\s*\)/g;
  return [
    ...[...text.matchAll(statement)].map((m) => ({
      from: file,
      specifier: m[2],
      typeOnly: m[1] !== undefined,
    })),
    ...[...text.matchAll(dynamic)].map((m) => ({ from: file, specifier: m[1], typeOnly: false })),
  ];
}

const folderOf = (file: string): string => file.split(sep)[1];
const all = sources("src").flatMap(importsOf);
const local = all.filter((i) => i.specifier.startsWith("."));

test("every folder of src has its place in the layers", () => {
  const folders = new Set(sources("src").map(folderOf));
  for (const folder of folders) {
    assert.ok(folder in MAY_IMPORT, `src/${folder} is not in the table of tests/layers.test.ts`);
  }
});

test("imports between the folders of src point downwards only", () => {
  const wrong = local
    .map((i) => ({ ...i, target: normalize(join(dirname(i.from), i.specifier)) }))
    .filter(({ from, target, typeOnly }) => {
      if (!target.startsWith(`src${sep}`)) return !target.endsWith("package.json");
      const [here, there] = [folderOf(from), folderOf(target)];
      if (here === there) return false;
      if (!MAY_IMPORT[here].includes(there)) return true;
      return TYPES_ONLY.has(`${here} -> ${there}`) && !typeOnly;
    })
    .map(({ from, specifier }) => `${from} imports ${specifier}`);
  assert.deepEqual(wrong, []);
});

test("relative imports carry the .ts extension", () => {
  const wrong = local.filter((i) => !/\.(ts|json)$/.test(i.specifier));
  assert.deepEqual(wrong, []);
});

test("the browser's part of the report imports only its data types and its libraries", () => {
  const page = join("src", "report", "page");
  const wrong = all.filter((i) => {
    if (!i.from.startsWith(page + sep)) return false;
    if (!i.specifier.startsWith(".")) return i.specifier.startsWith("node:");
    const target = normalize(join(dirname(i.from), i.specifier));
    return !target.startsWith(page + sep) && !i.typeOnly;
  });
  assert.deepEqual(wrong, []);
});

test("the layer table itself has no upward arrow", () => {
  const visit = (folder: string, path: readonly string[]): void => {
    assert.ok(!path.includes(folder), `cycle: ${[...path, folder].join(" -> ")}`);
    for (const below of MAY_IMPORT[folder]) visit(below, [...path, folder]);
  };
  for (const folder of Object.keys(MAY_IMPORT)) visit(folder, []);
});
