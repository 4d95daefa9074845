import assert from "node:assert/strict";
import { test } from "node:test";
import { philox, Rng } from "../../src/util/index.ts";

test("philox gives the known answers of the Random123 library", () => {
  assert.deepEqual(philox([0, 0], [0, 0, 0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const f = 0xffffffff;
  assert.deepEqual(philox([f, f], [f, f, f, f]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  assert.deepEqual(
    philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

test("a stream begins with the words of counter zero", () => {
  const rng = new Rng(0);
  assert.deepEqual(
    [rng.uint32(), rng.uint32(), rng.uint32(), rng.uint32(), rng.uint32()],
    [...philox([0, 0], [0, 0, 0, 0]), philox([0, 0], [1, 0, 0, 0])[0]],
  );
});

test("seed and stream beyond 32 bits reach the key and the counter", () => {
  const big = 5 * 2 ** 32 + 7;
  assert.equal(new Rng(big, 3 * 2 ** 32 + 2).uint32(), philox([7, 5], [0, 0, 2, 3])[0]);
});

test("a saved state continues with the same numbers", () => {
  const rng = new Rng(42, 3);
  for (let i = 0; i < 1234; i++) rng.uniform();
  const copy = Rng.fromState(JSON.parse(JSON.stringify(rng.state())));
  for (let i = 0; i < 50; i++) {
    assert.equal(copy.normal(), rng.normal());
    assert.equal(copy.int(1000), rng.int(1000));
  }
  assert.deepEqual(copy.state(), rng.state());
});

test("a fork depends on its name and its parent, not on how much of the parent was used", () => {
  const parent = new Rng(1);
  const before = parent.fork("weights").uint32();
  parent.uint32();
  assert.equal(parent.fork("weights").uint32(), before);
  const first = [
    before,
    parent.fork("data").uint32(),
    parent.fork(1).uint32(),
    parent.fork("1").uint32(),
    parent.fork("a").fork("b").uint32(),
    parent.fork("b").fork("a").uint32(),
    new Rng(2).fork("weights").uint32(),
    parent.uint32(),
  ];
  assert.equal(new Set(first).size, first.length);
});

test("uniforms lie in [0, 1), are exact as f32 and have mean one half", () => {
  const values = new Rng(7).fillUniform(new Float32Array(100_000));
  const again = new Rng(7);
  let sum = 0;
  for (const v of values) {
    assert.equal(v, again.uniform());
    assert.ok(v >= 0 && v < 1);
    sum += v;
  }
  assert.ok(Math.abs(sum / values.length - 0.5) < 0.004);
});

test("normals have the right moments and tails", () => {
  const n = 200_001;
  const values = new Rng(11).fillNormal(new Float32Array(n));
  let sum = 0;
  let squares = 0;
  let fourth = 0;
  let beyond2 = 0;
  for (const v of values) {
    sum += v;
    squares += v * v;
    fourth += v ** 4;
    if (Math.abs(v) > 2) beyond2++;
  }
  assert.ok(Math.abs(sum / n) < 0.01);
  assert.ok(Math.abs(squares / n - 1) < 0.02);
  assert.ok(Math.abs(fourth / n - 3) < 0.15);
  assert.ok(Math.abs(beyond2 / n - 0.0455) < 0.003);
});

test("int is uniform and reaches both ends", () => {
  const rng = new Rng(5);
  const counts = new Array(7).fill(0);
  for (let i = 0; i < 70_000; i++) counts[rng.int(7)]++;
  for (const c of counts) assert.ok(Math.abs(c - 10_000) < 500, String(counts));
  assert.equal(rng.int(1), 0);
  assert.ok(rng.int(2 ** 32) < 2 ** 32);
});

test("int refuses what is not a whole number from 1 to 2^32", () => {
  for (const n of [0, -1, 1.5, Number.NaN, 2 ** 33]) assert.throws(() => new Rng(0).int(n), /n=.*must be/);
  assert.throws(() => new Rng(-1), /seed=-1/);
});

test("shuffle keeps the items and gives every order its share", () => {
  const counts = new Map<string, number>();
  const rng = new Rng(9);
  for (let i = 0; i < 6000; i++) {
    const key = rng.permutation(3).join("");
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  assert.equal(counts.size, 6);
  for (const c of counts.values()) assert.ok(Math.abs(c - 1000) < 130);
});

test("bulk fills are fast: far above two million numbers a second even on a busy machine", () => {
  const out = new Float32Array(1_000_000);
  const best = (fill: () => void): number => {
    let fastest = Infinity;
    for (let i = 0; i < 4; i++) {
      const start = performance.now();
      fill();
      fastest = Math.min(fastest, performance.now() - start);
    }
    return (out.length / fastest) * 1000;
  };
  const rng = new Rng(3);
  const uniform = best(() => rng.fillUniform(out));
  const normal = best(() => rng.fillNormal(out));
  assert.ok(uniform > 2e6, `uniform: ${(uniform / 1e6).toFixed(1)} M/s`);
  assert.ok(normal > 2e6, `normal: ${(normal / 1e6).toFixed(1)} M/s`);
});
