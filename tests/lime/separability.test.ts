/**
 * Occurrences of words in a text, their states in small models, and how well these tell the words apart.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  crossValidate,
  findOccurrences,
  layerSeparability,
  layerStates,
  occurrenceStates,
  STATE_KINDS,
  statePoint,
  wordTokens,
} from "../../src/lime/index.ts";
import { loadTokenizer, MemoryTokens, TokenPacker } from "../../src/text/index.ts";
import { someIds, tinyModel, withDevice } from "../models/helpers.ts";

/** Windows of 4 tokens without BOS; 1 and 2 are the words. */
const packed = (ids: number[], context = 4): TokenPacker =>
  new TokenPacker(new MemoryTokens([Int32Array.from(ids)]), { context, shuffle: false });

const WORDS = Int32Array.of(1, 2);

test("as many of each word as there are of the rarest, spread over the text, in windows that have one", async () => {
  const text = packed([1, 1, 9, 9, 9, 9, 9, 9, 1, 2, 9, 1, 9, 9, 2, 9, 9]);
  const found = await findOccurrences(text, WORDS);
  assert.equal(found.perWord, 2);
  assert.deepEqual(
    found.windows.map((window) => [...window]),
    [
      [1, 1, 9, 9],
      [1, 2, 9, 1],
      [9, 9, 2, 9],
    ],
  );
  assert.deepEqual(found.places, [
    { window: 0, position: 0, word: 0 },
    { window: 1, position: 0, word: 0 },
    { window: 1, position: 1, word: 1 },
    { window: 2, position: 2, word: 1 },
  ]);
  const one = await findOccurrences(text, WORDS, { perWord: 1 });
  assert.deepEqual(
    one.places.map(({ word }) => word),
    [0, 1],
  );
});

test("a text that is read as far as needed is read no further", async () => {
  let had = 0;
  const asked: number[] = [];
  const windows = {
    get windows() {
      return had;
    },
    at: () => ({ tokens: Int32Array.of(1, 2, 9, 9), targets: new Int32Array(4) }),
    async reach(wanted: number) {
      asked.push(wanted);
      had = Math.max(had, wanted);
    },
  };
  assert.equal((await findOccurrences(windows, WORDS, { perWord: 100 })).perWord, 100);
  assert.deepEqual(asked, [64, 128]);
});

test("a text with too few of a word is refused by the word's name", async () => {
  const text = packed([1, 1, 1, 2, 9]);
  await assert.rejects(
    findOccurrences(text, WORDS, { least: 2, names: ["is", "were"] }),
    /"were" is in the text 1 times, but 2 are needed; give more text, or other words with --words/,
  );
  await assert.rejects(findOccurrences(text, WORDS, { least: 2 }), /2 is in the text 1 times/);
  await assert.rejects(findOccurrences(text, WORDS, { perWord: 3, least: 5 }), /perWord=3/);
});

test("words are single tokens behind a blank, and those that are not are named with their parts", async () => {
  const tokenizer = await loadTokenizer("models/brook");
  const words = ["is", "are", "was", "were"];
  assert.deepEqual(
    Array.from(wordTokens(tokenizer, words), (id) => tokenizer.tokenText(id)),
    [" is", " are", " was", " were"],
  );
  assert.throws(
    () => wordTokens(tokenizer, ["is", "qzqz", "are", "xkxk"]),
    /of this tokenizer: "qzqz" is " [^"]*"( \+ "[^"]+")+; "xkxk" is " .*; choose words that are, with --words/,
  );
  for (const words of [["is"], ["is", "are", "is"], ["is", ""]])
    assert.throws(
      () => wordTokens(tokenizer, words),
      /two or more words were expected, each once and none empty/,
    );
});

test("states at the places are rows of the states of the whole windows", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: { kind: "learned" } });
    // 110 windows of 20 take two passes
    const windows = Array.from({ length: 110 }, (_, w) => someIds(20, w));
    const places = [
      { window: 0, position: 3, word: 0 },
      { window: 0, position: 19, word: 1 },
      { window: 60, position: 0, word: 0 },
      { window: 109, position: 7, word: 1 },
    ];
    const used = [0, 60, 109];
    for (const kind of STATE_KINDS) {
      const whole = await layerStates(
        model,
        used.map((w) => windows[w]),
        { kind },
      );
      const points = whole.map((_, l) => statePoint(model, kind, l));
      const states = await occurrenceStates(model, { windows, places }, { points });
      for (const [l, { width, sequences }] of whole.entries()) {
        const found = states.get(points[l])!;
        assert.equal(found.width, width);
        const expected = places.flatMap(({ window, position }) => [
          ...sequences[used.indexOf(window)].subarray(position * width, (position + 1) * width),
        ]);
        assert.equal(found.x.length, expected.length);
        expected.forEach((value, i) => {
          assert.ok(Math.abs(found.x[i] - value) < 1e-4, `${kind} ${l}: ${found.x[i]}, expected ${value}`);
        });
      }
    }
    model.dispose();
  }));

test("separability is the cross-validated accuracy of a layer's states; a plain model reads what it makes", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device);
    const text = new TokenPacker(new MemoryTokens([someIds(8000)]), { context: 20, shuffle: false });
    const occurrences = await findOccurrences(text, Int32Array.of(4, 9, 17), { perWord: 150 });
    const options = { epochs: 20, folds: 4, seed: 1 };
    const found = await layerSeparability(model, occurrences, options);
    assert.deepEqual(found.read, found.values);
    assert.equal(found.hidden.length, model.spec.nLayers);
    // values of the first layer depend on the word alone
    assert.deepEqual(found.values[0], { mean: 1, std: 0, folds: [1, 1, 1, 1] });
    const points = ["blocks.2.hook_resid_post"];
    const samples = (await occurrenceStates(model, occurrences, { points })).get(points[0])!;
    const labels = Int32Array.from(occurrences.places, ({ word }) => word);
    assert.deepEqual(found.hidden[2].folds, await crossValidate({ ...samples, labels, classes: 3 }, options));
    assert.ok(found.hidden[2].mean > 1 / 3);
    model.dispose();
  }));
