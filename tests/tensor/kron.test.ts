/**
 * The KronSAE encoder: golden numbers, the fixtures of the paper's equations, and the native selection against the plain
 * loops for every instruction set, thread count and way through the kernel.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  type Device,
  dispatch,
  gatherRows,
  type KronAttrs,
  kronScores,
  kronSpread,
  linear,
  linearKronTopK,
  mul,
  normalizeRows,
  ops,
  slice,
  sparseDecodeLoss,
  sum,
  type Tensor,
  transpose,
} from "../../src/tensor/index.ts";
import { loadAddon } from "../../src/tensor/native/addon.ts";
import { nativeBackend } from "../../src/tensor/native/backend.ts";
import { kronKernels } from "../../src/tensor/native/kron.ts";
import { add } from "../../src/tensor/ops/elementwise.ts";
import type { Dense } from "../../src/tensor/types.ts";
import { Rng } from "../../src/util/rng.ts";
import { golden } from "../golden.ts";
import { assertClose, backends, leakFree, nativeMissing, testDevice } from "./support.ts";

/** Of the golden files: relative to the largest entry. */
function assertGolden(actual: ArrayLike<number>, wanted: Float32Array, what: string): void {
  const top = wanted.reduce((t, v) => Math.max(t, Math.abs(v)), 0);
  assertClose(actual, wanted, { rel: 0, abs: (1e-5 * top) / Math.max(top, 1) }, what);
}

const mand = (m: number, n: number): KronAttrs => ({ m, n, product: "mand" });

for (const name of ["ref", ...(nativeMissing ? [] : ["native, 2 threads"])]) {
  describe(`KronSAE encoder on ${name}`, () => {
    const device = testDevice(backends[name]());
    const row = (...values: number[]) => device.tensor(values, [1, values.length]);

    test("the golden file's scores, codes and gradients", async () => {
      await leakFree(device, async () => {
        const file = golden("sae", "kron.safetensors");
        const read = (key: string) => device.tensor(file.floats(key), file.shape(key));
        const [x, bias, wDec, bDec] = ["x", "b_enc", "W_dec", "b_dec"].map(read);
        const w = transpose(read("W_enc")); // [48, 24]
        const attrs = mand(2, 4);

        const pre = linear(x, w, { bias });
        assertGolden(await kronScores(pre, attrs).data(), file.floats("scores"), "scores");

        const k = file.shape("values")[1];
        const codes = linearKronTopK(x, w, bias, { ...attrs, k });
        const values = await codes.values.data();
        const indices = await codes.indices.data();
        assertGolden(values, file.floats("values"), "values");
        const marked = Array.from(indices, (f, s) => (values[s] === 0 ? -1 : f));
        assert.deepEqual(marked, [...file.ints("indices")]);

        const [u, v] = [file.floats("u"), file.floats("v")]; // [16, 8, 2] and [16, 8, 4]
        const pairs = Array.from(indices, (f, s) => {
          if (values[s] === 0) return [0, 0];
          const head = Math.floor(s / k) * 8 + Math.floor(f / 8);
          return [u[head * 2 + (Math.floor(f / 4) % 2)], v[head * 4 + (f % 4)]];
        });
        assertGolden(
          await codes.base.data(),
          Float32Array.from(pairs, (p) => p[0]),
          "base",
        );
        assertGolden(
          await codes.extension.data(),
          Float32Array.from(pairs, (p) => p[1]),
          "extension",
        );

        const parameters = [w, bias, wDec, bDec];
        const { value, grads } = device.valueAndGrad(
          () => sparseDecodeLoss(linearKronTopK(x, w, bias, { ...attrs, k }), wDec, bDec, x).loss,
          parameters,
        );
        assertGolden(await value.data(), file.floats("loss.sse"), "loss");
        for (const [i, key] of ["W_enc", "b_enc", "W_dec", "b_dec"].entries()) {
          const grad = grads[i];
          assert.ok(grad, key);
          const shown = key === "W_enc" ? transpose(grad) : grad;
          assertGolden(await shown.data(), file.floats(`grad.${key}`), `gradient of ${key}`);
        }
      });
    });

    test("the decoder row of a feature begins as the sum of its base and extension row, at unit length", async () => {
      await leakFree(device, async () => {
        const file = golden("sae", "kron.safetensors");
        const w = transpose(device.tensor(file.floats("W_enc"), file.shape("W_enc")));
        const features = device.tensor(
          Int32Array.from({ length: 64 }, (_, f) => f),
          [1, 64],
          "i32",
        );
        const ones = device.full([1, 64], 1);
        const codes = { values: ones, indices: features, base: ones, extension: ones };
        const { indices } = kronSpread(ones, codes, mand(2, 4)); // [1, 128]
        const [base, extension] = [0, 64].map((at) => gatherRows(w, slice(indices, [0, at], [1, 64])));
        const rows = add(base, extension); // [1, 64, 24]
        const flat = device.tensor(await rows.data(), [64, 24]);
        normalizeRows(flat);
        assertGolden(await flat.data(), file.floats("W_dec_init"), "W_dec_init");
      });
    });

    test("u = [4, -1, 1] and v = [9, 1, -2, 0.25] give the table of their roots, products and raw products", async () => {
      await leakFree(device, async () => {
        const pre = row(4, -1, 1, 9, 1, -2, 0.25);
        const scores = async (product: KronAttrs["product"]) => [
          ...(await kronScores(pre, { m: 3, n: 4, product }).data()),
        ];
        assert.deepEqual(await scores("mand"), [6, 2, 0, 1, 0, 0, 0, 0, 3, 1, 0, 0.5]);
        assert.deepEqual(await scores("relu"), [36, 4, 0, 1, 0, 0, 0, 0, 9, 1, 0, 0.25]);
        assert.deepEqual(await scores("raw"), [36, 4, 0, 1, 0, 0, 2, 0, 9, 1, 0, 0.25]);

        const w = transpose(pre); // x = 1, so the rows of w are the pre-latents
        const codes = linearKronTopK(row(1), w, device.zeros([7]), { ...mand(3, 4), k: 5 });
        assert.deepEqual([...(await codes.values.data())], [6, 3, 2, 1, 1]);
        assert.deepEqual([...(await codes.indices.data())], [0, 8, 1, 3, 9]);
        assert.deepEqual([...(await codes.base.data())], [4, 1, 4, 4, 1]);
        assert.deepEqual([...(await codes.extension.data())], [9, 9, 1, 0.25, 1]);
      });
    });

    test("at u = 4, v = 9 the slopes of the root are 0.75 and 1/3, and those of the products 9 and 4", async () => {
      await leakFree(device, async () => {
        const one = row(1);
        for (const [product, z, slopes] of [
          ["mand", 6, [0.75, 1 / 3]],
          ["relu", 36, [9, 4]],
          ["raw", 36, [9, 4]],
        ] as const) {
          const attrs = { m: 1, n: 1, product };
          const codes = {
            values: row(z),
            indices: device.zeros([1, 1], "i32"),
            base: row(4),
            extension: row(9),
          };
          const spread = kronSpread(one, codes, attrs);
          assertClose(await spread.values.data(), slopes, { rel: 1e-6, abs: 0 }, product);
          assert.deepEqual([...(await spread.indices.data())], [0, 1]);
          const pre = row(4, 9);
          const { grads } = device.valueAndGrad(() => sum(kronScores(pre, attrs)), [pre]);
          assertClose(await grads[0]!.data(), slopes, { rel: 1e-6, abs: 0 }, `${product} by scores`);
        }
      });
    });

    test("a pre-latent of a pair that is off gets no gradient, and no slope is infinite at 0", async () => {
      await leakFree(device, async () => {
        for (const [u, v] of [
          [-1, 9],
          [4, -2],
          [0, 9],
          [0, 0],
          [-3, -3],
        ]) {
          const pre = row(u, v);
          const { grads } = device.valueAndGrad(() => sum(kronScores(pre, mand(1, 1))), [pre]);
          assert.deepEqual([...(await grads[0]!.data())].map(Math.abs), [0, 0], `u ${u}, v ${v}`);
        }
      });
    });

    test("fewer active pairs than k leave zeros at the lowest unused indices, without gradient", async () => {
      await leakFree(device, async () => {
        const w = device.tensor([3, -1, 2, -5, 8, -1], [6, 1]); // u = [3, -1, 2], v = [-5, 8, -1]
        const bias = device.zeros([6]);
        const x = row(1);
        const attrs = { ...mand(3, 3), k: 4 };
        const codes = linearKronTopK(x, w, bias, attrs);
        assertClose(await codes.values.data(), [Math.sqrt(24), 4, 0, 0], { rel: 1e-7, abs: 0 }, "values");
        assert.deepEqual([...(await codes.indices.data())], [1, 7, 0, 2]);
        assert.deepEqual([...(await codes.base.data())], [3, 2, 0, 0]);
        assert.deepEqual([...(await codes.extension.data())], [8, 8, 0, 0]);
        const { grads } = device.valueAndGrad(
          () => sum(mul(linearKronTopK(x, w, bias, attrs).values, row(1, 1, 7, 7))),
          [bias],
        );
        const slope = (a: number, b: number) => Math.sqrt(b / a) / 2;
        const wanted = [slope(3, 8), 0, slope(2, 8), 0, slope(8, 3) + slope(8, 2), 0];
        assertClose(await grads[0]!.data(), wanted, { rel: 1e-6, abs: 0 }, "gradient of the bias");
      });
    });

    test("a NaN is the largest where its partner is on, and nothing where it is off", async () => {
      await leakFree(device, async () => {
        const w = device.tensor([Number.NaN, 2, -1, 8, 1], [5, 1]); // u = [NaN, 2], v = [-1, 8, 1]
        const codes = linearKronTopK(row(1), w, device.zeros([5]), { ...mand(2, 3), k: 5 });
        assert.deepEqual([...(await codes.values.data())].slice(0, 3), [Number.NaN, Number.NaN, 4]);
        assert.deepEqual([...(await codes.indices.data())], [1, 2, 4, 5, 0]);
        assert.equal((await codes.values.data())[4], 0);
      });
    });

    test("arguments that do not fit are refused by name", () => {
      device.scope(() => {
        const [x, w, bias] = [device.zeros([2, 3]), device.zeros([12, 3]), device.zeros([12])];
        const codes = {
          values: row(1),
          indices: device.zeros([1, 1], "i32"),
          base: row(1),
          extension: row(1),
        };
        const says = (fn: () => unknown, message: string) => assert.throws(fn, { message });
        says(
          () => linearKronTopK(x, w, bias, { ...mand(2, 4), k: 17 }),
          "linearKronTopK: k=17, but there are 16 features",
        );
        says(
          () => linearKronTopK(x, w, bias, { ...mand(4, 4), k: 1 }),
          "linearKronTopK: w is f32 [12, 3], but 12 is no multiple of m + n = 4 + 4, the rows of a head",
        );
        says(
          () => linearKronTopK(x, w, bias, { ...mand(0, 4), k: 1 }),
          "linearKronTopK: m=0 and n=4; both must be integers of at least 1",
        );
        says(
          () => kronScores(x, { m: 1, n: 2, product: "and" as "mand" }),
          'kronScores: product="and", expected one of mand, relu, raw',
        );
        says(
          () => kronSpread(row(1, 2), codes, mand(1, 1)),
          "kronSpread: values is f32 [1, 1], expected [1, 2] as dValues",
        );
        const negative = { ...codes, indices: device.tensor([-1], [1, 1], "i32") };
        assert.throws(() => kronSpread(row(1), negative, mand(1, 1)), /^.*kronSpread: index -1 is out/);
      });
    });
  });
}

// ---- the native selection

interface Shape {
  readonly rows: number;
  readonly width: number;
  readonly heads: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly product?: KronAttrs["product"];
  /** Added to every pre-latent: a negative one leaves few pairs on. */
  readonly shift?: number;
  /** Integers up to this: few different ones make ties. */
  readonly span?: number;
}

const isas = nativeMissing ? [] : loadAddon().isas();

/** A native device for one instruction set. */
function isaDevice(isa: string, threads: number): Device {
  const addon = loadAddon();
  const pool = addon.createPool(threads);
  after(() => addon.destroyPool(pool));
  const native = nativeBackend({ threads });
  return testDevice({
    ...native,
    name: `native ${isa}, ${threads} threads`,
    kernels: { ...native.kernels, ...kronKernels(addon, pool, isa) },
  });
}

/** Integers make every sum and product exact, so that all four outputs must agree to the bit, ties included. */
async function checkSelection(shape: Shape, devices: readonly Device[]): Promise<void> {
  const { rows, width, heads, m, n, k, product = "mand", shift = 0, span = 6 } = shape;
  const rng = new Rng(5).fork(JSON.stringify(shape));
  const integers = (...dims: number[]): Dense => ({
    shape: dims,
    data: Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => rng.int(2 * span + 1) - span),
  });
  const [x, w, bias] = [integers(rows, width), integers(heads * (m + n), width), integers(heads * (m + n))];
  for (let i = 0; i < bias.data.length; i++) bias.data[i] += shift;
  const attrs = { m, n, k, product };
  const blank = (): Dense => ({ shape: [rows, k], data: new Float64Array(rows * k) });
  const wanted = [blank(), blank(), blank(), blank()];
  ops.linearKronTopK.ref([x, w, bias], wanted, attrs);
  for (const device of devices) {
    await leakFree(device, async () => {
      const inputs = [x, w, bias].map((d) => device.tensor(d.data, d.shape));
      const found = dispatch(ops.linearKronTopK, inputs, attrs);
      for (const [i, what] of ["values", "indices", "base", "extension"].entries()) {
        const label = `${what} of ${JSON.stringify(shape)} on ${device.name}`;
        assert.deepEqual([...(await found[i].data())], Array.from(wanted[i].data, Math.fround), label);
      }
    });
  }
}

describe("native linearKronTopK is the selection of the plain loops, to the bit", {
  skip: nativeMissing,
}, () => {
  const devices = isas.flatMap((isa) => [1, 2, 3].map((threads) => isaDevice(isa, threads)));
  const products = ["mand", "relu", "raw"] as const;

  test("for heads of any size", async () => {
    const sizes = [
      [1, 1],
      [1, 7],
      [2, 2],
      [2, 4],
      [4, 4],
      [3, 5],
      [4, 8],
      [2, 32],
      [16, 1],
      [9, 17],
    ];
    for (const [m, n] of sizes)
      for (const product of products)
        await checkSelection({ rows: 67, width: 9, heads: 32, m, n, k: 13, product }, devices);
  });

  test("for few heads, heads that do not fill a group, and heads larger than a tile", async () => {
    for (const product of products) {
      for (const heads of [1, 2, 15, 17, 33])
        await checkSelection({ rows: 70, width: 9, heads, m: 2, n: 3, k: 6, product }, devices);
      await checkSelection({ rows: 66, width: 9, heads: 32, m: 3, n: 70, k: 20, product }, devices);
      await checkSelection({ rows: 5, width: 9, heads: 1, m: 1, n: 3000, k: 20, product }, devices);
      await checkSelection({ rows: 66, width: 3, heads: 2, m: 300, n: 2, k: 20, product }, devices);
    }
  });

  test("for one row and for more than a block of them", async () => {
    for (const rows of [1, 5, 40, 64, 65, 300]) {
      await checkSelection({ rows, width: 20, heads: 33, m: 4, n: 4, k: 9 }, devices);
      await checkSelection({ rows, width: 20, heads: 10, m: 2, n: 3, k: 9, product: "raw" }, devices);
    }
  });

  test("where the features are split between threads, and for sums longer than a slice", async () => {
    await checkSelection({ rows: 66, width: 9, heads: 700, m: 4, n: 4, k: 40 }, devices);
    await checkSelection({ rows: 66, width: 9, heads: 301, m: 3, n: 4, k: 7, product: "raw" }, devices);
    await checkSelection({ rows: 66, width: 801, heads: 48, m: 2, n: 4, k: 12, span: 2 }, devices);
  });

  test("for k from 1 to all features", async () => {
    for (const k of [1, 2, 100, 1000, 1024])
      for (const rows of [8, 70]) await checkSelection({ rows, width: 9, heads: 64, m: 4, n: 4, k }, devices);
    await checkSelection({ rows: 66, width: 9, heads: 16, m: 1, n: 1, k: 16 }, devices);
  });

  test("with few pairs on, none, and thousands of equal ones", async () => {
    for (const product of products) {
      const shape = { rows: 70, width: 9, heads: 160, m: 4, n: 4, k: 24, product };
      for (const shift of [-40, -90, -1000]) await checkSelection({ ...shape, shift }, devices);
      await checkSelection({ ...shape, span: 1 }, devices);
      await checkSelection({ ...shape, width: 1, span: 1 }, devices);
      await checkSelection({ ...shape, span: 0, shift: 3 }, devices);
      await checkSelection({ ...shape, rows: 3, span: 0, shift: 3 }, devices);
    }
  });

  test("with NaN and infinities among the weights", async () => {
    const [heads, m, n] = [48, 3, 4];
    for (const [rows, k] of [
      [3, 90],
      [70, 90],
      [70, 5],
    ])
      for (const product of products) {
        const data = (size: number, at: (i: number) => number) =>
          Float64Array.from({ length: size }, (_, i) => at(i));
        const x = { shape: [rows, 1], data: data(rows, () => 1) };
        const w = { shape: [heads * (m + n), 1], data: data(heads * (m + n), (i) => ((i * 37) % 23) - 11) };
        const bias = { shape: [heads * (m + n)], data: data(heads * (m + n), () => 0) };
        for (const [i, value] of [Number.NaN, Infinity, -Infinity, Number.NaN].entries())
          w.data[i * 53 + 5] = value;
        // The bounds of a late head that only its NaN brings in are small.
        w.data.set([0.1, Number.NaN, 0.1, 0.1, 0.1, 0.1, 0.1], 45 * (m + n));
        const blank = (): Dense => ({ shape: [rows, k], data: new Float64Array(rows * k) });
        const wanted = [blank(), blank(), blank(), blank()];
        ops.linearKronTopK.ref([x, w, bias], wanted, { m, n, k, product });
        assert.ok(Number.isNaN(wanted[0].data[0]) && (k < 90 || wanted[0].data.includes(Infinity)));
        for (const device of devices) {
          await leakFree(device, async () => {
            const inputs: Tensor[] = [x, w, bias].map((d) => device.tensor(d.data, d.shape));
            const found = dispatch(ops.linearKronTopK, inputs, { m, n, k, product });
            for (const [i, t] of found.entries())
              assert.deepEqual(
                [...(await t.data())],
                Array.from(wanted[i].data, Math.fround),
                `${device.name} ${i}`,
              );
          });
        }
      }
  });
});
