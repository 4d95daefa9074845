/**
 * A sweep as a recipe: what SAEs get beside each other is what each gets alone, also when the sweep is killed.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import {
  harvest,
  openLanguageModel,
  type RowSource,
  readRun,
  type SweepOptions,
  type SweepSae,
  trainSaeRun,
  trainSweep,
  windowsOf,
} from "../../src/recipes/index.ts";
import { disposeSae } from "../../src/sae/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { MemoryTokens } from "../../src/text/index.ts";
import { readJsonLines, SluiceError } from "../../src/util/index.ts";
import { withDevice } from "../sae/helpers.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { saveTinyModel, sentences } from "./tiny.ts";

const BATCH = 32;
const TOKENS = 12 * BATCH;
const DATA_SEED = 7;
const [FIRST, SECOND] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
const WEIGHTS = "sae_weights.safetensors";

let temp: TemporaryFolder;
let model: string;
const folder = (name: string): string => path.join(temp.path, name);
before(async () => {
  temp = temporaryFolder();
  model = await saveTinyModel(folder("tiny"));
});
after(() => temp[Symbol.dispose]());

const bytes = (...parts: string[]): Buffer => fs.readFileSync(path.join(...parts, WEIGHTS));

const sae = (
  name: string,
  more: Partial<Omit<SweepSae, "train">> & { train?: Partial<SweepSae["train"]> } = {},
): SweepSae => ({
  name,
  hook: SECOND,
  config: { features: 24, activation: { kind: "topk", k: 3 } },
  ...more,
  train: { tokens: TOKENS, batch: BATCH, lr: 3e-3, warmupSteps: 2, deadAfter: 4 * BATCH, ...more.train },
});

/** Architectures, sizes, seeds and hook points. */
const SAES: readonly SweepSae[] = [
  sae("topk-seed0"),
  sae("topk-seed1", { train: { seed: 1 } }),
  sae("every-k", {
    config: { features: 16, activation: { kind: "topk", k: 8 } },
    train: { objective: "hierarchical", initBatches: 2 },
  }),
  sae("batchtopk", { hook: FIRST, config: { features: 24, activation: { kind: "batchtopk", k: 3 } } }),
  sae("jumprelu", { hook: FIRST, config: { features: 24, activation: { kind: "jumprelu", log: true } } }),
  sae("transcoder", { hook: FIRST, targetHook: SECOND, train: { seed: 3 } }),
];

/** A device without leaks, a tiny model and its text. */
const world = (body: (device: Device, rows: RowSource & { kind: "live" }) => Promise<void>) =>
  withDevice("ref", async (device) => {
    const lm = await openLanguageModel(device, model);
    try {
      const tokens = new MemoryTokens(sentences(100, 7).map((text) => lm.tokenizer.encode(text)));
      await body(device, { kind: "live", lm, tokens, text: "sentences" });
    } finally {
      lm.model.dispose();
    }
  });

const options = (source: RowSource, out: string, more: Partial<SweepOptions> = {}): SweepOptions => ({
  source,
  saes: SAES,
  dataSeed: DATA_SEED,
  buffer: 100,
  out,
  logEvery: 3,
  ...more,
});

const alone = async (
  device: Device,
  source: RowSource,
  { name, hook = "", targetHook, ...run }: SweepSae,
) => {
  const out = folder(`alone-${source.kind}-${name}`);
  const place = source.kind === "live" ? { ...source, hook, targetHook } : { ...source, hook };
  const { sae } = await trainSaeRun(device, {
    ...run,
    source: place,
    dataSeed: DATA_SEED,
    buffer: 100,
    out,
    logEvery: 3,
  });
  disposeSae(sae);
  return out;
};

const isSluice = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SluiceError, String(error));
  assert.match(error.message, message);
  assert.equal(error.code, code);
  return true;
};

/** Records without what the clock says. */
const recordsOf = (out: string) =>
  (readJsonLines(path.join(out, "metrics.jsonl")) as Record<string, unknown>[]).map(
    ({ ms: _, seconds: __, tokens_per_second: ___, ...rest }) => rest,
  );

test("SAEs of one pass have the bits, settings and records that each has alone; another data seed gives others", () =>
  world(async (device, source) => {
    const out = folder("together");
    const { saes } = await trainSweep(device, options(source, out));
    assert.deepEqual(
      saes.map(({ name, stopped, steps }) => [name, stopped, steps]),
      SAES.map(({ name }) => [name, "done", 12]),
    );
    for (const one of SAES) {
      const by = await alone(device, source, one);
      const together = path.join(out, one.name);
      assert.deepEqual(bytes(together), bytes(by), one.name);
      assert.deepEqual(readRun(together)?.settings, readRun(by)?.settings, one.name);
      assert.deepEqual(recordsOf(together), recordsOf(by), one.name);
      for (const file of ["cfg.json", "run.json", "metrics.jsonl"])
        assert.ok(fs.existsSync(path.join(together, file)), file);
    }
    assert.equal(fs.existsSync(path.join(out, "checkpoints")), false);
    const other = folder("other-seed");
    await trainSweep(device, options(source, other, { dataSeed: 8, saes: SAES.slice(0, 1) }));
    assert.notDeepEqual(bytes(other, "topk-seed0"), bytes(out, "topk-seed0"));
  }));

test("a sweep that was interrupted, and then killed, goes on to the same bytes; the order of its SAEs is free", () =>
  world(async (device, source) => {
    const whole = folder("whole");
    await trainSweep(device, options(source, whole));
    const out = folder("cut");
    const stop = new AbortController();
    await assert.rejects(
      trainSweep(
        device,
        options(source, out, { signal: stop.signal, onStep: ({ step }) => step === 4 && stop.abort() }),
      ),
      isSluice("interrupted", /interrupted after step 4 of 12; saved in .*cut.checkpoints/),
    );
    assert.equal(fs.existsSync(path.join(out, "topk-seed0", "cfg.json")), false);
    const killed = options(source, out, {
      checkpointMinutes: 1e-9,
      onStep: ({ step }) => {
        if (step === 8) throw new Error("killed");
      },
    });
    await assert.rejects(trainSweep(device, killed), /killed/);
    const backwards = options(source, out, { saes: [...SAES].reverse() });
    const { resumedFrom, finishedBefore } = await trainSweep(device, backwards);
    assert.deepEqual([resumedFrom, finishedBefore], [7, false]);
    for (const { name } of SAES) {
      assert.deepEqual(bytes(out, name), bytes(whole, name), name);
      assert.deepEqual(recordsOf(path.join(out, name)), recordsOf(path.join(whole, name)), name);
    }
    const again = await trainSweep(device, options(source, out));
    assert.equal(again.finishedBefore, true);
    assert.deepEqual(
      again.saes.map(({ name, stopped, record }) => [name, stopped, record?.step]),
      SAES.map(({ name }) => [name, "done", 12]),
    );
  }));

test("an SAE that cannot go on is left without files, with its reason, and the others have their bits", () =>
  world(async (device, source) => {
    const out = folder("wild");
    const wild = sae("wild", { train: { lr: 1e37, warmupSteps: 0 } });
    const { saes } = await trainSweep(device, options(source, out, { saes: [wild, SAES[0]] }));
    assert.deepEqual(
      saes.map(({ stopped }) => stopped),
      ["failed", "done"],
    );
    assert.match(saes[0].failure ?? "", /step \d+ has loss/);
    assert.equal(fs.existsSync(path.join(out, "wild", "cfg.json")), false);
    const run = readRun(path.join(out, "wild"));
    assert.deepEqual([run?.outcome, run?.failure], [null, saes[0].failure]);
    assert.deepEqual(bytes(out, "topk-seed0"), bytes(folder("together"), "topk-seed0"));
    const again = await trainSweep(device, options(source, out, { saes: [wild, SAES[0]] }));
    assert.deepEqual([again.finishedBefore, again.saes[0].failure], [true, saes[0].failure]);
  }));

test("a folder with another sweep is refused by what differs, and so is one with anything else", () =>
  world(async (device, source) => {
    const saes = SAES.slice(0, 2);
    const out = folder("taken");
    await trainSweep(device, options(source, out, { saes }));
    const refused = (more: Partial<SweepOptions>, message: RegExp) =>
      assert.rejects(trainSweep(device, options(source, out, { saes, ...more })), isSluice("usage", message));
    await refused({ dataSeed: 1 }, /a finished sweep with other settings: dataSeed 7 instead of 1\./);
    const lr = { ...saes[0], train: { ...saes[0].train, lr: 1e-3 } };
    await refused({ saes: [lr, saes[1]] }, /: saes\.topk-seed0\.train\.lr 0\.003 instead of 0\.001\./);
    await refused({ saes: SAES.slice(0, 3) }, /: saes\.every-k undefined instead of/);
    await refused({ out: model }, /holds .*, but no sweep; choose an empty or a new folder/);
    await refused({ out: path.join(out, "topk-seed0") }, /but no sweep/);
  }));

test("names that are no folders, and SAEs that do not go together, are refused before anything is written", () =>
  world(async (device, source) => {
    const out = folder("refused");
    const refused = (saes: readonly SweepSae[], message: RegExp, from: RowSource = source) =>
      assert.rejects(trainSweep(device, options(from, out, { saes })), isSluice("usage", message));
    await refused([], /no SAE to train/);
    await refused([sae("a/b")], /"a\/b" is no name for a folder/);
    await refused([sae(".a")], /"\.a" is no name/);
    await refused([sae("Checkpoints")], /the name Checkpoints is taken/);
    await refused([sae("a"), sae("A")], /two SAEs are called A/);
    await refused([sae("a", { hook: undefined })], /need a hook point/);
    await refused(
      [sae("a", { config: { features: 2, activation: { kind: "topk", k: 3 } } })],
      /SAE a: .*k=3 is more/,
    );
    await refused([sae("a"), sae("b", { hook: FIRST })], /norms are judged at one point/, {
      ...source,
      maxNorm: 5,
    });
    const shorter = sae("b", { train: { tokens: 5 * BATCH } });
    await refused([sae("a"), shorter], /share batch and tokens: a has 32 and 384, b 32 and 160/);
    assert.equal(fs.existsSync(out), false);
  }));

test("activations of two points on disk stand side by side, also when resumed; those of two harvests do not", () =>
  world(async (device, { lm, tokens }) => {
    const acts = folder("acts");
    const read = (out: string, hooks: string[], seed: number) =>
      harvest({
        lm,
        hooks,
        out,
        packer: windowsOf(lm, tokens, { shuffle: true, seed }),
        dtype: "f32",
        seed,
        source: { text: "sentences" },
        tokens: 300,
        shardRows: 100,
      });
    await read(acts, [FIRST, SECOND], 1);
    const source = { kind: "store", folder: acts } as const;
    const saes = [SAES[0], SAES[3]];
    const out = folder("together-acts");
    const stop = new AbortController();
    const onStep = ({ step }: { step: number }) => step === 5 && stop.abort();
    await assert.rejects(
      trainSweep(device, options(source, out, { saes, signal: stop.signal, onStep })),
      isSluice("interrupted", /after step 5/),
    );
    const { resumedFrom } = await trainSweep(device, options(source, out, { saes }));
    assert.equal(resumedFrom, 5);
    for (const one of saes) {
      const by = await alone(device, source, one);
      assert.deepEqual(bytes(out, one.name), bytes(by), one.name);
    }
    await read(folder("acts-2"), [FIRST, SECOND], 2);
    fs.rmSync(path.join(acts, FIRST), { recursive: true });
    fs.renameSync(path.join(folder("acts-2"), FIRST), path.join(acts, FIRST));
    await assert.rejects(
      trainSweep(device, options(source, folder("mixed"), { saes })),
      isSluice("input", /are not of the same harvest/),
    );
  }));
