/**
 * Where features fire, and which are worth a look, on tables made by hand.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FeatureActivations, tellingFeatures, topContexts, topPeaks } from "../../src/interpret/index.ts";

/** A table from `[token position, feature, value]`, K = 2. */
function table(
  tokens: readonly number[],
  context: number,
  features: number,
  fired: readonly (readonly [at: number, feature: number, value: number])[],
): FeatureActivations {
  const made = new FeatureActivations({ features, context, tokens: Int32Array.from(tokens) });
  const values = new Float32Array(2 * tokens.length);
  const indices = new Int32Array(2 * tokens.length);
  for (const [at, feature, value] of fired) {
    const slot = values[2 * at] === 0 ? 2 * at : 2 * at + 1;
    values[slot] = value;
    indices[slot] = feature;
  }
  const half = tokens.length / 2;
  made.append(values.subarray(0, 2 * half), indices.subarray(0, 2 * half), 2);
  made.append(values.subarray(2 * half), indices.subarray(2 * half), 2);
  return made;
}

const COUNTING = Array.from({ length: 24 }, (_, i) => 100 + i);

test("firings come in the order of the text, silent slots do not count", () => {
  const t = table(COUNTING, 12, 3, [
    [13, 2, 0.5],
    [4, 0, 3],
    [4, 2, 1],
  ]);
  assert.deepEqual(t.firings(2), { tokens: Int32Array.of(4, 13), values: Float32Array.of(1, 0.5) });
  assert.deepEqual(t.ranks(2), Int32Array.of(2, 1));
  assert.deepEqual(t.firings(1), { tokens: new Int32Array(), values: new Float32Array() });
  assert.deepEqual(t.counts(), Int32Array.of(1, 0, 2));
});

test("within a budget only each token's strongest features count, and nothing is appended", () => {
  const t = table(COUNTING, 12, 3, [
    [4, 0, 3],
    [4, 2, 1],
    [13, 2, 0.5],
  ]);
  const one = t.within(1);
  assert.deepEqual(one.counts(), Int32Array.of(1, 0, 1));
  assert.deepEqual(one.firings(2).tokens, Int32Array.of(13));
  assert.equal(one.firingCount, 2);
  assert.equal(t.firingCount, 3);
  assert.equal(t.within(2).firingCount, 3);
  assert.equal(one.within(2).firingCount, 2, "a part does not grow again");
  assert.throws(() => one.append(new Float32Array(2), new Int32Array(2), 2), /do not fit/);
});

test("codes that do not fit are refused", () => {
  const t = new FeatureActivations({ features: 3, context: 2, tokens: Int32Array.of(1, 2) });
  t.append(new Float32Array(4), new Int32Array(4), 2);
  assert.throws(() => t.append(new Float32Array(2), new Int32Array(2), 2), /2 \+ 1 tokens do not fit into 2/);
});

test("each window gives its highest peak, and of equal ones the first", () => {
  const t = table(COUNTING, 6, 2, [
    [1, 1, 0.5],
    [3, 1, 2],
    [5, 1, 2],
    [8, 1, 1],
    [23, 1, 3],
  ]);
  assert.deepEqual(topPeaks(t, 1, 9), [
    { token: 23, value: 3 },
    { token: 3, value: 2 },
    { token: 8, value: 1 },
  ]);
  assert.equal(topPeaks(t, 1, 2).length, 2);
  assert.deepEqual(topPeaks(t, 0, 9), []);
});

test("a passage is cut at its window's ends and shows every firing in it", () => {
  const t = table(COUNTING, 12, 2, [
    [12, 1, 0.25],
    [14, 1, 4],
    [16, 0, 1],
    [16, 1, 0.5],
    [23, 1, 0.125],
  ]);
  const [c] = topContexts(t, 1, { before: 3, after: 2 });
  assert.deepEqual(c, {
    start: 12,
    tokens: Int32Array.of(112, 113, 114, 115, 116),
    activations: Float32Array.of(0.25, 0, 4, 0, 0.5),
    ranks: Int32Array.of(1, 0, 1, 0, 2),
    peak: 2,
  });
});

test("passages around the peaks of a budget still show every firing", () => {
  const t = table(COUNTING, 12, 2, [
    [2, 1, 9],
    [4, 0, 8],
    [4, 1, 7],
    [14, 0, 6],
    [14, 1, 5],
  ]);
  const found = topContexts(t, 1, { before: 1, after: 2, peaks: t.within(1) });
  assert.equal(found.length, 1, "it is among the strongest of the first window only");
  assert.deepEqual(found[0].activations, Float32Array.of(0, 9, 0, 7));
});

/** Sixteen windows of six words; in every window word 3 of the text is a rare one. */
function story() {
  const words = Array.from({ length: 16 }, (_, w) => [1, 2, 10 + (w % 4), 3, 20 + w, 4]).flat();
  return { words, tokens: words.map((w) => 1000 + w) };
}

test("kinds take turns: several words, what stands around, single tokens", () => {
  const { words, tokens } = story();
  const at = (position: number, feature: number, from = 0) =>
    Array.from({ length: 16 - from }, (_, w) => [6 * (w + from) + position, feature, 1 + w / 100] as const);
  // 0 fires on 10, 11, 12 or 13; 1 always before word 4, on ever new words; 2 on word 1; 3 hardly ever; 4 on word 1 too
  const fired = [...at(2, 0), ...at(4, 1), ...at(0, 2), ...at(5, 3, 13), ...at(0, 4)];
  const t = table(tokens, 6, 6, fired);
  const found = tellingFeatures(t, {
    count: 9,
    words: { at: Int32Array.from(words, (_, i) => i), number: Int32Array.from(words) },
    maxDensity: 0.5,
  });
  assert.deepEqual(
    found.map(({ feature, kind }) => [feature, kind]),
    [
      [0, "words"],
      [1, "context"],
      [2, "token"],
    ],
  );
  // four words, each at a quarter of the peaks and at a 24th of the text
  assert.ok(Math.abs(found[0].score - Math.log(6)) < 1e-9);
  // word 4 always follows, and is a sixth of the text
  assert.ok(Math.abs(found[1].score - Math.log(6)) < 1e-9);
});

test("tokens are judged by their words: pieces of one word are that word, marks are none", () => {
  const { words, tokens } = story();
  const at = Int32Array.from(words, (_, i) => Math.floor(i / 2)); // two tokens a word
  const number = Int32Array.from({ length: words.length / 2 }, (_, i) => (i % 3 === 0 ? 7 : -1));
  const everyWindow = (position: number, feature: number) =>
    Array.from({ length: 16 }, (_, w) => [6 * w + position, feature, 1] as const);
  const t = table(tokens, 6, 2, [...everyWindow(1, 0), ...everyWindow(3, 1)]);
  const found = tellingFeatures(t, { count: 2, words: { at, number }, maxDensity: 0.5 });
  assert.deepEqual(
    found.map(({ feature, kind }) => [feature, kind]),
    [[0, "token"]],
    "a feature of marks alone is dull",
  );
});
