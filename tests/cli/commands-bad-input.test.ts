/**
 * Bad input to the commands: each is a clear message with the right exit code, and nothing that was there is lost.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { ActivationWriter } from "../../src/store/index.ts";
import { saveText, saveTinyModel, sentences, TINY, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
let temp: TemporaryFolder;
let model: string;
let other: string;
let text: string;
let acts: string;
let sae: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model, text } = world);
  process.env.SLUICE_CACHE = world.cache;
  other = await saveTinyModel(folder("other"), { seed: 4 });
  acts = folder("acts");
  sae = folder("sae");
  for (const argv of [harvest(acts), train(sae, ["--activations", acts])]) {
    const { code, stderr } = await sluice(argv);
    assert.equal(code, 0, stderr);
  }
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);
const live = (hook = HOOK): string[] => ["--model", model, "--text", text, "--hook", hook];
const harvest = (out: string, more: readonly string[] = []): string[] =>
  ["harvest", ...live(), "--tokens", "600", "--shard-rows", "100", "--out", out].concat(more);
const train = (out: string, more: readonly string[]): string[] =>
  ["sae", "train", "--k", "3", "--features", "32", "--batch", "50", "--tokens", "2000", "--buffer", "300"]
    .concat(["--out", out])
    .concat(more);
const evaluate = (more: readonly string[]): string[] => ["sae", "eval", "--tokens", "100"].concat(more);

/** The command fails with this exit code and says this, in one line without a stack. */
async function refused(argv: readonly string[], code: 1 | 2, message: RegExp): Promise<void> {
  const ran = await sluice(argv);
  assert.match(ran.stderr, message);
  assert.equal(ran.code, code, ran.stderr);
  assert.equal(ran.stdout, "");
  assert.doesNotMatch(ran.stderr, /^\s+at |looks like a bug/m);
}

test("k above the number of features is refused before anything is written", async () => {
  const out = folder("k");
  await refused(
    train(out, ["--activations", acts, "--k", "33"]),
    2,
    /k=33 is more than the 32 features; lower k or raise features/,
  );
  assert.equal(fs.existsSync(out), false);
  await refused(evaluate(["--sae", sae, "--activations", acts, "--k", "33"]), 2, /k=33 is more than/);
});

test("an unknown hook is answered with the nearest names", async () => {
  const wrong = "blocks.1.hook_resid_pots";
  const nearest =
    /hook "blocks\.1\.hook_resid_pots" does not exist in a model of 3 layers.*did you mean .*blocks\.1\.hook_resid_post/;
  await refused([...harvest(folder("hook")), "--hook", wrong], 2, nearest);
  await refused(train(folder("hook"), live(wrong)), 2, nearest);
  await refused(evaluate(["--sae", sae, ...live(wrong)]), 2, nearest);
  assert.equal(fs.existsSync(folder("hook")), false);
  const pattern = "blocks.1.attn.hook_pattern";
  await refused(train(folder("hook"), live(pattern)), 2, /attention patterns have no fixed width/);
});

test("text that is missing, empty, too short or not held out is refused by name", async () => {
  const empty = folder("empty.txt");
  fs.writeFileSync(empty, "\n \n");
  const short = folder("short.txt");
  fs.writeFileSync(short, "the river");
  const withText = (name: string) => ["harvest", "--model", model, "--text", name, "--hook", HOOK];
  const rest = ["--tokens", "10", "--out", folder("text")];
  await refused([...withText(empty), ...rest, "--split", "all"], 1, /empty\.txt has no text/);
  await refused([...withText(short), ...rest, "--split", "all"], 2, /too few for one window of 24/);
  await refused([...withText("stou"), ...rest], 2, /no corpus is called "stou".*did you mean sotu/);
  const one = saveText(folder("few.jsonl"), 2);
  await refused(
    evaluate(["--sae", sae, "--model", model, "--text", one, "--hook", HOOK]),
    1,
    /few\.jsonl has no text in its heldout documents; split "all" takes every document/,
  );
  const bytes = folder("bytes.txt");
  fs.writeFileSync(bytes, Buffer.from([0x61, 0x62, 0xff, 0x63]));
  await refused([...withText(bytes), ...rest, "--split", "all"], 1, /bytes\.txt.*byte 2/);
});

test("an SAE of another width, point or model is refused", async () => {
  const wide = folder("sae-wide");
  assert.equal((await sluice(train(wide, live("blocks.1.mlp.hook_post")))).code, 0);
  await refused(
    evaluate(["--sae", wide, ...live()]),
    1,
    /reads activations of width 24, but tiny at .* has width 16/,
  );
  await refused(
    evaluate(["--sae", wide, "--activations", acts]),
    1,
    /trained on blocks\.1\.mlp\.hook_post, but .*acts holds blocks\.1\.hook_resid_post/,
  );
  await refused(
    evaluate(["--sae", wide, "--activations", acts, "--hook", HOOK]),
    1,
    /reads activations of width 24, but .* has width 16/,
  );
  await refused(
    evaluate(["--sae", sae, "--model", other, "--text", text]),
    1,
    /trained on tiny with weights [0-9a-f]{12}, but this is other with weights [0-9a-f]{12}/,
  );
  const foreign = folder("acts-other");
  assert.equal((await sluice(harvest(foreign, ["--model", other]))).code, 0);
  await refused(evaluate(["--sae", sae, "--activations", foreign]), 1, /harvested from other with weights/);
  await refused(harvest(foreign), 1, /holds other activations \(model is .*other.*, not .*tiny/);
  await refused(train(sae, ["--activations", foreign]), 2, /source\.model_name "tiny" instead of "other"/);
});

test("options of reading text are refused by name where the activations come from disk", async () => {
  const from = ["--sae", sae, "--activations", acts];
  await refused(evaluate([...from, "--context", "8"]), 2, /--context: only for --model and --text/);
  await refused(
    evaluate([...from, "--field", "body", "--split", "all"]),
    2,
    /--field, --split: only for --model/,
  );
});

test("fewer than two tokens are not measured", async () => {
  await refused(evaluate(["--sae", sae, "--activations", acts, "--tokens", "1"]), 2, /--tokens 1: .*>=2/);
});

test("sources that contradict each other or are missing are wrong usage", async () => {
  await refused(train(folder("x"), ["--activations", acts, ...live()]), 2, /--activations stands alone/);
  await refused(train(folder("x"), ["--model", model]), 2, /--model, --text and --hook together/);
  await refused(evaluate(["--sae", sae]), 2, /on --activations DIR, or on --model and --text together/);
  await refused(evaluate(["--sae", sae, "--activations", folder("none")]), 1, /none: no such file or folder/);
});

/** Overwrites bytes of a copy of `from`; returns the copy. */
function damaged(from: string, file: RegExp, change: (bytes: Buffer) => Buffer): string {
  const copy = fs.mkdtempSync(folder("damaged-"));
  fs.cpSync(from, copy, { recursive: true });
  const name = fs.readdirSync(copy).find((n) => file.test(n));
  assert.ok(name);
  fs.writeFileSync(path.join(copy, name), change(fs.readFileSync(path.join(copy, name))));
  return copy;
}

const badHeader = (bytes: Buffer): Buffer => {
  bytes.write("]", 8); // after the header's length
  return bytes;
};

test("a corrupt header is named: of a model, an SAE and a shard", async () => {
  const brokenModel = damaged(model, /^model\.safetensors/, badHeader);
  await refused(harvest(folder("h"), ["--model", brokenModel]), 1, /model\.safetensors.*header/);
  const brokenSae = damaged(sae, /^sae_weights/, badHeader);
  await refused(evaluate(["--sae", brokenSae, "--activations", acts]), 1, /sae_weights\.safetensors.*header/);
  const brokenActs = damaged(acts, /^shard-00002/, badHeader);
  await refused(train(folder("h"), ["--activations", brokenActs]), 1, /shard-00002\.safetensors.*header/);
});

test("a truncated, damaged or missing shard is named", async () => {
  const short = damaged(acts, /^shard-00001/, (bytes) => bytes.subarray(0, bytes.length - 1));
  await refused(
    train(folder("t"), ["--activations", short]),
    1,
    /shard-00001\.safetensors: this shard is truncated/,
  );
  const flipped = damaged(acts, /^shard-00001/, (bytes) => {
    bytes[bytes.length - 9] ^= 1;
    return bytes;
  });
  await refused(
    evaluate(["--sae", sae, "--activations", flipped]),
    1,
    /shard-00001\.safetensors: this shard is damaged/,
  );
  const missing = damaged(acts, /^shard-00001/, (bytes) => bytes);
  fs.rmSync(path.join(missing, "shard-00001.safetensors"));
  await refused(
    train(folder("t"), ["--activations", missing]),
    1,
    /shard-00001\.safetensors: this shard is missing/,
  );
});

/** Every file opened for writing whose name matches fails as on a full disk, until the returned function is called. */
function diskFull(t: TestContext, name: RegExp): () => void {
  const open = fs.promises.open;
  const mocked = t.mock.method(fs.promises, "open", async (...args: Parameters<typeof open>) => {
    const handle = await open(...args);
    if (name.test(path.basename(String(args[0])))) {
      t.mock.method(handle, "write", async () => {
        throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
      });
    }
    return handle;
  });
  return () => mocked.mock.restore();
}

test("a full disk in the middle of a harvest keeps the whole shards; the command continues when there is room", async (t) => {
  const out = folder("full");
  const room = diskFull(t, /^\.shard-00003/);
  await refused(
    harvest(out),
    1,
    /cannot write .*shard-00003\.safetensors: the disk is full; free some space/,
  );
  assert.deepEqual(fs.readdirSync(out).sort(), [
    "index.json",
    "shard-00000.safetensors",
    "shard-00001.safetensors",
    "shard-00002.safetensors",
  ]);
  room();
  assert.equal((await sluice(harvest(out))).code, 0);
  for (const name of fs.readdirSync(acts)) {
    assert.deepEqual(fs.readFileSync(path.join(out, name)), fs.readFileSync(path.join(acts, name)), name);
  }
});

test("a full disk when the SAE is saved loses nothing: the command ends the run when there is room", async (t) => {
  const out = folder("full-sae");
  const room = diskFull(t, /^\.sae_weights/);
  const argv = train(out, ["--activations", acts]);
  await refused(argv, 1, /cannot write .*sae_weights\.safetensors: the disk is full/);
  assert.equal(fs.existsSync(path.join(out, "cfg.json")), false);
  room();
  assert.equal((await sluice(argv)).code, 0);
  const weights = "sae_weights.safetensors";
  assert.deepEqual(fs.readFileSync(path.join(out, weights)), fs.readFileSync(path.join(sae, weights)));
});

/** A store whose row 77 holds `value` at dimension 5. */
async function storeWith(name: string, value: number): Promise<string> {
  const spec = {
    hook: HOOK,
    model: { id: "tiny", hash: "sha256:0" },
    width: TINY.dModel,
    dtype: "f32" as const,
    seed: 0,
    source: "made by a test",
  };
  const writer = await ActivationWriter.open(folder(name), spec, { shardRows: 100 });
  const activations = Float32Array.from({ length: 300 * TINY.dModel }, (_, i) => Math.sin(i));
  activations[77 * TINY.dModel + 5] = value;
  const zeros = new Int32Array(300);
  await writer.append({ activations, tokens: zeros, positions: zeros, documents: zeros });
  await writer.finish();
  return folder(name);
}

test("a NaN among the activations is named before it spoils a training or a measurement", async () => {
  const store = await storeWith("nan", Number.NaN);
  await refused(
    train(folder("n"), ["--activations", store]),
    1,
    /nan.shard-00000\.safetensors: row 77 \(row 77 of the store\) holds NaN at dimension 5/,
  );
  const untied = damaged(sae, /^cfg\.json/, (bytes) =>
    Buffer.from(bytes.toString().replace(/"model_hash": ".*"/, '"model_hash": "sha256:0"')),
  );
  await refused(
    evaluate(["--sae", untied, "--activations", store, "--tokens", "300"]),
    1,
    /row 77 .*holds NaN at dimension 5/,
  );
});

test("a model with NaN weights is not harvested", async () => {
  const broken = damaged(model, /^model\.safetensors/, (bytes) => {
    bytes.writeFloatLE(Number.NaN, 8 + Number(bytes.readBigUInt64LE(0))); // the first weight: in the embedding of BOS
    return bytes;
  });
  const out = folder("nan-harvest");
  const all = ["--hook", "blocks.2.hook_resid_post"];
  await refused(
    ["harvest", "--model", broken, "--text", text, ...all, "--tokens", "50", "--out", out],
    1,
    /blocks\.2\.hook_resid_post is NaN at dimension \d+ of window \d+, position \d+/,
  );
});

test("activations too large for f16 are refused, not stored as infinity", async () => {
  const huge = await saveTinyModel(folder("huge"), { spec: { ...TINY, dModel: 16 }, std: 3e4 });
  await refused(
    harvest(folder("f16"), ["--model", huge, "--dtype", "f16"]),
    1,
    /f16 ends at 65504, use --dtype f32/,
  );
});

test("a learning rate that blows the loss up stops the run and says which update did it", async () => {
  const argv = train(folder("blown"), ["--activations", acts, "--lr", "1e30", "--warmup-steps", "0"]);
  const ruined =
    /step 2 has loss .*: the update of step 1 \(lr 1e\+30\) ruined the parameters: .*there is no checkpoint before it\. A lower lr is another run/;
  await refused(argv, 1, ruined);
  assert.equal(fs.existsSync(path.join(folder("blown"), "checkpoints")), false);
});

test("the held-out part of a text is never trained on", async () => {
  const lines = sentences(300, 9);
  const marked = folder("marked.jsonl");
  fs.writeFileSync(marked, lines.map((line) => `${JSON.stringify({ text: line })}\n`).join(""));
  const count = async (split: string): Promise<number> => {
    const out = folder(`split-${split}`);
    const argv = ["harvest", "--model", model, "--text", marked, "--hook", HOOK, "--split", split];
    const ran = await sluice([...argv, "--tokens", "100000", "--windows", "64", "--out", out, "--json"]);
    return ran.json<{ rows: number }>().rows;
  };
  const [trained, heldOut, all] = [await count("train"), await count("heldout"), await count("all")];
  assert.ok(heldOut > 0 && heldOut < trained);
  assert.ok(Math.abs(trained + heldOut - all) < 60, `${trained} + ${heldOut} is about ${all}`);
});
