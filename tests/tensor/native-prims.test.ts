/**
 * The primitive, sparse and optimiser kernels against the plain loops of their ops, on every instruction set; any
 * number of threads must give the same bits. Skipped where the addon was not built.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Addon, loadAddon } from "../../src/tensor/native/addon.ts";
import { elementwiseKernels } from "../../src/tensor/native/elementwise.ts";
import { optimKernels } from "../../src/tensor/native/optim.ts";
import { prefixKernels } from "../../src/tensor/native/prefix.ts";
import { shapeKernels } from "../../src/tensor/native/shape.ts";
import { sparseKernels } from "../../src/tensor/native/sparse.ts";
import { mutated, type Op } from "../../src/tensor/op.ts";
import { type OpName, ops } from "../../src/tensor/ops/index.ts";
import type { Dense, DType, Kernel, KernelTensor, TensorType } from "../../src/tensor/types.ts";
import { ITEM_SIZE, rowMajor, sizeOf } from "../../src/tensor/types.ts";
import { decodeBf16, decodeF16, encodeBf16, encodeF16 } from "../../src/util/half.ts";
import { nativeMissing } from "../native.ts";

const skip = nativeMissing;
const addon: Addon | undefined = skip ? undefined : loadAddon();

type Table = Readonly<Record<string, Kernel<unknown>>>;
interface Setup {
  isa: string;
  threads: number;
  kernels: Table;
}
const pools = [1, 2, 3].map((threads) => ({ threads, pool: addon?.createPool(threads) ?? 0 }));
const setups: Setup[] = (addon?.isas() ?? []).flatMap((isa) =>
  pools.map(({ threads, pool }) => ({
    isa,
    threads,
    kernels: {
      ...elementwiseKernels(addon!, pool, isa),
      ...shapeKernels(addon!, pool, isa),
      ...sparseKernels(addon!, pool, isa),
      ...prefixKernels(addon!, pool, isa),
      ...optimKernels(addon!, pool, isa),
    } as unknown as Table,
  })),
);
after(() => {
  for (const { pool } of pools) if (pool) addon!.destroyPool(pool);
});

type Numbers = Float32Array | Int32Array | Uint16Array;
interface Input extends TensorType {
  data: Numbers;
  strides: readonly number[];
  offset: number;
}

let state = 7;
/** Uniform in [-1, 1), the same on every run. */
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 31 - 1;
}
function tensor(shape: number[], data?: ArrayLike<number>): Input {
  const values = data ? Float32Array.from(data) : Float32Array.from({ length: sizeOf(shape) }, random);
  return { dtype: "f32", shape, data: values, strides: rowMajor(shape), offset: 0 };
}
function indices(shape: number[], below: number, data?: ArrayLike<number>): Input {
  const pick = () => Math.floor(((random() + 1) / 2) * below);
  const values = data ? Int32Array.from(data) : Int32Array.from({ length: sizeOf(shape) }, pick);
  return { dtype: "i32", shape, data: values, strides: rowMajor(shape), offset: 0 };
}
/** The window of `base` with these extents, strides and offset. */
const view = (base: Input, shape: number[], strides: number[], offset = 0): Input => ({
  ...base,
  shape,
  strides,
  offset,
});
const positive = (x: Input): Input => ({ ...x, data: (x.data as Float32Array).map(Math.abs) });

/** Raw storage as numbers. */
function widen(data: Numbers, dtype: DType): ArrayLike<number> {
  if (dtype === "f16") return decodeF16(data as Uint16Array);
  if (dtype === "bf16") return decodeBf16(data as Uint16Array);
  return data;
}

function dense(x: Input): Dense {
  const source = widen(x.data, x.dtype);
  const n = sizeOf(x.shape);
  const data = x.dtype === "i32" ? new Int32Array(n) : new Float64Array(n);
  const index = x.shape.map(() => 0);
  for (let i = 0; i < n; i++) {
    let at = x.offset;
    for (let a = 0; a < index.length; a++) at += index[a] * x.strides[a];
    data[i] = source[at];
    for (let a = index.length - 1; a >= 0 && ++index[a] === x.shape[a]; a--) index[a] = 0;
  }
  return { shape: x.shape, data };
}

const arrays = { f32: Float32Array, i32: Int32Array, f16: Uint16Array, bf16: Uint16Array };

/** Runs a kernel in the addon's memory: its outputs, then the inputs as they are afterwards. */
function execute(
  { kernels }: Setup,
  name: string,
  inputs: readonly Input[],
  types: readonly TensorType[],
  attrs: unknown,
): Numbers[] {
  const held: { address: number; dtype: DType; length: number }[] = [];
  const hold = (dtype: DType, length: number): number => {
    const address = addon!.alloc(Math.max(length * ITEM_SIZE[dtype], 1));
    held.push({ address, dtype, length });
    return address;
  };
  const outs = types.map((t): KernelTensor => {
    const length = sizeOf(t.shape);
    const handle = hold(t.dtype, length);
    addon!.write(handle, new Uint8Array(length * ITEM_SIZE[t.dtype]).fill(0xff)); // must be overwritten
    return { ...t, handle, strides: rowMajor(t.shape), offset: 0 };
  });
  const ins = inputs.map((x): KernelTensor => {
    const handle = hold(x.dtype, x.data.length);
    addon!.write(handle, new Uint8Array(x.data.buffer, x.data.byteOffset, x.data.byteLength));
    return { dtype: x.dtype, shape: x.shape, strides: x.strides, offset: x.offset, handle };
  });
  try {
    kernels[name](ins, outs, attrs);
    return held.map((h) => new arrays[h.dtype](addon!.read(h.address, h.length * ITEM_SIZE[h.dtype])));
  } finally {
    for (const { address } of held) addon!.free(address);
  }
}

function near(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what: string): void {
  assert.equal(actual.length, expected.length, what);
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i], expected[i]];
    if (Object.is(a, e) || Math.abs(a - e) <= tolerance * (1 + Math.abs(e)) || (a === e && a === 0)) continue;
    assert.fail(`${what}: element ${i} is ${a}, expected ${e}`);
  }
}

/** The kernel `name` against the meaning of the op of that name, everywhere. */
function check(name: OpName, inputs: readonly Input[], attrs: unknown = {}, tolerance = 1e-5): void {
  const op = ops[name] as unknown as Op<unknown>;
  const types = op.infer(inputs, attrs);
  const expected = types.map((t): Dense => {
    const n = sizeOf(t.shape);
    return { shape: t.shape, data: t.dtype === "i32" ? new Int32Array(n) : new Float64Array(n) };
  });
  const sources = inputs.map(dense);
  op.ref(sources, expected, attrs);
  let first: Numbers[] | undefined;
  for (const setup of setups) {
    const what = `${name} [${inputs.map((x) => x.shape.join("×")).join("] [")}] on ${setup.isa}, ${setup.threads} threads`;
    const got = execute(setup, name, inputs, types, attrs);
    expected.forEach((e, i) => {
      near(widen(got[i], types[i].dtype), e.data, tolerance, what);
    });
    for (const i of mutated(op, inputs.length, attrs))
      near(got[types.length + i], sources[i].data, tolerance, `${what}, input ${i}`);
    if (setup.threads === 1) first = got;
    else
      got.forEach((x, i) => {
        assert.deepEqual(Buffer.from(x.buffer), Buffer.from(first![i].buffer), `${what}: other bits`);
      });
  }
}

test("elementwise kernels agree with Math on every tail length and across tasks", { skip }, () => {
  const unary: OpName[] = [
    "neg",
    "exp",
    "tanh",
    "sigmoid",
    "relu",
    "abs",
    "square",
    "reciprocal",
    "sin",
    "cos",
  ];
  for (const n of [0, 1, 7, 16, 33, 40_001]) {
    const x = tensor([n]);
    x.data.forEach((v, i) => {
      x.data[i] = v * 9;
    });
    for (const name of unary) check(name, [x], {}, 3e-6);
    for (const name of ["log", "sqrt", "rsqrt"] as const) check(name, [positive(x)], {}, 3e-6);
  }
  const odd = tensor([6], [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 100, -100]);
  for (const name of ["exp", "tanh", "sigmoid", "relu", "abs"] as const) {
    const big =
      name === "exp" ? { ...odd, data: (odd.data as Float32Array).map((v) => (v === 100 ? 80 : v)) } : odd;
    check(name, [big], {}, 3e-6);
  }
});

test("binary kernels broadcast by strides", { skip }, () => {
  const names: OpName[] = [
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "greater",
    "greaterEqual",
    "equal",
  ];
  const [a, b] = [tensor([3, 4, 5]), tensor([3, 4, 5])];
  const row = view(tensor([5]), [3, 4, 5], [0, 0, 1]);
  const column = view(tensor([4]), [3, 4, 5], [0, 1, 0]);
  const flipped = view(tensor([5, 4, 3]), [3, 4, 5], [1, 3, 12]);
  const scalar = view(tensor([3]), [3, 4, 5], [0, 0, 0], 2);
  for (const name of names) for (const other of [b, row, column, flipped, scalar]) check(name, [a, other]);
  check("add", [tensor([300, 257]), view(tensor([257]), [300, 257], [0, 1])]);
  check("mul", [tensor([300, 257]), view(tensor([300]), [300, 257], [1, 0])]);
  check("sub", [tensor([50_000]), tensor([50_000])]);
  check("add", [tensor([2, 0]), tensor([2, 0])]);
  check("add", [tensor([]), tensor([])]);
  const nan = tensor([3], [Number.NaN, 1, Number.NaN]);
  for (const name of ["maximum", "minimum"] as const)
    check(name, [nan, tensor([3], [1, Number.NaN, Number.NaN])]);
  check("where", [tensor([5], [0, 1, -1, 0, 2]), tensor([5]), tensor([5])]);
});

test("casts round to nearest even, subnormals, infinities and NaN included", { skip }, () => {
  const special = [
    0,
    -0,
    1,
    65504,
    65519.9,
    65520,
    1e9,
    -1e9,
    2 ** -24,
    2 ** -25,
    1.5 * 2 ** -25,
    3e-6,
    6.1e-5,
    1e-40,
  ];
  const values = [
    ...special,
    ...special.map((x) => -x),
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    1 + 2 ** -8,
    1 + 3 * 2 ** -8,
  ];
  const data = Float32Array.from([...values, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]);
  const x = tensor([data.length], data);
  for (const dtype of ["f16", "bf16"] as const) {
    const bits = dtype === "f16" ? encodeF16(data) : encodeBf16(data);
    for (const setup of setups) {
      const [out] = execute(setup, "cast", [x], [{ dtype, shape: x.shape }], { dtype });
      assert.deepEqual(widen(out, dtype), widen(bits, dtype), `${dtype} on ${setup.isa}`);
    }
    const every: Input = {
      ...tensor([65_536]),
      dtype,
      data: Uint16Array.from({ length: 65_536 }, (_, i) => i),
    };
    check("cast", [every], { dtype: "f32" }, 0);
  }
  check("cast", [indices([1000], 1_000_000)], { dtype: "f32" }, 0);
  for (const setup of setups) {
    const [out] = execute(
      setup,
      "cast",
      [tensor([4], [1.9, -1.9, Number.NaN, 3e9])],
      [{ dtype: "i32", shape: [4] }],
      {},
    );
    assert.deepEqual([...out], [1, -1, 0, 2 ** 31 - 1]);
  }
});

test("copies follow any strides", { skip }, () => {
  const base = tensor([6, 70, 90]);
  check("contiguous", [view(base, [70, 6, 90], [90, 6300, 1])]);
  check("contiguous", [view(base, [90, 70, 6], [1, 90, 6300])]);
  check("contiguous", [view(base, [6, 90, 70], [6300, 1, 90])]);
  check("contiguous", [view(base, [6, 35, 30], [6300, 180, 3], 5)]);
  check("contiguous", [view(base, [4, 6, 90], [0, 6300, 1])]);
  check("contiguous", [
    {
      ...tensor([65, 33]),
      dtype: "f16",
      data: new Uint16Array(65 * 33).fill(15360),
      shape: [33, 65],
      strides: [1, 33],
    },
  ]);
  check("concat", [tensor([2, 3, 5]), tensor([2, 1, 5]), tensor([2, 0, 5])], { axis: 1 });
  check("concat", [tensor([300, 90]), tensor([300, 77])], { axis: 1 });
  check("unslice", [tensor([2, 3])], { shape: [4, 7], starts: [1, 2] });
  check("assign", [tensor([2, 9, 4]), tensor([2, 3, 4])], { starts: [0, 5, 0] });
  for (const dtype of ["f32", "i32"] as const) {
    for (const shape of [[3, 5], [40_000], []]) check("fill", [], { shape, value: 7, dtype });
  }
});

test("gathers and scatters move whole rows, and an index out of range is an error", { skip }, () => {
  check("gatherRows", [tensor([50, 33]), indices([4, 7], 50)]);
  check("gatherRows", [tensor([500, 64]), indices([900], 500)]);
  for (const dtype of ["f16", "bf16"] as const) {
    const bits = (dtype === "f16" ? encodeF16 : encodeBf16)(tensor([20 * 19]).data as Float32Array);
    check("gatherRows", [{ ...tensor([20, 19]), dtype, data: bits }, indices([31], 20)]);
  }
  check("scatterAddRows", [tensor([6, 3]), indices([6], 4)], { rows: 4 });
  check("scatterAddRows", [tensor([40_000, 40]), indices([40_000], 300)], { rows: 500 }, 1e-4);
  check("scatterAddRows", [tensor([9000, 720]), indices([9000], 300)], { rows: 300 }, 1e-4);
  check("takeLast", [tensor([300, 70]), indices([300, 5], 70)]);
  check("scatterLast", [tensor([300, 5]), indices([300, 5], 9)], { n: 9 });
  for (const setup of setups) {
    const out = [{ dtype: "f32", shape: [1, 2] }] as const;
    assert.throws(
      () => execute(setup, "gatherRows", [tensor([3, 2]), indices([1], 0, [3])], out, {}),
      /gatherRows: index 3 is out of range/,
    );
    assert.throws(
      () => execute(setup, "gatherRows", [tensor([3, 2]), indices([1], 0, [-1])], out, {}),
      /index -1/,
    );
  }
});

test("reductions agree with plain sums along any run of axes", { skip }, () => {
  const cases: [number[], number[]][] = [
    [[2, 3, 4], [1]],
    [
      [2, 3, 4],
      [0, 1, 2],
    ],
    [[70, 1000], [1]],
    [[1000, 700], [0]],
    [[3, 300, 65], [1]],
    [[100_003], [0]],
    [[4, 1, 6], [1]],
    [[0, 5], [0]],
  ];
  for (const [shape, axes] of cases) {
    check("sum", [tensor(shape)], { axes, keepDims: false }, 2e-5);
    if (shape[0]) check("max", [tensor(shape)], { axes, keepDims: true });
  }
  const holes = tensor([3, 40]);
  holes.data[50] = Number.NaN;
  check("max", [holes], { axes: [1], keepDims: false });
  check("max", [holes], { axes: [0], keepDims: false });
  check("argmax", [holes]);
  check("argmax", [tensor([2, 4], [1, 3, 3, 2, -1, -1, -5, -1])]);
  check("argmax", [tensor([40, 5000])]);
});

test("topk keeps the lower index on ties and puts NaN first", { skip }, () => {
  const row = tensor([1, 6], [1, Number.NaN, 3, 3, 0, -0]);
  for (const setup of setups) {
    const types = ops.topk.infer([row], { k: 6 });
    const [values, at] = execute(setup, "topk", [row], types, { k: 6 });
    assert.deepEqual([...values], [Number.NaN, 3, 3, 1, 0, -0]);
    assert.deepEqual([...at], [1, 2, 3, 0, 4, 5]);
  }
  for (const [rows, n, k] of [
    [7, 11, 3],
    [5, 3000, 1],
    [3, 3000, 64],
    [2, 500, 500],
    [4, 20_000, 32],
  ]) {
    check("topk", [tensor([rows, n])], { k }, 0);
    const coarse = tensor([rows, n]);
    coarse.data.forEach((v, i) => {
      coarse.data[i] = Math.round(v * 20);
    });
    check("topk", [coarse], { k }, 0);
  }
});

test("the sparse passes agree with plain loops, duplicates and empty rows included", { skip }, () => {
  for (const [B, K, D, F] of [
    [1, 1, 1, 1],
    [5, 3, 6, 10],
    [40, 7, 33, 20],
    [700, 32, 64, 900],
    [30, 5, 720, 9000],
  ]) {
    const codes = [tensor([B, K]), indices([B, K], F)];
    const [values, index] = codes;
    const [w, bias, x] = [tensor([F, D]), tensor([D]), tensor([B, D])];
    check("sparseDecode", [values, index, w], {}, 2e-5);
    check("sparseDecode", [values, index, w, bias], {}, 2e-5);
    check("sparseDecodeLoss", [values, index, w, bias, x], {}, 2e-5);
    check("sparseDot", [x, w, index], {}, 2e-5);
    if (F === 9000) continue;
    check("sparseOuter", [values, index, x], { rows: F }, 5e-5);
    check("sparseSum", [values, index], { rows: F }, 2e-5);
    const other = tensor([B, D + 3]);
    check("sparseOuterPair", [values, x, tensor([B, K]), other, index], { rows: F }, 5e-5);
    const fired = { ...values, data: (values.data as Float32Array).map((v) => Math.max(v, 0)) };
    check("markFired", [indices([F], 100), fired, index], { tokens: B });
  }
  check("sparseOuter", [tensor([9000, 1]), indices([9000, 1], 30), tensor([9000, 720])], { rows: 30 }, 1e-4);
  check("markFired", [indices([2], 0, [2 ** 31 - 5, 3]), tensor([1, 1], [0]), indices([1, 1], 2)], {
    tokens: 10,
  });
  const out = [{ dtype: "f32", shape: [4, 2] }] as const;
  for (const setup of setups) {
    const inputs = [tensor([1, 1]), indices([1, 1], 0, [4]), tensor([1, 2])];
    assert.throws(() => execute(setup, "sparseOuter", inputs, out, { rows: 4 }), /sparseOuter: index 4/);
  }
});

test("the passes over prefixes agree with plain loops, unused slots and many rows included", { skip }, () => {
  for (const [B, K, D, F] of [
    [1, 1, 1, 1],
    [5, 3, 6, 10],
    [40, 9, 33, 20],
    [131, 32, 100, 900],
    [12, 4, 1100, 50],
    [6100, 9, 40, 30_000],
  ]) {
    for (const unused of F < 1000 ? [0, 0.4] : [0]) {
      const values = tensor([B, K]);
      values.data.forEach((_, i) => {
        if (Math.abs(random()) < unused) values.data[i] = 0;
      });
      const inputs = [values, indices([B, K], F), tensor([F, D]), tensor([D]), tensor([B, D])];
      check("prefixLoss", [...inputs, positive(tensor([K + 1]))], {}, 1e-4);
      if (F < 1000) check("prefixLoss", [...inputs, positive(tensor([B, K + 1]))], {}, 1e-4);
      const sparse = tensor(
        [K + 1],
        Float32Array.from({ length: K + 1 }, (_, t) => Number(t % 5 === 1)),
      );
      check("prefixLoss", [...inputs, sparse], {}, 1e-4);
      const bounds = [...new Set([1, Math.ceil(F / 7), F])];
      check("groupPrefixes", [values, inputs[1]], { bounds });
      for (const count of [1, Math.ceil((B * K) / 3), B * K]) check("keepLargest", [values], { count });
      const positives = { ...values, data: (values.data as Float32Array).map((v) => Math.max(v, 0)) };
      check("keepLargest", [positives], { count: Math.ceil((B * K) / 4) });
      if (unused && F < 1000) {
        const x = tensor([B, D]);
        check("sparseDecode", inputs.slice(0, 4), {}, 2e-5);
        check("sparseDecodeLoss", inputs, {}, 2e-5);
        check("sparseOuter", [values, inputs[1], x], { rows: F }, 5e-5);
        check("sparseSum", [values, inputs[1]], { rows: F }, 2e-5);
        check("sparseOuterPair", [values, x, values, inputs[4], inputs[1]], { rows: F }, 5e-5);
      }
    }
  }
  const ties = tensor([300, 200]);
  ties.data.forEach((v, i) => {
    ties.data[i] = Math.round(v * 3);
  });
  for (const count of [9_000, 20_000, 40_000]) check("keepLargest", [ties], { count });
});

test("the loss pass can also return the products of the error with the chosen rows", { skip }, () => {
  for (const [B, K, D, F] of [
    [9, 5, 40, 30],
    [20, 6, 720, 9000],
  ]) {
    const [values, index, w, bias, x] = [
      tensor([B, K]),
      indices([B, K], F),
      tensor([F, D]),
      tensor([D]),
      tensor([B, D]),
    ];
    const types: TensorType[] = [[], [B, D], [B, K]].map((shape) => ({ dtype: "f32", shape }));
    for (const setup of setups) {
      const [, error, dots] = execute(setup, "sparseDecodeLoss", [values, index, w, bias, x], types, {});
      const [expected] = execute(setup, "sparseDot", [tensor([B, D], error), w, index], [types[2]], {});
      assert.deepEqual(dots, expected);
    }
  }
});

test("optimiser passes agree with plain loops", { skip }, () => {
  const attrs = { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1, step: 3, gradScale: 0.5 };
  for (const shape of [
    [1, 1],
    [5, 7],
    [130, 129],
    [3, 20_000],
  ]) {
    const four = () => [tensor(shape), tensor(shape), tensor(shape), positive(tensor(shape))];
    check("adam", four(), attrs);
    for (const project of [false, true]) {
      for (const normalize of [false, true])
        check("adamRows", four(), { ...attrs, project, normalize, normEps: 1e-8 });
    }
    check("normalizeRows", [tensor(shape)], { eps: 1e-8 });
    check("projectRows", [tensor(shape), tensor(shape)]);
    check("sumSquares", [tensor(shape)]);
    check("scale", [tensor(shape)], { factor: 0.25 });
  }
  check("normalizeRows", [tensor([2, 3], [0, 0, 0, 3, 0, 4])], { eps: 1e-8 });
  check("projectRows", [tensor([1, 2], [3, 4]), tensor([1, 2], [0, 0])]);
  check("sumSquares", [tensor([0])]);
});
