import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { type NamedArray, openSafetensors, writeSafetensors } from "../../src/formats/index.ts";
import {
  crossEntropies,
  heldOutLoss,
  LM_TRAIN_DEFAULTS,
  type LmTrainConfig,
  type LmTrainOptions,
  type LmTrainRecord,
  type ModelSpec,
  spreadWindows,
  type Transformer,
  trainLm,
} from "../../src/models/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import {
  MemoryTokens,
  type PackedBatch,
  type PackOptions,
  TokenPacker,
  type TrainingWindows,
} from "../../src/text/index.ts";
import { readJsonLines, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertNear, BACKENDS, someIds, tinyModel, tinySpec, withDevice } from "./helpers.ts";

const T = 8;
const small = { dModel: 16, nLayers: 2, windowPattern: [0, 0] } satisfies Partial<ModelSpec>;
const config: LmTrainConfig = {
  ...LM_TRAIN_DEFAULTS,
  tokens: 20 * 4 * T,
  batch: 4,
  micro: 2,
  lr: 3e-3,
  warmup: 3,
  logEverySteps: 4,
  validateEverySteps: 8,
  checkpointEverySteps: 5,
};

/** Documents that a model can learn: each token follows from the one before. */
function documents(count = 12, seed = 1): Int32Array[] {
  return Array.from({ length: count }, (_, d) => {
    const ids = someIds(7 + ((d * 5) % 9), seed + d);
    for (let i = 1; i < ids.length; i++) ids[i] = 2 + ((ids[i - 1] * 7 + 3) % (tinySpec.vocabSize - 2));
    return ids;
  });
}

function packer(more: Partial<PackOptions> = {}, docs = documents()): TokenPacker {
  return new TokenPacker(new MemoryTokens(docs), { context: T, bos: 0, eos: 1, seed: 2, ...more });
}

async function parameters(model: Transformer): Promise<Float32Array[]> {
  return Promise.all(model.parameters().map((t) => t.floats()));
}

/** Trains a fresh tiny model; gives its parameters and frees it. */
async function train(device: Device, options: Omit<LmTrainOptions, "packer"> & { packer?: TrainingWindows }) {
  const model = tinyModel(device, small, 0.1);
  try {
    const records = await trainLm(model, { packer: packer(), ...options });
    return { records, params: await parameters(model) };
  } finally {
    model.dispose();
  }
}

const timeless = ({ tokens_per_second: _, ...rest }: LmTrainRecord) => rest;
const lines = (dir: string) =>
  (readJsonLines(path.join(dir, "metrics.jsonl")) as LmTrainRecord[]).map(timeless);

const isSluice =
  (code: string, pattern: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.match(error.message, pattern);
    assert.equal(error.code, code);
    return true;
  };

for (const backend of BACKENDS) {
  test(`a tiny model learns its text by heart on ${backend}`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const { records } = await train(device, {
        config: { ...config, tokens: 150 * 4 * T, lr: 1e-2, weightDecay: 0 },
        dir: temp.path,
        validation: { same: packer({ shuffle: false }) },
      });
      const last = records.at(-1)!;
      assert.equal(last.step, 150);
      assert.equal(last.tokens, 150 * 4 * T);
      assert.ok(records[0].loss > 3, `${records[0].loss} at the start`);
      assert.ok(last.loss < 0.9 && last.validation!.same < 0.9, `${last.loss} at the end`);
      assert.deepEqual(
        records.filter((r) => r.validation).map((r) => r.step),
        [...Array.from({ length: 18 }, (_, i) => 8 * (i + 1)), 150],
      );
    }));

  test(`interrupted and resumed equals uninterrupted, bit for bit, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const whole = path.join(temp.path, "whole");
      const parts = path.join(temp.path, "parts");
      const validation = { held: packer({ shuffle: false }, documents(5, 90)) };
      const plain = await train(device, { config, dir: whole, validation });
      // Between records, in the middle of a validation, between again, and in the validation at the end.
      for (const stopAt of [3, 8, 13, 20]) {
        const stop = new AbortController();
        const onStep = ({ step }: { step: number }) => {
          if (step === stopAt) stop.abort();
        };
        await assert.rejects(
          train(device, { config, dir: parts, validation, onStep, signal: stop.signal }),
          isSluice("interrupted", new RegExp(`at step ${stopAt} of 20`)),
        );
        assert.ok(!lines(parts).some(({ step }) => step === stopAt), "it did not wait for the validation");
      }
      const resumed = await train(device, { config, dir: parts, validation });
      assert.deepEqual(resumed.params, plain.params);
      assert.deepEqual(lines(parts), lines(whole));
      assert.equal(lines(whole).length, 5);
    }));
}

test("killed between checkpoints and resumed equals uninterrupted", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const whole = path.join(temp.path, "whole");
    const killed = path.join(temp.path, "killed");
    const plain = await train(device, { config, dir: whole });
    const onStep = ({ step }: { step: number }) => {
      if (step === 13) throw new Error("killed");
    };
    await assert.rejects(train(device, { config, dir: killed, onStep }), /killed/);
    const resumed = await train(device, { config, dir: killed });
    assert.equal(resumed.records[0].step, 12, "it went on from step 10");
    assert.deepEqual(resumed.params, plain.params);
    assert.deepEqual(lines(killed), lines(whole));
  }));

test("micro-batches give the gradients of the whole batch", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const run = (micro: number, name: string) =>
      train(device, {
        config: { ...config, micro, tokens: 3 * 4 * T, eps: 1e-3 },
        packer: packer({ segments: true }), // unequal numbers of targets
        dir: path.join(temp.path, name),
      });
    const [one, four] = [await run(1, "one"), await run(4, "four")];
    four.params.forEach((want, i) => {
      assertNear(one.params[i], want, `parameter ${i}`, { absolute: 1e-6, relative: 1e-4 });
    });
    assertNear([one.records[0].loss], [four.records[0].loss], "loss", { absolute: 1e-5, relative: 0 });
  }));

test("weight decay shrinks matrices and leaves gains alone", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const run = (weightDecay: number, name: string) =>
      train(device, {
        config: { ...config, weightDecay, tokens: 4 * T, warmup: 0 },
        dir: path.join(temp.path, name),
      });
    const [free, decayed] = [await run(0, "free"), await run(10, "decayed")];
    const model = tinyModel(device, small, 0.1);
    const start = await parameters(model);
    model.slots.forEach(({ name, matrix }, i) => {
      const shrink = matrix ? config.lr * 10 : 0; // of the starting value, by the one step there is
      const want = free.params[i].map((p, j) => p - shrink * start[i][j]);
      assertNear(decayed.params[i], want, name, { absolute: 1e-6, relative: 1e-5 });
    });
    model.dispose();
  }));

/** Losses [B·T] of a batch. */
async function lossesOf(model: Transformer, batch: PackedBatch): Promise<Float32Array> {
  const context = Math.min(batch.tokens.length, model.spec.contextLength);
  const t = model.device.scope(() => crossEntropies(model, batch, context));
  return await t.floats().finally(() => t.dispose());
}

test("with segments, nothing of one document reaches the next one in its window", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { contextLength: 24 });
    const second = someIds(9, 8);
    const window = (first: Int32Array, segments: boolean) =>
      packer({ context: 20, shuffle: false, segments }, [first, second]);
    const [a, b] = [someIds(8, 5), someIds(8, 6)];
    const start = 1 + a.length + 1; // BOS document EOS
    const tail = async (first: Int32Array, segments: boolean) =>
      (await lossesOf(model, window(first, segments).at(0))).slice(start);
    assert.deepEqual(await tail(a, true), await tail(b, true), "the first document does not matter");
    assert.notDeepEqual(await tail(a, false), await tail(b, false), "without segments it does");
    model.dispose();
  }));

test("a loss that is not finite stops the run at its step and leaves the last good checkpoint", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const model = tinyModel(device, small, 0.1);
    const poison = ({ step }: { step: number }) => {
      if (step === 12) device.write(model.params.lnFinal, new Float32Array(small.dModel).fill(Number.NaN));
    };
    await assert.rejects(
      trainLm(model, { config, packer: packer(), dir: temp.path, onStep: poison }),
      isSluice("numeric", /NaN.* at step 13; the last checkpoint is from before it/),
    );
    model.dispose();
    const { records, params } = await train(device, { config, dir: temp.path });
    assert.equal(records[0].step, 12, "it goes on from step 10");
    assert.ok(params.every((p) => p.every(Number.isFinite)));
  }));

test("the checkpoint of another run is refused, and stays", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const dir = temp.path;
    const identity = { tokenizer: "abc" };
    await train(device, { config: { ...config, tokens: 4 * T }, dir, identity });
    const before = fs.readFileSync(path.join(dir, "state.safetensors"));
    const refused = async (options: Partial<LmTrainOptions>, pattern: RegExp) =>
      assert.rejects(train(device, { config, dir, identity, ...options }), isSluice("input", pattern));
    await refused({ config: { ...config, lr: 1 } }, /another run \(lr 0.003 there, 1 here\)/);
    await refused({ identity: { tokenizer: "xyz" } }, /tokenizer "abc" there, "xyz" here/);
    await refused({ packer: packer({}, documents(20)) }, /windows 18 there, 32 here/);
    const other = tinyModel(device, { ...small, dMlp: 32 });
    await assert.rejects(
      trainLm(other, { config, packer: packer(), dir, identity }),
      isSluice("input", /mlp\.gate_proj\.weight is missing or misshapen; the checkpoint is of another model/),
    );
    other.dispose();
    assert.deepEqual(fs.readFileSync(path.join(dir, "state.safetensors")), before);
    const longer = await train(device, { config, dir, identity });
    assert.equal(longer.records.at(-1)!.step, 20, "more tokens continue a run");
  }));

test("a full disk is reported while training, and the run can go on afterwards", async (t) => {
  if (!fs.existsSync("/dev/full")) return t.skip("this system has no /dev/full");
  await withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const metrics = path.join(temp.path, "metrics.jsonl");
    fs.symlinkSync("/dev/full", metrics);
    await assert.rejects(
      train(device, { config, dir: temp.path }),
      isSluice("io", /cannot write .*metrics\.jsonl: the disk is full/),
    );
    fs.rmSync(metrics);
    const state = path.join(temp.path, "state.safetensors");
    fs.mkdirSync(path.join(state, "in the way"), { recursive: true });
    await assert.rejects(train(device, { config, dir: temp.path }), isSluice("input", /state\.safetensors/));
    fs.rmSync(state, { recursive: true });
    assert.equal((await train(device, { config, dir: temp.path })).records.length, 5);
  });
});

test("a truncated checkpoint is named and refused", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    await train(device, { config: { ...config, tokens: 4 * T }, dir: temp.path });
    const state = path.join(temp.path, "state.safetensors");
    fs.truncateSync(state, fs.statSync(state).size - 10);
    await assert.rejects(train(device, { config, dir: temp.path }), isSluice("input", /state\.safetensors/));
  }));

test("settings that cannot work are refused", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const refused = (changes: Partial<LmTrainConfig>, pattern: RegExp) =>
      assert.rejects(
        train(device, { config: { ...config, ...changes }, dir: temp.path }),
        isSluice("usage", pattern),
      );
    await refused({ micro: 3 }, /batch=4 must be a multiple of micro=3/);
    await refused({ tokens: 0 }, /tokens=0/);
    await refused({ batch: 0 }, /batch=0, expected a positive whole number/);
    await refused({ logEverySteps: 0 }, /logEverySteps=0/);
    await refused({ validateEverySteps: 2.5 }, /validateEverySteps=2.5/);
    await refused({ lr: -1 }, /peak=-1/);
  }));

test("validation keeps its own rhythm", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const run = (dir: string, validation?: LmTrainOptions["validation"]) =>
      train(device, {
        config: { ...config, validateEverySteps: 6 },
        dir: path.join(temp.path, dir),
        validation,
      });
    const { records } = await run("with", { held: packer({ shuffle: false }, documents(5, 90)) });
    assert.deepEqual(
      records.map((r) => [r.step, r.validation !== undefined]),
      [4, 6, 8, 12, 16, 18, 20].map((step) => [step, [6, 12, 18, 20].includes(step)]),
    );
    const without = await run("without");
    assert.deepEqual(
      without.records.map((r) => r.step),
      [4, 8, 12, 16, 20],
    );
  }));

test("a text whose segments leave nothing to predict is named", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const singles = Array.from({ length: 40 }, (_, i) => Int32Array.of(2 + (i % 20)));
    const bare = packer({ bos: null, eos: null, segments: true }, singles);
    await assert.rejects(
      train(device, { config, packer: bare, dir: temp.path }),
      isSluice("input", /step 1 has nothing to predict: 4 windows of 8 tokens without a target/),
    );
  }));

/** Rewrites the state in a checkpoint's header. */
async function rewriteState(
  file: string,
  change: (state: Record<string, unknown>) => unknown,
): Promise<void> {
  const source = openSafetensors(file);
  const arrays: Record<string, NamedArray> = {};
  for (const name of source.names()) arrays[name] = await source.read(name);
  const state = JSON.parse(source.metadata["sluice.lm-train"]);
  source.close();
  const changed = change(state);
  const text = typeof changed === "string" ? changed : JSON.stringify(changed);
  await writeSafetensors(file, arrays, { "sluice.lm-train": text });
}

test("a checkpoint whose state is damaged or of another version is refused with a way out", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const dir = temp.path;
    const file = path.join(dir, "state.safetensors");
    await train(device, { config: { ...config, tokens: 4 * T }, dir });
    const good = fs.readFileSync(file);
    const cases: [(state: Record<string, unknown>) => unknown, RegExp][] = [
      [
        () => '{"version": 1, "step"',
        /state\.safetensors: the run's state in the header is damaged; remove it/,
      ],
      [(s) => ({ ...s, version: 2 }), /a checkpoint of version 2, this sluice reads version 1; remove it/],
      [() => null, /of version undefined/],
      [(s) => ({ ...s, step: "1" }), /damaged at step: /],
      [(s) => ({ ...s, packer: { epoch: 0 } }), /damaged at packer\.index: /],
    ];
    for (const [change, pattern] of cases) {
      fs.writeFileSync(file, good);
      await rewriteState(file, change);
      await assert.rejects(train(device, { config, dir }), isSluice("input", pattern));
    }
  }));

test("a checkpoint without identity goes on only where none is asked for", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const dir = temp.path;
    await train(device, { config: { ...config, tokens: 4 * T }, dir });
    await rewriteState(path.join(dir, "state.safetensors"), ({ identity: _, ...rest }) => rest);
    await assert.rejects(
      train(device, { config, dir, identity: { tokenizer: "abc" } }),
      isSluice("input", /does not say which text and tokenizer it belongs to.*choose another folder/),
    );
    const { records } = await train(device, { config, dir });
    assert.deepEqual([records[0].step, records.at(-1)?.step], [4, 20]);
  }));

test("held-out loss is the mean over all targets, in any number of windows at a time", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, small, 0.1);
    const p = packer({ shuffle: false });
    const each: number[] = [];
    for (let w = 0; w < p.windows; w++) {
      const batch = p.at(w, 1);
      const values = await lossesOf(model, batch);
      values.forEach((v, i) => {
        if (batch.targets[i] >= 0) each.push(v);
      });
    }
    const mean = each.reduce((a, b) => a + b, 0) / each.length;
    assert.deepEqual(spreadWindows(10, 4), [0, 2, 5, 7]);
    assert.deepEqual(spreadWindows(3, 9), [0, 1, 2]);
    for (const micro of [1, 3, 100]) {
      const { loss, tokens } = await heldOutLoss(model, p, { micro });
      assert.equal(tokens, each.length);
      assertNear([loss], [mean], "loss", { absolute: 1e-5, relative: 0 });
    }
    model.dispose();
  }));
