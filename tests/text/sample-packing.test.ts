/**
 * Samples packed whole: each once an epoch, in a segment of its own, with the given part left out of the targets.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type PackedBatch, type PackedSample, SamplePacker } from "../../src/text/index.ts";
import { Rng } from "../../src/util/index.ts";

const PAD = 0;

/** Samples of 3 to 12 tokens; the first token of sample i is 100 + i. */
function samples(n: number): PackedSample[] {
  const rng = new Rng(4);
  return Array.from({ length: n }, (_, i) => ({
    ids: [100 + i, ...Array.from({ length: 2 + rng.int(10) }, () => 1 + rng.int(50))],
    given: 1 + rng.int(3),
  }));
}

/** The samples of a batch as they lie there, by segment: tokens and targets. */
function unpack({ tokens, targets, segments }: PackedBatch, context: number) {
  const found: { tokens: number[]; targets: number[] }[] = [];
  for (let row = 0; row < tokens.length; row += context) {
    const of = (s: number) => [...Array(context).keys()].filter((t) => segments?.[row + t] === s);
    for (let s = 0; of(s).length > 0; s++) {
      const at = of(s).map((t) => row + t);
      found.push({ tokens: at.map((i) => tokens[i]), targets: at.map((i) => targets[i]) });
    }
  }
  return found;
}

test("every sample comes once an epoch, whole, with targets after what is given", () => {
  const all = samples(57);
  const packer = new SamplePacker(all, { context: 20, pad: PAD, seed: 1 });
  for (let epoch = 0; epoch < 2; epoch++) {
    const batch = packer.next(packer.windows);
    const found = unpack(batch, 20).filter(({ tokens }) => tokens[0] >= 100);
    assert.equal(found.length, all.length);
    for (const { tokens, targets } of found) {
      const { ids, given } = all[tokens[0] - 100];
      assert.deepEqual(tokens, Array.from(ids).slice(0, -1));
      assert.deepEqual(
        targets,
        Array.from(ids)
          .map((id, i) => (i >= given ? id : -1))
          .slice(1),
      );
    }
  }
});

test("padding is no target, reads nothing but padding, and is little", () => {
  const packer = new SamplePacker(samples(400), { context: 24, pad: PAD });
  const { tokens, targets, segments } = packer.at(0, packer.windows);
  const padded = unpack({ tokens, targets, segments }, 24).filter(({ tokens: t }) => t[0] === PAD);
  for (const { tokens: t, targets: to } of padded) {
    assert.ok(t.every((id) => id === PAD) && to.every((id) => id === -1));
  }
  const share = padded.reduce((n, { tokens: t }) => n + t.length, 0) / tokens.length;
  assert.ok(share < 0.05, `${share} of all positions are padding`);
});

test("an epoch has an order of its own, and a restored packer goes on with the same windows", () => {
  const make = () => new SamplePacker(samples(90), { context: 16, pad: PAD, seed: 3 });
  const packer = make();
  const [first, second] = [packer.next(packer.windows), packer.next(packer.windows)];
  assert.notDeepEqual(first.tokens, second.tokens);
  packer.next(5);
  const twin = make();
  twin.restore(packer.state);
  assert.deepEqual(twin.next(7), packer.next(7));
  assert.throws(() => twin.restore({ epoch: 0, index: packer.windows + 1 }), /does not fit/);
});

test("a sample that is longer than a window, none at all, and windows beyond the last are refused", () => {
  const pack = (all: PackedSample[]) => new SamplePacker(all, { context: 4, pad: PAD });
  assert.throws(
    () => pack([{ ids: [1, 2, 3, 4, 5, 6], given: 1 }]),
    /6 tokens, .* windows of at least 5 tokens/,
  );
  assert.equal(pack([{ ids: [1, 2, 3, 4, 5], given: 1 }]).windows, 1);
  assert.throws(() => pack([]), /there are no samples/);
  assert.throws(() => pack(samples(1).map(() => ({ ids: [1, 2], given: 1 }))).at(0, 2), /but there are 1/);
});
