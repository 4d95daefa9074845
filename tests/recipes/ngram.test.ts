import assert from "node:assert/strict";
import { test } from "node:test";
import { ngramLosses, streamOf, trainNgram } from "../../src/recipes/ngram.ts";
import { MemoryTokens, TokenPacker } from "../../src/text/index.ts";
import { Rng } from "../../src/util/index.ts";

const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} instead of ${expected}`);

test("unigrams of 'a a b' in a vocabulary of 3, by hand", () => {
  // Once: b. Twice: a. D = 1 / (1 + 2) = 1/3; freed (1/3 + 1/3) / 3 = 2/9, a third of it for each token.
  const model = trainNgram([Int32Array.of(0, 0, 1)], { order: 1, vocabSize: 3 });
  assert.deepEqual(model.sizes, [2]);
  near(model.probability([0], 0), 17 / 27);
  near(model.probability([1], 0), 8 / 27);
  near(model.probability([2], 0), 2 / 27);
});

test("bigrams of 'a b a b a c', by hand", () => {
  // ab, ba twice, ac once: D = 1 / (1 + 4) = 0.2. Each of a, b, c follows one distinct token: D = 1, so 1/3 each.
  const model = trainNgram([Int32Array.of(0, 1, 0), Int32Array.of(1, 0, 2)], { order: 2, vocabSize: 3 });
  assert.deepEqual(model.sizes, [3, 3]);
  near(model.probability([0, 1], 1), 1.8 / 3 + ((0.2 * 2) / 3) * (1 / 3)); // b after a
  near(model.probability([0, 2], 1), 0.8 / 3 + ((0.2 * 2) / 3) * (1 / 3)); // c after a
  near(model.probability([0, 0], 1), ((0.2 * 2) / 3) * (1 / 3)); // a after a: never
  near(model.probability([1, 0], 1), 1.8 / 2 + (0.2 / 2) * (1 / 3)); // a after b
  near(model.probability([2, 0], 1), 1 / 3); // c was never followed by anything
  near(model.probability([9, 0, 1], 2), 1.8 / 3 + 0.4 / 9); // only one token of history counts
});

test("lower orders count what stands before, not how often: 'San Francisco'", () => {
  // 0 1 ten times, 2 after five different tokens: alone, 2 is likelier than 1 though it occurs half as often.
  const pairs = Array.from({ length: 10 }, () => [0, 1]).flat();
  const spread = [3, 4, 5, 6, 7].flatMap((t) => [t, 2]);
  const model = trainNgram([Int32Array.from([...pairs, ...spread])], { order: 2, vocabSize: 16 });
  assert.ok(model.probability([15, 2], 1) > 2 * model.probability([15, 1], 1));
});

test("modified discounts follow the counts of counts", () => {
  // Unigrams: 4 tokens once, 2 twice, 1 three times, 1 four times. Y = 4 / 8 = 1/2.
  const ids = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 7];
  const model = trainNgram([Int32Array.from(ids)], { order: 1, vocabSize: 8 });
  const [d1, d2, d3] = [1 - 2 * 0.5 * (2 / 4), 2 - 3 * 0.5 * (1 / 2), 3 - 4 * 0.5 * (1 / 1)];
  const freed = (4 * d1 + 2 * d2 + 2 * d3) / 15 / 8;
  near(model.probability([0], 0), (1 - d1) / 15 + freed);
  near(model.probability([4], 0), (2 - d2) / 15 + freed);
  near(model.probability([7], 0), (4 - d3) / 15 + freed);
});

for (const [order, vocabSize] of [
  [1, 5],
  [3, 7],
  [5, 11],
  [5, 4096],
] as const) {
  test(`probabilities of order ${order} over ${vocabSize} tokens sum to one after any history`, () => {
    const rng = new Rng(order);
    const text = Int32Array.from({ length: 3000 }, () => Math.floor(vocabSize * rng.uniform() ** 3));
    const model = trainNgram([text], { order, vocabSize });
    for (let round = 0; round < 4; round++) {
      const at = 10 + rng.int(2000);
      const history = round === 3 ? [vocabSize - 1, vocabSize - 2, 0, 1] : [...text.slice(at, at + 4)];
      let total = 0;
      for (let w = 0; w < vocabSize; w++) total += model.probability([...history, w], history.length);
      assert.ok(Math.abs(total - 1) < 1e-9, `they sum to ${total}`);
    }
  });
}

test("a longer history predicts a periodic text better", () => {
  const text = Int32Array.from({ length: 4000 }, (_, i) => [0, 1, 2, 0, 1, 3, 0, 1, 4][i % 9]);
  const losses = [1, 2, 3, 4].map((order) => {
    const model = trainNgram([text], { order, vocabSize: 8 });
    let total = 0;
    for (let i = 5; i < 500; i++) total -= Math.log(model.probability(text, i));
    return total / 495;
  });
  assert.ok(losses[1] < losses[0] && losses[3] < losses[2] && losses[3] < 0.05, losses.join(" "));
});

test("windows of a packed text are scored where the model has targets, with the text before them as history", () => {
  const docs = new MemoryTokens([Int32Array.of(2, 3, 4, 2, 3), Int32Array.of(3, 4, 2, 3, 4, 2)]);
  const packer = new TokenPacker(docs, { context: 5, bos: 0, eos: 1, shuffle: false });
  const stream = [0, 2, 3, 4, 2, 3, 1, 0, 3, 4, 2, 3, 4, 2, 1];
  assert.deepEqual(
    [...streamOf(packer, 0, 99)].flatMap((p) => [...p]),
    stream,
  );
  const model = trainNgram(streamOf(packer, 0, 99), { order: 3, vocabSize: 5 });
  const losses = [0, 1, 2].flatMap((w) => [...ngramLosses(model, packer, w, 0)]);
  stream.forEach((id, i) => {
    if (id === 0) assert.ok(Number.isNaN(losses[i]));
    else near(losses[i], -Math.log(model.probability(stream, i)));
  });
});

test("too many bits, too little text and strange tokens are refused", () => {
  assert.throws(
    () => trainNgram([Int32Array.of(1, 2)], { order: 6, vocabSize: 4096 }),
    /order=6.*12 bits.*at most 5/,
  );
  assert.throws(() => trainNgram([Int32Array.of(1, 2)], { order: 3, vocabSize: 4 }), /2 tokens are too few/);
  assert.throws(() => trainNgram([Int32Array.of(1, 9)], { order: 1, vocabSize: 4 }), /token 9 is outside/);
});
