/**
 * The file of --config: what it may look like, and what is said of it when it is wrong.
 */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { temporaryFolder } from "../temporary.ts";
import { type Outcome, run } from "./harness.ts";

const temp = temporaryFolder();
after(() => temp[Symbol.dispose]());

async function withConfig(name: string, text: string, ...more: readonly string[]): Promise<Outcome> {
  const path = join(temp.path, name);
  await writeFile(path, text);
  return run(["sae", "train", "--config", path, "--json", "-q", ...more]);
}

async function options(name: string, text: string, ...more: readonly string[]) {
  const { stdout, stderr } = await withConfig(name, text, ...more);
  assert.equal(stderr, "");
  return JSON.parse(stdout) as Record<string, unknown>;
}

async function refused(name: string, text: string, code: 1 | 2, message: RegExp): Promise<void> {
  const ran = await withConfig(name, text);
  assert.match(ran.stderr, message);
  assert.equal(ran.code, code, ran.stderr);
  assert.doesNotMatch(ran.stderr, /looks like a bug/);
}

test("YAML says the same as JSON, flags win over both", async () => {
  const json = `{"features": 64, "hooks": ["a", "b"], "normalize": false, "out": "x", "lr": 3e-4}`;
  const yaml = "# a run\nfeatures: 64\nhooks: [a, b]\nnormalize: false\nout: x\nlr: 3e-4\n";
  const expected = await options("c.json", json);
  assert.deepEqual([expected.features, expected.hooks, expected.normalize], [64, ["a", "b"], false]);
  assert.deepEqual(await options("c.yaml", yaml), expected);
  assert.deepEqual(
    await options("c.yml", json.replaceAll(" ", "\n\t")),
    expected,
    "YAML takes JSON, with tabs",
  );
  assert.equal((await options("c.yaml", yaml, "--features", "128")).features, 128);
});

test("unquoted numbers of YAML may be written as on the command line; quoted ones are texts", async () => {
  const { features, tokens, lr, batch } = await options(
    "n.yaml",
    "features: 16k\ntokens: 2M\nlr: 1/4\nbatch: 4_096\nout: x\n",
  );
  assert.deepEqual([features, tokens, lr, batch], [16_000, 2_000_000, 0.25, 4096]);
  await refused("q.yaml", 'out: x\nfeatures: "16k"\n', 2, /q\.yaml:2: --features "16k": .*number/);
});

test("one thing where a list is wanted is a list of one", async () => {
  assert.deepEqual((await options("one.yaml", "hooks: a\nfeatures: 64\nout: x\n")).hooks, ["a"]);
  assert.deepEqual((await options("one.json", '{"hooks": "a", "features": 64, "out": "x"}')).hooks, ["a"]);
});

test("aliases stand for what they name", async () => {
  const text = "features: &f 64\ntokens: *f\nout: x\n";
  assert.equal((await options("a.yaml", text)).tokens, 64);
});

test("what is wrong is said with file and line", async () => {
  await refused(
    "u.yaml",
    "out: x\n\nfeature: 64\n",
    2,
    /u\.yaml:3: unknown option "feature"; did you mean features\?/,
  );
  await refused("t.yaml", "out: x\nfeatures: many\n", 2, /t\.yaml:2: --features "many": /);
  await refused("s.yaml", "out: x\nhooks: [a\n", 1, /s\.yaml:\d: not valid YAML/);
  await refused("tab.yaml", "hooks:\n\t- a\n", 1, /tab\.yaml:2: not valid YAML: Tabs/);
  await refused("s.json", '{\n  "out": "x",\n  features: 1\n}', 1, /s\.json:3: not valid JSON/);
  await refused("cut.json", '{\n  "out": "x",\n', 1, /cut\.json:3: not valid JSON/);
  await refused(
    "d.json",
    '{\n  "out": "x",\n  "out": "y"\n}',
    1,
    /d\.json:3: not valid JSON: Map keys must be unique/,
  );
  await refused("t.json", '{\n  "out": "x",\n  "features": "64"\n}', 2, /t\.json:3: --features "64": /);
  await refused("list.yaml", "- out\n", 2, /list\.yaml: the command's options were expected/);
  await refused("empty.yaml", "", 2, /empty\.yaml: the command's options were expected/);
});

test("a wrong flag is not blamed on the file", async () => {
  const { stderr } = await withConfig("f.yaml", "out: x\nfeatures: 64\n", "--features", "0");
  assert.match(stderr, /^error: --features 0: /);
});
