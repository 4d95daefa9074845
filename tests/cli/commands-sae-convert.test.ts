import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { SAE_FORMATS, SAE_RELEASES } from "../../src/formats/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

const fixtures = fileURLToPath(new URL("../../../tests/fixtures/formats/", import.meta.url));
const fixture = (name: string): string => path.join(fixtures, name);

test("sae convert writes another library's SAE in our layout, and says that nothing was lost", async () => {
  using temp = temporaryFolder();
  const out = path.join(temp.path, "lens");
  const ran = await sluice(["sae", "convert", "--sae", fixture("dl-topk-square"), "--out", out]);
  assert.equal(ran.code, 0, ran.stderr);
  assert.match(ran.stdout, /dictionary_learning to SAELens, 6 features of width 6, topk\nnothing was lost/);
  const cfg = JSON.parse(fs.readFileSync(path.join(out, "cfg.json"), "utf8"));
  assert.equal(cfg.architecture, "topk");
  assert.equal(cfg.metadata.hook_name, "blocks.3.hook_resid_post");
});

test("sae convert asks for the hook point where nothing says it, and takes it", async () => {
  using temp = temporaryFolder();
  const out = path.join(temp.path, "out");
  const argv = ["sae", "convert", "--sae", fixture("dl-autoencoder/ae.pt"), "--out", out];
  const refused = await sluice(argv);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /neither the files nor the path say at which hook point.*name it with --hook/);
  assert.equal(fs.existsSync(out), false);
  const ran = await sluice([...argv, "--hook", "blocks.1.hook_resid_post", "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  assert.deepEqual(ran.json().lost, []);
});

test("sae convert names what was lost, and refuses what would round unless it is allowed", async () => {
  using temp = temporaryFolder();
  const out = path.join(temp.path, "out");
  const argv = ["sae", "convert", "--sae", fixture("dl-gated"), "--out", out, "--to"];
  const never = await sluice([...argv, "gemma-scope", "--lossy"]);
  assert.equal(never.code, 2);
  assert.match(never.stderr, /a gated SAE has none/);
  const batch = ["sae", "convert", "--sae", fixture("dl-matryoshka"), "--out", out, "--to", "llama-scope"];
  const rounding = await sluice(batch);
  assert.equal(rounding.code, 2);
  assert.match(rounding.stderr, /cannot be written exactly.*--lossy/);
  const allowed = await sluice([...batch, "--lossy", "--json"]);
  assert.equal(allowed.code, 0, allowed.stderr);
  assert.match(JSON.stringify(allowed.json().lost), /goes into b_enc, which rounds/);
  const same = await sluice(["sae", "convert", "--sae", out, "--out", out]);
  assert.equal(same.code, 2);
  assert.match(same.stderr, /is the folder of --sae; choose another/);
  const link = path.join(temp.path, "link");
  fs.symlinkSync(out, link);
  const linked = await sluice(["sae", "convert", "--sae", out, "--out", link]);
  assert.match(linked.stderr, /is the folder of --sae; choose another/);
  const other = await sluice([...argv, "dictionary-learning"]);
  assert.equal(other.code, 2);
  assert.match(other.stderr, /holds an SAE of Llama Scope already; choose another folder/);
  assert.equal((await sluice([...batch, "--lossy"])).code, 0, "the same conversion again");
});

test("sae list finds releases by words, each with a format that is read", async () => {
  const ran = await sluice(["sae", "list", "gemma-2-9b att", "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  assert.deepEqual(
    ran.json<{ releases: { repo: string }[] }>().releases.map(({ repo }) => repo),
    ["google/gemma-scope-9b-pt-att"],
  );
  assert.match(
    (await sluice(["sae", "list"])).stdout,
    /gpt2-small-res-jb +sae-lens +jbloom\/GPT2-Small-SAEs-Reformatted/,
  );
  assert.equal((await sluice(["sae", "list", "nothing-like-it"])).code, 2);
  assert.equal(new Set(SAE_RELEASES.map(({ name }) => name)).size, SAE_RELEASES.length);
  for (const { format } of SAE_RELEASES) assert.ok(SAE_FORMATS.includes(format));
});
