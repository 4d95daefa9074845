/**
 * lime entropy, routes, separability and circuits, on models that lm train made with routed keys and values, and on the bundled one.
 */
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { parseHTML } from "linkedom";
import type {
  LayerEntropy,
  LayerRoute,
  LayerRouter,
  LayerSeparability,
  MeasuredRoute,
  StateKind,
} from "../../src/lime/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let plain: string;
let routed: string;
let dynamic: string;
let text: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model: plain, text } = world);
  process.env.SLUICE_CACHE = world.cache;
  routed = path.join(temp.path, "routed");
  const sizes = [
    "--d",
    "8",
    "--layers",
    "3",
    "--heads",
    "2",
    "--kv-heads",
    "2",
    "--ffn",
    "16",
    "--context",
    "16",
  ];
  dynamic = path.join(temp.path, "dynamic");
  for (const [out, kind] of [
    [routed, "learned"],
    [dynamic, "hidden-dynamic"],
  ]) {
    const ran = await sluice([
      ...["lm", "train", "--text", text, "--tokenizer", plain, "--out", out, ...sizes, "--batch", "4"],
      ...["--tokens", "640", "--kv-routing", kind, "--threads", "1", "--quiet"],
    ]);
    assert.equal(ran.code, 0, ran.stderr);
  }
});
after(() => temp[Symbol.dispose]());

/** Texts of a picture, and how many fields or points and bars it has. */
function readPicture(file: string) {
  const { document } = parseHTML(`<!doctype html><html><body>${readFileSync(file, "utf8")}</body></html>`);
  const count = (what: string, shape: string) =>
    document.querySelectorAll(`[aria-label="${what}"] ${shape}`).length;
  return {
    texts: [...document.querySelectorAll("text")].map((text) => text.textContent ?? ""),
    fields: count("cell", "rect"),
    points: count("dot", "circle"),
    lines: count("line", "path"),
  };
}

test("lm train begins routers at random on request, says so in run.json, and takes no other beginning for the same run", async () => {
  const out = path.join(temp.path, "random");
  const args = [
    "lm",
    "train",
    "--text",
    text,
    "--tokenizer",
    plain,
    "--out",
    out,
    "--d",
    "8",
    "--layers",
    "2",
    "--heads",
    "2",
  ];
  const command = [
    ...args,
    "--kv-heads",
    "2",
    "--ffn",
    "16",
    "--context",
    "16",
    "--batch",
    "4",
    "--tokens",
    "128",
    "--quiet",
  ];
  const ran = await sluice([...command, "--kv-routing", "learned", "--no-router-identity"]);
  assert.equal(ran.code, 0, ran.stderr);
  const run = JSON.parse(readFileSync(path.join(out, "run.json"), "utf8"));
  assert.deepEqual(run.start, { routerIdentity: false });
  const shown = await sluice(["lime", "routes", "--model", out, "--heads", "--json"]);
  const [{ routers }] = shown.json<{ models: { routers: LayerRouter[] }[] }>().models;
  assert.ok(Math.abs(routers[0].weights[2]) < 0.95, "two steps do not bring the identity about");
  const other = await sluice([...command, "--kv-routing", "learned"]);
  assert.equal(other.code, 1, other.stderr);
  assert.match(other.stderr, /of another run \(routerIdentity false there, undefined here\)/);
  const without = await sluice([...command, "--no-router-identity"]);
  assert.equal(without.code, 2);
  assert.match(without.stderr, /--router-identity: only with --kv-routing learned/);
});

test("lime routes gives shares of each layer's sources; a plain model has none", async () => {
  const ran = await sluice(["lime", "routes", "--model", routed, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const [{ routes, ...rest }] = ran.json<{ models: { model: string; routes: LayerRoute[] }[] }>().models;
  assert.deepEqual(rest, { model: routed });
  assert.deepEqual(
    routes.map(({ layer, shares }) => [layer, shares.length]),
    [
      [1, 2],
      [2, 3],
    ],
  );
  for (const { shares } of routes) assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-6);
  const shown = await sluice(["lime", "routes", "--model", routed]);
  assert.match(shown.stdout, /^reader +0 +1 +2\n *1 .*\n *2 /);
  const none = await sluice(["lime", "routes", "--model", plain]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /tiny has no learned routers/);
});

test("lime routes --heads gives the weights that the shares are of", async () => {
  const ran = await sluice(["lime", "routes", "--model", routed, "--heads", "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { models } = ran.json<{ models: { routes: LayerRoute[]; routers: LayerRouter[] }[] }>();
  const [{ routes, routers }] = models;
  assert.deepEqual(
    routers.map(({ layer, heads, sources, weights }) => [layer, heads, [...sources], weights.length]),
    [
      [1, 2, [0, 1], 8],
      [2, 2, [0, 1, 2], 12],
    ],
  );
  const sizes = Array.from(routers[0].weights, Math.abs);
  const first = sizes[0] + sizes[1] + sizes[4] + sizes[5];
  const share = first / sizes.reduce((a, b) => a + b, 0);
  assert.ok(Math.abs(routes[0].shares[0] - share) < 1e-6);
  const shown = await sluice(["lime", "routes", "--model", routed, "--heads"]);
  const lines = shown.stdout.trimEnd().split("\n");
  assert.match(lines[0], /^reader +0\.0 +0\.1 +1\.0 +1\.1 +2\.0 +2\.1$/);
  assert.deepEqual(
    lines.slice(1).map((line) => line.trim().split(/ +/).length),
    [5, 5, 7, 7],
  );
  assert.equal(lines[1].trim().split(/ +/)[2], routers[0].weights[1].toFixed(2));
  assert.equal(lines[3].trim().split(/ +/)[6], routers[1].weights[5].toFixed(2));
});

test("lime routes draws a field for each layer, or head, that is read, of several models beside each other", async () => {
  const layers = path.join(temp.path, "new", "folder", "layers.svg");
  const heads = path.join(temp.path, "heads.svg");
  const ran = await sluice(["lime", "routes", "--model", routed, "--picture", layers, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { models, picture } = ran.json<{ models: { routes: LayerRoute[] }[]; picture: string }>();
  assert.equal(picture, layers);
  const drawn = readPicture(layers);
  assert.equal(drawn.fields, 5);
  for (const share of models[0].routes.flatMap(({ shares }) => shares))
    assert.ok(drawn.texts.includes((100 * share).toFixed(0)), String(share));
  assert.ok(drawn.texts.includes("routed"));
  const twin = path.join(temp.path, "twin");
  cpSync(routed, twin, { recursive: true });
  const args = ["lime", "routes", "--model", `${routed},${twin}`, "--heads", "--picture", heads];
  const both = await sluice(args);
  assert.equal(both.code, 0, both.stderr);
  assert.ok(both.stdout.startsWith(`${routed}\nreader`) && both.stdout.includes(`\n\n${twin}\nreader`));
  const pair = readPicture(heads);
  assert.equal(pair.fields, 2 * (8 + 12));
  for (const name of ["routed", "twin", "2.1"]) assert.ok(pair.texts.includes(name), name);
  const same = await sluice(["lime", "routes", "--model", `${routed},${routed}`]);
  assert.equal(same.code, 2);
  assert.match(same.stderr, /--model names .*routed twice/);
});

test("a picture that is no .svg is refused before anything is read, by its name", async () => {
  for (const command of ["entropy", "routes", "separability"]) {
    const ran = await sluice(["lime", command, "--model", "nowhere", "--picture", "out/x.png"]);
    assert.equal(ran.code, 2);
    assert.match(ran.stderr, /--picture "out\/x\.png": a path that ends in \.svg was expected/);
  }
  const blocked = path.join(text, "x.svg");
  const ran = await sluice(["lime", "routes", "--model", routed, "--picture", blocked]);
  assert.equal(ran.code, 1);
  assert.match(ran.stderr, /cannot write .*x\.svg: /);
});

test("lime entropy compares models layer by layer; what a plain model makes and reads is the same", async () => {
  const args = ["--text", text, "--split", "all", "--context", "12", "--sequences", "4"];
  const picture = path.join(temp.path, "entropy.svg");
  const command = ["lime", "entropy", "--model", `${plain},${routed}`];
  const ran = await sluice([...command, ...args, "--picture", picture, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { texts, points, lines } = readPicture(picture);
  assert.deepEqual([lines, points], [5, 15]); // what a plain model reads is what it makes
  for (const name of [
    "● tiny: values",
    "● tiny: hidden",
    "● routed: values",
    "● routed: read",
    "● routed: hidden",
  ])
    assert.ok(texts.includes(name), name);
  assert.ok(!texts.includes("● tiny: read"));
  const { models } = ran.json<{ models: { layers: Record<StateKind, LayerEntropy[]> }[] }>();
  assert.equal(models.length, 2);
  for (const { layers } of models) {
    for (const { mean, std } of Object.values(layers).flat())
      assert.ok(mean > 0 && mean <= Math.log(12) + 1e-9 && std >= 0, `${mean} ± ${std}`);
  }
  assert.deepEqual(models[0].layers.read, models[0].layers.values);
  assert.notDeepEqual(models[1].layers.read[2], models[1].layers.values[2]);
  const apart = await sluice(["lime", "entropy", "--model", `${plain},${routed}`, ...args.slice(0, 4)]);
  assert.equal(apart.code, 2);
  assert.match(apart.stderr, /routed has another context than .*tiny, so their windows differ/);
  const bare = await sluice(["lime", "entropy", "--model", plain]);
  assert.equal(bare.code, 2);
  assert.match(bare.stderr, /name the text with --text/);
});

interface Separability {
  words: string[];
  perWord: number;
  chance: number;
  models: { model: string; layers: Record<StateKind, LayerSeparability[]> }[];
}

test("lime separability tells words apart by the bundled model's states, and draws it", async () => {
  const sentences = Array.from({ length: 40 }, (_, i) =>
    ["It is so. ", "They are here. ", "He was old. ", "We were young. "].map((s, w) =>
      i % (w + 2) ? s : "",
    ),
  );
  const file = path.join(temp.path, "four.txt");
  writeFileSync(file, sentences.flat().join(""));
  const picture = path.join(temp.path, "words", "four.svg");
  const ran = await sluice([
    ...[
      "lime",
      "separability",
      "--model",
      "models/brook",
      "--text",
      file,
      "--split",
      "all",
      "--context",
      "32",
    ],
    ...["--epochs", "20", "--picture", picture, "--json"],
  ]);
  assert.equal(ran.code, 0, ran.stderr);
  const { perWord, words, chance, models } = ran.json<Separability>();
  assert.deepEqual([words, chance], [["is", "are", "was", "were"], 0.25]);
  assert.ok(perWord >= 15 && perWord <= 20, String(perWord)); // "is" is in every other round, the last place of a window in none
  const { values, read, hidden } = models[0].layers;
  assert.deepEqual(read, values);
  assert.deepEqual(values[0], { mean: 1, std: 0, folds: [1, 1, 1, 1, 1] });
  for (const { mean, folds } of hidden) {
    assert.equal(folds.length, 5);
    assert.ok(mean > 0.5 && mean <= 1, String(mean));
  }
  const { texts, points, lines } = readPicture(picture);
  assert.deepEqual([lines, points], [2, 12]);
  assert.ok(texts.includes(`Words told apart, ${perWord} of each of is, are, was, were; chance 0.250`));
});

test("lime separability compares models on the same occurrences, and is the same again", async () => {
  const args = ["--text", text, "--split", "all", "--context", "12", "--words", "the,a", "--per-word", "40"];
  const command = ["lime", "separability", "--model", `${plain},${routed}`, ...args, "--folds", "4"];
  const ran = await sluice([...command, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { perWord, models } = ran.json<Separability>();
  assert.equal(perWord, 40);
  assert.deepEqual(
    models.map(({ model }) => model),
    [plain, routed],
  );
  assert.ok(models.every(({ layers }) => layers.hidden.every(({ folds }) => folds.length === 4)));
  assert.deepEqual(models[0].layers.read, models[0].layers.values);
  const again = await sluice([...command, "--json"]);
  assert.equal(again.stdout, ran.stdout);
  const shown = await sluice(command);
  assert.match(shown.stdout, /^model +layer +values +read +hidden\n/);
  assert.match(shown.stdout, /\n\n40 of each of the, a; chance 0\.500\n$/);
});

test("lime separability refuses words and texts that it cannot use", async () => {
  const refused = async (code: number, message: RegExp, ...args: string[]) => {
    const ran = await sluice(["lime", "separability", "--model", plain, ...args]);
    assert.equal(ran.code, code, ran.stderr);
    assert.match(ran.stderr, message);
  };
  const read = ["--text", text, "--split", "all", "--context", "12"];
  await refused(2, /name the text with --text/);
  await refused(
    2,
    /no single token of this tokenizer: "platypus" is " .* with --words/,
    ...read,
    "--words",
    "the,platypus",
  );
  await refused(2, /\["the"\]: two or more words/, ...read, "--words", "the");
  await refused(2, /--folds 1/, ...read, "--words", "the,a", "--folds", "1");
  await refused(2, /perWord=3, but at least 5/, ...read, "--words", "the,a", "--per-word", "3");
  const few = path.join(temp.path, "few.txt");
  writeFileSync(few, "the river a stone the water through gold the old. ".repeat(2));
  await refused(
    1,
    /"a" is in the text \d times, but 5 are needed/,
    "--text",
    few,
    "--split",
    "all",
    "--context",
    "12",
    "--words",
    "the,a",
  );
});

test("lime circuits lists the strongest routes with their tokens, as JSON, as a table and as a picture", async () => {
  const args = ["--text", text, "--split", "all", "--sequences", "20", "--min-count", "3", "--routes", "4"];
  for (const model of [routed, dynamic]) {
    const ran = await sluice(["lime", "circuits", "--model", model, ...args, "--json"]);
    assert.equal(ran.code, 0, ran.stderr);
    const { strongest, routes, positions } = ran.json<{
      strongest: (MeasuredRoute & { embedding?: { text: string; logit: number }[] })[];
      routes: MeasuredRoute[];
      positions: number;
    }>();
    assert.ok(positions > 200 && positions < 20 * 16, `${positions}`);
    assert.equal(routes.length, 2 * 2 + 3 * 2);
    for (let i = 0; i < 4; i++) {
      assert.ok(strongest[i].source < strongest[i].layer);
      assert.ok(i === 0 || strongest[i - 1].mean >= strongest[i].mean);
      assert.equal(strongest[i].embedding?.length, model === dynamic ? 8 : undefined);
      for (const { share, count, z } of strongest[i].tokens)
        assert.ok(share > strongest[i].mean && share <= 1 && count >= 3 && z > 0);
    }
    for (const head of [0, 1]) {
      const shares = routes.filter((r) => r.layer === 2 && r.head === head).map((r) => r.mean);
      assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-6);
    }
  }
  const picture = path.join(temp.path, "pictures", "circuits.svg");
  const shown = await sluice(["lime", "circuits", "--model", dynamic, ...args, "--picture", picture]);
  assert.equal(shown.code, 0, shown.stderr);
  const [, head, ...rows] = shown.stdout.trimEnd().split("\n");
  assert.match(head, /^reader +head +source +share +tokens/);
  assert.equal(rows.filter((row) => /^[12] +[01] +[01] +\d+\.\d % .*; by embedding "/.test(row)).length, 4);
  const svg = readFileSync(picture, "utf8");
  assert.match(svg, /^<svg [^>]*width="\d+(\.\d+)?"/);
  assert.equal(svg.match(/>layer \d, head \d reads layer \d</g)?.length, 4);
  assert.match(svg, /by embedding &quot;/);
  const none = await sluice(["lime", "circuits", "--model", plain, ...args]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /no layer of the model reads another one/);
  const rare = await sluice(["lime", "circuits", "--model", routed, ...args, "--min-count", "100000"]);
  assert.equal(rare.code, 1);
  assert.match(rare.stderr, /no token occurs 100000 times/);
});
