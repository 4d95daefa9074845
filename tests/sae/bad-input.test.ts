/**
 * Bad input to training: each is a clear error of the right kind, and nothing that was saved is lost.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { disposeSae, type OpenSource, type TrainOptions, trainSae } from "../../src/sae/index.ts";
import { inputError, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { arraySource, syntheticRows, withDevice } from "./helpers.ts";

const D = 6;
const BATCH = 32;
const ROWS = 20 * BATCH;

function options(more: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config: { dIn: D, features: 24, activation: { kind: "topk", k: 3 } },
    train: { tokens: ROWS, batch: BATCH, lr: 1e-3, initBatches: 2 },
    openSource: arraySource(syntheticRows(ROWS, D), D),
    ...more,
  };
}

/** The run fails with this code and message, and leaves no tensor behind. */
async function refused(opts: TrainOptions, code: string, message: RegExp): Promise<void> {
  await withDevice("ref", async (device) => {
    await assert.rejects(trainSae(device, opts), (error: unknown) => {
      assert.ok(error instanceof SluiceError, String(error));
      assert.match(error.message, message);
      assert.equal(error.code, code);
      return true;
    });
  });
}

function withValue(row: number, value: number): OpenSource {
  const x = syntheticRows(ROWS, D);
  x[row * D + 4] = value;
  return arraySource(x, D);
}

test("a source without rows is refused", () =>
  refused(options({ openSource: arraySource(new Float32Array(0), D) }), "input", /has no activations/));

test("a source with less than a batch is refused with its size", () =>
  refused(
    options({ openSource: arraySource(syntheticRows(31, D), D) }),
    "input",
    /ended after 31 activations, less than one batch of 32/,
  ));

test("rows of another width are refused", () =>
  refused(
    options({
      openSource: async () =>
        (async function* () {
          yield { x: new Float32Array(10), rows: 2 };
        })(),
    }),
    "input",
    /10 numbers as 2 rows, but rows are 6 wide/,
  ));

test("NaN in the first batches is found before training, with its place", () =>
  refused(
    options({ openSource: withValue(3, Number.NaN) }),
    "input",
    /row 3 in training order holds NaN at dimension 4/,
  ));

test("NaN later stops the run at its step, with its place", () =>
  refused(
    options({ openSource: withValue(300, Number.NaN) }),
    "numeric",
    /step 10 .*row 300 in training order holds NaN at dimension 4/,
  ));

test("infinity later stops the run at its step", () =>
  refused(
    options({ openSource: withValue(300, Number.POSITIVE_INFINITY) }),
    "numeric",
    /step 10 .*row 300 .*Infinity/,
  ));

test("more tokens per batch than tokens, and k > F, are usage errors", async () => {
  await refused(options({ train: { tokens: 31, batch: 32 } }), "usage", /less than one batch/);
  const config = { dIn: D, features: 24, activation: { kind: "topk", k: 25 } } as const;
  await refused(options({ config }), "usage", /k=25 is more than the 24 features/);
});

test("a NaN keeps the last good checkpoint, and the run goes on from it with clean data", async () => {
  using temp = temporaryFolder();
  const checkpoint = { folder: temp.path, everyMinutes: 0, everyTokens: 4 * BATCH };
  await refused(
    options({ checkpoint, openSource: withValue(370, Number.NaN) }),
    "numeric",
    /step 12 .*not taken/,
  );
  assert.deepEqual(fs.readdirSync(temp.path).sort(), ["step-00000004", "step-00000008"]);
  await withDevice("ref", async (device) => {
    const result = await trainSae(device, options({ checkpoint, resume: true }));
    assert.equal(result.resumedFrom, 8);
    assert.equal(result.steps, 20);
    disposeSae(result.sae);
  });
});

test("a learning rate that blows up is a numeric error before anything is written", async () => {
  using temp = temporaryFolder();
  const train = { ...options().train, lr: 3e38, warmupSteps: 0 };
  const checkpoint = { folder: temp.path, everyMinutes: 0, everyTokens: BATCH };
  await refused(
    options({ train, checkpoint }),
    "numeric",
    /update of step 1 \(lr 3e\+38\) ruined the parameters.*no checkpoint before it/,
  );
  assert.deepEqual(fs.readdirSync(temp.path), []);
});

test("a loss without bounds on finite rows saves the step before it and names the checkpoint", async () => {
  using temp = temporaryFolder();
  const checkpoint = { folder: temp.path, everyMinutes: 0, everyTokens: 4 * BATCH };
  const run = options({ checkpoint, openSource: withValue(370, 1e30) });
  const message =
    /step 12 has loss Infinity.*parameters are finite.*step 11 is saved in .*step-00000011.*same command continues.*another folder/;
  await refused(run, "numeric", message);
  assert.deepEqual(fs.readdirSync(temp.path).sort(), ["step-00000008", "step-00000011"]);
  await refused({ ...run, resume: true }, "numeric", message);
});

test("a source that fails costs no step: what was done is saved, and the run ends with the bits of an undisturbed one", async () => {
  using temp = temporaryFolder();
  const x = syntheticRows(ROWS, D);
  let fail = true;
  const openSource: OpenSource = async (state) => {
    const source = await arraySource(x, D)(state);
    async function* read() {
      let left = 8;
      for await (const batch of source) {
        yield batch;
        if (fail && --left === 0) throw inputError("window 9 holds NaN");
      }
    }
    return Object.assign(read(), { state: () => source.state?.() ?? { json: null } });
  };
  const checkpoint = { folder: temp.path, everyMinutes: 0 };
  await refused(
    options({ checkpoint, openSource }),
    "input",
    /window 9 holds NaN\. Step \d+ was not taken; step \d+ is saved in .*the same command continues/,
  );
  assert.equal(fs.readdirSync(temp.path).length, 1);
  fail = false;
  await withDevice("ref", async (device) => {
    const weights = async (opts: TrainOptions) => {
      const { sae, resumedFrom } = await trainSae(device, opts);
      const values = await sae.params.wEnc.floats();
      disposeSae(sae);
      return { values, resumedFrom };
    };
    const resumed = await weights(options({ checkpoint, openSource, resume: true }));
    assert.ok((resumed.resumedFrom ?? 0) > 5);
    assert.deepEqual(resumed.values, (await weights(options({ openSource: arraySource(x, D) }))).values);
  });
});

test("a batch of one row is refused", () =>
  refused(options({ train: { tokens: 32, batch: 1 } }), "usage", /batch=1 is too small.*at least 2/));

test("half-written checkpoints of a living process are left to it", async () => {
  using temp = temporaryFolder();
  const theirs = `.step-00000012.tmp-${process.ppid}-1`;
  fs.mkdirSync(path.join(temp.path, theirs));
  await withDevice("ref", async (device) => {
    const { sae } = await trainSae(device, options({ checkpoint: { folder: temp.path } }));
    disposeSae(sae);
  });
  assert.deepEqual(fs.readdirSync(temp.path).sort(), [theirs, "step-00000020"]);
});

test("a checkpoint of another run is refused with the fields that differ", async () => {
  using temp = temporaryFolder();
  const checkpoint = { folder: temp.path };
  await withDevice("ref", async (device) => {
    const { sae } = await trainSae(device, options({ checkpoint, metadata: { model_name: "brook" } }));
    disposeSae(sae);
  });
  const config = { dIn: D, features: 24, activation: { kind: "topk", k: 5 } } as const;
  const other = options({ checkpoint, config, resume: true, metadata: { model_name: "gpt2" } });
  await refused(
    other,
    "usage",
    /config.activation.k 3 instead of 5; metadata.model_name "brook" instead of "gpt2"/,
  );
  await refused(options({ checkpoint }), "usage", /holds a checkpoint of step 20; resume/);
});

test("a checkpoint whose tensors were cut off is refused by name", async () => {
  using temp = temporaryFolder();
  const checkpoint = { folder: temp.path };
  await withDevice("ref", async (device) => {
    const { sae } = await trainSae(device, options({ checkpoint }));
    disposeSae(sae);
  });
  fs.truncateSync(path.join(temp.path, "step-00000020", "run-0.safetensors"), 500);
  await refused(options({ checkpoint, resume: true }), "input", /tensors\.safetensors/);
});

test("a source that cannot tell its position cannot be resumed, and says so", async () => {
  using temp = temporaryFolder();
  const checkpoint = { folder: temp.path };
  const openSource = arraySource(syntheticRows(ROWS, D), D, { forgetful: true });
  await withDevice("ref", async (device) => {
    const { sae } = await trainSae(device, options({ checkpoint, openSource }));
    disposeSae(sae);
  });
  await refused(options({ checkpoint, openSource, resume: true }), "input", /could not save its position/);
});

test("half-written checkpoints of a killed process are removed and never read", async () => {
  using temp = temporaryFolder();
  fs.mkdirSync(path.join(temp.path, ".step-12.tmp-99999"));
  fs.writeFileSync(path.join(temp.path, ".step-12.tmp-99999", "state.json"), "{");
  await withDevice("ref", async (device) => {
    const { sae } = await trainSae(device, options({ checkpoint: { folder: temp.path } }));
    disposeSae(sae);
  });
  assert.deepEqual(fs.readdirSync(temp.path), ["step-00000020"]);
});

test("a checkpoint folder that cannot be written is an io error and leaves nothing half-done", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "file");
  fs.writeFileSync(file, "");
  await refused(options({ checkpoint: { folder: path.join(file, "sub") } }), "io", /write the checkpoint/);
  assert.deepEqual(fs.readdirSync(temp.path), ["file"]);
});

test("a source that ends early ends the run, which says so", () =>
  withDevice("ref", async (device) => {
    const openSource = arraySource(syntheticRows(5 * BATCH + 7, D), D);
    const result = await trainSae(device, options({ openSource }));
    assert.equal(result.stopped, "source");
    assert.equal(result.steps, 5);
    assert.equal(result.tokens, 5 * BATCH);
    disposeSae(result.sae);
  }));
