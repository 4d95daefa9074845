import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { run } from "./harness.ts";

const folder = await mkdtemp(join(tmpdir(), "sluice-cli-"));
after(() => rm(folder, { recursive: true }));

async function config(value: unknown): Promise<string> {
  const path = join(folder, `${Math.random()}.json`);
  await writeFile(path, typeof value === "string" ? value : JSON.stringify(value));
  return path;
}

const json = async (...argv: string[]) => {
  const { code, stdout, stderr } = await run(["sae", "train", "--json", ...argv]);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};

test("without arguments the overview lists every command and the exit code is 0", async () => {
  const { code, stdout } = await run([]);
  assert.equal(code, 0);
  for (const name of ["sae train", "sae eval", "sleep"]) assert.match(stdout, new RegExp(name));
  assert.equal((await run(["--help"])).stdout, stdout);
});

test("--version prints the version alone", async () => {
  assert.equal((await run(["--version"])).stdout, "1.2.3\n");
});

test("the name of a group lists its commands", async () => {
  const bare = await run(["sae"]);
  assert.equal(bare.code, 0);
  assert.match(bare.stdout, /sae train/);
  assert.doesNotMatch(bare.stdout, /sleep/);
  assert.equal((await run(["sae", "--help"])).stdout, bare.stdout);
});

test("an unknown command names the nearest one", async () => {
  const typo = await run(["sae", "trian"]);
  assert.equal(typo.code, 2);
  assert.match(typo.stderr, /unknown command "sae trian"; did you mean sae train/);
  assert.match((await run(["slep"])).stderr, /did you mean sleep\?/);
});

test("an unknown flag names the nearest one", async () => {
  const { code, stderr, stdout } = await run(["sae", "train", "--out", "x", "--featurs", "3"]);
  assert.equal(code, 2);
  assert.match(stderr, /--featurs/);
  assert.match(stderr, /--features/);
  assert.equal(stdout, "");
});

test("help shows groups, defaults, required options and examples, also as `sluice help …`", async () => {
  const { code, stdout } = await run(["sae", "train", "--help"]);
  assert.equal(code, 0);
  assert.match(stdout, /Usage: sluice sae train \[out\] \[options\]/);
  assert.match(stdout, /--tokens <n> +tokens to train on \(default: 500k\)/);
  assert.match(stdout, /Model:\n +--arch <topk\|relu>/);
  assert.match(stdout, /--out <text> +folder for the result \(required\)/);
  assert.match(stdout, /--no-normalize/);
  assert.match(stdout, /Common options:/);
  assert.match(stdout, /\$ sluice sae train out\/x --features 8k/);
  assert.equal((await run(["help", "sae", "train"])).stdout, stdout);
});

test("flags, defaults and positional words make the options", async () => {
  assert.deepEqual(await json("out/x", "--features", "8k", "--no-normalize", "--resume", "--hooks=a,b"), {
    features: 8000,
    arch: "topk",
    hooks: ["a", "b"],
    layers: [],
    normalize: false,
    resume: true,
    tokens: 500_000,
    out: "out/x",
  });
});

test("a flag wins over the config file, which wins over the default", async () => {
  const path = await config({ features: 64, tokens: 1000, out: "from-config" });
  const options = await json("--config", path, "--features", "128");
  assert.deepEqual(
    [options.features, options.tokens, options.out, options.arch],
    [128, 1000, "from-config", "topk"],
  );
});

test("an unknown key in the config names the nearest one", async () => {
  const { code, stderr } = await run(["sae", "train", "--config", await config({ feature: 64 })]);
  assert.equal(code, 2);
  assert.match(stderr, /unknown option "feature"; did you mean features\?/);
});

test("a wrong type in the config names the option", async () => {
  const { code, stderr } = await run([
    "sae",
    "train",
    "--config",
    await config({ features: "64", out: "x" }),
  ]);
  assert.equal(code, 2);
  assert.match(stderr, /--features "64": .*expected number/);
});

test("a config that is missing or no JSON fails with its name and exit code 1", async () => {
  const missing = await run(["sae", "train", "--config", join(folder, "none.json")]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /cannot read --config .*none\.json: no such file/);
  const broken = await run(["sae", "train", "--config", await config("{")]);
  assert.equal(broken.code, 1);
  assert.match(broken.stderr, /not valid JSON/);
});

test("a missing required option and a value out of range are usage errors", async () => {
  const missing = await run(["sae", "train"]);
  assert.equal(missing.code, 2);
  assert.match(missing.stderr, /--out is missing: folder for the result/);
  const range = await run(["sae", "train", "x", "--features", "0"]);
  assert.equal(range.code, 2);
  assert.match(range.stderr, /--features 0: .*>=1/);
});

test("superfluous words and values given twice are usage errors", async () => {
  assert.match((await run(["sae", "train", "x", "y"])).stderr, /unexpected "y"/);
  assert.match((await run(["sae", "train", "x", "--out", "y"])).stderr, /out was given twice/);
});

test("a negative number may follow its flag", async () => {
  const { stderr } = await run(["sae", "train", "x", "--lr", "-1"]);
  assert.match(stderr, /--lr -1: .*>0/);
});

test("with --json stdout holds one JSON object and nothing else", async () => {
  const { stdout, stderr } = await run(["sae", "train", "x", "--json"]);
  assert.equal(stdout.trim().split("\n").length, 1);
  assert.equal(JSON.parse(stdout).out, "x");
  assert.equal(stderr, "working\n");
});

test("without --json stdout holds the text, and --quiet silences stderr", async () => {
  const { stdout, stderr } = await run(["sae", "train", "x", "--quiet"]);
  assert.equal(stdout, "partial trained into x\n");
  assert.equal(stderr, "");
});

test("common flags may stand before the command, --config with its file too", async () => {
  assert.equal((await run(["--json", "sae", "eval"])).stdout, '{"l0":32}\n');
  const path = await config({ features: 64, out: "from-config" });
  for (const early of [["--config", path], [`--config=${path}`]]) {
    const { stdout, stderr } = await run([...early, "--json", "-q", "sae", "train"]);
    assert.equal(JSON.parse(stdout || "{}").features, 64, stderr);
  }
});

test("a command's own flags before its name are refused, and so is a missing name", async () => {
  const own = await run(["--features", "64", "sae", "train"]);
  assert.equal(own.code, 2);
  assert.match(
    own.stderr,
    /--features: before the command only --config, .* may stand; name the command first/,
  );
  const none = await run(["--config", "f.json"]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /name a command too/);
});

test("a list may be repeated, separated by commas, or a path with a comma that exists", async () => {
  const path = join(folder, "this, that.txt");
  await writeFile(path, "");
  const { hooks } = await json("x", "--hooks", path, "--hooks", "a,b", "--hooks", "c");
  assert.deepEqual(hooks, [path, "a", "b", "c"]);
});

test("help shows a default that the code works out as any other", async () => {
  const { stdout } = await run(["sae", "train", "--help"]);
  assert.match(stdout, /--batch <n> +rows per step \(default: 4096, or fewer\)/);
  assert.match(stdout, /--no-normalize +do not scale the input/);
});

test("a finding that should stop a script ends with exit code 1", async () => {
  assert.equal((await run(["unwell"])).code, 1);
});

test("an error shows its message, and its stack only with --debug", async () => {
  const plain = await run(["crash"]);
  assert.equal(plain.code, 1);
  assert.match(plain.stderr, /^error: x is undefined\n/);
  assert.doesNotMatch(plain.stderr, /harness/);
  assert.match((await run(["crash", "--debug"])).stderr, /harness/);
});

test("the first Ctrl-C lets the command save and ends with 130", async () => {
  const { code, stderr, exits } = await run(["sleep"], 1);
  assert.equal(code, 130);
  assert.match(stderr, /stopped at step 7; saved to out\/x/);
  assert.deepEqual(exits, []);
});

test("the second Ctrl-C ends at once", async () => {
  assert.deepEqual((await run(["sleep"], 2)).exits, [130]);
});
