/**
 * sae eval: which tokens it measures, what it tells meanwhile, and that both ways to the activations agree.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { TINY, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
let temp: TemporaryFolder;
let live: string[];
let acts: string;
let sae: string;
before(async () => {
  temp = temporaryFolder();
  const { model, text, cache } = await tinyWorld(temp.path);
  process.env.SLUICE_CACHE = cache;
  acts = path.join(temp.path, "acts");
  sae = path.join(temp.path, "sae");
  live = ["--model", model, "--text", text];
  const harvest = [
    "harvest",
    ...live,
    "--hook",
    HOOK,
    "--tokens",
    "1500",
    "--shard-rows",
    "400",
    "--out",
    acts,
  ];
  const train = ["sae", "train", "--activations", acts, "--k", "3", "--features", "32", "--batch", "50"];
  for (const argv of [harvest, [...train, "--tokens", "3000", "--out", sae]]) {
    const { code, stderr } = await sluice(argv);
    assert.equal(code, 0, stderr);
  }
});
after(() => temp[Symbol.dispose]());

async function evaluated(...more: string[]) {
  const ran = await sluice(["sae", "eval", "--sae", sae, "--json", ...more]);
  assert.equal(ran.code, 0, ran.stderr);
  return { json: ran.json<Record<string, number>>(), stderr: ran.stderr };
}

const few = ["--split", "all", "--tokens", "300"];

test("windows of the text are drawn by the seed, and exactly as many tokens measured as asked for", async () => {
  const first = (await evaluated(...live, ...few)).json;
  const again = (await evaluated(...live, ...few, "--seed", "0")).json;
  const other = (await evaluated(...live, ...few, "--seed", "1")).json;
  assert.deepEqual(again, first);
  assert.equal(other.tokens, 300);
  assert.notEqual(other.mse, first.mse);
  assert.notEqual(other.ce_clean, first.ce_clean);
  assert.ok(first.ce_tokens < 300 + 3 * TINY.contextLength, `${first.ce_tokens} targets`);
});

test("blocks of a store are drawn by the seed; a whole store needs no draw", async () => {
  const measured = (...more: string[]) => evaluated("--activations", acts, ...more).then(({ json }) => json);
  const [a, b] = [await measured("--tokens", "300"), await measured("--tokens", "300", "--seed", "5")];
  assert.equal(a.tokens, 300);
  assert.notEqual(a.mse, b.mse);
  assert.equal((await measured()).tokens, 1500);
  assert.deepEqual(await measured("--seed", "5"), await measured());
});

test("the histogram of densities holds every feature once", async () => {
  const { json } = await evaluated("--activations", acts);
  const { edges, counts, never } = json.density_histogram as unknown as Record<string, number[]> & {
    never: number;
  };
  assert.equal(edges.length, counts.length + 1);
  assert.equal(edges.at(-1), 0);
  assert.equal(counts.reduce((a, n) => a + n, 0) + never, 32);
  assert.equal(never, 32 * json.dead_fraction);
});

test("the tokens that the SAE was trained without are not measured, unless others are named", async () => {
  const share = async (folder: string, ...more: string[]) => {
    const ran = await sluice(["sae", "eval", "--sae", folder, "--json", ...live, ...more]);
    assert.equal(ran.code, 0, ran.stderr);
    const { tokens, ce_tokens } = ran.json<Record<string, number>>();
    return tokens / ce_tokens;
  };
  assert.ok((await share(sae)) < 1, "BOS is left out");
  assert.ok((await share(sae, "--exclude-tokens", "none")) > 1, "BOS counts, and is no target");
  const all = `${sae}-all`;
  fs.cpSync(sae, all, { recursive: true });
  const file = path.join(all, "cfg.json");
  const cfg = JSON.parse(fs.readFileSync(file, "utf8"));
  fs.writeFileSync(
    file,
    JSON.stringify({ ...cfg, metadata: { ...cfg.metadata, exclude_special_tokens: false } }),
  );
  assert.ok((await share(all)) > 1);
  assert.ok((await share(all, "--exclude-tokens", "special")) < 1);
});

test("a training's own last batch stands apart from what an evaluation measures", async () => {
  const out = path.join(temp.path, "trained");
  const argv = ["sae", "train", "--activations", acts, "--k", "3", "--features", "32", "--batch", "50"];
  const trained = (await sluice([...argv, "--tokens", "500", "--out", out, "--json"])).json();
  assert.equal(trained.tokens, 500);
  assert.equal("explained_variance" in trained, false);
  assert.equal(typeof (trained.last_record as Record<string, number>).explained_variance, "number");
});

test("every part of the evaluation reaches its end and closes its line", async () => {
  const { stderr } = await evaluated(...live, ...few);
  const lines = stderr.split("\n");
  for (const label of ["taking the mean", "measuring reconstructions", "measuring the model"]) {
    const own = lines.filter((line) => line.startsWith(label));
    assert.match(own.at(-2) ?? "", /100%/, stderr);
    assert.match(own.at(-1) ?? "", /: done in /, stderr);
  }
});
