/**
 * Arrays as files hold them: a dtype, a shape and little-endian bytes; conversions to and from the types that compute.
 */
import {
  brief,
  decodeBf16,
  decodeF16,
  encodeBf16,
  encodeF16,
  inputError,
  usageError,
} from "../util/index.ts";

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

/** Axes that an array may have. */
export const MAX_RANK = 8;
const MAX_NAME = 1024;

/** Names are printed: none is endless or steers a terminal. `where` begins the message. */
export function checkArrayName(where: string, name: string): void {
  if (name.length > MAX_NAME || /\p{Cc}/u.test(name))
    throw inputError(`${where}: ${brief(name)} is no name for an array; the file is damaged or hostile`);
}

/** Memory for bytes of a file, not cleared; throws an input error where it does not fit. `what` begins the message. */
export function allocateBytes(what: string, length: number): Buffer {
  try {
    return Buffer.allocUnsafeSlow(length);
  } catch (cause) {
    throw inputError(`${what} is ${length} bytes, more than can be held in one piece`, cause);
  }
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

/** Elements as f32. For f32 arrays the result shares memory with `array.data` where alignment allows. */
export function toFloat32(array: NamedArray): Float32Array {
  switch (array.dtype) {
    case "f32":
      return typedView(array as NamedArray & { dtype: "f32" });
    case "f16":
      return decodeF16(typedView(array as NamedArray & { dtype: "f16" }));
    case "bf16":
      return decodeBf16(typedView(array as NamedArray & { dtype: "bf16" }));
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
  return { dtype, shape, data: bytesOf(dtype === "f16" ? encodeF16(data) : encodeBf16(data)) };
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
