/**
 * lm train, lm eval and lm generate on models of a few thousand parameters.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { loadTokenizer, openText, tokenizeDocuments } from "../../src/text/index.ts";
import { packageRoot } from "../golden.ts";
import { saveText, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

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
const readJson = (...parts: string[]) => JSON.parse(fs.readFileSync(path.join(...parts), "utf8"));

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

/** 40 steps of a model of three thousand parameters. */
const trainArgs = (out: string, more: readonly string[] = []): string[] =>
  ["lm", "train", "--text", text, "--vocab", "300", "--out", out]
    .concat([
      "--d",
      "8",
      "--layers",
      "2",
      "--heads",
      "2",
      "--kv-heads",
      "1",
      "--ffn",
      "16",
      "--context",
      "16",
    ])
    .concat(["--batch", "4", "--tokens", "2560", "--lr", "1e-2", "--warmup", "5", "--log-every", "5"])
    .concat(["--validate-every", "10", "--checkpoint-every", "7", "--threads", "1"])
    .concat(more);

test("lm train makes a model with its tokenizer that lm eval and lm generate take", async () => {
  const out = folder("run");
  const run = ok(await sluice(trainArgs(out, ["--json"]))).json<{
    steps: number;
    tokens: number;
    final: { loss: number; validation: Record<string, number> };
  }>();
  assert.equal(run.steps, 40);
  assert.equal(run.tokens, 2560);
  assert.ok(run.final.loss < 5, `${run.final.loss}, at the start it was ln 300 = 5.7`);
  assert.deepEqual(Object.keys(run.final.validation), [text]);
  assert.equal(readJson(out, "run.json").steps, 40);
  assert.equal(readJson(out, "config.json").torch_dtype, "float16");
  assert.equal(readJson(out, "config.json").pad_token_id, 2);
  assert.equal((await loadTokenizer(out)).vocabSize, 300);

  const scored = ok(await sluice(["lm", "eval", "--model", out, "--text", text, "--json"])).json<
    Record<string, number> & { texts: Record<string, { loss: number }> }
  >();
  assert.ok(Math.abs(scored.loss - run.final.validation[text]) < 0.02, "f16 weights, the same held-out text");
  assert.ok(Math.abs(scored.perplexity - Math.exp(scored.loss)) < 1e-9);
  const bits = (scored.loss * scored.tokens) / Math.LN2;
  assert.ok(Math.abs(scored.bits_per_byte - bits / scored.bytes) < 1e-9);
  assert.equal(scored.texts[text].loss, scored.loss);
});

test("an interrupted lm train ends with 130 and a checkpoint; the same command continues to the same bytes", async () => {
  const whole = folder("whole");
  const parts = folder("parts");
  ok(await sluice(trainArgs(whole)));
  const checkpoint = path.join(parts, "state.safetensors");
  const stopped = await sluice(trainArgs(parts), () => fs.existsSync(checkpoint));
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(stopped.stderr, /interrupted at step \d+ of 40; run the same command again/);
  assert.ok(!fs.existsSync(path.join(parts, "model.safetensors")));
  ok(await sluice(trainArgs(parts)));
  for (const name of ["model.safetensors", "state.safetensors", "tokenizer.json", "config.json"]) {
    const bytes = (of: string) => fs.readFileSync(path.join(of, name));
    assert.ok(bytes(parts).equals(bytes(whole)), name);
  }
});

test("other settings do not continue a run, more tokens do, and --export-only writes what is there", async () => {
  const out = folder("again");
  ok(await sluice(trainArgs(out)));
  const other = await sluice(trainArgs(out, ["--lr", "2e-3"]));
  assert.equal(other.code, 1);
  assert.match(other.stderr, /another run \(lr 0\.01 there, 0\.002 here\)/);
  const another = saveText(folder("other.jsonl"), 100, 9);
  const moved = await sluice(trainArgs(out).map((arg) => (arg === text ? another : arg)));
  assert.match(moved.stderr, /another run \(text \d+ there, \d+ here/);
  fs.rmSync(path.join(out, "model.safetensors"));
  const written = ok(await sluice(trainArgs(out, ["--export-only", "--dtype", "f32", "--json"]))).json();
  assert.equal(written.step, 40);
  assert.equal(readJson(out, "config.json").torch_dtype, "float32");
  for (const [flags, told] of [
    [["--rope-theta", "500"], /positions .*10000.*, not .*500/],
    [["--kv-routing", "average"], /kvRouting undefined, not .*average/],
  ] as const) {
    const strange = await sluice(trainArgs(out, ["--export-only", ...flags]));
    assert.equal(strange.code, 2);
    assert.match(strange.stderr, told);
  }
  const longer = ok(await sluice(trainArgs(out, ["--tokens", "3200", "--json"]))).json();
  assert.equal(longer.steps, 50);
});

test("token files train and are scored by name; the tokenizer must be theirs", async () => {
  const tokenizer = await loadTokenizer(model);
  const data = folder("data");
  for (const [name, split] of [
    ["train", "train"],
    ["held/a", "heldout"],
    ["held/b", "heldout"],
  ] as const) {
    const documents = await openText(text, { split });
    await tokenizeDocuments(documents, tokenizer, path.join(data, `${name}.tokens`), { source: name });
  }
  const out = folder("files");
  const args = trainArgs(out, ["--json"]).filter((arg) => arg !== "--text" && arg !== text);
  const files = ["--tokens-file", path.join(data, "train.tokens"), "--held-out", path.join(data, "held")];
  const run = ok(await sluice([...args, ...files, "--tokenizer", model, "--segments"])).json<{
    segments: boolean;
    final: { validation: object };
  }>();
  assert.equal(run.segments, true);
  assert.deepEqual(Object.keys(run.final.validation), ["a", "b"]);
  const heldOut = path.join(data, "held");
  const table = ok(
    await sluice(["lm", "eval", "--model", model, "--tokens-file", heldOut, "--windows", "3"]),
  );
  assert.match(table.stdout, /^text .*nats\/token.*\na .*\nb .*\nall .*\n$/);
  const strange = await sluice(["lm", "eval", "--model", folder("run"), "--tokens-file", heldOut]);
  assert.match(strange.stderr, /was made with another tokenizer/);
  const fresh = [...args, ...files].map((arg) => (arg === out ? folder("files2") : arg));
  assert.match((await sluice(fresh)).stderr, /token files need the tokenizer/);
});

test("lm train asks for exactly one text, and names numbers that do not fit", async () => {
  const base = ["lm", "train", "--out", folder("bad")];
  const none = await sluice(base);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /one of --text, --mix and --tokens-file/);
  const odd = await sluice([...trainArgs(folder("bad2")), "--heads", "3"]);
  assert.equal(odd.code, 2);
  assert.match(odd.stderr, /d=8 is no multiple of heads=3/);
  const wrong = await sluice(["lm", "train", "--text", folder("nowhere.txt"), "--out", folder("bad3")]);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /no corpus is called .*nowhere\.txt.*, and there is no such file or folder/);
});

test("an empty text is an error that says so", async () => {
  const empty = folder("empty.txt");
  fs.writeFileSync(empty, "\n");
  const ran = await sluice(["lm", "train", "--text", empty, "--out", folder("bad4")]);
  assert.equal(ran.code, 1);
  assert.match(ran.stderr, /empty\.txt has no text/);
});

const generate = (...more: string[]): Promise<Ran> =>
  sluice(["lm", "generate", "--model", model, "--threads", "1", "--max-new-tokens", "8", ...more]);

test("lm generate streams the text, and --json has the same with its tokens", async () => {
  const plain = ok(await generate("--prompt", "the river", "--seed", "3"));
  const { texts, prompt_tokens } = ok(await generate("the river", "--seed", "3", "--json")).json<{
    texts: { text: string; tokens: number[]; finish: string }[];
    prompt_tokens: number;
  }>();
  assert.equal(plain.stdout, `the river${texts[0].text}\n`);
  assert.ok(texts[0].tokens.length <= 8 && prompt_tokens > 1);
  const other = ok(await generate("the river", "--seed", "4", "--json")).json<{ texts: unknown[] }>();
  assert.notDeepEqual(other.texts, texts);
});

test("lm generate writes several samples, the first of them as it is alone", async () => {
  const alone = ok(await generate("gold", "--json")).json<{ texts: unknown[] }>();
  const three = ok(await generate("gold", "--json", "--samples", "3")).json<{ texts: unknown[] }>();
  assert.equal(three.texts.length, 3);
  assert.deepEqual(three.texts[0], alone.texts[0]);
  const shown = ok(await generate("gold", "--samples", "2"));
  assert.equal(shown.stdout.split("---").length, 2);
});

test("lm generate slides past the context or says that the prompt is too long", async () => {
  const long = "the river falls over the old bright gravel and ".repeat(6);
  const refused = await generate(long);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /leave no room in a context of 24/);
  const { texts } = ok(await generate(long, "--slide", "--json", "--max-new-tokens", "30")).json<{
    texts: { tokens: number[]; finish: string }[];
  }>();
  assert.ok(texts[0].tokens.length === 30 || texts[0].finish === "stop");
});

test("lm generate refuses settings that mean nothing", async () => {
  for (const [flag, value] of [
    ["--temperature", "-1"],
    ["--top-p", "0"],
    ["--top-k", "1.5"],
    ["--max-new-tokens", "0"],
  ]) {
    const ran = await generate("x", flag, value);
    assert.equal(ran.code, 2, ran.stderr);
    assert.ok(ran.stderr.includes(flag), ran.stderr);
  }
});

test("the config of the bundled model's run is one that lm train takes", async () => {
  const runs = path.join(packageRoot(), "runs");
  const config = readJson(runs, "brook.json");
  assert.deepEqual(Object.keys(readJson(runs, "brook-mix.json").parts[0]), ["corpus", "share", "maxEpochs"]);
  const ran = await sluice([
    "lm",
    "train",
    "--config",
    path.join(runs, "brook.json"),
    "--heads",
    "7",
    "--export-only",
    "--tokenizer",
    model,
    "--out",
    folder("brook"),
  ]);
  assert.match(ran.stderr, /d=256 is no multiple of heads=7/);
  assert.equal(config.context, 256);
});
