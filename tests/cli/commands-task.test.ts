/**
 * task train on models of a thousand parameters.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { loadTransformer } from "../../src/models/index.ts";
import type { TaskRun } from "../../src/recipes/task-train.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

let temp: TemporaryFolder;
before(() => {
  temp = temporaryFolder();
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);
const train = (out: string, more: readonly string[] = []): string[] => [
  ...["task", "train", "--task", "arithmetic", "--operands", "2", "--count", "operands", "--max", "9"],
  ...["--train-samples", "120", "--test-samples", "20", "--d", "16", "--layers", "2", "--heads", "2"],
  ...[
    "--kv-heads",
    "2",
    "--ffn",
    "32",
    "--epochs",
    "6",
    "--lr",
    "1e-2",
    "--batch",
    "8",
    "--threads",
    "1",
    "--out",
    folder(out),
  ],
  ...more,
];

/** Nats a token of a model that knows nothing: of the numbers up to 9, 8 signs and 3 special tokens each as likely as another. */
const UNTRAINED = Math.log(10 + 8 + 3);

async function run(out: string, more: readonly string[] = []): Promise<TaskRun> {
  const ran = await sluice([...train(out, more), "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  return ran.json<TaskRun>();
}

test("task train learns, grades and writes a model; a finished run is found, one with other settings refused", async () => {
  const made = await run("plain");
  assert.equal(made.grades.count, 20);
  assert.equal(made.grades.correct + made.grades.wrong + made.grades.none, 20);
  assert.ok(made.loss < 0.8 * UNTRAINED, `${made.loss} nats`);
  for (const name of ["model.safetensors", "config.json", "vocabulary.json", "metrics.jsonl", "run.json"])
    assert.ok(fs.existsSync(path.join(folder("plain"), name)), name);
  const { loss: again } = await run("plain");
  assert.equal(again, made.loss);
  const other = await sluice(train("plain", ["--lr", "2e-2"]));
  assert.equal(other.code, 2);
  assert.match(other.stderr, /holds a finished run with other settings/);
});

test("what was learnt is written: answers have their form and end by themselves", async () => {
  const more = [
    "--epochs",
    "60",
    "--lr",
    "1e-2",
    "--max",
    "3",
    "--train-samples",
    "30",
    "--test-samples",
    "4",
  ];
  const { grades } = await run("learnt", [...more, "--kv-routing", "learned"]);
  assert.equal(grades.none, 0);
});

test("routed and plain models see the same samples and differ in their routers only", async () => {
  const [plain, routed] = [await run("plain"), await run("routed", ["--kv-routing", "learned"])];
  assert.equal(routed.parameters.total - plain.parameters.total, 2 * 2 * 2);
  assert.equal(routed.steps, plain.steps);
  assert.notEqual(routed.loss, plain.loss);
  const config = JSON.parse(fs.readFileSync(path.join(folder("routed"), "config.json"), "utf8"));
  assert.equal(config.model_type, "lime");
  const dense = await run("dense", ["--residual", "dense"]);
  assert.equal(dense.parameters.total - plain.parameters.total, 2 + 3);
  const hyper = await run("hyper", ["--residual", "hyper", "--streams", "2"]);
  assert.ok(hyper.loss !== plain.loss && hyper.loss < 0.8 * UNTRAINED, `${hyper.loss} nats`);
  const alone = await sluice(train("alone", ["--streams", "2"]));
  assert.match(alone.stderr, /--streams goes with --residual hyper/);
  const bare = await sluice(train("bare", ["--routing-last", "2"]));
  assert.equal(bare.code, 2);
  assert.match(bare.stderr, /go with --kv-routing/);
});

test("routers on hidden states learn; with a top p the written model has its mask, and the grades are of that model", async () => {
  const sources = 2 * 2; // of 2 heads in the second layer
  const { parameters } = await run("plain");
  const made = await run("top", ["--kv-routing", "hidden-static", "--routing-top-p", "0.3"]);
  assert.equal(made.parameters.total - parameters.total, sources + 16);
  assert.ok(made.loss < 0.8 * UNTRAINED, `${made.loss} nats`);
  const device = await createDevice({ backend: "ref" });
  const model = await loadTransformer(device, folder("top"));
  const mask = await model.params.blocks[1].routeMask!.floats();
  assert.equal(
    mask.reduce((a, b) => a + b, 0),
    2,
    "a head reads one of its two sources: half the weight is its",
  );
  model.dispose();
  device.close();
  const dynamic = await run("dynamic", ["--kv-routing", "hidden-dynamic", "--routing-from", "1"]);
  assert.equal(dynamic.parameters.total - parameters.total, 16 * sources + 16);
  assert.ok(dynamic.loss < 0.8 * UNTRAINED, `${dynamic.loss} nats`);
  for (const [flags, told] of [
    [
      ["--kv-routing", "learned", "--routing-top-p", "0.9"],
      /--routing-top-p goes with --kv-routing hidden-static/,
    ],
    [
      ["--kv-routing", "hidden-static", "--no-router-identity"],
      /--router-identity: only with --kv-routing learned/,
    ],
    [["--routing-from", "1"], /go with --kv-routing/],
    [["--kv-routing", "hidden-static", "--routing-from", "2"], /from is 2, but the last of 2 layers is 1/],
    [["--kv-routing", "hidden-dynamic", "--residual", "dense"], /plain residual only/],
  ] as const) {
    const refused = await sluice(train("refused", flags));
    assert.equal(refused.code, told.source.includes("plain") ? 1 : 2, refused.stderr);
    assert.match(refused.stderr, told);
  }
});
