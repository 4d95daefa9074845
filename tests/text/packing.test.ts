import assert from "node:assert/strict";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  collectTokens,
  loadTokenizer,
  MemoryTokens,
  saveBpe,
  TokenPacker,
  trainBpe,
  WordCounter,
} from "../../src/text/index.ts";

const bos = 90;
const eos = 91;
const source = new MemoryTokens([[1, 2, 3], [], [4], [5, 6, 7, 8]]);
// With BOS and EOS the stream is 90 1 2 3 91 | 90 4 91 | 90 5 6 7 8 91.

test("windows follow the stream and targets are the next tokens", () => {
  const packer = new TokenPacker(source, { context: 4, bos, eos, windowBos: false, shuffle: false });
  assert.equal(packer.windows, 3);
  const { tokens, targets, segments } = packer.next(3);
  assert.deepEqual([...tokens], [90, 1, 2, 3, 91, 90, 4, 91, 90, 5, 6, 7]);
  assert.deepEqual([...targets], [1, 2, 3, 91, -1, 4, 91, -1, 5, 6, 7, 8]);
  assert.equal(segments, undefined);
});

test("with window BOS each window starts with it and loses no target", () => {
  const packer = new TokenPacker(source, { context: 4, bos, eos, shuffle: false });
  const { tokens, targets } = packer.next(3);
  assert.deepEqual([...tokens], [90, 90, 1, 2, 90, 91, 90, 4, 90, 90, 5, 6]);
  assert.deepEqual([...targets], [-1, 1, 2, 3, 91, -1, 4, 91, -1, 5, 6, 7]);
});

test("window BOS stands before a document's own BOS, in the first window of every text", () => {
  const packer = new TokenPacker(new MemoryTokens([[2, 5, 6, 7]]), { context: 4, bos: 0, eos: 1 });
  const { tokens, targets } = packer.at(0);
  assert.deepEqual([...tokens], [0, 0, 2, 5]);
  assert.deepEqual([...targets], [-1, 2, 5, 6]);
});

test("segments tell documents apart and no target crosses them", () => {
  const packer = new TokenPacker(source, {
    context: 4,
    bos: null,
    eos: null,
    shuffle: false,
    segments: true,
  });
  const { tokens, targets, segments } = packer.at(0, 1);
  assert.deepEqual([...tokens], [1, 2, 3, 4]);
  assert.deepEqual([...(segments as Int32Array)], [0, 0, 0, 1]);
  assert.deepEqual([...targets], [2, 3, -1, -1]);
});

test("an epoch visits every window once, in another order than the next epoch and the same for one seed", () => {
  const documents = Array.from({ length: 40 }, (_, d) =>
    Array.from({ length: 1 + (d % 7) }, (_, i) => d * 10 + i),
  );
  const make = () => new TokenPacker(new MemoryTokens(documents), { context: 5, seed: 3 });
  const packer = make();
  const epoch = () => Array.from({ length: packer.windows }, () => packer.next(1).tokens.join(","));
  const [first, second] = [epoch(), epoch()];
  assert.equal(new Set(first).size, packer.windows);
  assert.deepEqual([...first].sort(), [...second].sort());
  assert.notDeepEqual(first, second);
  const again = make();
  assert.deepEqual(
    Array.from({ length: packer.windows }, () => again.next(1).tokens.join(",")),
    first,
  );
});

test("a restored packer goes on exactly, across the end of an epoch", () => {
  const documents = Array.from({ length: 20 }, (_, d) => [d, d, d, d]);
  const options = { context: 6, bos, eos, seed: 5, segments: true };
  const one = new TokenPacker(new MemoryTokens(documents), options);
  one.next(one.windows - 2);
  const state = JSON.parse(JSON.stringify(one.state));
  const expected = [one.next(4), one.next(4)];
  const two = new TokenPacker(new MemoryTokens(documents), options);
  two.restore(state);
  assert.deepEqual([two.next(4), two.next(4)], expected);
  assert.throws(() => two.restore({ epoch: 0, index: 1e6 }), /does not fit/);
});

test("for random documents the windows join to the stream, whatever the options", () => {
  let seed = 9;
  const random = (n: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return (seed >>> 8) % n;
  };
  for (let round = 0; round < 200; round++) {
    const documents = Array.from({ length: 1 + random(8) }, () =>
      Array.from({ length: random(12) }, () => random(80)),
    );
    const withBos = random(2) === 0 ? bos : null;
    const withEos = random(2) === 0 ? eos : null;
    const windowBos = withBos !== null && random(2) === 0;
    const stream = documents
      .filter((document) => document.length > 0)
      .flatMap((document) => [
        ...(withBos === null ? [] : [withBos]),
        ...document,
        ...(withEos === null ? [] : [withEos]),
      ]);
    const context = 2 + random(5);
    const windows = Math.floor((stream.length - (windowBos ? 0 : 1)) / context);
    const options = { context, bos: withBos, eos: withEos, windowBos, shuffle: false };
    if (windows < 1) {
      assert.throws(() => new TokenPacker(new MemoryTokens(documents), options), /too few for one window/);
      continue;
    }
    const packer = new TokenPacker(new MemoryTokens(documents), options);
    assert.equal(packer.windows, windows);
    const { tokens, targets } = packer.next(windows);
    for (let i = 0; i < windows * context; i++) {
      const next = stream[windowBos ? i : i + 1];
      assert.equal(targets[i], next === bos ? -1 : next);
      const input = windowBos ? (i % context === 0 ? bos : stream[i - 1]) : stream[i];
      assert.equal(tokens[i], input);
    }
  }
});

test("wrong options are refused", () => {
  assert.throws(() => new TokenPacker(source, { context: 1 }), /context=1/);
  assert.throws(() => new TokenPacker(source, { context: 4, windowBos: true }), /needs a BOS/);
  assert.throws(() => new TokenPacker(source, { context: 4 }).at(5), /windows 5 to 6 asked for/);
});

test("documents are collected up to a number of tokens, and no text is an error", async () => {
  const counter = new WordCounter();
  counter.add("one two three");
  const folder = await mkdtemp(join(tmpdir(), "sluice-pack-"));
  await saveBpe(trainBpe(counter.counts, { vocabSize: 259 }), folder);
  const tokenizer = await loadTokenizer(folder);
  async function* documents(...texts: string[]) {
    for (const [i, text] of texts.entries()) yield { id: String(i), text };
  }
  const tokens = await collectTokens(documents("abc", "<|eos|>", "never"), tokenizer, { maxTokens: 5 });
  assert.deepEqual([...tokens.documentEnds], [3, 5]);
  assert.equal(tokenizer.decode(tokens.read(0, 5)), "abc<|");
  await assert.rejects(collectTokens(documents(), tokenizer), /no text/);
});
