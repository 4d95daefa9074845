/**
 * `sluice sae train --config sweep.yaml`: everything that a sweep's folder holds, and what a killed or changed one does.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { runJob } from "../../src/cli/job.ts";
import type { Comparison } from "../../src/recipes/index.ts";
import { readJson } from "../../src/util/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

const [FIRST, SECOND] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
let temp: TemporaryFolder;
let model: string;
let text: string;
const folder = (name: string): string => path.join(temp.path, name);
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model, text } = world);
  process.env.SLUICE_CACHE = world.cache;
});
after(() => temp[Symbol.dispose]());

/** What all sweeps here share; 20 steps. */
const common = () => ({
  model,
  text: [text],
  hook: SECOND,
  features: 32,
  k: 4,
  lr: 2e-3,
  tokens: 1280,
  batch: 64,
  buffer: 256,
  logEvery: 2,
  evalTokens: 200,
});

const SAES = [
  { name: "topk", seed: [0, 1] },
  { name: "every", objective: "hierarchical", k: 8 },
  { name: "jump", arch: "jumprelu", hook: FIRST },
];

function config(name: string, values: Record<string, unknown>): string {
  const file = folder(`${name}.json`);
  fs.writeFileSync(file, JSON.stringify(values));
  return file;
}

const sweep = (name: string, more: Record<string, unknown> = {}): string[] => [
  ...["sae", "train", "--config", config(name, { ...common(), evalK: [2, 4], saes: SAES, ...more })],
  ...["--out", folder(name)],
];

const comparisonIn = (name: string) => readJson(path.join(folder(name), "comparison.json")) as Comparison;
const weights = (name: string, sae: string): Buffer =>
  fs.readFileSync(path.join(folder(name), sae, "sae_weights.safetensors"));

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

async function refused(argv: readonly string[], message: RegExp): Promise<void> {
  const ran = await sluice(argv);
  assert.match(ran.stderr, message);
  assert.equal(ran.code, 2, ran.stderr);
}

test("a sweep leaves a folder for each SAE, a record, a comparison, a page and a table", async () => {
  const ran = ok(await sluice(sweep("all")));
  assert.deepEqual(fs.readdirSync(folder("all")).sort(), [
    "comparison.json",
    "every",
    "jump",
    "report.html",
    "sweep.json",
    "topk-seed0",
    "topk-seed1",
  ]);
  for (const name of ["every", "jump", "topk-seed0", "topk-seed1"]) {
    assert.deepEqual(fs.readdirSync(path.join(folder("all"), name)).sort(), [
      "cfg.json",
      "metrics.jsonl",
      "run.json",
      "sae_weights.safetensors",
    ]);
  }
  const { evaluation, saes, settings } = comparisonIn("all");
  assert.deepEqual([evaluation.held_out, evaluation.on, evaluation.budgets], [true, "model", [2, 4]]);
  assert.deepEqual(
    saes.map(({ name, setting, budgets }) => [name, setting, budgets?.map(({ k }) => k)]),
    [
      ["topk-seed0", "topk", [2, 4]],
      ["topk-seed1", "topk", [2, 4]],
      ["every", "every", [2, 4, 8]],
      ["jump", "jump", undefined],
    ],
  );
  const [topk] = settings;
  const both = saes.slice(0, 2).map(({ metrics }) => metrics?.explained_variance ?? 0);
  const { mean, min, max } = topk.metrics.explained_variance;
  assert.deepEqual([min, max], [Math.min(...both), Math.max(...both)]);
  assert.ok(Math.abs(mean - (both[0] + both[1]) / 2) < 1e-12 && min < max);
  assert.deepEqual(topk.seeds, [0, 1]);
  assert.equal(topk.budgets?.[0].metrics.l0.max, 2);
  for (const name of ["explained_variance", "l0", "dead_fraction", "loss_recovered", "ce_spliced", "kl"])
    assert.ok(Number.isFinite(saes[3].metrics?.[name]), name);
  assert.match(ran.stdout, /^SAE +seeds +L0 +explained variance +dead +loss recovered +CE$/m);
  assert.match(ran.stdout, /^topk +2 +4\.0 +0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)/m);
  assert.match(ran.stdout, /^ {2}at k 2 +2\.0/m);
  assert.match(ran.stdout, /all: 4 SAEs\. Look at .*report\.html$/m);
  assert.match(ran.stderr, /sae train .*SAEs 4 {2}ev -?\d\.\d+ to -?\d\.\d+/);
  const page = fs.readFileSync(path.join(folder("all"), "report.html"), "utf8");
  assert.match(page, /4 autoencoders/);
});

test("the numbers are those that sae eval finds for each by itself", async () => {
  const source = ["--model", model, "--text", text, "--tokens", "200", "--json"];
  const { saes } = comparisonIn("all");
  for (const { name, metrics, budgets } of saes) {
    const one = ok(await sluice(["sae", "eval", "--sae", path.join(folder("all"), name), ...source])).json();
    for (const metric of ["explained_variance", "l0", "dead_fraction", "loss_recovered", "ce_spliced", "kl"])
      assert.equal(metrics?.[metric], one[metric], `${name}: ${metric}`);
    if (!budgets) continue;
    const argv = ["sae", "eval", "--sae", path.join(folder("all"), name), ...source, "--k", "2"];
    const at = ok(await sluice(argv)).json();
    assert.equal(budgets[0].loss_recovered, at.loss_recovered);
  }
});

test("an SAE trained alone with the data seed of the sweep has the same bytes, and its folder is that very run", async () => {
  const flags = ["--model", model, "--text", text, "--hook", SECOND, "--features", "32", "--k", "4"].concat([
    ...["--lr", "2e-3", "--tokens", "1280", "--batch", "64", "--buffer", "256", "--log-every", "2"],
    ...["--seed", "1", "--data-seed", "0"],
  ]);
  ok(await sluice(["sae", "train", ...flags, "--out", folder("alone")]));
  assert.deepEqual(
    fs.readFileSync(path.join(folder("alone"), "sae_weights.safetensors")),
    weights("all", "topk-seed1"),
  );
  const again = ok(await sluice(["sae", "train", ...flags, "--out", path.join(folder("all"), "topk-seed1")]));
  assert.match(again.stderr, /holds this run already, finished; nothing was done/);
});

test("Ctrl-C in the training exits with 130; the same command goes on to the same bytes", async () => {
  const file = path.join(folder("cut"), "jump", "metrics.jsonl");
  const lines = () => (fs.existsSync(file) ? fs.readFileSync(file, "utf8").split("\n").length - 1 : 0);
  const stopped = await sluice(sweep("cut"), () => lines() >= 4);
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(stopped.stderr, /interrupted after step \d+ of 20; saved in/);
  assert.equal(fs.existsSync(path.join(folder("cut"), "comparison.json")), false);
  const done = ok(await sluice([...sweep("cut"), "--json"])).json<{ resumed_from: number }>();
  assert.ok(done.resumed_from > 0);
  for (const { name } of comparisonIn("all").saes)
    assert.deepEqual(weights("cut", name), weights("all", name), name);
  const timeless = ({ saes, settings, evaluation }: Comparison) => [
    evaluation,
    settings,
    saes.map(({ ms_per_step: _, ...rest }) => rest),
  ];
  assert.deepEqual(timeless(comparisonIn("cut")), timeless(comparisonIn("all")));
});

test("Ctrl-C while measuring keeps the SAEs; the same command measures them without training", async () => {
  const done = path.join(folder("measure"), "sweep.json");
  const trained = () => fs.existsSync(done) && (readJson(done) as { outcome: unknown }).outcome !== null;
  const stopped = await sluice(sweep("measure", { evalTokens: 800 }), trained);
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(stopped.stderr, /the SAEs in .*measure are trained, and the same command measures them/);
  const ran = ok(await sluice(sweep("measure", { evalTokens: 800 })));
  assert.match(ran.stderr, /holds this sweep already, trained/);
  assert.doesNotMatch(ran.stderr, /^sae train/m);
});

test("a finished sweep is left alone; other budgets are measured anew; other settings are refused by name", async () => {
  const { created } = comparisonIn("all");
  const again = ok(await sluice(sweep("all")));
  assert.doesNotMatch(again.stderr, /measuring/);
  assert.equal(comparisonIn("all").created, created);
  const before = weights("all", "every");
  ok(await sluice(sweep("all", { evalK: [1, 2] })));
  assert.deepEqual(
    comparisonIn("all").saes[2].budgets?.map(({ k }) => k),
    [1, 2, 8],
  );
  assert.deepEqual(weights("all", "every"), before);
  await refused(
    sweep("all", { lr: 1e-3 }),
    /a finished sweep with other settings: saes\.every\.train\.lr 0\.002 instead of 0\.001; saes\.jump\.train\.lr/,
  );
  await refused([...sweep("all"), "--tokens", "640"], /tokens 1280 instead of 640; .*warmupSteps/);
});

test("an SAE that fails is named, the exit code is 1, and the others are there", async () => {
  const wild = { name: "wild", lr: 1e37, warmupSteps: 0, seed: [0, 1] };
  const argv = sweep("wild", { saes: [wild, { name: "fine" }] });
  const ran = await sluice([...argv, "--json"]);
  assert.equal(ran.code, 1, ran.stderr);
  const { saes } = ran.json<{ saes: { name: string; stopped: string; failure: string | null }[] }>();
  assert.deepEqual(
    saes.map(({ stopped }) => stopped),
    ["failed", "failed", "done"],
  );
  assert.match(saes[0].failure ?? "", /step \d+ has loss/);
  assert.ok(fs.existsSync(path.join(folder("wild"), "fine", "cfg.json")));
  const found = comparisonIn("wild");
  assert.equal(found.saes[0].metrics, undefined);
  assert.deepEqual(found.settings[0].metrics, {});
  assert.ok(found.settings[1].metrics.explained_variance);
  const again = await sluice(argv);
  assert.equal(again.code, 1);
  assert.match(again.stdout, /^wild-seed1 failed: step/m);
  assert.match(again.stdout, /: 3 SAEs, 2 failed\. Look at/);
  assert.match(
    fs.readFileSync(path.join(folder("wild"), "report.html"), "utf8"),
    /failed: step \d+ has loss/,
  );
});

test("activations from disk: trained at two points, measured without the model, held out or not", async () => {
  const harvest = (out: string, more: readonly string[]) =>
    sluice(
      ["harvest", "--model", model, "--text", text, "--hook", FIRST, "--hook", SECOND].concat([
        ...["--tokens", "500", "--out", folder(out), ...more],
      ]),
    );
  ok(await harvest("acts", []));
  ok(await harvest("acts-heldout", ["--split", "heldout"]));
  const { model: _, text: __, ...rest } = common();
  const file = config("disk", { ...rest, activations: folder("acts"), evalK: [2], saes: SAES });
  const argv = ["sae", "train", "--config", file, "--out", folder("disk")];
  const ran = ok(await sluice(argv));
  assert.match(ran.stdout, /^SAE +seeds +L0 +explained variance +dead$/m);
  assert.match(ran.stdout, /measured on what the SAEs may have been trained on/);
  assert.equal(comparisonIn("disk").evaluation.held_out, false);
  const other = ok(await sluice([...argv, "--eval-activations", folder("acts-heldout")]));
  assert.doesNotMatch(other.stdout, /may have been trained on/);
  const { evaluation, saes } = comparisonIn("disk");
  assert.deepEqual([evaluation.held_out, evaluation.on], [true, "activations"]);
  assert.equal(saes[0].metrics?.loss_recovered, undefined);
  assert.ok(Number.isFinite(saes[3].metrics?.explained_variance));
});

test("what a sweep cannot do is refused before anything is written", async () => {
  const out = ["--out", folder("none")];
  const one = [
    "sae",
    "train",
    "--model",
    model,
    "--text",
    text,
    "--hook",
    SECOND,
    "--features",
    "32",
    "--tokens",
    "640",
  ];
  await refused([...one, ...out, "--eval-k", "2"], /--eval-k: only for sweeps \(a list saes in --config\)/);
  await refused(
    [...sweep("none", { evalK: [2, 64] })],
    /the budget 64 \(--eval-k\) is more than the 32 features of the SAE topk-seed0/,
  );
  await refused(sweep("none", { evalActivations: "x" }), /--eval-activations is for --activations/);
  await refused(sweep("none", { hook: undefined }), /need a hook point/);
  await refused(sweep("none", { maxNorm: 3 }), /norms are judged at one point/);
  await refused(sweep("none", { saes: [{ name: "report.html" }] }), /the name report\.html is taken/);
  assert.equal(fs.existsSync(folder("none")), false);
});

test("the help says what only the file can hold; a job takes it as an option", async () => {
  const { stdout } = ok(await sluice(["sae", "train", "--help"]));
  assert.match(stdout, /Only in the --config file:\n {2}saes {2}SAEs to train/);
  assert.match(stdout, /Sweeps \(a list saes in --config\):\n {2}--eval-k/);
  const json = await runJob("sae train", {
    ...common(),
    out: folder("job"),
    saes: [{ name: "a" }, { name: "b", k: 2 }],
  });
  assert.deepEqual(
    (json.saes as { name: string }[]).map(({ name }) => name),
    ["a", "b"],
  );
});
