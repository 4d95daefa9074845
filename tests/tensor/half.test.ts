/**
 * 16-bit floats: every pattern both ways, and rounding to nearest with ties to even; on native the same.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cast } from "../../src/tensor/index.ts";
import {
  bf16BitsToF32,
  decodeBf16,
  decodeF16,
  encodeBf16,
  encodeF16,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToF16Bits,
} from "../../src/util/half.ts";
import { Rng } from "../../src/util/rng.ts";
import { backends, nativeMissing, testDevice } from "./support.ts";

interface Format {
  readonly name: "f16" | "bf16";
  readonly toBits: (x: number) => number;
  readonly toF32: (bits: number) => number;
  readonly encode: (values: ArrayLike<number>) => Uint16Array;
  readonly decode: (bits: Uint16Array) => Float32Array;
  /** Bits of infinity. */
  readonly inf: number;
}

const formats: readonly Format[] = [
  {
    name: "f16",
    toBits: f32ToF16Bits,
    toF32: f16BitsToF32,
    encode: encodeF16,
    decode: decodeF16,
    inf: 0x7c00,
  },
  {
    name: "bf16",
    toBits: f32ToBf16Bits,
    toF32: bf16BitsToF32,
    encode: encodeBf16,
    decode: decodeBf16,
    inf: 0x7f80,
  },
];
const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** f32 numbers of every magnitude: random bits, and the neighbourhood of every 16-bit number and midpoint. */
function probes(toF32: (bits: number) => number, inf: number): Float32Array {
  const rng = new Rng(1);
  const words: number[] = Array.from({ length: 20_000 }, () => rng.uint32());
  const f = new Float32Array(1);
  const u = new Uint32Array(f.buffer);
  for (let bits = 0; bits < inf; bits += 7) {
    for (const x of [toF32(bits), (toF32(bits) + toF32(bits + 1)) / 2]) {
      f[0] = x;
      for (const d of [-1, 0, 1]) words.push((u[0] + d) >>> 0, ((u[0] + d) | 0x80000000) >>> 0);
    }
  }
  return new Float32Array(Uint32Array.from(words).buffer);
}

for (const { name, toBits, toF32, encode, decode, inf } of formats) {
  test(`all 65536 patterns of ${name} survive the way to f32 and back`, () => {
    const values = decode(patterns);
    const back = encode(values);
    for (let bits = 0; bits < 65536; bits++) {
      const x = toF32(bits);
      assert.ok(Object.is(x, values[bits]), `bulk decoding of ${bits}`);
      const nan = (bits & 0x7fff) > inf;
      assert.equal(Number.isNaN(x), nan, `value of ${bits}`);
      if (nan) assert.ok(Number.isNaN(toF32(back[bits])), `NaN ${bits} stays NaN`);
      else assert.equal(back[bits], bits);
      assert.equal(toBits(x), back[bits], `bulk encoding of ${bits}`);
    }
  });

  test(`${name} takes the nearest neighbour, the even one on a tie`, () => {
    const finite = decode(patterns.subarray(0, inf)); // ascending
    const beyond = 2 * finite[inf - 1] - finite[inf - 2]; // where the next one would be: rounds to infinity
    for (const probe of probes(toF32, inf)) {
      if (Number.isNaN(probe)) continue;
      const x = Math.abs(probe);
      let [low, high] = [0, inf];
      while (high - low > 1) {
        const mid = (low + high) >> 1;
        if (finite[mid] <= x) low = mid;
        else high = mid;
      }
      const above = high === inf ? beyond : finite[high];
      const [down, up] = [x - finite[low], above - x]; // exact in float64
      const wanted = x >= beyond ? inf : down < up ? low : up < down ? high : low % 2 === 0 ? low : high;
      const sign = probe < 0 || Object.is(probe, -0) ? 0x8000 : 0;
      assert.equal(toBits(probe), sign | wanted, `${name} of ${probe}`);
    }
  });
}

test("f16 by hand: ties, the smallest and the largest", () => {
  assert.equal(f32ToF16Bits(1), 0x3c00);
  assert.equal(f32ToF16Bits(-2), 0xc000);
  assert.equal(f32ToF16Bits(-0), 0x8000);
  assert.equal(f32ToF16Bits(2049), 0x6800); // halfway between 2048 and 2050: 2048 has the even mantissa
  assert.equal(f32ToF16Bits(2051), 0x6802); // halfway between 2050 and 2052
  assert.equal(f16BitsToF32(0x0001), 2 ** -24); // the smallest subnormal
  assert.equal(f32ToF16Bits(2 ** -25), 0); // half of it: a tie, to the even 0
  assert.equal(f32ToF16Bits(1.001 * 2 ** -25), 1);
  assert.equal(f32ToF16Bits(1.5 * 2 ** -24), 2); // a tie between 1 and 2
  assert.equal(f16BitsToF32(0x03ff), 2 ** -14 - 2 ** -24); // the largest subnormal
  assert.equal(f32ToF16Bits(65504), 0x7bff);
  assert.equal(f32ToF16Bits(65519.99), 0x7bff);
  assert.equal(f32ToF16Bits(65520), 0x7c00); // halfway to 65536: infinity
  assert.equal(f32ToF16Bits(Number.NEGATIVE_INFINITY), 0xfc00);
});

test("bf16 by hand: ties and overflow", () => {
  assert.equal(f32ToBf16Bits(1), 0x3f80);
  assert.equal(f32ToBf16Bits(1 + 2 ** -8), 0x3f80); // halfway between 1 and 1 + 2^-7
  assert.equal(f32ToBf16Bits(1 + 3 * 2 ** -8), 0x3f82);
  assert.equal(f32ToBf16Bits(3.4e38), 0x7f80);
  assert.equal(f32ToBf16Bits(-3.38e38), 0xff7e);
  assert.equal(f32ToBf16Bits(Number.NaN) & 0x7fff, 0x7fc0);
});

/** Equal numbers, signs of zero included; any NaN equals any other. */
function assertSame(actual: Float32Array, wanted: Float32Array, what: string): void {
  assert.equal(actual.length, wanted.length);
  for (let i = 0; i < wanted.length; i++) {
    if (!Object.is(actual[i], wanted[i])) assert.fail(`${what}: ${i} is ${actual[i]}, expected ${wanted[i]}`);
  }
}

test("native rounds and widens as JavaScript does", { skip: nativeMissing }, async () => {
  const device = testDevice(backends["native, 2 threads"]());
  for (const { name, toF32, encode, decode, inf } of formats) {
    const x = probes(toF32, inf);
    const t = device.tensor(x);
    const half = cast(t, name);
    const wide = cast(half, "f32");
    const wanted = decode(encode(x));
    assertSame(await half.floats(), wanted, name);
    assertSame(await wide.floats(), wanted, `${name} widened`);
    const all = device.tensor(patterns, [65536], name);
    const widened = cast(all, "f32");
    assertSame(await widened.floats(), decode(patterns), `all of ${name} widened`);
    for (const u of [t, half, wide, all, widened]) u.dispose();
  }
});
