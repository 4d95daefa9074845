import assert from "node:assert/strict";
import { test } from "node:test";
import {
  fromFloat32,
  fromInt32,
  type NamedArray,
  toFloat32,
  toInt32,
  transpose2d,
} from "../../src/formats/index.ts";
import { Rng } from "../../src/util/index.ts";

test("16-bit floats keep NaN and large numbers", () => {
  const back = toFloat32(fromFloat32(Float32Array.of(Number.NaN, 1e30, -3), [3], "bf16"));
  assert.ok(Number.isNaN(back[0]));
  assert.ok(Math.abs(back[1] / 1e30 - 1) < 2 ** -8);
  assert.equal(back[2], -3);
  const half = toFloat32(fromFloat32(Float32Array.of(Number.NaN, 1e30, -3), [3], "f16"));
  assert.deepEqual([...half], [Number.NaN, Infinity, -3]);
});

test("arrays of every dtype become f32", () => {
  const raw = (dtype: NamedArray["dtype"], view: ArrayBufferView, n: number): NamedArray => ({
    dtype,
    shape: [n],
    data: new Uint8Array(view.buffer),
  });
  assert.deepEqual([...toFloat32(raw("i64", BigInt64Array.of(-3n, 5n), 2))], [-3, 5]);
  assert.deepEqual([...toFloat32(raw("f64", Float64Array.of(0.5, -1), 2))], [0.5, -1]);
  assert.deepEqual([...toFloat32(raw("u16", Uint16Array.of(65535), 1))], [65535]);
  assert.deepEqual([...toFloat32(raw("i8", Int8Array.of(-7), 1))], [-7]);
  assert.deepEqual([...toFloat32(raw("bool", Uint8Array.of(0, 1), 2))], [0, 1]);
});

test("data that is not aligned is read all the same", () => {
  const bytes = new Uint8Array(9);
  bytes.set(new Uint8Array(Float32Array.of(1.5, -2).buffer), 1);
  assert.deepEqual([...toFloat32({ dtype: "f32", shape: [2], data: bytes.subarray(1) })], [1.5, -2]);
});

test("toInt32 refuses what does not fit", () => {
  assert.deepEqual([...toInt32(fromInt32(Int32Array.of(1, -2)))], [1, -2]);
  assert.deepEqual([...toInt32(fromFloat32(Float32Array.of(3, 4), [2]))], [3, 4]);
  assert.throws(() => toInt32(fromFloat32(Float32Array.of(0.5), [1])), /f32 \[1\]: element 0 is 0.5/);
  const big = { dtype: "i64", shape: [1], data: new Uint8Array(BigInt64Array.of(2n ** 40n).buffer) } as const;
  assert.throws(() => toInt32(big), /not a 32-bit integer/);
});

test("a shape that the elements do not fill is refused", () => {
  assert.throws(() => fromFloat32(new Float32Array(5), [2, 3]), /5 elements do not fill the shape \[2, 3\]/);
});

test("transpose2d swaps rows and columns", () => {
  assert.deepEqual([...transpose2d(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 3)], [1, 4, 2, 5, 3, 6]);
  const x = new Rng(2).fillNormal(new Float32Array(70 * 45));
  assert.deepEqual(transpose2d(transpose2d(x, 70, 45), 45, 70), x);
});
