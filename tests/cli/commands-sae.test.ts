/**
 * harvest, sae train and sae eval as the README writes them, on a model of two thousand parameters.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { readSafetensorsSync, toFloat32 } from "../../src/formats/index.ts";
import { TINY, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
let temp: TemporaryFolder;
let model: string;
let text: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model, text } = world);
  process.env.SLUICE_CACHE = world.cache;
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

/** Every file under a folder with its bytes, in order. */
function contents(root: string): [name: string, bytes: string][] {
  return fs
    .readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort()
    .map((file) => [path.relative(root, file), fs.readFileSync(file).toString("base64")]);
}

const harvestArgs = (out: string, more: readonly string[] = []): string[] =>
  ["harvest", "--model", model, "--text", text, "--hook", HOOK, "--tokens", "1500", "--out", out].concat(
    more,
  );

const trainArgs = (out: string, source: readonly string[], more: readonly string[] = []): string[] =>
  ["sae", "train", ...source, "--arch", "topk", "--k", "4", "--features", "48", "--out", out]
    .concat(["--batch", "64", "--lr", "2e-3", "--tokens", "6400"])
    .concat(more);

const live = (): string[] => ["--model", model, "--text", text, "--hook", HOOK];

test("harvest, train and evaluate on activations, as the README writes it", async () => {
  const acts = folder("acts");
  const harvested = ok(await sluice(harvestArgs(acts, ["--json"]))).json();
  assert.equal(harvested.rows, 1500);
  assert.equal(harvested.exhausted, false);
  const shards = fs.readdirSync(acts).filter((name) => name.endsWith(".safetensors"));
  const first = readSafetensorsSync(path.join(acts, shards[0])).get("activations");
  assert.equal(first?.shape[1], TINY.dModel);

  const sae = folder("sae-acts");
  const trained = ok(await sluice(trainArgs(sae, ["--activations", acts], ["--json"]))).json();
  assert.equal(trained.tokens, 6400);
  assert.equal(trained.stopped, "done");
  assert.ok(fs.existsSync(path.join(sae, "cfg.json")));

  const measured = ok(await sluice(["sae", "eval", "--sae", sae, "--activations", acts, "--json"])).json();
  for (const name of ["explained_variance", "l0", "mse", "dead_fraction"]) {
    assert.equal(typeof measured[name], "number", name);
  }
  assert.equal(measured.tokens, 1500);
  assert.ok((measured.explained_variance as number) > 0.3);
  assert.ok((measured.l0 as number) <= 4);
});

test("train and evaluate through the model gives every field that the README promises", async () => {
  const sae = folder("sae-live");
  ok(await sluice(trainArgs(sae, live(), ["--buffer", "1024"])));
  const cfg = JSON.parse(fs.readFileSync(path.join(sae, "cfg.json"), "utf8"));
  assert.equal(cfg.metadata.hook_name, HOOK);
  assert.equal(cfg.metadata.model_name, "tiny");

  const args = ["sae", "eval", "--sae", sae, "--model", model, "--text", text, "--tokens", "200", "--json"];
  const m = ok(await sluice(args)).json<Record<string, number>>();
  const names =
    "explained_variance l0 mse dead_fraction ce_clean ce_spliced ce_zero ce_mean loss_recovered loss_recovered_mean kl";
  for (const name of names.split(" ")) assert.ok(Number.isFinite(m[name]), `${name} is ${m[name]}`);
  assert.equal(m.tokens, 200);
  assert.ok(m.ce_tokens >= 200 && m.ce_tokens < 200 + 2 * TINY.contextLength, `${m.ce_tokens} targets`);

  const fewer = ok(await sluice([...args, "--k", "1"])).json<Record<string, number>>();
  assert.equal(fewer.l0, 1);
  assert.ok(fewer.kl > m.kl, "k = 1 holds inside the model too");
});

test("text output names what to do next, and progress stays off stdout", async () => {
  const ran = ok(await sluice(trainArgs(folder("sae-text"), live(), ["--buffer", "1024"])));
  assert.match(ran.stdout, /explained variance 0\.\d+.*Next: sluice sae eval --sae /);
  assert.match(ran.stderr, /sae train/);
  const quiet = ok(await sluice([...trainArgs(folder("sae-quiet"), live(), ["--buffer", "1024"]), "-q"]));
  assert.equal(quiet.stderr, "");
});

test("an interrupted harvest of two points continues to the same bytes", async () => {
  const more = [
    "--hook",
    "blocks.0.hook_mlp_out",
    "--shard-rows",
    "200",
    "--windows",
    "3",
    "--max-norm",
    "1.3",
  ];
  const whole = folder("harvest-whole");
  ok(await sluice(harvestArgs(whole, more)));
  const cut = folder("harvest-cut");
  const shard = path.join(cut, HOOK, "shard-00002.safetensors");
  const stopped = await sluice(harvestArgs(cut, more), () => fs.existsSync(shard));
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(stopped.stderr, /(\d+) of 1500 rows are on disk, the same command continues/);
  assert.equal(fs.existsSync(path.join(cut, HOOK, "shard-00007.safetensors")), false);
  const done = ok(await sluice([...harvestArgs(cut, more), "--json"])).json();
  assert.ok((done.resumedFrom as number) >= 600, `resumed from ${done.resumedFrom}`);
  assert.deepEqual(contents(cut), contents(whole));
});

test("a finished harvest is left alone; other settings are refused by name", async () => {
  const acts = folder("acts-done");
  ok(await sluice(harvestArgs(acts)));
  const before = contents(acts);
  const again = ok(await sluice(harvestArgs(acts, ["--json"]))).json();
  assert.equal(again.resumedFrom, 1500);
  const raised = await sluice([...harvestArgs(acts), "--tokens", "1600"]);
  assert.equal(raised.code, 2);
  assert.match(raised.stderr, /holds a finished harvest of 1500 rows, not 1600/);
  const other = await sluice([...harvestArgs(acts), "--context", "12"]);
  assert.equal(other.code, 1);
  assert.match(other.stderr, /holds other activations \(source is .*"context":24.*not .*"context":12/);
  assert.deepEqual(contents(acts), before);
});

test("Ctrl-C in the training writes a checkpoint and exits with 130; the same command continues to the same bits", async () => {
  const more = ["--buffer", "512", "--log-every", "5"];
  const whole = folder("run-whole");
  ok(await sluice(trainArgs(whole, live(), more)));
  const cut = folder("run-cut");
  const lines = () => {
    const file = path.join(cut, "metrics.jsonl");
    return fs.existsSync(file) ? fs.readFileSync(file, "utf8").split("\n").length - 1 : 0;
  };
  for (const at of [3, 12]) {
    const stopped = await sluice(trainArgs(cut, live(), more), () => lines() >= at);
    assert.equal(stopped.code, 130, stopped.stderr);
    assert.match(stopped.stderr, /interrupted after step \d+ of 100; saved in/);
    assert.equal(fs.existsSync(path.join(cut, "cfg.json")), false, "no SAE before the run has ended");
  }
  const done = ok(await sluice([...trainArgs(cut, live(), more), "--json"])).json();
  assert.ok((done.resumed_from as number) > 0);
  const weights = "sae_weights.safetensors";
  assert.deepEqual(
    toFloat32(readSafetensorsSync(path.join(cut, weights)).get("W_enc")!),
    toFloat32(readSafetensorsSync(path.join(whole, weights)).get("W_enc")!),
  );
  assert.deepEqual(fs.readFileSync(path.join(cut, weights)), fs.readFileSync(path.join(whole, weights)));
  assert.equal(fs.existsSync(path.join(cut, "checkpoints")), false);
});

test("a finished run is left alone; other settings are refused by name; a strange folder is not written to", async () => {
  const out = folder("run-done");
  ok(await sluice(trainArgs(out, live(), ["--buffer", "1024"])));
  const before = contents(out);
  const again = ok(await sluice(trainArgs(out, live(), ["--buffer", "1024"])));
  assert.match(again.stderr, /holds this run already, finished; nothing was done/);
  const other = await sluice([...trainArgs(out, live(), ["--buffer", "1024"]), "--lr", "1e-3", "--k", "5"]);
  assert.equal(other.code, 2);
  assert.match(
    other.stderr,
    /finished run with other settings: sae\.activation\.k 4 instead of 5; train\.lr 0\.002 instead of 0\.001/,
  );
  const strange = await sluice(trainArgs(model, live()));
  assert.equal(strange.code, 2);
  assert.match(strange.stderr, /holds config\.json, .*, but no run; choose an empty or a new folder/);
  assert.deepEqual(contents(out), before);
});
