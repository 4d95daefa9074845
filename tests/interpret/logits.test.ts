/**
 * What features write and which are near, against plain loops.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { logitEffects, nearestFeatures } from "../../src/interpret/index.ts";
import type { ModelSpec } from "../../src/models/index.ts";
import { createSae, disposeSae } from "../../src/sae/index.ts";
import { Rng } from "../../src/util/index.ts";
import { BACKENDS, tinyModel, withDevice } from "../models/helpers.ts";

const D = 16;
const F = 20;
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((sum, v, i) => sum + v * b[i], 0);

const NORMS: readonly ModelSpec["norm"][] = [
  { kind: "rms", eps: 1e-5, offset: 0 },
  { kind: "rms", eps: 1e-5, offset: 1 },
  { kind: "layer", eps: 1e-5 },
];

for (const backend of BACKENDS) {
  for (const norm of NORMS) {
    const offset = norm.kind === "rms" ? norm.offset : 0;
    test(`promoted and suppressed tokens are those of the direct path, norm ${norm.kind} with offset ${offset}, on ${backend}`, () =>
      withDevice(backend, async (device) => {
        const model = tinyModel(device, { norm });
        const sae = createSae(
          device,
          { dIn: D, features: F, activation: { kind: "topk", k: 2 }, applyBDecToInput: true },
          { rng: new Rng(5) },
        );
        const wDec = await sae.params.wDec.floats();
        const gain = (await model.params.lnFinal.floats()).map((g) => g + offset);
        const head = await model.params.head.floats();
        const V = model.spec.vocabSize;
        const effectsOf = (feature: number): number[] => {
          const own = wDec.subarray(feature * D, (feature + 1) * D);
          const middle = norm.kind === "layer" ? own.reduce((a, b) => a + b) / D : 0;
          const row = own.map((v, d) => (v - middle) * gain[d]);
          const raw = Array.from({ length: V }, (_, t) => dot(row, head.subarray(t * D, (t + 1) * D)));
          const mean = raw.reduce((a, b) => a + b) / V;
          return raw.map((v) => v - mean);
        };
        const features = [3, 17, 3];
        const found = await logitEffects(model, sae, features, { count: 4 });
        const among = [5, 2, 9];
        const some = await logitEffects(model, sae, [17], { among });
        features.forEach((feature, n) => {
          const effects = effectsOf(feature);
          const order = effects.map((_, t) => t).sort((a, b) => effects[b] - effects[a]);
          assert.deepEqual(
            found[n].promoted.map((p) => p.token),
            order.slice(0, 4),
          );
          assert.deepEqual(
            found[n].suppressed.map((p) => p.token),
            order.slice(-4).reverse(),
          );
          for (const { token, weight } of [...found[n].promoted, ...found[n].suppressed]) {
            assert.ok(Math.abs(weight - effects[token]) < 1e-5);
          }
        });
        const effects = effectsOf(17);
        const sorted = [...among].sort((a, b) => effects[b] - effects[a]);
        assert.deepEqual(
          some[0].promoted.map((p) => p.token),
          sorted,
        );
        assert.deepEqual(
          some[0].suppressed.map((p) => p.token),
          sorted.toReversed(),
        );
        assert.ok(Math.abs(some[0].promoted[0].weight - effects[sorted[0]]) < 1e-5);
        disposeSae(sae);
        model.dispose();
      }));
  }

  test(`the nearest features are those with the largest cosines, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const rows = new Rng(6).fillNormal(new Float32Array(F * D));
      for (let d = 0; d < D; d++) rows[7 * D + d] = 3 * rows[2 * D + d]; // parallel, of another length
      rows.fill(0, 11 * D, 12 * D); // a row of zeros is near to nothing
      const sae = createSae(
        device,
        { dIn: D, features: F, activation: { kind: "topk", k: 2 }, applyBDecToInput: true },
        { rng: new Rng(5) },
      );
      sae.params.wDec.dispose();
      const params = { ...sae.params, wDec: device.tensor(rows, [F, D]).keep() };
      const [two, eleven] = await nearestFeatures({ ...sae, params }, [2, 11], 3);
      const row = (f: number) => rows.subarray(f * D, (f + 1) * D);
      const cosine = (a: number, b: number) =>
        dot(row(a), row(b)) / Math.sqrt(dot(row(a), row(a)) * dot(row(b), row(b)) || 1);
      const order = Array.from({ length: F }, (_, f) => f)
        .filter((f) => f !== 2)
        .sort((a, b) => cosine(2, b) - cosine(2, a));
      assert.deepEqual(
        two.map(({ id }) => id),
        order.slice(0, 3),
      );
      assert.equal(two[0].id, 7);
      for (const { id, cosine: c } of two) assert.ok(Math.abs(c - cosine(2, id)) < 1e-5);
      assert.ok(eleven.every(({ cosine: c }) => c === 0));
      disposeSae({ ...sae, params });
    }));
}

test("points that are not as wide as the stream have no direct effect", () =>
  withDevice("ref", async (device) => {
    const model = tinyModel(device);
    const sae = createSae(
      device,
      { dIn: 24, features: F, activation: { kind: "topk", k: 2 }, applyBDecToInput: true },
      { rng: new Rng(5) },
    );
    await assert.rejects(
      logitEffects(model, sae, [0]),
      /rows are 24 wide, but the residual stream is 16 wide/,
    );
    disposeSae(sae);
    model.dispose();
  }));
