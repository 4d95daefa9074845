/**
 * What the tensor tests share: test cases of all ops, their numbers, memory layouts, backends, and comparison.
 * Expected results always come from the op's own plain loops (`ref`) in float64 on the numbers that the dtype can hold.
 */
import assert from "node:assert/strict";
import { after } from "node:test";
import type { Backend, KernelTable } from "../../src/tensor/backend.ts";
import { Device } from "../../src/tensor/device.ts";
import { nativeBackend } from "../../src/tensor/native/backend.ts";
import { type CaseInput, mutated, type Op, type OpCase } from "../../src/tensor/op.ts";
import { type OpName, ops } from "../../src/tensor/ops/index.ts";
import { refBackend } from "../../src/tensor/ref/backend.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { type Dense, type DType, rowMajor, type Shape, sizeOf } from "../../src/tensor/types.ts";
import { contiguous, expand, permute, reshape, slice } from "../../src/tensor/views.ts";
import { bf16BitsToF32, f16BitsToF32, f32ToBf16Bits, f32ToF16Bits } from "../../src/util/half.ts";
import { Rng } from "../../src/util/rng.ts";
import { nativeMissing } from "../native.ts";

export type AnyOp = Op<unknown>;
export interface Case extends OpCase<unknown> {
  readonly op: AnyOp;
  /** `softmax [3, 7] {}` */
  readonly label: string;
}

export const opNames = Object.keys(ops) as OpName[];
export const opOf = (name: OpName): AnyOp => ops[name] as AnyOp;

export function caseOf(op: AnyOp, source: OpCase<unknown>): Case {
  const shapes = source.inputs.map((i) => `[${i.shape.join(", ")}]`).join(" ");
  const note = source.note ? ` (${source.note})` : "";
  return { ...source, op, label: `${op.name} ${shapes} ${JSON.stringify(source.attrs)}${note}` };
}

export const casesOf = (name: OpName): Case[] => opOf(name).cases.map((c) => caseOf(opOf(name), c));

const BANK = 1 << 18;
const normals = Float64Array.from(new Rng(7).fillNormal(new Float32Array(BANK)));
const uniforms = Float64Array.from(new Rng(8).fillUniform(new Float32Array(BANK)));

const drawn = new Map<string, Dense[]>();

/** The numbers of every input of a case, as f32 holds them; the same on every run. Not to be overwritten. */
export function valuesOf(c: Case): Dense[] {
  const before = drawn.get(c.label);
  if (before) return before;
  const rng = new Rng(7).fork(c.label);
  const values = c.inputs.map((input) => ({ shape: input.shape, data: draw(input, rng) }));
  drawn.set(c.label, values);
  return values;
}

function draw({ shape, kind = "normal", below = 2, values }: CaseInput, rng: Rng): Dense["data"] {
  const n = sizeOf(shape);
  if (values) return kind === "index" ? Int32Array.from(values) : Float64Array.from(values, Math.fround);
  const from = rng.int(BANK);
  const floats = (f: (u: number, i: number) => number) => {
    const data = new Float64Array(n);
    for (let i = 0; i < n; i++) data[i] = Math.fround(f(uniforms[(from + i) % BANK], i));
    return data;
  };
  switch (kind) {
    case "normal":
      return floats((_, i) => normals[(from + i) % BANK]);
    case "positive":
      return floats((u) => 0.5 + 1.5 * u);
    case "spread": // away from 0, where a kink may be
      return floats((u) => (u < 0.5 ? -0.2 - u : u - 0.3));
    case "mask":
      return floats((u) => Math.floor(2 * u));
    case "index":
      return Int32Array.from({ length: n }, (_, i) => Math.floor(below * uniforms[(from + i) % BANK]));
    case "distinct": {
      const width = shape[shape.length - 1];
      const rows = Array.from({ length: n / width }, () => rng.permutation(below).subarray(0, width));
      return Int32Array.from(rows.flatMap((row) => [...row]));
    }
    default:
      return kind satisfies never;
  }
}

/** Runs the plain loops: the outputs, and the mutated inputs after them. */
export function expected(c: Case, inputs: readonly Dense[]): Dense[] {
  const copies = inputs.map((d) => ({ shape: d.shape, data: d.data.slice() }));
  const types = c.op.infer(
    copies.map((d) => ({ dtype: dtypeOf(d), shape: d.shape })),
    c.attrs,
  );
  const outputs = types.map(({ dtype, shape }) => ({
    shape,
    data: dtype === "i32" ? new Int32Array(sizeOf(shape)) : new Float64Array(sizeOf(shape)),
  }));
  c.op.ref(copies, outputs, c.attrs);
  return [...outputs, ...mutated(c.op, c.inputs.length, c.attrs).map((i) => copies[i])];
}

export const dtypeOf = (d: Dense): DType => (d.data instanceof Int32Array ? "i32" : "f32");

const ROUND = {
  f32: Math.fround,
  f16: (x: number) => f16BitsToF32(f32ToF16Bits(x)),
  bf16: (x: number) => bf16BitsToF32(f32ToBf16Bits(x)),
  i32: (x: number) => x,
} satisfies Record<DType, (x: number) => number>;

/** Numbers that f32 can hold as `dtype` holds them. */
export function rounded(d: Dense, dtype: DType): Dense {
  return d.data instanceof Int32Array || dtype === "f32"
    ? d
    : { shape: d.shape, data: d.data.map(ROUND[dtype]) };
}

// ---- layouts

/** Ways to lay the same numbers out in memory. `expanded` repeats the first slice of an axis, so it has its own numbers. */
export const layouts = ["contiguous", "offset", "transposed", "sliced", "expanded"] as const;
export type Layout = (typeof layouts)[number];

/** The axis that `expanded` repeats; undefined where there is none. */
function repeatedAxis(shape: Shape): number | undefined {
  const axis = shape.findIndex((d) => d > 1);
  return axis === -1 || axis === shape.length - 1 ? undefined : axis;
}

/** The numbers that a tensor of this layout will show. */
export function shownIn(layout: Layout, d: Dense): Dense {
  const axis = repeatedAxis(d.shape);
  if (layout !== "expanded" || axis === undefined) return d;
  const step = rowMajor(d.shape)[axis];
  const data = d.data.map((_, i) => d.data[i - step * (Math.floor(i / step) % d.shape[axis])]);
  return { shape: d.shape, data };
}

/** A tensor that shows `d`. Everything around the window is NaN, or an index far out of range. */
export function place(device: Device, d: Dense, layout: Layout, dtype: DType = dtypeOf(d)): Tensor {
  return device.scope(() => placed(device, d, layout, dtype));
}

function placed(device: Device, d: Dense, layout: Layout, dtype: DType): Tensor {
  const { shape } = d;
  const poison = dtype === "i32" ? 2 ** 30 : Number.NaN;
  const n = sizeOf(shape);
  switch (layout) {
    case "contiguous":
      return device.tensor(d.data, shape, dtype);
    case "offset": {
      const padded = [...new Array<number>(3).fill(poison), ...d.data];
      return reshape(slice(device.tensor(padded, [n + 3], dtype), [3], [n]), shape);
    }
    case "transposed": {
      const order = shape.map((_, a) => shape.length - 1 - a);
      return permute(contiguous(permute(device.tensor(d.data, shape, dtype), order)), order);
    }
    case "sliced": {
      const outer = shape.map((s) => s + 2);
      const strides = rowMajor(outer);
      const whole = new Array<number>(sizeOf(outer)).fill(poison);
      const inner = rowMajor(shape);
      d.data.forEach((v, i) => {
        const at = shape.reduce((t, s, a) => t + ((Math.floor(i / inner[a]) % s) + 1) * strides[a], 0);
        whole[at] = v;
      });
      return slice(
        device.tensor(whole, outer, dtype),
        shape.map(() => 1),
        shape,
      );
    }
    case "expanded": {
      const axis = repeatedAxis(shape);
      const all = device.tensor(d.data, shape, dtype);
      if (axis === undefined) return all;
      const one = shape.map((s, a) => (a === axis ? 1 : s));
      return expand(
        slice(
          all,
          shape.map(() => 0),
          one,
        ),
        shape,
      );
    }
    default:
      return layout satisfies never;
  }
}

// ---- backends

/** The same backend without its fused kernels, so that fused ops run as their decomposition. */
export function withoutFused(backend: Backend): Backend {
  const kernels = Object.fromEntries(
    Object.entries(backend.kernels).filter(([name]) => opOf(name as OpName).kind === "primitive"),
  );
  return { ...backend, name: `${backend.name} decomposed`, kernels: kernels as unknown as KernelTable };
}

export { nativeMissing };

export const backends: Readonly<Record<string, () => Backend>> = {
  ref: () => refBackend(),
  "ref decomposed": () => withoutFused(refBackend()),
  ...(nativeMissing
    ? {}
    : {
        "native, 1 thread": () => nativeBackend({ threads: 1 }),
        "native, 2 threads": () => nativeBackend({ threads: 2 }),
        "native, 3 threads": () => nativeBackend({ threads: 3 }),
        "native decomposed": () => withoutFused(nativeBackend({ threads: 2 })),
      }),
};

/** A device of this file, which must hold nothing when the file's tests are over. */
export function testDevice(backend: Backend): Device {
  const device = new Device(backend);
  after(() => {
    const { tensors, buffers, bytes } = device.memory();
    device.close();
    assert.deepEqual(
      { tensors, buffers, bytes },
      { tensors: 0, buffers: 0, bytes: 0 },
      `${device.name} leaks`,
    );
  });
  return device;
}

/** Runs `fn` and frees all that it made; fails if that does not bring memory back to where it was. */
export async function leakFree<T>(device: Device, fn: () => Promise<T>): Promise<T> {
  const before = device.memory();
  const made: Tensor[] = [];
  const adopt = device.adopt.bind(device);
  device.adopt = (t) => {
    adopt(t);
    made.push(t);
  };
  try {
    return await fn();
  } finally {
    device.adopt = adopt;
    for (const t of made) t.dispose();
    const now = device.memory();
    assert.deepEqual([now.tensors, now.bytes], [before.tensors, before.bytes], `${device.name} leaks`);
  }
}

/** Elements of a tensor of a `ref` device, unrounded. */
export function float64(t: Tensor): Float64Array {
  return t.device.scope(() => {
    const dense = t.isContiguous ? t : contiguous(t);
    return (dense.handle as Float64Array).slice(dense.offset, dense.offset + dense.size);
  });
}

// ---- comparison

/** |actual - expected| <= rel · |expected| + abs · max(1, largest |expected|). */
export interface Tolerance {
  readonly rel: number;
  readonly abs: number;
}

export function assertClose(
  actual: ArrayLike<number>,
  wanted: ArrayLike<number>,
  { rel, abs }: Tolerance,
  what: string,
): void {
  assert.equal(actual.length, wanted.length, `${what}: number of elements`);
  let top = 1;
  for (let i = 0; i < wanted.length; i++) {
    if (Number.isFinite(wanted[i])) top = Math.max(top, Math.abs(wanted[i]));
  }
  for (let i = 0; i < wanted.length; i++) {
    const [a, w] = [actual[i], Math.fround(wanted[i])];
    if (a === w || (Number.isNaN(a) && Number.isNaN(w))) continue;
    const off = Math.abs(a - wanted[i]);
    if (!(off <= rel * Math.abs(wanted[i]) + abs * top)) {
      assert.fail(`${what}: element ${i} is ${a}, expected ${wanted[i]} (off by ${off})`);
    }
  }
}
