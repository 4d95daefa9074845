/**
 * Training from an SAE: it goes on from its very function, is extended, and keeps frozen what is to stay; grafts of what changed.
 */
import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import {
  type Activation,
  disposeSae,
  type Encoder,
  evaluateSae,
  graft,
  mostActive,
  type Sae,
  saeConfig,
  type TrainOptions,
  type TrainRecord,
  trainSae,
} from "../../src/sae/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { arraySource, assertClose, BACKENDS, syntheticRows, withDevice } from "./helpers.ts";

const [D, F, BATCH, STEPS] = [12, 48, 128, 40];
const OLD = syntheticRows(STEPS * BATCH, D, { atoms: 16, seed: 1 });
/** The same with one of four new directions in every row. */
const NEW = withDirections(OLD);
const DENSE: Encoder = { kind: "dense" };
const KRON: Encoder = { kind: "kron", m: 2, n: 4, product: "mand" };
const TOPK: Activation = { kind: "topk", k: 4 };
const BATCHTOPK: Activation = { kind: "batchtopk", k: 4 };

function withDirections(rows: Float32Array): Float32Array {
  const rng = new Rng(5);
  const directions = rng.fillNormal(new Float32Array(4 * D));
  return rows.map((v, i) => {
    const atom = Math.floor(i / D) % 4;
    return v + 2 * directions[atom * D + (i % D)];
  });
}

function options(rows: Float32Array, more: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config: { features: F, dIn: D, activation: BATCHTOPK },
    train: { tokens: STEPS * BATCH, batch: BATCH, lr: 4e-3, warmupSteps: 5, seed: 3 },
    openSource: arraySource(rows, D),
    ...more,
  };
}

async function explained(device: Device, sae: Sae, rows: Float32Array): Promise<number> {
  const metrics = await evaluateSae(device, sae, [{ x: rows, rows: rows.length / D }] as never);
  return metrics.finish().explained_variance;
}

const base = async (device: Device, config: Partial<TrainOptions["config"]> = {}): Promise<Sae> =>
  (await trainSae(device, options(OLD, { config: { ...options(OLD).config, ...config } }))).sae;

for (const backend of BACKENDS) {
  test(`${backend}: a training that starts from an SAE begins with its function, and learns`, () =>
    withDevice(backend, async (device) => {
      for (const [encoder, activation] of [
        [DENSE, BATCHTOPK],
        [DENSE, TOPK],
        [KRON, TOPK],
        [DENSE, { kind: "jumprelu", log: true }],
      ] as const) {
        const sae = await base(device, { encoder, activation });
        const config = { ...sae.config, activation };
        const still = await trainSae(device, {
          ...options(NEW, { config, start: { sae } }),
          train: { ...options(NEW).train, lr: 1e-12, warmupSteps: 0 },
        });
        for (const name of ["wEnc", "bEnc", "wDec", "bDec"] as const) {
          const [before, after] = [sae, still.sae].map((one) => one.params[name]!.floats());
          assertClose(await after, await before, `${encoder.kind} ${activation.kind} ${name}`, 2e-6);
        }
        const tuned = await trainSae(device, options(NEW, { config, start: { sae } }));
        const [before, after] = [await explained(device, sae, NEW), await explained(device, tuned.sae, NEW)];
        assert.ok(after > before + 0.02, `${encoder.kind} ${activation.kind}: ${before} to ${after}`);
        for (const one of [sae, still.sae, tuned.sae]) disposeSae(one);
      }
    }));

  test(`${backend}: an extended SAE with frozen features learns by the new ones alone`, () =>
    withDevice(backend, async (device) => {
      const sae = await base(device);
      const config = saeConfig({ ...sae.config, features: F + 16, activation: { kind: "batchtopk", k: 6 } });
      for (const newFeatures of ["random", "most-active"] as const) {
        const start = { sae, newFeatures, freeze: true };
        const seen: number[] = [];
        const onMetrics = (record: TrainRecord) => void seen.push(record.explained_variance);
        const { sae: wider } = await trainSae(device, options(NEW, { config, start, onMetrics }));
        for (const name of ["wEnc", "bEnc", "wDec", "bDec"] as const) {
          const before = await sae.params[name]!.floats();
          const after = await wider.params[name]!.floats();
          assertClose(after.subarray(0, before.length), before, `${newFeatures} ${name}`, 1e-6);
        }
        // Copies of the most active features begin by counting them twice.
        assert.ok(seen[1] > seen[0] + 0.05, `${newFeatures}: ${seen[0]} to ${seen[1]}`);
        disposeSae(wider);
      }
      disposeSae(sae);
    }));

  test(`${backend}: frozen features and an interrupted run: the same bits`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const sae = await base(device);
      const config = saeConfig({ ...sae.config, features: F + 8, activation: BATCHTOPK });
      const given = options(NEW, { config, start: { sae, newFeatures: "most-active", freeze: true } });
      const whole = await trainSae(device, given);
      const checkpoint = { folder: path.join(temp.path, "c") };
      const controller = new AbortController();
      const onStep = ({ step }: { step: number }) => step === 17 && controller.abort();
      await assert.rejects(
        trainSae(device, { ...given, checkpoint, signal: controller.signal, onStep }),
        /interrupted after step 17/,
      );
      const resumed = await trainSae(device, { ...given, checkpoint, resume: true });
      assert.deepEqual(await resumed.sae.params.wDec.floats(), await whole.sae.params.wDec.floats());
      for (const one of [sae, whole.sae, resumed.sae]) disposeSae(one);
    }));

  test(`${backend}: the most active features are those that fire on most rows`, () =>
    withDevice(backend, async (device) => {
      const config = saeConfig({ dIn: 3, features: 3, activation: { kind: "relu" } });
      const identity = Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1);
      const params = {
        wEnc: device.tensor(identity, [3, 3]).keep(),
        bEnc: device.zeros([3]).keep(),
        wDec: device.tensor(identity, [3, 3]).keep(),
        bDec: device.zeros([3]).keep(),
      };
      const sae = { config, params, metadata: {} };
      const x = Float32Array.of(1, -1, 1, -1, -1, 1, 1, -1, 1);
      assert.deepEqual(await mostActive(device, sae, { x, rows: 3, width: 3 }, 2), [2, 0]);
      disposeSae(sae);
    }));

  test(`${backend}: a graft takes over the features that changed most, and nothing else`, () =>
    withDevice(backend, async (device) => {
      const sae = await base(device);
      const config = { ...sae.config, activation: BATCHTOPK };
      const { sae: tuned } = await trainSae(device, options(NEW, { config, start: { sae } }));
      const before = await sae.params.wDec.floats();
      const after = await tuned.params.wDec.floats();
      const cosine = (f: number): number => {
        let dot = 0;
        for (let d = f * D; d < (f + 1) * D; d++) dot += before[d] * after[d];
        return dot;
      };
      const cosines = Array.from({ length: F }, (_, f) => cosine(f));
      const appended = await graft(device, sae, tuned, { features: 5 });
      const replaced = await graft(device, sae, tuned, { features: 5, how: "replace" });
      const least = Math.max(...appended.grafted.map((f) => cosines[f]));
      assert.equal(cosines.filter((c) => c <= least + 1e-6).length, 5);
      const long = await appended.sae.params.wDec.floats();
      const same = await replaced.sae.params.wDec.floats();
      assert.deepEqual(long.slice(0, F * D), before);
      assert.equal(appended.sae.config.features, F + 5);
      appended.grafted.forEach((f, i) => {
        const row = after.slice(f * D, (f + 1) * D);
        assert.deepEqual(long.slice((F + i) * D, (F + i + 1) * D), row);
        assert.deepEqual(same.slice(f * D, (f + 1) * D), row);
      });
      const kept = cosines.findIndex((_, f) => !appended.grafted.includes(f));
      assert.deepEqual(same.slice(kept * D, (kept + 1) * D), before.slice(kept * D, (kept + 1) * D));
      for (const one of [sae, tuned, appended.sae, replaced.sae]) disposeSae(one);
    }));

  test(`${backend}: a start that cannot be is refused with the reason`, () =>
    withDevice(backend, async (device) => {
      const sae = await base(device);
      const refused = (config: object, start: object, train: object = {}) =>
        trainSae(device, {
          ...options(NEW, {
            config: { ...sae.config, activation: BATCHTOPK, ...config },
            start: { sae, ...start },
          }),
          train: { ...options(NEW).train, ...train },
        });
      await assert.rejects(refused({ features: 16 }, {}), /48 features, more than 16/);
      await assert.rejects(refused({}, { freeze: true }), /every feature is frozen/);
      await assert.rejects(refused({}, { newFeatures: "random" }), /raise features to add some/);
      await assert.rejects(refused({ activation: { kind: "gated" } }, {}), /a gate has its own parameters/);
      await assert.rejects(refused({ applyBDecToInput: false }, {}), /applyBDecToInput true, not false/);
      await assert.rejects(refused({ encoder: KRON }, {}), /another encoder/);
      await assert.rejects(
        refused({ features: 64, activation: { kind: "jumprelu", log: true } }, { freeze: true }),
        /frozen in topk and batchtopk SAEs, not in jumprelu/,
      );
      const free = await base(device, { activation: { kind: "relu" } });
      await assert.rejects(
        trainSae(
          device,
          options(NEW, { config: { ...free.config, activation: TOPK }, start: { sae: free } }),
        ),
        /norms of .*--no-unit-decoder/,
      );
      for (const one of [sae, free]) disposeSae(one);
    }));
}
