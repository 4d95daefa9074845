import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  type Activation,
  disposeSae,
  evaluateSae,
  type Sae,
  type SaeTrainInput,
  type TrainOptions,
  type TrainRecord,
  type TrainRun,
  trainSae,
  trainSaes,
} from "../../src/sae/index.ts";
import { createDevice, type Device, type Tensor } from "../../src/tensor/index.ts";
import { readJsonLines, SluiceError } from "../../src/util/index.ts";
import { nativeMissing } from "../native.ts";
import { temporaryFolder } from "../temporary.ts";
import { arraySource, BACKENDS, syntheticRows, withDevice } from "./helpers.ts";

const D = 8;
const F = 96;
const BATCH = 64;

/** A small run: 30 steps, features dead after 4 of them. */
function options(more: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config: { dIn: D, features: F, activation: { kind: "topk", k: 3 } },
    train: { tokens: 30 * BATCH, batch: BATCH, lr: 3e-3, deadAfter: 4 * BATCH, warmupSteps: 3, seed: 5 },
    openSource: arraySource(syntheticRows(31 * BATCH + 17, D), D),
    logEvery: 4,
    metadata: { hook_name: "blocks.0.hook_resid_post" },
    ...more,
  };
}

/** Parameters of the trained SAE, one array after the other; the SAE is disposed. */
async function train(device: Device, opts: TrainOptions) {
  const result = await trainSae(device, opts);
  const params = await Promise.all(Object.values<Tensor>({ ...result.sae.params }).map((t) => t.floats()));
  disposeSae(result.sae);
  return { result, params };
}

/** Everything of a record but the clock. */
const timeless = ({ ms: _, seconds: __, tokens_per_second: ___, ...rest }: TrainRecord) => rest;

const isSluice =
  (code: string, pattern: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.match(error.message, pattern);
    assert.equal(error.code, code);
    return true;
  };

for (const backend of BACKENDS) {
  test(`${backend}: training explains most of sparse data and measures it`, () =>
    withDevice(backend, async (device) => {
      const records: TrainRecord[] = [];
      const x = syntheticRows(4096, D, { active: 2, atoms: 24 });
      const result = await trainSae(device, {
        config: { dIn: D, features: F, activation: { kind: "topk", k: 3 } },
        train: { tokens: 250 * BATCH, batch: BATCH, lr: 5e-3, deadAfter: 10 * BATCH },
        openSource: arraySource(x, D, { repeat: true }),
        onMetrics: (r) => records.push(r),
      });
      const last = result.record;
      assert.equal(result.stopped, "done");
      assert.equal(last.step, 250);
      assert.ok(last.explained_variance > 0.8, `explained variance ${last.explained_variance}`);
      assert.ok(last.explained_variance > records[0].explained_variance);
      assert.ok(last.loss < records[0].loss / 2);
      assert.ok(last.l0 > 0 && last.l0 <= 3);
      assert.ok(last.lr < 5e-4, "the learning rate fell");
      const rows = await result.sae.params.wDec.floats();
      for (let f = 0; f < F; f++) {
        const norm = Math.hypot(...rows.subarray(f * D, (f + 1) * D));
        assert.ok(Math.abs(norm - 1) < 1e-5, `decoder row ${f} has length ${norm}`);
      }
      const raw = await evaluateSae(device, result.sae, arraySource(x, D)() as never);
      assert.ok(Math.abs(raw.finish().explained_variance - last.explained_variance) < 0.05);
      disposeSae(result.sae);
    }));

  test(`${backend}: two runs with one seed give the same bits, another seed others`, () =>
    withDevice(backend, async (device) => {
      const a = await train(device, options());
      const b = await train(device, options());
      assert.deepEqual(a.params, b.params);
      assert.deepEqual(timeless(a.result.record), timeless(b.result.record));
      const c = await train(device, options({ train: { ...options().train, seed: 6 } }));
      assert.notDeepEqual(a.params, c.params);
    }));

  test(`${backend}: a run that was interrupted twice and resumed equals an uninterrupted one bit for bit`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const plainFile = path.join(temp.path, "plain.jsonl");
      const plain = await train(device, options({ metricsFile: plainFile }));
      const records = readJsonLines(plainFile) as TrainRecord[];
      assert.ok(
        records.some((r) => r.aux_loss > 0 && r.dead_fraction > 0),
        "AuxK took part",
      );

      const metricsFile = path.join(temp.path, "resumed.jsonl");
      const checkpoint = {
        folder: path.join(temp.path, "checkpoints"),
        everyMinutes: 0,
        everyTokens: 5 * BATCH,
      };
      for (const [stopAt, resume] of [
        [7, false],
        [18, true],
      ] as const) {
        const stop = new AbortController();
        const onStep = ({ step }: { step: number }) => {
          if (step === stopAt) stop.abort();
        };
        await assert.rejects(
          trainSae(device, options({ metricsFile, checkpoint, resume, onStep, signal: stop.signal })),
          isSluice("interrupted", new RegExp(`step ${stopAt} of 30; saved in .*checkpoints`)),
        );
      }
      const resumed = await train(device, options({ metricsFile, checkpoint, resume: true }));
      assert.equal(resumed.result.resumedFrom, 18);
      assert.deepEqual(resumed.params, plain.params);
      const lines = (file: string) => (readJsonLines(file) as TrainRecord[]).map(timeless);
      assert.deepEqual(lines(metricsFile), lines(plainFile));
      assert.equal(fs.readdirSync(checkpoint.folder).length, 2, "the last two are kept");

      const again = await train(device, options({ metricsFile, checkpoint, resume: true }));
      assert.equal(again.result.resumedFrom, 30);
      assert.deepEqual(again.params, plain.params);
    }));

  test(`${backend}: a run that was killed goes on from its last checkpoint and equals an uninterrupted one`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const plainFile = path.join(temp.path, "plain.jsonl");
      const plain = await train(device, options({ metricsFile: plainFile }));
      const metricsFile = path.join(temp.path, "killed.jsonl");
      const checkpoint = {
        folder: path.join(temp.path, "checkpoints"),
        everyMinutes: 0,
        everyTokens: 5 * BATCH,
      };
      const onStep = ({ step }: { step: number }) => {
        if (step === 14) throw new Error("killed");
      };
      await assert.rejects(trainSae(device, options({ metricsFile, checkpoint, onStep })), /killed/);
      const resumed = await train(device, options({ metricsFile, checkpoint, resume: true }));
      assert.equal(resumed.result.resumedFrom, 10);
      assert.deepEqual(resumed.params, plain.params);
      const lines = (file: string) => (readJsonLines(file) as TrainRecord[]).map(timeless);
      assert.deepEqual(lines(metricsFile), lines(plainFile));
    }));

  test(`${backend}: jumprelu steps turn sparse when few features are near their thresholds, also across a resume`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const given = options({
        config: { dIn: D, features: 1024, activation: { kind: "jumprelu", log: true } },
        train: {
          ...{ tokens: 60 * BATCH, batch: BATCH, lr: 1e-3, warmupSteps: 3, seed: 5 },
          ...{ l0: 0.1, thresholdInit: 4, bandwidth: 0.2 },
        },
        openSource: arraySource(syntheticRows(61 * BATCH, D), D),
      });
      const whole = await train(device, given);
      assert.ok(whole.result.record.l0 > 0, "features fire");
      const checkpoint = { folder: path.join(temp.path, "checkpoints") };
      const slotsAt = async (stop: number): Promise<unknown> => {
        const controller = new AbortController();
        const onStep = ({ step }: { step: number }) => step === stop && controller.abort();
        const interrupted = { ...given, checkpoint, resume: true, signal: controller.signal, onStep };
        await assert.rejects(train(device, interrupted), /interrupted/);
        const [folder] = fs.readdirSync(checkpoint.folder).filter((name) => name.endsWith(String(stop)));
        const state = JSON.parse(fs.readFileSync(path.join(checkpoint.folder, folder, "state.json"), "utf8"));
        return state.runs[0].slots;
      };
      assert.ok(Number(await slotsAt(13)) <= 1024 / 16, "the step is sparse");
      assert.ok(Number(await slotsAt(40)) <= 1024 / 16);
      const resumed = await train(device, { ...given, checkpoint, resume: true });
      assert.deepEqual(resumed.params, whole.params);
    }));

  test(`${backend}: memory does not grow with the number of steps`, () =>
    withDevice(backend, async (device) => {
      const seen: number[] = [];
      const onStep = () => seen.push(device.memory().bytes);
      await train(device, options({ onStep }));
      assert.equal(new Set(seen).size, 1, `live bytes after the steps: ${[...new Set(seen)]}`);
    }));
}

test("native: the number of threads does not change a bit", { skip: nativeMissing }, async () => {
  const run = async (threads: number) => {
    const device = await createDevice({ backend: "native", threads });
    const { params } = await train(device, options());
    device.close();
    return params;
  };
  assert.deepEqual(await run(1), await run(3));
});

for (const backend of BACKENDS) {
  test(`${backend}: SAEs trained beside each other get the bits that each gets alone, also when resumed`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const x = syntheticRows(16 * BATCH, D);
      const run = (activation: Activation, seed: number, more: Partial<SaeTrainInput> = {}): TrainRun => ({
        config: { dIn: D, features: F, activation },
        train: { tokens: 16 * BATCH, batch: BATCH, lr: 3e-3, deadAfter: 4 * BATCH, seed, ...more },
      });
      const runs = [
        run({ kind: "topk", k: 3 }, 1),
        run({ kind: "topk", k: 5 }, 2, { initBatches: 2, objective: "hierarchical" }),
        run({ kind: "batchtopk", k: 3 }, 1),
        run({ kind: "jumprelu", log: true }, 1),
      ];
      const shared = { openSource: arraySource(x, D), logEvery: 4 };
      const bitsOf = async (sae: Sae) =>
        Promise.all(Object.values<Tensor>({ ...sae.params }).map((t) => t.floats()));
      const alone: Float32Array[][] = [];
      for (const one of runs) {
        const { sae } = await trainSae(device, { ...one, ...shared });
        alone.push(await bitsOf(sae));
        disposeSae(sae);
      }
      const checkpoint = { folder: path.join(temp.path, "checkpoints"), everyTokens: 5 * BATCH };
      const controller = new AbortController();
      await assert.rejects(
        trainSaes(device, runs, {
          ...shared,
          checkpoint,
          signal: controller.signal,
          onStep: ({ step }) => step === 7 && controller.abort(),
        }),
        /interrupted after step 7 of 16/,
      );
      const together = await trainSaes(device, runs, { ...shared, checkpoint, resume: true });
      for (const [i, { sae, stopped, resumedFrom }] of together.entries()) {
        assert.deepEqual([stopped, resumedFrom], ["done", 7]);
        assert.deepEqual(await bitsOf(sae), alone[i], `SAE ${i}`);
        disposeSae(sae);
      }
    }));

  test(`${backend}: an SAE whose steps cannot be taken is left behind, and the others go on`, () =>
    withDevice(backend, async (device) => {
      const x = syntheticRows(12 * BATCH, D);
      const run = (lr: number): TrainRun => ({
        config: { dIn: D, features: F, activation: { kind: "topk", k: 3 } },
        train: { tokens: 12 * BATCH, batch: BATCH, lr, warmupSteps: 0 },
      });
      const [bad, good] = await trainSaes(device, [run(1e37), run(3e-3)], { openSource: arraySource(x, D) });
      assert.equal(bad.stopped, "failed");
      assert.match(bad.failure ?? "", /step \d+ has loss/);
      assert.ok(bad.steps < 12);
      assert.deepEqual([good.stopped, good.steps, good.failure], ["done", 12, undefined]);
      for (const { sae } of [bad, good]) disposeSae(sae);
      await assert.rejects(
        trainSaes(device, [run(1e37), run(1e37)], { openSource: arraySource(x, D) }),
        /none of the 2 SAEs is left/,
      );
      const other = { ...run(1e-3), train: { ...run(1e-3).train, batch: BATCH / 2 } };
      await assert.rejects(
        trainSaes(device, [run(1e-3), other], { openSource: arraySource(x, D) }),
        /share batch, but it is/,
      );
    }));
}
