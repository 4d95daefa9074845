import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bf16BitsToF32,
  decodeBf16,
  decodeF16,
  encodeBf16,
  encodeF16,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToF16Bits,
  Rng,
} from "../../src/util/index.ts";

test("halves that a reader can check by head", () => {
  const table: [number, number][] = [
    [0, 0x0000],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [0.5, 0x3800],
    [65504, 0x7bff],
    [65519.996, 0x7bff],
    [65520, 0x7c00],
    [Infinity, 0x7c00],
    [-Infinity, 0xfc00],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [2 ** -25, 0x0000],
    [1.5 * 2 ** -24, 0x0002],
    [2 ** -25 * 1.0001, 0x0001],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
  ];
  for (const [value, bits] of table) assert.equal(f32ToF16Bits(value), bits, String(value));
  assert.ok(Number.isNaN(f16BitsToF32(f32ToF16Bits(Number.NaN))));
});

test("every half survives the way to f32 and back", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = f16BitsToF32(bits);
    if (!Number.isNaN(value)) assert.equal(f32ToF16Bits(value), bits);
  }
});

test("halves round to the nearest, ties to even, against a search", () => {
  const rng = new Rng(1);
  for (let i = 0; i < 20_000; i++) {
    const value = Math.fround((rng.uniform() - 0.5) * 2 ** (rng.int(34) - 20));
    const bits = f32ToF16Bits(value);
    const error = Math.abs(f16BitsToF32(bits) - value);
    for (const other of [bits - 1, bits + 1]) {
      if ((other & 0x7fff) > 0x7c00 || other < 0) continue;
      const distance = Math.abs(f16BitsToF32(other) - value);
      assert.ok(error < distance || (error === distance && (bits & 1) === 0), `${value} -> ${bits}`);
    }
  }
});

test("bfloat16 rounds to nearest, ties to even, and keeps NaN", () => {
  assert.equal(f32ToBf16Bits(1), 0x3f80);
  assert.equal(f32ToBf16Bits(1 + 2 ** -8), 0x3f80);
  assert.equal(f32ToBf16Bits(1 + 3 * 2 ** -8), 0x3f82);
  assert.equal(f32ToBf16Bits(-Infinity), 0xff80);
  assert.equal(f32ToBf16Bits(3.4e38), 0x7f80);
  assert.ok(Number.isNaN(bf16BitsToF32(f32ToBf16Bits(Number.NaN))));
  assert.equal(bf16BitsToF32(0xbf80), -1);
});

test("bulk conversion gives what single conversion gives", () => {
  const values = new Rng(3).fillNormal(new Float32Array(1000), 0, 100);
  assert.deepEqual([...encodeF16(values)], [...values].map(f32ToF16Bits));
  assert.deepEqual([...encodeBf16(values)], [...values].map(f32ToBf16Bits));
  assert.deepEqual([...decodeF16(encodeF16(values))], [...encodeF16(values)].map(f16BitsToF32));
  assert.deepEqual([...decodeBf16(encodeBf16(values))], [...encodeBf16(values)].map(bf16BitsToF32));
});
