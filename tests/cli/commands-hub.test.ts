/**
 * Commands with models and texts of the hub (a local server), and chat.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { COMMIT, type HubServer, hubServer } from "../hub/hub-server.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let hub: HubServer;
let model: string;
const cache = () => path.join(temp.path, "hf");
const WEIGHTS = "model.safetensors";

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
