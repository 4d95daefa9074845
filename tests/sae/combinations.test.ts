/**
 * Every sensible combination of encoder, activation and objective trains by the one loop, resumes to the same bits, is saved and
 * comes back; senseless ones are refused with the reason.
 */
import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import {
  type Activation,
  disposeSae,
  type Encoder,
  evaluateSae,
  loadSae,
  type Sae,
  type SaeTrainInput,
  saeConfig,
  saeTrainConfig,
  saveSae,
  type TrainOptions,
  trainSae,
} from "../../src/sae/index.ts";
import type { Device, Tensor } from "../../src/tensor/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { arraySource, BACKENDS, syntheticRows, withDevice } from "./helpers.ts";

const [D, F, BATCH, STEPS] = [12, 64, 128, 60];
const DENSE: Encoder = { kind: "dense" };
const kron = (product: "mand" | "relu" | "raw"): Encoder => ({ kind: "kron", m: 2, n: 4, product });
const TOPK: Activation = { kind: "topk", k: 4 };
const BATCHTOPK: Activation = { kind: "batchtopk", k: 4 };
const JUMPRELU: Activation = { kind: "jumprelu", log: true };
const RELU: Activation = { kind: "relu" };
const GATED: Activation = { kind: "gated" };
const MATRYOSHKA: Partial<SaeTrainInput> = { objective: "matryoshka", levels: [16, 32, 64] };
const HIERARCHICAL: Partial<SaeTrainInput> = { objective: "hierarchical" };

type Combination = readonly [Encoder, Activation, Partial<SaeTrainInput>];
const COMBINATIONS: Readonly<Record<string, Combination>> = {
  "dense topk": [DENSE, TOPK, {}],
  "dense topk hierarchical": [DENSE, TOPK, HIERARCHICAL],
  "dense topk hierarchical, some budgets": [DENSE, TOPK, { objective: "hierarchical", budgets: [1, 4] }],
  "dense topk matryoshka": [DENSE, TOPK, MATRYOSHKA],
  "dense batchtopk": [DENSE, BATCHTOPK, {}],
  "dense batchtopk matryoshka": [DENSE, BATCHTOPK, MATRYOSHKA],
  "dense jumprelu": [DENSE, JUMPRELU, { l0: 0.05, thresholdInit: 0.1, bandwidth: 0.5 }],
  "dense jumprelu, target": [DENSE, JUMPRELU, { targetL0: 6, thresholdInit: 0.1, bandwidth: 0.5 }],
  "dense jumprelu matryoshka": [DENSE, JUMPRELU, { ...MATRYOSHKA, l0: 0.05, thresholdInit: 0.1 }],
  "dense relu": [DENSE, RELU, { l1: 0.05 }],
  "dense relu matryoshka": [DENSE, RELU, { ...MATRYOSHKA, l1: 0.05 }],
  "dense gated": [DENSE, GATED, { l1: 0.05 }],
  "dense gated matryoshka": [DENSE, GATED, { ...MATRYOSHKA, l1: 0.05 }],
  "kron topk": [kron("mand"), TOPK, {}],
  "kron topk, product of relus": [kron("relu"), TOPK, {}],
  "kron topk, raw product": [kron("raw"), TOPK, {}],
  "kron topk hierarchical": [kron("mand"), TOPK, HIERARCHICAL],
  "kron topk matryoshka": [kron("mand"), TOPK, MATRYOSHKA],
  "kron batchtopk": [kron("mand"), BATCHTOPK, {}],
  "kron batchtopk matryoshka": [kron("mand"), BATCHTOPK, MATRYOSHKA],
  "kron jumprelu": [kron("mand"), JUMPRELU, { l0: 0.05, thresholdInit: 0.1, bandwidth: 0.5 }],
  "kron relu": [kron("mand"), RELU, { l1: 0.05 }],
};

const ROWS = syntheticRows(STEPS * BATCH, D, { atoms: 20 });

function options([encoder, activation, train]: Combination, more: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config: { features: F, dIn: D, encoder, activation },
    train: {
      tokens: STEPS * BATCH,
      batch: BATCH,
      lr: 4e-3,
      warmupSteps: 5,
      deadAfter: 8 * BATCH,
      auxCoefficient: 1 / 32,
      seed: 3,
      ...train,
    },
    openSource: arraySource(ROWS, D),
    logEvery: 10,
    ...more,
  };
}

async function bits(sae: Sae): Promise<Float32Array[]> {
  return Promise.all(Object.values<Tensor>({ ...sae.params }).map((t) => t.floats()));
}

async function explained(device: Device, sae: Sae) {
  const metrics = await evaluateSae(device, sae, [{ x: ROWS, rows: STEPS * BATCH }] as never);
  return metrics.finish();
}

for (const backend of BACKENDS) {
  for (const [name, combination] of Object.entries(COMBINATIONS)) {
    test(`${backend}: ${name} learns, resumes to the same bits and comes back from its file`, () =>
      withDevice(backend, async (device) => {
        using temp = temporaryFolder();
        const whole = await trainSae(device, options(combination));
        assert.equal(whole.steps, STEPS);
        const { explained_variance, l0 } = await explained(device, whole.sae);
        assert.ok(explained_variance > 0.3, `explained variance ${explained_variance}`);
        assert.ok(l0 > 0.5 && l0 < F / 2, `l0 ${l0}`);

        const checkpoint = { folder: path.join(temp.path, "checkpoints"), everyTokens: 17 * BATCH };
        const controller = new AbortController();
        const onStep = ({ step }: { step: number }) => step === 31 && controller.abort();
        const { signal } = controller;
        await assert.rejects(
          trainSae(device, options(combination, { checkpoint, signal, onStep })),
          /interrupted after step 31/,
        );
        const resumed = await trainSae(device, options(combination, { checkpoint, resume: true }));
        assert.equal(resumed.resumedFrom, 31);
        assert.deepEqual(await bits(resumed.sae), await bits(whole.sae));

        const folder = path.join(temp.path, "sae");
        await saveSae(folder, whole.sae);
        const { sae: back, warnings } = await loadSae(device, folder);
        assert.deepEqual(warnings, []);
        assert.deepEqual(back.config, whole.sae.config);
        assert.deepEqual(await bits(back), await bits(whole.sae));
        for (const sae of [whole.sae, resumed.sae, back]) disposeSae(sae);
      }));
  }

  test(`${backend}: a transcoder learns a map between two points, with and without skip`, () =>
    withDevice(backend, async (device) => {
      const E = 5;
      const rows = new Float32Array(STEPS * BATCH * (D + E));
      for (let r = 0; r < STEPS * BATCH; r++) {
        const x = ROWS.subarray(r * D, (r + 1) * D);
        rows.set(x, r * (D + E));
        for (let e = 0; e < E; e++) rows[r * (D + E) + D + e] = 2 * x[e] - x[e + 1] + 3;
      }
      for (const [activation, skip] of [
        [TOPK, false],
        [TOPK, true],
        [BATCHTOPK, true],
        [RELU, true],
      ] as const) {
        const given = options([DENSE, activation, activation === RELU ? { l1: 0.01 } : {}]);
        const { sae } = await trainSae(device, {
          ...given,
          config: { ...given.config, dOut: E, transcoder: true, skip },
          openSource: arraySource(rows, D + E),
        });
        const metrics = await evaluateSae(device, sae, [{ x: rows, rows: STEPS * BATCH }] as never);
        const { explained_variance } = metrics.finish();
        assert.ok(explained_variance > 0.3, `${activation.kind} skip ${skip}: ${explained_variance}`);
        using temp = temporaryFolder();
        await saveSae(path.join(temp.path, "t"), sae);
        const { sae: back } = await loadSae(device, path.join(temp.path, "t"));
        assert.deepEqual(back.config, sae.config);
        assert.deepEqual(await bits(back), await bits(sae));
        disposeSae(sae);
        disposeSae(back);
      }
    }));
}

test("training options with their defaults filled in are valid and come back unchanged", () => {
  for (const [encoder, activation, train] of Object.values(COMBINATIONS)) {
    const config = saeConfig({ dIn: D, features: F, encoder, activation });
    const filled = saeTrainConfig({ tokens: 1000, batch: 10, ...train }, config);
    assert.deepEqual(saeTrainConfig(filled, config), filled);
  }
});

test("senseless combinations are refused with the reason", () => {
  const train = (activation: Activation, more: Partial<SaeTrainInput>, encoder: Encoder = DENSE) =>
    saeTrainConfig(
      { tokens: 1000, batch: 10, ...more },
      saeConfig({ dIn: 4, features: 16, activation, encoder }),
    );
  assert.throws(() => train(RELU, HIERARCHICAL), /k strongest features, so it needs topk, not relu/);
  assert.throws(() => train({ kind: "batchtopk", k: 2 }, HIERARCHICAL), /needs topk, not batchtopk/);
  assert.throws(
    () => train({ kind: "topk", k: 2 }, { objective: "hierarchical", budgets: [1, 3] }),
    /budget 3 is more than k=2/,
  );
  assert.throws(
    () => train({ kind: "topk", k: 2 }, { budgets: [1] }),
    /budgets are for the hierarchical objective/,
  );
  assert.throws(() => train({ kind: "topk", k: 2 }, { l1: 0.1 }), /l1=0.1 with topk/);
  assert.throws(() => train({ kind: "topk", k: 2 }, { targetL0: 4 }), /for jumprelu, not topk/);
  assert.throws(() => train(RELU, { l1: 0 }), /l1=0 leaves nothing that makes relu sparse/);
  assert.throws(() => train(JUMPRELU, { l0: 0 }), /l0=0 leaves nothing/);
  assert.throws(() => train(RELU, { objective: "matryoshka", levels: [4, 8] }), /must be all 16 features/);
  assert.throws(
    () => train({ kind: "topk", k: 2 }, { objective: "matryoshka", levels: [4, 16] }, kron("mand")),
    /level 4 cuts through a kron head of 8/,
  );
  assert.throws(() => train(GATED, {}, kron("mand")), /gated activation needs a dense encoder/);
  assert.throws(
    () => saeConfig({ dIn: 4, features: 12, activation: { kind: "topk", k: 2 }, encoder: kron("mand") }),
    /12 features are not whole kron heads of m·n = 8/,
  );
  assert.throws(
    () => saeConfig({ dIn: 4, features: 8, activation: RELU, skip: true }),
    /skip connection is for transcoders/,
  );
  assert.throws(
    () => saeConfig({ dIn: 4, features: 8, activation: RELU, decoderBias: false, applyBDecToInput: true }),
    /cannot be subtracted from the input: it has no b_dec/,
  );
});
