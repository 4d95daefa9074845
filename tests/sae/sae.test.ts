import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import {
  createSae,
  disposeCodes,
  disposeSae,
  encode,
  foldInput,
  geometricMedian,
  initialBias,
  loadSae,
  meanNormScale,
  reconstruct,
  saeConfig,
  saeTrainConfig,
  saveSae,
} from "../../src/sae/index.ts";
import { mul } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { golden } from "../golden.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertClose, BACKENDS, slots, withDevice } from "./helpers.ts";

const CONFIG = saeConfig({ dIn: 6, features: 20, activation: { kind: "topk", k: 4 } });

function random(n: number, seed = 1, mean = 0): Float32Array {
  return new Rng(seed).fillNormal(new Float32Array(n), mean);
}

for (const backend of BACKENDS) {
  test(`${backend}: a fresh SAE has unit decoder rows, the encoder equal to them and the given bias`, () =>
    withDevice(backend, async (device) => {
      const bDec = random(6);
      const sae = createSae(device, CONFIG, { rng: new Rng(2), bDec });
      const wDec = await sae.params.wDec.floats();
      for (let f = 0; f < 20; f++) {
        assert.ok(Math.abs(Math.hypot(...wDec.subarray(f * 6, f * 6 + 6)) - 1) < 1e-6);
      }
      assert.deepEqual(await sae.params.wEnc.floats(), wDec);
      assert.deepEqual(await sae.params.bDec?.floats(), bDec);
      assert.deepEqual(await sae.params.bEnc.floats(), new Float32Array(20));
      disposeSae(sae);
    }));

  test(`${backend}: folding the input scale changes no output, biases included`, () =>
    withDevice(backend, async (device) => {
      const scale = 0.37;
      const sae = createSae(device, CONFIG, { rng: new Rng(2), bDec: random(6) });
      device.write(sae.params.bEnc, random(20, 3));
      const folded = foldInput(sae, scale);
      const t = device.scope(() => {
        const x = device.tensor(random(30 * 6, 4, 1), [30, 6]);
        const scaled = mul(x, scale);
        return {
          expected: mul(reconstruct(sae, scaled), 1 / scale),
          actual: reconstruct(folded, x),
          codes: encode(sae, scaled),
          foldedCodes: encode(folded, x),
        };
      });
      assertClose(await t.actual.floats(), await t.expected.floats(), "output");
      assert.deepEqual(await slots(t.foldedCodes).indices.ints(), await slots(t.codes).indices.ints());
      const values = (await t.codes.values.floats()).map((v) => v / scale);
      assertClose(await t.foldedCodes.values.floats(), values, "feature values");
      for (const codes of [t.codes, t.foldedCodes]) disposeCodes(codes);
      for (const u of [t.expected, t.actual]) u.dispose();
      disposeSae(sae);
      disposeSae(folded);
    }));

  test(`${backend}: a saved SAE comes back with its bits, origin and training options`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const folder = path.join(temp.path, "sae");
      const fresh = createSae(device, CONFIG, { rng: new Rng(2), bDec: random(6) });
      const sae = {
        ...fresh,
        metadata: { hook_name: "blocks.1.hook_resid_post" },
        provenance: { tokens: 5 },
      };
      await saveSae(folder, sae);
      const { sae: back, warnings } = await loadSae(device, folder);
      assert.deepEqual(warnings, []);
      assert.deepEqual(back.config, CONFIG);
      assert.equal(back.metadata.hook_name, "blocks.1.hook_resid_post");
      assert.equal(back.provenance?.tokens, 5);
      for (const name of ["wEnc", "bEnc", "wDec", "bDec"] as const) {
        assert.deepEqual(await back.params[name]?.floats(), await sae.params[name]?.floats(), name);
      }
      disposeSae(sae);
      disposeSae(back);
    }));

  test(`${backend}: encode takes another k and refuses a wrong width or too large a k`, () =>
    withDevice(backend, async (device) => {
      const sae = createSae(device, CONFIG, { rng: new Rng(2) });
      const x = device.tensor(random(12), [2, 6]).keep();
      const narrow = device.tensor(random(10), [2, 5]).keep();
      const codes = encode(sae, x, { k: 2 });
      assert.deepEqual(codes.values.shape, [2, 2]);
      assert.throws(() => encode(sae, x, { k: 21 }), /k=21 is more than the 20 features/);
      assert.throws(() => encode(sae, narrow), /\[2, 5\], expected \[tokens, 6\]/);
      disposeCodes(codes);
      for (const t of [x, narrow]) t.dispose();
      disposeSae(sae);
    }));
}

test("impossible configs are refused with the numbers", () => {
  const activation = { kind: "topk", k: 3 } as const;
  assert.throws(() => saeConfig({ dIn: 4, features: 2, activation }), /k=3 is more than the 2 features/);
  assert.throws(() => saeConfig({ dIn: 4, features: 0, activation }), /features=0/);
  assert.throws(() => saeConfig({ dIn: 0, features: 2, activation }), /dIn=0/);
  assert.throws(() => saeConfig({ dIn: 4, features: 8, activation: { kind: "topk", k: 1.5 } }), /k=1.5/);
  const unknown = { kind: "step", k: 1 } as never;
  assert.throws(
    () => saeConfig({ dIn: 4, features: 8, activation: unknown }),
    /"step" is unknown; there are: topk, batchtopk/,
  );
});

test("training options get the defaults of the literature", () => {
  const config = saeConfig({ dIn: 512, features: 8192, activation: { kind: "topk", k: 32 } });
  const train = saeTrainConfig({ tokens: 500_000_000 }, config);
  assert.equal(train.lr, 2e-4 / Math.sqrt(0.5));
  assert.equal(train.warmupSteps, 1000);
  assert.equal(train.auxK, 256);
  assert.equal(train.deadAfter, 10_000_000);
  assert.equal(train.auxCoefficient, 1 / 32);
  const short = saeTrainConfig({ tokens: 409_600 }, config);
  assert.equal(short.warmupSteps, 10);
  assert.equal(short.deadAfter, 102_400);
});

test("impossible training options are refused by name", () => {
  assert.throws(
    () => saeTrainConfig({ tokens: 100, batch: 101 }, CONFIG),
    /tokens=100 is less than one batch of 101/,
  );
  assert.throws(() => saeTrainConfig({ tokens: 100, batch: 0 }, CONFIG), /batch/);
  assert.throws(() => saeTrainConfig({ tokens: 100, lr: -1 }, CONFIG), /lr/);
  assert.throws(() => saeTrainConfig({ tokens: 100, learningRate: 1 } as never, CONFIG), /learningRate/);
});

test("the mean-norm scale equals the golden factor", () => {
  const file = golden("sae", "normalize.safetensors");
  const [rows, width] = file.shape("x");
  const scale = meanNormScale({ x: file.floats("x"), rows, width });
  assertClose([scale], file.floats("average_factor"), "average_factor");
  const scaled = file.floats("x").map((v) => v * scale);
  assertClose(scaled, file.floats("average_norm"), "average_norm");
});

test("inputs that are all zero cannot be scaled", () => {
  assert.throws(() => meanNormScale({ x: new Float32Array(6), rows: 2, width: 3 }), /mean norm 0/);
});

test("the geometric median of three points with one far away stays near the other two", () => {
  const x = Float32Array.of(0, 0, 2, 0, 1, 1000);
  const { point, iterations } = geometricMedian(
    { x, rows: 3, width: 2 },
    { maxIterations: 1000, tolerance: 1e-9 },
  );
  // The Fermat point sees each pair of points under 120 degrees: (1, 1/sqrt(3)).
  assert.ok(Math.abs(point[0] - 1) < 1e-6, String(point));
  assert.ok(Math.abs(point[1] - 1 / Math.sqrt(3)) < 1e-3, String(point));
  assert.ok(iterations > 1 && iterations < 1000);
});

test("the geometric median of equal points is that point", () => {
  const { point } = geometricMedian({ x: Float32Array.of(3, 4, 3, 4), rows: 2, width: 2 });
  assert.deepEqual([...point], [3, 4]);
});

test("the decoder bias starts where it is asked to, in scaled units", () => {
  const sample = { x: Float32Array.of(1, 2, 3, 6), rows: 2, width: 2 };
  assert.deepEqual([...initialBias("mean", sample, 0.5).bDec], [1, 2]);
  assert.deepEqual([...initialBias("zeros", sample, 0.5).bDec], [0, 0]);
  assert.ok(initialBias("geometric-median", sample, 0.5).iterations! >= 1);
});
