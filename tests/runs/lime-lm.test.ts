/**
 * What runs/lime-lm.ts reads out of finished runs: pairs, curves between their points, widths for a depth.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  bestRate,
  type CurvePoint,
  comparePair,
  curveOf,
  flopsToReach,
  lossAt,
  pairsOf,
  readRuns,
  sizesAtDepth,
} from "../../runs/lib/lime-lm.ts";
import { parameterCount } from "../../src/models/index.ts";
import { llamaOf } from "../../src/recipes/lm-train.ts";
import { temporaryFolder } from "../temporary.ts";

/** A validation each 10 tokens. */
const curve = (losses: readonly number[], flopsPerToken = 2): CurvePoint[] =>
  losses.map((loss, i) => ({ tokens: 10 * (i + 1), flops: 10 * (i + 1) * flopsPerToken, loss }));

test("a curve holds the validations, each the mean over the texts", () => {
  const records = [{ tokens: 5 }, { tokens: 10, validation: { a: 2, b: 4 } }];
  assert.deepEqual(curveOf(records, 7), [{ tokens: 10, flops: 70, loss: 3 }]);
});

test("between validations a curve is a straight line, outside of them nothing", () => {
  const line = curve([4, 3, 2]); // at 20, 40, 60 FLOPs
  assert.equal(lossAt(line, 20), 4);
  assert.equal(lossAt(line, 50), 2.5);
  assert.equal(lossAt(line, 60), 2);
  assert.equal(lossAt(line, 61), undefined);
  assert.equal(lossAt(line, 19), undefined);
  assert.equal(flopsToReach(line, 2.75), 45);
  assert.equal(flopsToReach(line, 4.5), 20);
  assert.equal(flopsToReach(line, 1.9), undefined);
});

test("a loss counts as reached where the curve is there first, also if it rises again", () => {
  assert.equal(flopsToReach(curve([4, 2, 3, 1]), 2), 40);
});

test("runs are paired by seed; one without a plain run of its seed has no pair", () => {
  const runs = [
    { arm: "plain", seed: 0 },
    { arm: "plain", seed: 2 },
    { arm: "lime", seed: 0 },
    { arm: "lime", seed: 1 },
    { arm: "dense", seed: 0 },
  ];
  assert.deepEqual(
    pairsOf(runs, "lime").map(({ seed, plain, other }) => [seed, plain.seed, other.arm]),
    [[0, 0, "lime"]],
  );
  assert.deepEqual(pairsOf(runs, "hyper"), []);
});

test("a pair is compared at equal tokens, at equal FLOPs, and by the FLOPs to plain's loss", () => {
  const plain = { curve: curve([4, 3], 2) }; // 40 FLOPs in all
  const better = comparePair({ seed: 0, plain, other: { curve: curve([3.5, 2.5], 2.5) } });
  assert.equal(better.atTokens, -0.5);
  assert.ok(Math.abs((better.atFlops ?? 0) + 0.1) < 1e-12); // 2.9 at 40 FLOPs, between 3.5 at 25 and 2.5 at 50
  assert.ok(Math.abs((better.gain ?? 0) - (40 / 37.5 - 1)) < 1e-12);
  const worse = comparePair({ seed: 0, plain, other: { curve: curve([4, 3.5], 1) } });
  assert.deepEqual(worse, { atTokens: 0.5 });
  assert.throws(() => comparePair({ seed: 0, plain, other: { curve: curve([4]) } }), /at equal tokens/);
});

const SIZES = { d: 128, heads: 4, kvHeads: 2, ffn: 344, context: 256, tied: true, ropeTheta: 1e4 };

test("at every depth blocks have the reference's parameters within 1 %, and heads of even width", () => {
  const reference = { ...SIZES, layers: 8 };
  const blocks = (layers: number) =>
    parameterCount(llamaOf(sizesAtDepth(reference, layers), { vocabSize: 9, eosTokens: [] })).blocks;
  assert.equal(sizesAtDepth(reference, 8), reference);
  for (const layers of [2, 4, 16, 32, 64]) {
    const { d, layers: made } = sizesAtDepth(reference, layers);
    assert.equal(made, layers);
    assert.equal((d / 4) % 2, 0);
    assert.ok(Math.abs(blocks(layers) / blocks(8) - 1) < 0.01, `${layers}: ${blocks(layers)}`);
  }
  assert.equal(sizesAtDepth(reference, 32).d, 64);
  assert.throws(
    () => sizesAtDepth({ ...SIZES, d: 16, ffn: 43, layers: 2 }, 64),
    /64 layers of \d+ parameters/,
  );
});

/** Writes a finished run of three validations that ends at `loss`. */
function writeRun(folder: string, name: string, loss: number): void {
  mkdirSync(join(folder, name), { recursive: true });
  writeFileSync(join(folder, name, "run.json"), JSON.stringify({ flops: { training: 3 } }));
  const lines = [3, 2, 1].map((left, i) =>
    JSON.stringify({ tokens: 10 * (i + 1), validation: { a: loss + left - 1 } }),
  );
  writeFileSync(join(folder, name, "metrics.jsonl"), `${lines.join("\n")}\n`);
}

test("runs are read by the names of their folders, unfinished ones and a missing folder as none", () => {
  using temp = temporaryFolder();
  assert.deepEqual(readRuns(join(temp.path, "none")), []);
  writeRun(temp.path, "first-1-lr2e-3-seed0", 4);
  writeRun(temp.path, "lime-depth16-lr1e-3-seed12", 5);
  mkdirSync(join(temp.path, "plain-lr1e-3-seed0"));
  mkdirSync(join(temp.path, "data"));
  assert.deepEqual(
    readRuns(temp.path).map(({ arm, depth, lr, seed, curve: c }) => [arm, depth, lr, seed, c.at(-1)]),
    [
      ["first-1", undefined, "2e-3", 0, { tokens: 30, flops: 90, loss: 4 }],
      ["lime", 16, "1e-3", 12, { tokens: 30, flops: 90, loss: 5 }],
    ],
  );
});

test("the learning rate is the plain model's best of those that were asked for", () => {
  using temp = temporaryFolder();
  writeRun(temp.path, "plain-lr1e-3-seed0", 3);
  writeRun(temp.path, "plain-lr2e-3-seed0", 2);
  writeRun(temp.path, "plain-lr4e-3-seed0", 1);
  writeRun(temp.path, "lime-lr1e-3-seed0", 0);
  writeRun(temp.path, "plain-depth4-lr1e-3-seed0", 0);
  const runs = readRuns(temp.path);
  assert.equal(bestRate(runs, 0, ["1e-3", "2e-3"]), "2e-3");
  assert.throws(() => bestRate(runs, 1, ["1e-3"]), /no plain run of seed 1 at 1e-3 is done/);
});
