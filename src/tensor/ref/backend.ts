/**
 * The reference backend: every op by its own plain loops in float64. Slow, portable, the oracle of all others.
 */
import {
  bf16BitsToF32,
  decodeBf16,
  decodeF16,
  encodeBf16,
  encodeF16,
  f16BitsToF32,
  f32ToBf16Bits,
  f32ToF16Bits,
} from "../../util/half.ts";
import type { Backend, KernelTable } from "../backend.ts";
import { mutated, type Op } from "../op.ts";
import { ops } from "../ops/index.ts";
import { type Dense, type DType, ITEM_SIZE, type Kernel, type KernelTensor, sizeOf } from "../types.ts";

export interface RefOptions {
  /** Keep float64 between ops, whatever the dtype says: for central differences. Default false: values are rounded. */
  readonly keepF64?: boolean;
}

/** One number per element, rounded to what the dtype can hold. */
type RefBuffer = Float64Array;

const ROUND = {
  f32: Math.fround,
  f16: (x) => f16BitsToF32(f32ToF16Bits(x)),
  bf16: (x) => bf16BitsToF32(f32ToBf16Bits(x)),
  i32: (x) => Math.trunc(x) | 0,
} satisfies Record<DType, (x: number) => number>;

export function refBackend({ keepF64 = false }: RefOptions = {}): Backend {
  const round = (x: number, dtype: DType) => (keepF64 && dtype !== "i32" ? x : ROUND[dtype](x));

  const store = (dense: Dense, t: KernelTensor) => {
    const buffer = t.handle as RefBuffer;
    for (let i = 0; i < dense.data.length; i++) buffer[t.offset + i] = round(dense.data[i], t.dtype);
  };

  const run =
    <A>(op: Op<A>): Kernel<A> =>
    (inputs, outputs, attrs) => {
      const ins = inputs.map(load);
      const outs = outputs.map((t) => blank(t));
      op.ref(ins, outs, attrs);
      for (const [i, dense] of outs.entries()) store(dense, outputs[i]);
      for (const i of mutated(op, inputs.length, attrs)) store(ins[i], inputs[i]);
    };

  const kernels = Object.fromEntries(Object.values(ops).map((op) => [op.name, run(op as Op<unknown>)]));
  return {
    name: "ref",
    threads: 1,
    kernels: kernels as unknown as KernelTable,
    alloc: (bytes, dtype): RefBuffer => new Float64Array(Math.ceil(bytes / ITEM_SIZE[dtype])),
    free: () => {},
    write: (handle, byteOffset, bytes, dtype) =>
      (handle as RefBuffer).set(decode(bytes, dtype), byteOffset / ITEM_SIZE[dtype]),
    read: async (handle, byteOffset, length, dtype) => {
      const item = ITEM_SIZE[dtype];
      const from = byteOffset / item;
      return encode((handle as RefBuffer).subarray(from, from + length / item), dtype);
    },
    close: () => {},
  };
}

function blank(t: KernelTensor): Dense {
  const n = sizeOf(t.shape);
  return { shape: t.shape, data: t.dtype === "i32" ? new Int32Array(n) : new Float64Array(n) };
}

/** The elements of a strided window in row-major order. */
function load(t: KernelTensor): Dense {
  const source = t.handle as RefBuffer;
  const dense = blank(t);
  const index = new Array<number>(t.shape.length).fill(0);
  let at = t.offset;
  for (let i = 0; i < dense.data.length; i++) {
    dense.data[i] = source[at];
    for (let a = index.length - 1; a >= 0; a--) {
      at += t.strides[a];
      if (++index[a] < t.shape[a]) break;
      at -= t.strides[a] * t.shape[a];
      index[a] = 0;
    }
  }
  return dense;
}

function decode(bytes: Uint8Array, dtype: DType): ArrayLike<number> {
  const { buffer, byteOffset, byteLength } = bytes;
  const items = byteLength / ITEM_SIZE[dtype];
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, items);
    case "i32":
      return new Int32Array(buffer, byteOffset, items);
    case "f16":
      return decodeF16(new Uint16Array(buffer, byteOffset, items));
    case "bf16":
      return decodeBf16(new Uint16Array(buffer, byteOffset, items));
    default:
      return dtype satisfies never;
  }
}

function encode(values: Float64Array, dtype: DType): Uint8Array {
  const typed = {
    f32: () => Float32Array.from(values),
    i32: () => Int32Array.from(values),
    f16: () => encodeF16(values),
    bf16: () => encodeBf16(values),
  }[dtype]();
  return new Uint8Array(typed.buffer);
}
