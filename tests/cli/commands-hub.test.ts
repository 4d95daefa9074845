/**
 * Commands with models and texts of the hub (a local server), and chat.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { COMMIT, type HubServer, hubServer } from "../hub/hub-server.ts";
import { sentences, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let hub: HubServer;
let model: string;
const cache = () => path.join(temp.path, "hf");
const WEIGHTS = "model.safetensors";
/** Shards of about 0.6M tokens each, of which a run takes a million at a time; and a script that is no text. */
const SHARDS = 5;
const LARGE: Record<string, string> = {
  "large.py": "import datasets",
  ...Object.fromEntries(
    Array.from({ length: SHARDS }, (_, shard) => [
      `data/train-${shard}.jsonl`,
      sentences(24_000, shard + 1)
        .map((text) => `${JSON.stringify({ text })}\n`)
        .join(""),
    ]),
  ),
};

before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  model = world.model;
  const config = path.join(model, "tokenizer_config.json");
  const template =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}" +
    "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}";
  fs.writeFileSync(
    config,
    JSON.stringify({ ...JSON.parse(fs.readFileSync(config, "utf8")), chat_template: template }),
  );
  const files = Object.fromEntries(
    fs.readdirSync(model).map((name) => [name, fs.readFileSync(path.join(model, name))]),
  );
  hub = await hubServer([
    { name: "org/tiny", files, lfs: [WEIGHTS] },
    { type: "dataset", name: "org/large", files: LARGE },
    { type: "dataset", name: "org/texts", files: { "data/a.jsonl": fs.readFileSync(world.text) } },
  ]);
  Object.assign(process.env, {
    SLUICE_CACHE: world.cache,
    HF_ENDPOINT: hub.endpoint,
    HF_HUB_CACHE: path.join(cache(), "hub"),
    HF_TOKEN: "hf_x",
    HF_HUB_OFFLINE: "0",
  });
});
after(async () => {
  await hub[Symbol.asyncDispose]();
  temp[Symbol.dispose]();
});

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

const TEXT = "hf://datasets/org/texts/data/*.jsonl";
const evalArgs = (of: string, more: readonly string[] = []) =>
  ["lm", "eval", "--model", of, "--text", TEXT, "--json", "--split", "all"].concat(more);

test("Ctrl-C while a model is downloaded ends with 130; the same command goes on from there", async () => {
  const size = fs.statSync(path.join(model, WEIGHTS)).size;
  const blobs = path.join(cache(), "hub", "models--org--tiny", "blobs");
  const partial = () =>
    fs.existsSync(blobs) ? fs.readdirSync(blobs).find((name) => name.endsWith(".incomplete")) : undefined;
  hub.fault = (file, count) =>
    file.startsWith("files:") && count === 0 ? { kind: "stall", after: size >> 1 } : undefined;
  const stopped = await sluice(evalArgs("org/tiny"), () => {
    const name = partial();
    return (
      name !== undefined && fs.statSync(path.join(blobs, name), { throwIfNoEntry: false })?.size === size >> 1
    );
  });
  assert.equal(stopped.code, 130, stopped.stderr);
  assert.match(
    stopped.stderr,
    /org\/tiny: model\.safetensors are kept in .*\.incomplete, the same command goes on/,
  );
  const ran = ok(await sluice(evalArgs("org/tiny")));
  assert.match(ran.stderr, /downloading org\/tiny .*bytes/);
  assert.ok(hub.seen.some(({ host, range }) => host === "files" && range === `bytes=${size >> 1}-`));
});

test("a model and a text of the hub give the numbers of the folder and the file; offline too", async () => {
  type Scores = Record<string, number | string>;
  const { model: _, ...local } = ok(await sluice(evalArgs(model))).json<Scores>();
  const { model: name, ...remote } = ok(await sluice(evalArgs("org/tiny"))).json<Scores>();
  assert.equal(name, "org/tiny");
  assert.deepEqual(remote, local);
  hub.seen.length = 0;
  process.env.HF_HUB_OFFLINE = "1";
  try {
    const { model: __, ...offline } = ok(await sluice(evalArgs(`org/tiny@${COMMIT}`))).json<Scores>();
    assert.deepEqual(offline, local);
    assert.deepEqual(hub.seen, []);
    const missing = await sluice(evalArgs("org/none"));
    assert.equal(missing.code, 1);
    assert.match(
      missing.stderr,
      /org\/none is not in the cache, and HF_HUB_OFFLINE is set: there is no .*refs/,
    );
  } finally {
    process.env.HF_HUB_OFFLINE = "0";
  }
});

test("a path that exists is a folder, whatever the hub has", async () => {
  const before = process.cwd();
  process.chdir(temp.path);
  try {
    fs.mkdirSync("org");
    fs.cpSync(model, "org/tiny", { recursive: true });
    hub.seen.length = 0;
    ok(
      await sluice([
        "lm",
        "generate",
        "--model",
        "org/tiny",
        "--prompt",
        "the river",
        "--max-new-tokens",
        "3",
      ]),
    );
    assert.deepEqual(hub.seen, []);
  } finally {
    process.chdir(before);
  }
  const neither = await sluice(["lm", "generate", "--model", "org/none"]);
  assert.equal(neither.code, 1);
  assert.match(neither.stderr, /there is no folder org\/none, and the hub has no model org\/none/);
});

test("lm eval has strided windows", async () => {
  const side = ok(await sluice(evalArgs(model, ["--context", "16"]))).json<Record<string, number>>();
  const strided = ok(await sluice(evalArgs(model, ["--context", "16", "--stride", "4"]))).json<
    Record<string, number>
  >();
  assert.deepEqual([strided.context, strided.stride], [16, 4]);
  assert.ok(strided.tokens >= side.tokens && strided.tokens < side.tokens + 16);
  const wrong = await sluice(evalArgs(model, ["--context", "16", "--stride", "17"]));
  assert.match(wrong.stderr, /stride=17/);
  assert.equal(wrong.code, 2);
});

test("lm generate --chat puts the message into the model's template", async () => {
  const generate = (...more: string[]) =>
    sluice(["lm", "generate", "--model", model, "--max-new-tokens", "4", "--temperature", "0", ...more]);
  const chat = ok(await generate("--chat", "the river", "--json")).json<{
    prompt_tokens: number;
    texts: { text: string }[];
  }>();
  const same = ok(await generate("--prompt", "the river\n> ", "--json")).json<typeof chat>();
  assert.equal(chat.prompt_tokens, same.prompt_tokens);
  assert.deepEqual(chat.texts, same.texts);
  assert.equal(ok(await generate("--chat", "the river")).stdout, `${chat.texts[0].text}\n`);
  const system = await generate("--chat", "the river", "--system", "Be brief.");
  assert.equal(system.code, 1);
  assert.match(system.stderr, /does not take these messages \(system, user\): no system message/);
  for (const args of [
    ["--chat", "a", "--prompt", "b"],
    ["--system", "a"],
  ]) {
    assert.equal((await generate(...args)).code, 2);
  }
});

/** Shards that the hub was asked for since `clear`. */
const shardsAsked = () =>
  [
    ...new Set(
      hub.seen.map(({ path }) => /resolve\/.*train-(\d)/.exec(path)?.[1]).filter((n) => n !== undefined),
    ),
  ].sort();
const clear = () => {
  hub.seen.length = 0;
};
/** Forgets what was downloaded and tokenised. */
const forget = () => {
  clear();
  fs.rmSync(path.join(cache(), "hub", "datasets--org--large"), { recursive: true, force: true });
  fs.rmSync(path.join(process.env.SLUICE_CACHE ?? "", "tokens"), { recursive: true, force: true });
};
const sameFile = (a: string, b: string) =>
  assert.ok(fs.readFileSync(a).equals(fs.readFileSync(b)), `${a} is not ${b}`);

const LARGE_TEXT = "hf://datasets/org/large";

test("a harvest fetches only the shards that its tokens reach, and is the same when it is interrupted", async () => {
  forget();
  const harvest = (out: string, tokens: number, until?: () => boolean) => {
    const args = ["harvest", "--model", model, "--text", LARGE_TEXT, "--hook", "blocks.0.hook_resid_post"];
    const more = [
      "--tokens",
      String(tokens),
      "--windows",
      "64",
      "--shard-rows",
      "4096",
      "--out",
      path.join(temp.path, out),
    ];
    return sluice([...args, ...more], until);
  };
  ok(await harvest("acts", 20_000));
  assert.deepEqual(shardsAsked(), ["0", "1"]);
  forget();
  const shard = path.join(temp.path, "acts-2", "shard-00000.safetensors");
  const stopped = await harvest("acts-2", 20_000, () => fs.existsSync(shard));
  assert.equal(stopped.code, 130, stopped.stderr);
  ok(await harvest("acts-2", 20_000));
  for (const name of fs.readdirSync(path.join(temp.path, "acts")).filter((n) => n.endsWith(".safetensors")))
    sameFile(path.join(temp.path, "acts", name), path.join(temp.path, "acts-2", name));
});

test("an SAE trained on a text of the hub fetches what it reads, and evaluates on the beginning of the rest", async () => {
  forget();
  const out = path.join(temp.path, "sae");
  const text = ["--model", model, "--text", LARGE_TEXT];
  const shape = [
    "--hook",
    "blocks.1.hook_resid_post",
    "--features",
    "32",
    "--k",
    "4",
    "--batch",
    "256",
    "--buffer",
    "4096",
  ];
  ok(await sluice(["sae", "train", ...text, ...shape, "--tokens", "8k", "--out", out]));
  assert.deepEqual(shardsAsked(), ["0", "1"]);
  clear();
  const finished = ok(
    await sluice(["sae", "train", ...text, ...shape, "--tokens", "8k", "--out", out, "--json"]),
  );
  assert.equal(finished.json<{ finished_before: boolean }>().finished_before, true);
  ok(await sluice(["sae", "eval", "--sae", out, ...text, "--tokens", "2k"]));
  assert.ok(shardsAsked().length <= 1, "at most the third, for 3 % of a million");
});

const lmArgs = (out: string, tokens: number) => {
  const sizes = [
    "--d",
    "8",
    "--layers",
    "1",
    "--heads",
    "1",
    "--kv-heads",
    "1",
    "--ffn",
    "8",
    "--context",
    "16",
    "--batch",
    "8",
  ];
  const more = [
    "--warmup",
    "1",
    "--schedule",
    "constant",
    "--log-every",
    "5",
    "--validate-every",
    "20",
    "--checkpoint-every",
    "5",
  ];
  return [
    "lm",
    "train",
    "--text",
    LARGE_TEXT,
    "--tokens",
    String(tokens),
    ...sizes,
    ...more,
    "--out",
    path.join(temp.path, out),
  ];
};

test("lm train fetches only the shards that it reads; it goes on to the same bits, also for more tokens", async () => {
  forget();
  const run = (out: string, tokens: number, until?: () => boolean) =>
    sluice([...lmArgs(out, tokens), "--tokenizer", model, "--validation-windows", "16"], until);
  const ran = ok(await run("lm", 8_000));
  assert.deepEqual(shardsAsked(), ["0", "1"]);
  assert.match(ran.stdout, /held-out, nats a token:\n {2}hf:\/\/datasets\/org\/large/);
  forget();
  const state = path.join(temp.path, "lm-2", "state.safetensors");
  const stopped = await run("lm-2", 8_000, () => fs.existsSync(state));
  assert.equal(stopped.code, 130, stopped.stderr);
  clear();
  ok(await run("lm-2", 8_000));
  assert.deepEqual(shardsAsked(), []);
  for (const name of ["model.safetensors", "state.safetensors"])
    sameFile(path.join(temp.path, "lm", name), path.join(temp.path, "lm-2", name));
  // The tokenised stretch is gone; the windows are the same.
  fs.rmSync(path.join(process.env.SLUICE_CACHE ?? "", "tokens"), { recursive: true });
  ok(await run("lm", 12_000));
  ok(await run("lm-3", 12_000));
  sameFile(
    path.join(temp.path, "lm", "model.safetensors"),
    path.join(temp.path, "lm-3", "model.safetensors"),
  );
});

test("lm train takes the tokenizer of a model of the hub, without its weights", async () => {
  fs.rmSync(path.join(cache(), "hub", "models--org--tiny"), { recursive: true, force: true });
  clear();
  ok(await sluice([...lmArgs("lm-hub", 8_000), "--tokenizer", "org/tiny", "--validation-windows", "16"]));
  assert.ok(!hub.seen.some(({ path: asked }) => asked.includes(WEIGHTS)));
  sameFile(path.join(temp.path, "lm", "tokenizer.json"), path.join(temp.path, "lm-hub", "tokenizer.json"));
  sameFile(path.join(temp.path, "lm-hub", "tokenizer.json"), path.join(model, "tokenizer.json"));
  const none = await sluice([...lmArgs("lm-none", 8_000), "--tokenizer", "org/none"]);
  assert.equal(none.code, 1);
  assert.match(none.stderr, /there is no folder org\/none, and the hub has no model org\/none/);
  assert.ok(!fs.existsSync(path.join(temp.path, "lm-none")));
});
