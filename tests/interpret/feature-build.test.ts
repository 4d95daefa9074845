/**
 * A feature database against plain loops over all codes, and a build that stops and goes on against one that does not.
 * T tokens of a context · K slots of a token, another number in every batch.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { samplePriority } from "../../src/interpret/feature-scan.ts";
import {
  type Example,
  type Feature,
  FeatureBuild,
  openFeatureDatabase,
  type ScanBatch,
  type ScanOptions,
} from "../../src/interpret/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { randomBatches, vocabularyOf, withSae } from "./random-features.ts";

const T = 12;
const F = 20;
const V = 30;
const CONTEXTS = 60;
const scan: ScanOptions = {
  features: F,
  vocabSize: V,
  context: T,
  top: 3,
  sample: 8,
  side: 2,
  seed: 5,
  silent: new Set([0, 1]),
  borders: new Set([0, 1]),
  controls: new Set([3, 4, 40]),
  logRows: 50,
};
const settings = { text: "random", seed: 5 };

const text = { contexts: CONTEXTS };

interface Firing {
  readonly context: number;
  readonly position: number;
  readonly token: number;
  readonly value: number;
}

/** All firings of every feature in the order of the text, and the text by context. */
function bruteForce(batches: readonly ScanBatch[]) {
  const firings: Firing[][] = Array.from({ length: F }, () => []);
  const text: number[][] = [];
  for (const { tokens, values, indices } of batches) {
    const K = values.length / tokens.length;
    for (const [i, token] of tokens.entries()) {
      if (i % T === 0) text.push([]);
      const context = text.length - 1;
      text[context].push(token);
      if (token < 2) continue;
      for (let s = i * K; s < (i + 1) * K; s++) {
        if (values[s] > 0) firings[indices[s]].push({ context, position: i % T, token, value: values[s] });
      }
    }
  }
  return { firings, text };
}

const brute = bruteForce(randomBatches(scan, text));
const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

function expectedExamples(feature: number): Example[] {
  const own = brute.firings[feature];
  const contexts = [...new Set(own.map((f) => f.context))];
  const peaks = contexts.map((context) =>
    own.filter((f) => f.context === context).reduce((a, b) => (b.value > a.value ? b : a)),
  );
  const byHeight = [...peaks].sort((a, b) => b.value - a.value || a.context - b.context);
  const priority = (f: Firing) => samplePriority(scan.seed, feature, f.context);
  const drawn = [...peaks].sort((a, b) => priority(a) - priority(b)).slice(0, scan.sample);
  const ranks = [...drawn].sort((a, b) => a.value - b.value || a.context - b.context);
  return byHeight.flatMap((peak, rank) => {
    const top = rank < scan.top ? rank + 1 : null;
    const at = ranks.indexOf(peak);
    if (top === null && at < 0) return [];
    const text = brute.text[peak.context];
    let from = peak.position;
    while (from > 0 && from > peak.position - scan.side && text[from - 1] > 1) from--;
    let to = peak.position + 1;
    while (to < T && to <= peak.position + scan.side && text[to] > 1) to++;
    const valueAt = (position: number) =>
      own.find((f) => f.context === peak.context && f.position === position)?.value ?? 0;
    return {
      feature,
      top,
      quantile: at < 0 ? null : (at + 0.5) / ranks.length,
      context: peak.context,
      position: peak.position,
      peak: peak.position - from,
      activation: peak.value,
      tokens: text.slice(from, to),
      activations: text.slice(from, to).map((_, i) => valueAt(from + i)),
    };
  });
}

function expectedNumbers(feature: number): Partial<Feature> {
  const own = brute.firings[feature];
  const measured = brute.text.map((text) => text.filter((t) => t > 1).length);
  const contexts = [...new Set(own.map((f) => f.context))];
  const byToken = new Map<number, number>();
  for (const { token } of own) byToken.set(token, (byToken.get(token) ?? 0) + 1);
  const shares = [...byToken.values()].map((n) => n / own.length);
  const fired = (context: number) => own.filter((f) => f.context === context).length;
  const topTokens = [...byToken]
    .sort((a, b) => b[1] - a[1] || a[0] - b[0])
    .slice(0, 10)
    .map(([token, firings]) => ({ token, firings }));
  if (own.length === 0)
    return { firings: 0, density: 0, meanActivation: null, tokenEntropy: null, topTokens };
  return {
    firings: own.length,
    contexts: contexts.length,
    density: own.length / sum(measured),
    maxActivation: Math.max(...own.map((f) => f.value)),
    meanActivation: sum(own.map((f) => f.value)) / own.length,
    tokenEntropy: -sum(shares.map((p) => p * Math.log(p))),
    multiTokenRatio: sum(contexts.map((c) => fired(c) / measured[c])) / contexts.length,
    topTokens,
  };
}

/** Builds in a folder; after each of these numbers of contexts the process "dies", with or without a save before. */
async function build(
  folder: string,
  { deaths = [], keepRows }: { deaths?: readonly { at: number; save: boolean }[]; keepRows?: number } = {},
): Promise<void> {
  const open = () => FeatureBuild.open(folder, { scan, settings, keepRows });
  const batches = randomBatches(scan, text);
  for (const { at, save } of [...deaths, { at: CONTEXTS, save: false }]) {
    const running = await open();
    while (running.scan.contexts < at) await running.add(batches[running.scan.contexts / 4]);
    if (save) await running.save();
    if (at === CONTEXTS) await finish(running);
    running.close();
  }
}

const finish = (build: FeatureBuild) =>
  withSae(F, (sae) => build.finish({ sae, vocabulary: vocabularyOf(V) }));

async function contents(folder: string) {
  const database = await openFeatureDatabase(folder);
  try {
    const features = await database.features();
    const examples = [];
    for (const { id } of features) examples.push(await database.examples(id));
    return { index: database.index, features, examples, controls: await database.controls() };
  } finally {
    database.close();
  }
}

test("numbers and examples of every feature are those of plain loops over all codes", async () => {
  using temp = temporaryFolder();
  const folder = join(temp.path, "features");
  await build(folder);
  const { index, features, examples, controls } = await contents(folder);
  assert.equal(features.length, F);
  for (const [id, feature] of features.entries()) {
    assert.equal(feature.id, id);
    for (const [name, value] of Object.entries(expectedNumbers(id))) {
      const got = feature[name as keyof Feature];
      if (typeof value === "number")
        assert.ok(Math.abs((got as number) - value) < 1e-9, `${id} ${name}: ${got}, not ${value}`);
      else assert.deepEqual(got, value, `${id} ${name}`);
    }
    assert.deepEqual(examples[id], expectedExamples(id));
  }
  assert.equal(
    features[3].histogram!.counts.reduce((a, b) => a + b),
    brute.firings[3].length,
  );
  assert.equal(features[19].histogram, null);
  assert.equal(features[3].promoted, null, "no model was given");
  assert.equal(index.tokens, sum(brute.text.map((text) => text.filter((t) => t > 1).length)));
  assert.equal(index.l0, sum(brute.firings.map((f) => f.length)) / index.tokens!);
  assert.deepEqual(
    controls.map((c) => c.context),
    [3, 4, 40],
  );
  for (const { context, tokens, features: firing } of controls) {
    const from = brute.text[context].join().indexOf(tokens.join());
    assert.ok(from >= 0 && tokens.every((t) => t > 1));
    const position = brute.text[context].findIndex((_, i, all) => tokens.every((t, j) => all[i + j] === t));
    const inside = (f: Firing) =>
      f.context === context && f.position >= position && f.position < position + tokens.length;
    assert.deepEqual(
      firing,
      brute.firings.flatMap((own, id) => (own.some(inside) ? [id] : [])),
    );
  }
  assert.deepEqual(readdirSync(folder).sort(), [
    "controls.parquet",
    "examples.parquet",
    "features.parquet",
    "index.json",
    "tokens.parquet",
  ]);
});

test("a build that died and went on has the rows of one that did not, also with its logs thinned out", async () => {
  using temp = temporaryFolder();
  const folders = ["whole", "cut", "thin"].map((name) => join(temp.path, name));
  const deaths = [
    { at: 8, save: true },
    { at: 20, save: false },
    { at: 24, save: true },
    { at: 52, save: false },
  ];
  await build(folders[0]);
  await build(folders[1], { deaths });
  await build(folders[2], { deaths, keepRows: 60 });
  const [whole, cut, thin] = [
    await contents(folders[0]),
    await contents(folders[1]),
    await contents(folders[2]),
  ];
  assert.deepEqual(cut, whole);
  assert.deepEqual(thin, whole);
});

test("a killed build leaves no database, and files that its state does not name are taken away", async () => {
  using temp = temporaryFolder();
  const folder = join(temp.path, "features");
  const running = await FeatureBuild.open(folder, { scan, settings });
  const batches = randomBatches(scan, text);
  for (const batch of batches.slice(0, 5)) await running.add(batch);
  await running.save();
  for (const batch of batches.slice(5, 10)) await running.add(batch);
  running.close();
  await assert.rejects(openFeatureDatabase(folder), /not finished; run its sluice features build again/);
  const parts = join(folder, "build", "scan");
  const before = readdirSync(parts).length;
  const again = await FeatureBuild.open(folder, { scan, settings });
  assert.equal(again.scan.contexts, 20);
  assert.ok(readdirSync(parts).length < before);
  again.close();
});

test("other settings, strange folders and missing tables are refused by name", async () => {
  using temp = temporaryFolder();
  const folder = join(temp.path, "features");
  await build(folder);
  await assert.rejects(
    FeatureBuild.open(folder, { scan, settings: { ...settings, seed: 6 } }),
    /holds a finished feature database with other settings: seed 5 instead of 6/,
  );
  await assert.rejects(
    FeatureBuild.open(temp.path, { scan, settings }),
    /holds features, but no feature database; choose an empty or a new folder/,
  );
  rmSync(join(folder, "controls.parquet"));
  await assert.rejects(openFeatureDatabase(folder), /controls\.parquet is missing/);
  await assert.rejects(
    openFeatureDatabase(temp.path),
    /no feature database; make one with sluice features build/,
  );
  assert.equal(existsSync(join(temp.path, "index.json")), false);
});

test("features are sorted, filtered and counted; wrong columns and numbers are named", async () => {
  using temp = temporaryFolder();
  const folder = join(temp.path, "features");
  await build(folder);
  const database = await openFeatureDatabase(folder);
  try {
    const all = await database.features();
    const ids = (features: readonly Feature[]) => features.map((f) => f.id);
    const byDensity = await database.features({ sort: "density", descending: true, limit: 4, offset: 1 });
    const wanted = [...all].sort((a, b) => b.density - a.density || a.id - b.id);
    assert.deepEqual(ids(byDensity), ids(wanted.slice(1, 5)));
    assert.equal(ids(await database.features({ sort: "token_entropy" })).at(-1), 19, "no value comes last");
    const where = { firings: { min: 20, max: 30 }, max_activation: { min: 2 } };
    const inside = all.filter((f) => f.firings >= 20 && f.firings <= 30 && f.maxActivation >= 2);
    assert.deepEqual(ids(await database.features({ where })), ids(inside));
    assert.equal(await database.count({ where }), inside.length);
    const on7 = all.filter((f) => f.topTokens.some((t) => t.token === 7));
    assert.deepEqual(ids(await database.features({ tokens: [7] })), ids(on7));
    await assert.rejects(database.features({ sort: "densty" }), /"densty" is unknown; did you mean density/);
    await assert.rejects(database.features({ sort: "nearest" }), /"nearest" is unknown/);
    await assert.rejects(database.feature(20), /feature 20: there are 20, from 0 to 19/);
    const sample = await database.examples(3, { from: "sample", aboveQuantile: 0.5 });
    assert.deepEqual(
      sample,
      expectedExamples(3).filter((e) => e.quantile !== null && e.quantile > 0.5),
    );
    assert.equal((await database.examples(3, { from: "top", limit: 2 })).length, 2);
    const texts = await database.vocabulary();
    assert.deepEqual(texts.pieces([5, 7, 9]), [" t5", " t7", " t9"]);
    assert.deepEqual(texts.idsOf("T12"), [12]);
    assert.equal(texts.token(5).count, brute.text.flat().filter((t) => t === 5).length);
  } finally {
    database.close();
  }
});
