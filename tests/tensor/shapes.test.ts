/**
 * No op takes inputs whose shapes do not fit: each input of each case in turn gets a wrong one.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { dispatch, type OpName, reshape, type Shape, slice } from "../../src/tensor/index.ts";
import { SluiceError } from "../../src/util/errors.ts";
import {
  backends,
  type Case,
  caseOf,
  casesOf,
  leakFree,
  nativeMissing,
  opNames,
  opOf,
  place,
  testDevice,
  valuesOf,
} from "./support.ts";

type Freedom = "any" | readonly number[];

/** Axes of each input that may change while the other inputs stay: extents that only this input has, and `any` shape. */
const FREE: Partial<Record<OpName, (c: Case) => readonly Freedom[]>> = {
  ...Object.fromEntries(
    [
      ...[
        "neg",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "tanh",
        "sigmoid",
        "relu",
        "abs",
        "square",
        "reciprocal",
        "sin",
      ],
      ...[
        "cos",
        "sum",
        "max",
        "argmax",
        "contiguous",
        "cast",
        "softmax",
        "logSoftmax",
        "scale",
        "sumSquares",
      ],
    ].map((name) => [name, () => ["any"]]),
  ),
  concat: (c) => c.inputs.map(() => [(c.attrs as { axis: number }).axis]),
  unslice: () => [[0, 1]],
  assign: () => [
    [0, 1],
    [0, 1],
  ],
  gatherRows: () => ["any", "any"],
  scatterAddRows: () => [[1]],
  takeLast: () => [[1], [1]],
  topk: () => [[0, 1]],
  matmul: ({ inputs: [a, b] }) => [leading(a.shape, b.shape.length === 2 ? 0 : 1), [b.shape.length - 1]],
  linear: ({ inputs: [x, , bias] }) => [leading(x.shape), bias ? [] : [0]],
  rmsNorm: ({ inputs: [x] }) => [leading(x.shape)],
  layerNorm: ({ inputs: [x] }) => [leading(x.shape)],
  rope: () => [[2, 3]],
  softmaxCrossEntropy: () => [[1]],
  softmaxCrossEntropyGrad: () => [[], [1]],
  attention: ({ inputs }) => [inputs.length > 3 ? [2] : [1, 2]],
  attentionCached: () => [[1, 2]],
  linearTopK: () => [[0]],
  sparseDecode: ({ inputs }) => [[], [], inputs.length > 3 ? [0] : [0, 1]],
  sparseDot: ({ inputs }) => (inputs.length > 3 ? [[], [0], [], []] : [[], [0], [1]]),
  sparseOuter: () => [[], [], [1]],
  sparseDecodeLoss: () => [[], [], [0]],
  sparseOuterPair: () => [[], [1], [], [1]],
  markFired: () => [[0]],
  linearKronTopK: () => [[0]],
  kronScores: () => [[0]],
  jumpRelu: () => [[0]],
  heaviside: () => [[0]],
  prefixLoss: () => [[], [], [0]],
  keepLargest: () => [[0, 1]],
  normalizeRows: () => [[0, 1]],
};

/** All axes but the last, from `first` on. */
function leading(shape: Shape, first = 0): number[] {
  return shape.map((_, a) => a).slice(first, -1);
}

/** The case with input `at` of another shape. */
function withShape(c: Case, at: number, shape: Shape): Case {
  const inputs = c.inputs.map((input, i) => (i === at ? { ...input, shape, values: undefined } : input));
  return { ...caseOf(opOf(c.op.name as OpName), { inputs, attrs: c.attrs }), note: c.note };
}

/** Each extent one more and one less, one axis more and one less; `free` says whether that alone can be legal. */
function* wrongShapes(shape: Shape, freedom: Freedom): Generator<{ shape: Shape; free: boolean }> {
  for (const [axis, d] of shape.entries()) {
    const free = freedom === "any" || freedom.includes(axis);
    yield { shape: shape.with(axis, d + 1), free };
    if (d > 0) yield { shape: shape.with(axis, d - 1), free };
  }
  yield { shape: [...shape, 1], free: freedom === "any" };
  if (shape.length > 0) yield { shape: shape.slice(0, -1), free: freedom === "any" };
}

for (const name of ["ref", ...(nativeMissing ? [] : ["native, 2 threads"])]) {
  describe(`wrong shapes on ${name}`, () => {
    const device = testDevice(backends[name]());

    async function refused(c: Case, free: boolean): Promise<void> {
      await leakFree(device, async () => {
        const inputs = valuesOf(c).map((d) => place(device, d, "contiguous"));
        try {
          dispatch(c.op, inputs, c.attrs, device);
        } catch (error) {
          assert.ok(
            error instanceof Error && error.message.startsWith(`${c.op.name}: `),
            `${c.label}: ${error}`,
          );
          return;
        }
        assert.ok(free, `${c.label} was accepted`);
      });
    }

    for (const op of opNames) {
      test(`${op} refuses them`, async () => {
        for (const c of casesOf(op)) {
          for (const [i, input] of c.inputs.entries()) {
            const freedom = FREE[op]?.(c)[i] ?? [];
            for (const { shape, free } of wrongShapes(input.shape, freedom))
              await refused(withShape(c, i, shape), free);
          }
        }
      });
    }

    test("an op takes as many inputs as its cases have", () => {
      device.scope(() => {
        const x = device.zeros([2, 3]);
        const message = "swiglu: 3 inputs, expected 2";
        assert.throws(() => dispatch(opOf("swiglu"), [x, x, x], {}), { message });
      });
    });

    test("attentionCached refuses a cache whose values are of another type than its keys", () => {
      device.scope(() => {
        const [q, k, v] = [
          device.zeros([1, 1, 1, 4]),
          device.zeros([1, 2, 1, 4]),
          device.zeros([1, 2, 1, 4], "f16"),
        ];
        const attrs = { length: 2, scale: 1, window: 0, softcap: 0 };
        assert.throws(() => dispatch(opOf("attentionCached"), [q, k, v, device.zeros([1], "i32")], attrs), {
          message: "attentionCached: k f32 [1, 2, 1, 4] and v f16 [1, 2, 1, 4] must be of one type",
        });
      });
    });

    test("extents are integers of at least 0", () => {
      const message = (shape: string) => ({
        message: `tensor: [${shape}] is no shape; extents are integers of at least 0`,
      });
      assert.throws(() => device.full([-1], 0), message("-1"));
      assert.throws(() => device.full([2.5], 0), message("2.5"));
      assert.throws(() => device.tensor([1, 2], [-1, -2]), message("-1,-2"));
      assert.equal(device.memory().tensors, 0);
      device.scope(() => {
        const x = device.zeros([2, 3]);
        assert.throws(() => reshape(x, [-2, -3]), /^SluiceError: reshape: f32 \[2, 3\] has 6 elements/);
        assert.throws(() => slice(x, [0.5, 0], [1, 1]), /leaves f32 \[2, 3\] on axis 0/);
      });
    });

    test("a shape error is a usage error", () => {
      device.scope(() => {
        const [a, b] = [device.zeros([2]), device.zeros([3])];
        assert.throws(
          () => dispatch(opOf("add"), [a, b], {}),
          (error) => error instanceof SluiceError && error.code === "usage",
        );
      });
    });
  });
}
