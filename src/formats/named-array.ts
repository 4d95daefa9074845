/**
 * Arrays as files hold them: a dtype, a shape and little-endian bytes; conversions to and from the types that compute.
 */
import { inputError, usageError } from "../util/index.ts";

/** Bytes per element of every dtype that files may hold. */
export const FILE_ITEM_SIZE = {
  f64: 8,
  f32: 4,
  f16: 2,
  bf16: 2,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u8: 1,
  u16: 2,
  u32: 4,
  bool: 1,
} as const;

export type FileDType = keyof typeof FILE_ITEM_SIZE;

/** Row-major; `data` holds exactly shape × item size bytes, little-endian. */
export interface NamedArray {
  readonly dtype: FileDType;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** Number of elements. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** `f32 [2, 3]`, for messages. */
export function describeArray(array: { dtype: string; shape: readonly number[] }): string {
  return `${array.dtype} [${array.shape.join(", ")}]`;
}

const VIEW = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  i16: Int16Array,
  i8: Int8Array,
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  bool: Uint8Array,
} as const;

type ViewOf = { [K in FileDType]: InstanceType<(typeof VIEW)[K]> };

/** The bytes as numbers of their own type (f16 and bf16 as raw 16-bit words). Shares memory when aligned. */
export function typedView<K extends FileDType>(array: NamedArray & { dtype: K }): ViewOf[K] {
  const size = FILE_ITEM_SIZE[array.dtype];
  const bytes = array.data.byteOffset % size === 0 ? array.data : array.data.slice();
  const make = VIEW[array.dtype] as unknown as new (
    buffer: ArrayBufferLike,
    offset: number,
    length: number,
  ) => ViewOf[K];
  return new make(bytes.buffer, bytes.byteOffset, bytes.byteLength / size);
}

/** Raw bytes of a typed array, shared. */
export function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

const word = new Uint32Array(1);
const real = new Float32Array(word.buffer);

/** f32 to the 16 bits of an IEEE half, round to nearest, ties to even; overflow gives infinity. */
export function halfFromFloat(value: number): number {
  real[0] = value;
  return halfBits(word[0]);
}

function halfBits(x: number): number {
  const sign = (x >>> 16) & 0x8000;
  const abs = x & 0x7fffffff;
  if (abs > 0x7f800000) return sign | 0x7e00;
  if (abs >= 0x477ff000) return sign | 0x7c00;
  if (abs >= 0x38800000) return sign | ((abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1)) >>> 13);
  if (abs <= 0x33000000) return sign;
  const shift = 126 - (abs >>> 23);
  const mantissa = (abs & 0x7fffff) | 0x800000;
  const half = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const tie = 1 << (shift - 1);
  return sign | (half + (rest > tie || (rest === tie && (half & 1) === 1) ? 1 : 0));
}

function bfloatBits(x: number): number {
  if ((x & 0x7fffffff) > 0x7f800000) return (x >>> 16) | 0x40;
  return (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
}

/** f32 to the 16 bits of a bfloat16, round to nearest, ties to even. */
export function bfloatFromFloat(value: number): number {
  real[0] = value;
  return bfloatBits(word[0]);
}

let halfTable: Float32Array | undefined;

/** All 65,536 halves as f32, made on first use (256 kB). */
function halves(): Float32Array {
  if (halfTable) return halfTable;
  const table = new Float32Array(65536);
  for (let h = 0; h < 65536; h++) {
    const exponent = (h >>> 10) & 31;
    const mantissa = h & 1023;
    let value: number;
    if (exponent === 31) value = mantissa ? Number.NaN : Infinity;
    else if (exponent === 0) value = mantissa * 2 ** -24;
    else value = (1 + mantissa / 1024) * 2 ** (exponent - 15);
    table[h] = h & 0x8000 ? -value : value;
  }
  halfTable = table;
  return table;
}

/** The 16 bits of an IEEE half as a number. */
export function floatFromHalf(bits: number): number {
  return halves()[bits];
}

/** Elements as f32. For f32 arrays the result shares memory with `array.data` where alignment allows. */
export function toFloat32(array: NamedArray): Float32Array {
  switch (array.dtype) {
    case "f32":
      return typedView(array as NamedArray & { dtype: "f32" });
    case "f16": {
      const bits = typedView(array as NamedArray & { dtype: "f16" });
      const table = halves();
      const out = new Float32Array(bits.length);
      for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]];
      return out;
    }
    case "bf16": {
      const bits = typedView(array as NamedArray & { dtype: "bf16" });
      const out = new Float32Array(bits.length);
      const words = new Uint32Array(out.buffer);
      for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
      return out;
    }
    case "i64":
      return Float32Array.from(typedView(array as NamedArray & { dtype: "i64" }), Number);
    case "f64":
    case "i32":
    case "i16":
    case "i8":
    case "u8":
    case "u16":
    case "u32":
    case "bool":
      return Float32Array.from(typedView(array) as ArrayLike<number>);
    default:
      return array.dtype satisfies never;
  }
}

export type FloatDType = "f64" | "f32" | "f16" | "bf16";

function checkCount(length: number, shape: readonly number[]): void {
  if (elementCount(shape) !== length) {
    throw usageError(`array: ${length} elements do not fill the shape [${shape.join(", ")}]`);
  }
}

/** Numbers to a file array. f32 shares memory with `data`; f16 and bf16 round to nearest, ties to even. */
export function fromFloat32(
  data: Float32Array,
  shape: readonly number[],
  dtype: FloatDType = "f32",
): NamedArray {
  checkCount(data.length, shape);
  if (dtype === "f32") return { dtype, shape, data: bytesOf(data) };
  if (dtype === "f64") return { dtype, shape, data: bytesOf(Float64Array.from(data)) };
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const out = new Uint16Array(data.length);
  if (dtype === "f16") for (let i = 0; i < out.length; i++) out[i] = halfBits(words[i]);
  else for (let i = 0; i < out.length; i++) out[i] = bfloatBits(words[i]);
  return { dtype, shape, data: bytesOf(out) };
}

/** Elements as i32; throws when one is fractional or out of range. */
export function toInt32(array: NamedArray): Int32Array {
  if (array.dtype === "i32") return typedView(array as NamedArray & { dtype: "i32" });
  const view = array.dtype === "i64" ? typedView(array as NamedArray & { dtype: "i64" }) : undefined;
  const source: ArrayLike<number | bigint> = view ?? (isInteger(array) ? typedView(array) : toFloat32(array));
  const out = new Int32Array(source.length);
  for (let i = 0; i < out.length; i++) {
    const value = Number(source[i]);
    out[i] = value;
    if (out[i] !== value) {
      throw inputError(
        `${describeArray(array)}: element ${i} is ${source[i]}, which is not a 32-bit integer`,
      );
    }
  }
  return out;
}

const isInteger = (array: NamedArray): boolean => /^[iu]|bool/.test(array.dtype);

export function fromInt32(data: Int32Array, shape: readonly number[] = [data.length]): NamedArray {
  checkCount(data.length, shape);
  return { dtype: "i32", shape, data: bytesOf(data) };
}

/** Raw bytes, u8 [n]. */
export function fromBytes(data: Uint8Array): NamedArray {
  return { dtype: "u8", shape: [data.length], data };
}

/** [rows, columns] -> [columns, rows], in square tiles that stay in cache. */
export function transpose2d(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  const tile = 32;
  for (let r0 = 0; r0 < rows; r0 += tile) {
    const r1 = Math.min(r0 + tile, rows);
    for (let c0 = 0; c0 < columns; c0 += tile) {
      const c1 = Math.min(c0 + tile, columns);
      for (let r = r0; r < r1; r++) {
        for (let c = c0; c < c1; c++) out[c * rows + r] = data[r * columns + c];
      }
    }
  }
  return out;
}
