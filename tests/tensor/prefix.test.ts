/**
 * Losses over prefixes of codes, BatchTopK's selection and Matryoshka's groups: golden files, and what must follow from
 * the definitions. The files hold means over D: weights 1 / (|J| · D) give their scale.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { transpose2d } from "../../src/formats/index.ts";
import {
  type Device,
  groupPrefixes,
  keepLargest,
  linearTopK,
  mul,
  prefixLoss,
  sparseDecodeLoss,
  sparseDot,
  sparseOuter,
  sub,
  sum,
  type Tensor,
} from "../../src/tensor/index.ts";
import { nativeBackend } from "../../src/tensor/native/backend.ts";
import { Rng } from "../../src/util/rng.ts";
import { type GoldenFile, golden, goldenJson } from "../golden.ts";
import { assertClose, backends, leakFree, nativeMissing, testDevice } from "./support.ts";

const GOLDEN = { rel: 1e-5, abs: 1e-5 };

/** Compares relative to the largest element, as the fixtures' README says. */
async function same(t: Tensor | undefined, wanted: ArrayLike<number>, what: string): Promise<void> {
  assert.ok(t, `${what}: missing`);
  const top = Math.max(...Array.from(wanted, Math.abs), 1e-30);
  const scaled = (xs: ArrayLike<number>) => Array.from(xs, (v) => v / top);
  assertClose(scaled(await t.data()), scaled(wanted), { rel: 0, abs: 1e-5 }, what);
}

const tensorOf = (device: Device, file: GoldenFile, name: string): Tensor =>
  device.tensor(file.floats(name), file.shape(name));

/** W_enc of a file as rows. */
function encoderOf(device: Device, file: GoldenFile): Tensor {
  const [D, F] = file.shape("W_enc");
  return device.tensor(transpose2d(file.floats("W_enc"), D, F), [F, D]);
}

async function sameEncoder(t: Tensor | undefined, file: GoldenFile, name: string): Promise<void> {
  const [D, F] = file.shape(name);
  await same(t, transpose2d(file.floats(name), D, F), name);
}

/** [K + 1] with 1 / (|J| · D) at each of `budgets`. */
function meanOver(device: Device, budgets: ArrayLike<number>, K: number, D: number): Tensor {
  const weights = new Float32Array(K + 1);
  for (const j of Array.from(budgets)) weights[j] += 1 / (budgets.length * D);
  return device.tensor(weights);
}

function oneHot(device: Device, t: number, K: number): Tensor {
  return meanOver(device, [t], K, 1);
}

/** Random codes with unused slots, weights and all else that prefixLoss takes. */
function problem(device: Device, [B, K, D, F]: readonly number[]) {
  const rng = new Rng(3);
  const normal = (...shape: number[]) =>
    device.tensor(rng.fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1))), shape);
  const values = Float32Array.from({ length: B * K }, () => Math.max(rng.normal() + 0.5, 0));
  const indices = Int32Array.from({ length: B * K }, () => rng.int(F));
  return {
    codes: { values: device.tensor(values, [B, K]), indices: device.tensor(indices, [B, K], "i32") },
    w: normal(F, D),
    bias: normal(D),
    x: normal(B, D),
    even: device.tensor(Float32Array.from({ length: K + 1 }, (_, t) => Number(t > 0) / K)),
  };
}

for (const name of ["ref", ...(nativeMissing ? [] : ["native, 2 threads"])]) {
  describe(`prefixes on ${name}`, () => {
    const device = testDevice(backends[name]());
    const check = (what: string, fn: () => Promise<void>) => test(what, () => leakFree(device, fn));

    for (const fixture of ["hierarchical_topk", "decode_duplicates"]) {
      check(`${fixture}: losses and gradients equal the golden ones`, async () => {
        const file = golden("sae", `${fixture}.safetensors`);
        const [K, D] = [file.shape("values")[1], file.shape("x")[1]];
        const codes = {
          values: tensorOf(device, file, "values"),
          indices: device.tensor(file.ints("indices"), file.shape("indices"), "i32"),
        };
        const [w, bias, x] = ["W_dec", "b_dec", "x"].map((n) => tensorOf(device, file, n));
        const losses = [];
        for (let t = 1; t <= K; t++) {
          const { loss, error } = prefixLoss(codes, w, bias, x, meanOver(device, [t], K, D));
          losses.push((await loss.data())[0]);
          await same(sub(error, mul(x, -1)), file.floats("recon"), "recon");
        }
        assertClose(losses, file.floats("prefix_losses"), GOLDEN, "prefix_losses");

        const budgets: Record<string, ArrayLike<number>> = {
          full: file.ints("budgets_full"),
          stride: file.ints("budgets_stride"),
          ...(file.has("topk.loss") ? { topk: [K] } : {}),
        };
        for (const [j, J] of Object.entries(budgets)) {
          const weights = meanOver(device, J, K, D);
          const of = [codes.values, w, bias];
          const { value, grads } = device.valueAndGrad(() => prefixLoss(codes, w, bias, x, weights).loss, of);
          await same(value, file.floats(`${j}.loss`), `${j}.loss`);
          await same(grads[0], file.floats(`${j}.grad.values`), `${j}.grad.values`);
          await same(grads[1], file.floats(`${j}.grad.W_dec`), `${j}.grad.W_dec`);
          await same(grads[2], file.floats(`${j}.grad.b_dec`), `${j}.grad.b_dec`);
        }
      });
    }

    check("hierarchical_topk: the gradient reaches the encoder through the values", async () => {
      const file = golden("sae", "hierarchical_topk.safetensors");
      const [K, D] = [file.shape("values")[1], file.shape("x")[1]];
      const [bEnc, wDec, bDec, x] = ["b_enc", "W_dec", "b_dec", "x"].map((n) => tensorOf(device, file, n));
      const wEnc = encoderOf(device, file);
      const weights = meanOver(device, file.ints("budgets_full"), K, D);
      const { grads } = device.valueAndGrad(() => {
        const codes = linearTopK(x, wEnc, bEnc, { k: K });
        return prefixLoss(codes, wDec, bDec, x, weights).loss;
      }, [wEnc, bEnc]);
      await sameEncoder(grads[0], file, "full.grad.W_enc");
      await same(grads[1], file.floats("full.grad.b_enc"), "full.grad.b_enc");
    });

    check("batchtopk: the largest of the batch are the golden ones", async () => {
      const file = golden("sae", "batchtopk.safetensors");
      const [B, F] = file.shape("pre");
      const slots = 40;
      const [bEnc, x] = ["b_enc", "x"].map((n) => tensorOf(device, file, n));
      const { values, indices } = linearTopK(x, encoderOf(device, file), bEnc, { k: slots });
      const { kept, least, full } = keepLargest(values, { count: file.shape("flat_indices")[0] });
      const acts = new Float32Array(B * F);
      const features = await indices.data();
      (await kept.data()).forEach((v, i) => {
        acts[Math.floor(i / slots) * F + features[i]] += v;
      });
      assertClose(acts, file.floats("acts"), GOLDEN, "acts");
      await same(least, file.floats("min_active"), "min_active");
      assert.equal((await full.data())[0], 0);
    });

    check("matryoshka: level losses and gradients equal the golden ones", async () => {
      const file = golden("sae", "matryoshka.safetensors");
      const { k, level_widths: bounds } = goldenJson<{
        matryoshka: { k: number; level_widths: number[] };
      }>("sae", "meta.json").matryoshka;
      const [bEnc, wDec, bDec, x] = ["b_enc", "W_dec", "b_dec", "x"].map((n) => tensorOf(device, file, n));
      const wEnc = encoderOf(device, file);
      const [B, F] = file.shape("pre");
      const params = [wEnc, bEnc, wDec, bDec];
      const { value, grads } = device.valueAndGrad(() => {
        const codes = linearTopK(x, wEnc, bEnc, { k: 40 });
        const { kept } = keepLargest(codes.values, { count: k * B });
        const groups = groupPrefixes({ values: kept, indices: codes.indices }, { bounds });
        return { loss: prefixLoss(groups, wDec, bDec, x, groups.weights).loss, groups };
      }, params);
      await same(value.loss, file.floats("loss.total"), "loss.total");
      await sameEncoder(grads[0], file, "grad.W_enc");
      for (const [i, n] of ["b_enc", "W_dec", "b_dec"].entries())
        await same(grads[i + 1], file.floats(`grad.${n}`), `grad.${n}`);

      const { groups } = value;
      const levels = [];
      for (const m of bounds) {
        const whole = groupPrefixes(groups, { bounds: [F] }).weights;
        const weights = m === F ? whole : sub(groupPrefixes(groups, { bounds: [m, F] }).weights, whole);
        levels.push((await prefixLoss(groups, wDec, bDec, x, weights).loss.data())[0]);
      }
      assertClose(levels, file.floats("level_losses"), GOLDEN, "level_losses");
    });

    check("two rows by hand: losses and gradients for three choices of weights", async () => {
      const w = device.tensor([1, 0, 0, 1, 1, 1, 2, -1], [4, 2]);
      const bias = device.tensor([0.5, -0.5]);
      const codes = {
        values: device.tensor([2, 1, 0.5, 1, 0.5, 0.25], [2, 3]),
        indices: device.tensor([0, 2, 1, 3, 1, 3], [2, 3], "i32"), // the second row repeats 3
      };
      const x = device.tensor([3, 1, 2, 0], [2, 2]);
      const [third, D] = [1 / 3, 2];
      const wanted = [
        {
          weights: [0, third, third, third],
          loss: 0.796875,
          dW: [1 / 6, -2 / 3, 1 / 6, -0.1875, 1 / 6, -1 / 12, 0.375, -0.6770833],
          dv: [1 / 12, 1 / 12, 0, 1.2916667, -0.375, 0.5416667],
          db: [0.4166667, -0.9583333],
        },
        {
          weights: [0, 0.5, 0, 0.5],
          loss: 0.9765625,
          dW: [0, -0.75, 0.1875, -0.15625, 0.125, 0, 0.4375, -0.765625],
          dv: [0, 0.125, 0, 1.4375, -0.3125, 0.8125],
          db: [0.375, -1.0625],
        },
        {
          weights: [0, 0, 0, 1],
          loss: 0.703125,
          dW: [0.5, 0, 0.375, -0.3125, 0.25, 0, 0.625, -0.78125],
          dv: [0.25, 0.25, 0, 1.625, -0.625, 1.625],
          db: [0.75, -0.625],
        },
      ];
      for (const { weights, loss, dW, dv, db } of wanted) {
        const scaled = device.tensor(weights.map((v) => v / D));
        const out = prefixLoss(codes, w, bias, x, scaled); // in units of 2 / B = 1
        await same(out.loss, [loss], "loss");
        await same(out.dValues, dv, "dValues");
        await same(out.dW, dW, "dW");
        await same(sum(out.pull, { axes: [0] }), db, "bias");
      }
    });

    check("all weight on the longest prefix is sparseDecodeLoss with its gradients", async () => {
      const { codes, w, bias, x } = problem(device, [37, 9, 70, 50]);
      const out = prefixLoss(codes, w, bias, x, oneHot(device, 9, 9));
      const plain = sparseDecodeLoss(codes, w, bias, x);
      const used = Array.from(await codes.values.data(), (v) => Number(v > 0));
      const dots = await sparseDot(plain.error, w, codes.indices).data();
      await same(out.loss, await plain.loss.data(), "loss");
      await same(out.error, await plain.error.data(), "error");
      await same(out.pull, await plain.error.data(), "pull");
      await same(
        out.dValues,
        dots.map((v, i) => v * used[i]),
        "dValues",
      );
      await same(out.dW, await sparseOuter(codes.values, codes.indices, plain.error, 50).data(), "dW");
    });

    check("the order of the slots matters to all prefixes, not to the longest", async () => {
      const { codes, w, bias, x, even } = problem(device, [20, 6, 40, 30]);
      const backwards = (data: ArrayLike<number>) =>
        Array.from(data, (_, i) => data[i - (i % 6) + 5 - (i % 6)]);
      const turned = {
        values: device.tensor(backwards(await codes.values.data()), [20, 6]),
        indices: device.tensor(backwards(await codes.indices.data()), [20, 6], "i32"),
      };
      const loss = async (c: typeof codes, weights: Tensor) =>
        (await prefixLoss(c, w, bias, x, weights).loss.data())[0];
      const last = oneHot(device, 6, 6);
      const [a, b] = [await loss(codes, even), await loss(turned, even)];
      assert.ok(Math.abs(a - b) > 0.01 * a, `${a} and ${b}`);
      const [c, d] = [await loss(codes, last), await loss(turned, last)];
      assert.ok(Math.abs(c - d) < 1e-5 * c, `${c} and ${d}`);
    });

    check("weights of each row that are all the same are the shared ones", async () => {
      const { codes, w, bias, x, even } = problem(device, [20, 6, 40, 30]);
      const shared = prefixLoss(codes, w, bias, x, even);
      const rows = Array.from({ length: 20 }, () => 0).flatMap(() => [0, ...Array(6).fill(1 / 6)]);
      const own = prefixLoss(codes, w, bias, x, device.tensor(rows, [20, 7]));
      for (const key of ["loss", "error", "dValues", "dW", "pull"] as const)
        await same(own[key], await shared[key].data(), key);
    });

    check("a selection by hand: ties go to the front, full rows are counted", async () => {
      const values = device.tensor([5, 3, 2, 4, 3, 0, 3, 3, 3], [3, 3]);
      const { kept, least, full } = keepLargest(values, { count: 5 });
      assert.deepEqual([...(await kept.data())], [5, 3, 0, 4, 3, 0, 3, 0, 0]);
      assert.deepEqual([(await least.data())[0], (await full.data())[0]], [3, 0]);
      const all = keepLargest(values, { count: 8 });
      assert.deepEqual([(await all.least.data())[0], (await all.full.data())[0]], [2, 2]);
      const none = keepLargest(device.zeros([2, 2]), { count: 3 });
      assert.deepEqual([(await none.least.data())[0], (await none.full.data())[0]], [0, 0]);
    });

    check("groups by hand: features ascend, levels share the weight of equal prefixes", async () => {
      const codes = {
        values: device.tensor([5, 4, 3, 0, 2, 1, 0, 0], [2, 4]),
        indices: device.tensor([9, 1, 4, 0, 8, 7, 0, 0], [2, 4], "i32"),
      };
      const { values, indices, weights, from } = groupPrefixes(codes, { bounds: [2, 3, 5, 10] });
      assert.deepEqual([...(await values.data())], [4, 3, 5, 0, 1, 2, 0, 0]);
      assert.deepEqual([...(await indices.data())], [1, 4, 9, 0, 7, 8, 0, 0]);
      assert.deepEqual([...(await from.data())], [1, 2, 0, 3, 1, 0, 2, 3]);
      assert.deepEqual([...(await weights.data())], [0, 2, 1, 1, 0, 3, 0, 1, 0, 0]);
      for (const bounds of [[], [3, 3], [0, 4], [2.5]])
        assert.throws(
          () => groupPrefixes(codes, { bounds }),
          /bounds \[.*\] must be whole numbers that ascend/,
        );
      assert.throws(() => keepLargest(codes.values, { count: 0 }), /count=0 must be a whole number/);
    });
  });
}

test("prefix losses have the same bits on any number of threads", { skip: nativeMissing }, async () => {
  const devices = [1, 2, 3].map((threads) => testDevice(nativeBackend({ threads })));
  const results = await Promise.all(
    devices.map((device) =>
      leakFree(device, async () => {
        const { codes, w, bias, x, even } = problem(device, [150, 12, 1100, 90]);
        const out = Object.values(prefixLoss(codes, w, bias, x, even));
        return Promise.all(out.map(async (t) => [...new Uint32Array((await t.data()).slice().buffer)]));
      }),
    ),
  );
  assert.deepEqual(results[1], results[0]);
  assert.deepEqual(results[2], results[0]);
});
