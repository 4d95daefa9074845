/**
 * Repositories against a local server that behaves like the hub, with faults. Nothing here leaves this machine.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { downloadBlob } from "../../src/hub/download.ts";
import {
  fetchModel,
  findModel,
  findTokenizer,
  type HubOptions,
  type HubProgress,
  openRepo,
  parseModelId,
} from "../../src/hub/index.ts";
import { temporaryFolder } from "../temporary.ts";
import {
  COMMIT,
  type Fault,
  gitSha1,
  type HubRepo,
  type HubServer,
  hubServer,
  sha256,
} from "./hub-server.ts";

/** 300,000 bytes in which no two stretches are alike. */
const WEIGHTS = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * i * 31 + (i >> 8)) & 255));
const CONFIG = '{"model_type":"llama"}';
const MODEL: HubRepo = {
  name: "org/tiny",
  files: {
    "config.json": CONFIG,
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "README.md": "not needed",
    "model.safetensors": WEIGHTS,
    "onnx/model.onnx": "not needed",
  },
  lfs: ["model.safetensors"],
};
const ID = parseModelId("org/tiny")!;
const STORED = "files:/org/tiny/model.safetensors";

interface World extends AsyncDisposable {
  readonly hub: HubServer;
  readonly cache: string;
  readonly repoFolder: string;
  readonly snapshot: string;
  readonly blob: string;
  /** While the blob comes. */
  readonly partial: string;
  readonly log: string[];
  options(more?: HubOptions): HubOptions;
}

async function world(
  repo: HubRepo = MODEL,
  faults: Readonly<Record<string, readonly (Fault | undefined)[]>> = {},
) {
  const temp = temporaryFolder();
  const hub = await hubServer([repo]);
  hub.fault = (path, count) => faults[path]?.[count];
  const cache = join(temp.path, "hub");
  const repoFolder = join(cache, "models--org--tiny");
  const log: string[] = [];
  const self: World = {
    hub,
    cache,
    repoFolder,
    snapshot: join(repoFolder, "snapshots", COMMIT),
    blob: join(repoFolder, "blobs", sha256(WEIGHTS)),
    partial: join(repoFolder, "blobs", `${sha256(WEIGHTS)}.sluice.incomplete`),
    log,
    options: (more = {}) => ({
      backoffMs: 1,
      log: (line) => log.push(line),
      ...more,
      settings: {
        endpoint: hub.endpoint,
        cacheDir: cache,
        offline: false,
        token: "hf_secret",
        ...more.settings,
      },
    }),
    async [Symbol.asyncDispose]() {
      await hub[Symbol.asyncDispose]();
      temp[Symbol.dispose]();
    },
  };
  return self;
}

const ranges = ({ hub }: World) => hub.seen.filter((s) => s.host === "files").map((s) => s.range);

test("a model's files come into the layout of Python's huggingface_hub, and no others", async () => {
  await using w = await world();
  const folder = await fetchModel(ID, w.options());
  assert.equal(folder, w.snapshot);
  assert.deepEqual(fs.readdirSync(folder).sort(), [
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  assert.equal(fs.readFileSync(join(w.repoFolder, "refs", "main"), "utf8"), COMMIT);
  assert.equal(fs.readlinkSync(join(folder, "config.json")), `../../blobs/${gitSha1(Buffer.from(CONFIG))}`);
  assert.equal(fs.readlinkSync(join(folder, "model.safetensors")), `../../blobs/${sha256(WEIGHTS)}`);
  assert.deepEqual(fs.readFileSync(join(folder, "model.safetensors")), WEIGHTS);
  assert.deepEqual(fs.readFileSync(join(folder, "config.json"), "utf8"), CONFIG);
});

test("git's hash of a file, and the name of a commit, are those that git would give", () => {
  // printf 'hello\n' | git hash-object --stdin
  assert.equal(gitSha1(Buffer.from("hello\n")), "ce013625030ba8dba906f756967f9e9ca394464a");
});

test("a second time nothing is downloaded; a commit by name asks the hub nothing at all", async () => {
  await using w = await world();
  await fetchModel(ID, w.options());
  w.hub.seen.length = 0;
  await fetchModel(ID, w.options());
  assert.deepEqual(
    w.hub.seen.map(({ path }) => path),
    ["/api/models/org/tiny/revision/main"],
  );
  w.hub.seen.length = 0;
  await fetchModel(parseModelId(`org/tiny@${COMMIT}`)!, w.options());
  assert.deepEqual(w.hub.seen, []);
});

test("files that Python downloaded are used offline, without a listing of ours", async () => {
  await using w = await world();
  fs.mkdirSync(join(w.repoFolder, "blobs"), { recursive: true });
  fs.mkdirSync(join(w.repoFolder, "refs"));
  fs.mkdirSync(w.snapshot, { recursive: true });
  fs.writeFileSync(join(w.repoFolder, "refs", "main"), COMMIT);
  for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
    const blob = sha256(Buffer.from(name));
    fs.writeFileSync(join(w.repoFolder, "blobs", blob), "{}");
    fs.symlinkSync(join("../../blobs", blob), join(w.snapshot, name));
  }
  assert.equal(await fetchModel(ID, w.options({ settings: { offline: true } })), w.snapshot);
  assert.deepEqual(w.hub.seen, []);
});

test("offline it says what is missing and where it looked", async () => {
  await using w = await world();
  const offline = w.options({ settings: { offline: true } });
  await assert.rejects(fetchModel(ID, offline), (error: Error) => {
    assert.match(error.message, /org\/tiny is not in the cache, and HF_HUB_OFFLINE is set/);
    assert.ok(error.message.includes(join(w.repoFolder, "refs", "main")));
    return true;
  });
  await fetchModel(ID, w.options());
  fs.rmSync(join(w.snapshot, "tokenizer.json"));
  await assert.rejects(fetchModel(ID, offline), (error: Error) => {
    assert.match(error.message, /org\/tiny: tokenizer\.json not in the cache/);
    assert.ok(error.message.includes(w.snapshot));
    return true;
  });
});

test("a hub that cannot be reached leaves the cache, and says so", async () => {
  await using w = await world();
  await fetchModel(ID, w.options());
  const gone = w.options({ settings: { endpoint: "http://127.0.0.1:9" } });
  assert.equal(await fetchModel(ID, gone), w.snapshot);
  assert.match(w.log.join("\n"), /could not be reached .*\n.*using commit 0123456789ab of the cache/);
  await assert.rejects(
    fetchModel(parseModelId("org/other")!, gone),
    /could not be reached .*HF_HUB_OFFLINE=1/,
  );
});

test("a connection cut in the middle is taken up where it broke off", async () => {
  await using w = await world(MODEL, {
    [STORED]: [
      { kind: "cut", after: 100_000 },
      { kind: "cut", after: 50_000 },
    ],
  });
  await fetchModel(ID, w.options());
  const [first, second, third] = ranges(w);
  assert.equal(first, undefined);
  const at = (range: string | undefined) => Number(/bytes=(\d+)-/.exec(range ?? "")?.[1]);
  assert.ok(at(second) > 0 && at(second) <= 100_000, second);
  assert.ok(at(third) > at(second) && at(third) <= 150_000, third);
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
  assert.ok(!fs.existsSync(w.partial));
  assert.match(w.log.join("\n"), /model\.safetensors: the connection was lost/);
});

test("what an earlier process left in .incomplete is not downloaded again", async () => {
  await using w = await world();
  fs.mkdirSync(join(w.repoFolder, "blobs"), { recursive: true });
  fs.writeFileSync(w.partial, WEIGHTS.subarray(0, 200_000));
  const progress: HubProgress[] = [];
  await fetchModel(ID, w.options({ onProgress: (p) => progress.push(p) }));
  assert.deepEqual(ranges(w), ["bytes=200000-"]);
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
  assert.equal(progress[0].start, 200_000);
  assert.equal(progress.at(-1)!.done, progress[0].total);
  assert.ok(progress.every((p, i) => i === 0 || p.done >= progress[i - 1].done));
  assert.equal(progress.filter((p) => p.done === p.total).length, 1, "the end is told once");
});

test("what Python left is gone on with when it was not touched for an hour; until then it is Python's", async () => {
  const left = WEIGHTS.subarray(0, 200_000);
  for (const minutes of [5, 65]) {
    await using w = await world();
    const python = `${w.blob}.incomplete`;
    fs.mkdirSync(join(w.repoFolder, "blobs"), { recursive: true });
    fs.writeFileSync(python, left);
    const then = new Date(Date.now() - 60_000 * minutes);
    fs.utimesSync(python, then, then);
    await fetchModel(ID, w.options());
    assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
    assert.deepEqual(ranges(w), [minutes < 60 ? undefined : "bytes=200000-"]);
    if (minutes < 60) assert.deepEqual(fs.readFileSync(python), left);
    else assert.ok(!fs.existsSync(python));
  }
});

test("a file that is packed on the way although it must not be is taken by its content", async () => {
  await using w = await world(MODEL, { [STORED]: [{ kind: "gzip" }] });
  await fetchModel(ID, w.options());
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
});

test("a cache that cannot be written to serves what it has", async () => {
  await using w = await world();
  await fetchModel(ID, w.options());
  fs.rmSync(join(w.repoFolder, ".listing"), { recursive: true });
  fs.writeFileSync(join(w.repoFolder, ".listing"), "in the way");
  assert.equal(await fetchModel(ID, w.options()), w.snapshot);
  assert.match(w.log.join("\n"), /cannot write .*\.listing.*asked for again next time/);
});

test("a listing that breaks off is asked for again", async () => {
  const tree = `hub:/api/models/org/tiny/tree/${COMMIT}`;
  await using w = await world(MODEL, { [tree]: [{ kind: "cut", after: 5 }] });
  await fetchModel(ID, w.options());
  assert.match(w.log.join("\n"), /the connection was lost .*trying again/);
});

test("a busy hub is asked again before the commit in the cache is taken for its answer", async () => {
  const info = "hub:/api/models/org/tiny/revision/main";
  await using w = await world();
  await fetchModel(ID, w.options());
  w.log.length = 0;
  w.hub.fault = (path, count) => (path === info && count === 1 ? { kind: "status", status: 429 } : undefined);
  await fetchModel(ID, w.options());
  assert.match(w.log.join("\n"), /answered 429 .*trying again/);
  assert.doesNotMatch(w.log.join("\n"), /of the cache/);
  w.log.length = 0;
  w.hub.fault = (path) => (path === info ? { kind: "status", status: 503 } : undefined);
  assert.equal(await fetchModel(ID, w.options()), w.snapshot);
  assert.match(w.log.join("\n"), /answered 503, 5 times.*\n.*using commit 0123456789ab of the cache/);
});

test("a name that is neither a folder nor to be had says both, whatever the network", async () => {
  await using w = await world();
  const gone = w.options({ settings: { endpoint: "http://127.0.0.1:9" }, mostTries: 1 });
  await assert.rejects(
    findModel("out/brok", gone),
    /there is no folder out\/brok, and http:\/\/127.0.0.1:9 could not be reached/,
  );
  for (const name of ["gpt2", "org/name@", "./out/brok"]) {
    await assert.rejects(findModel(name, gone), (error: Error) => {
      assert.ok(error.message.startsWith(`there is no folder ${name}, and it is no id of the hub`));
      return true;
    });
  }
  assert.equal(await findModel("models", gone), undefined);
});

test("a tokenizer comes without the model's weights", async () => {
  await using w = await world();
  const found = await findTokenizer("org/tiny", w.options());
  assert.deepEqual(fs.readdirSync(found!.folder).sort(), [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  await using bare = await world({ name: "org/tiny", files: { "config.json": "{}", "vocab.json": "{}" } });
  await assert.rejects(
    findTokenizer("org/tiny", bare.options()),
    /org\/tiny has no tokenizer\.json; convert/,
  );
});

test("a server that ignores ranges sends it whole; one that cannot go on is asked from the start", async () => {
  for (const fault of [{ kind: "whole" }, { kind: "status", status: 416 }] as const) {
    await using w = await world(MODEL, { [STORED]: [fault] });
    fs.mkdirSync(join(w.repoFolder, "blobs"), { recursive: true });
    fs.writeFileSync(w.partial, WEIGHTS.subarray(0, 1000));
    await fetchModel(ID, w.options());
    assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
  }
});

test("an .incomplete that is spoilt, or longer than the file, is begun again", async () => {
  for (const left of [Buffer.alloc(1000, 1), Buffer.alloc(400_000)]) {
    await using w = await world();
    fs.mkdirSync(join(w.repoFolder, "blobs"), { recursive: true });
    fs.writeFileSync(w.partial, left);
    await fetchModel(ID, w.options());
    assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
  }
});

test("a file with another hash or another size is refused and removed", async () => {
  const changed = Buffer.from(WEIGHTS);
  changed[5] ^= 1;
  const faults: [Buffer, RegExp][] = [
    [changed, /model\.safetensors arrived with another hash than the hub lists .*removed/],
    [WEIGHTS.subarray(0, 1000), /model\.safetensors has 1000 bytes where it is served, the hub lists 300000/],
    [Buffer.concat([WEIGHTS, WEIGHTS]), /has 600000 bytes where it is served/],
  ];
  for (const [body, message] of faults) {
    await using w = await world(MODEL, { [STORED]: [{ kind: "body", body }] });
    await assert.rejects(fetchModel(ID, w.options()), message);
    assert.ok(!fs.existsSync(w.blob) && !fs.existsSync(w.partial));
    assert.ok(!fs.existsSync(join(w.snapshot, "model.safetensors")));
  }
});

test("a small file's hash is checked too", async () => {
  await using w = await world(MODEL, {
    [`hub:/org/tiny/resolve/${COMMIT}/config.json`]: [
      { kind: "body", body: Buffer.from(CONFIG.replace("l", "L")) },
    ],
  });
  await assert.rejects(fetchModel(ID, w.options()), /config\.json arrived with another hash/);
});

test("the token goes to the hub and to no other host", async () => {
  await using w = await world();
  await fetchModel(ID, w.options());
  const by = (host: string) => new Set(w.hub.seen.filter((s) => s.host === host).map((s) => s.authorization));
  assert.deepEqual([...by("hub")], ["Bearer hf_secret"]);
  assert.deepEqual([...by("files")], [undefined]);
});

test("a gated model without access says where to ask and how to log in", async () => {
  await using w = await world({ ...MODEL, gated: "hf_good" });
  const page = `ask for access on ${w.hub.endpoint}/org/tiny`;
  await assert.rejects(fetchModel(ID, w.options({ settings: { token: "" } })), (error: Error) => {
    assert.ok(error.message.includes(page), error.message);
    assert.match(error.message, /gated: .*settings\/tokens and log in: HF_TOKEN=hf_/);
    return true;
  });
  await assert.rejects(
    fetchModel(ID, w.options()),
    /gated: .*the token that was sent .* does not give access/,
  );
  await fetchModel(ID, w.options({ settings: { token: "hf_good" } }));
});

test("a repository, a revision and a file that are not there are told apart", async () => {
  await using w = await world();
  await assert.rejects(fetchModel(parseModelId("org/none")!, w.options()), /the hub has no model org\/none/);
  await assert.rejects(
    fetchModel(parseModelId("org/tiny@v2")!, w.options()),
    /the model org\/tiny has no revision "v2"/,
  );
  await using bare = await world({
    name: "org/tiny",
    files: { "config.json": "{}", "tokenizer.json": "{}", "pytorch_model.bin": "x" },
  });
  await assert.rejects(
    fetchModel(ID, bare.options()),
    /org\/tiny has no model\.safetensors; pytorch_model\.bin is not readable here/,
  );
});

test("429 waits as long as it is asked to; 5xx is tried again; both give up in the end", async () => {
  const info = "hub:/api/models/org/tiny/revision/main";
  const busy: Fault = { kind: "status", status: 429, headers: { "retry-after": "1" } };
  await using w = await world(MODEL, { [info]: [busy, { kind: "status", status: 503 }] });
  const start = performance.now();
  await fetchModel(ID, w.options());
  assert.ok(performance.now() - start >= 990);
  assert.match(w.log.join("\n"), /answered 429 \(too many requests\); trying again in 1\.0s/);

  await using always = await world();
  always.hub.fault = (path) => (path === info ? { kind: "status", status: 500 } : undefined);
  await assert.rejects(
    fetchModel(ID, always.options()),
    /answered 500, 5 times for org\/tiny; try again later/,
  );
  assert.equal(always.hub.seen.length, 5);

  await using long = await world(MODEL, { [info]: [{ ...busy, headers: { "retry-after": "3600" } }] });
  await assert.rejects(fetchModel(ID, long.options()), /asks to wait 1h 00m, 1 time/);
});

test("a file that is cut again and again without a byte is given up, and what came is kept", async () => {
  await using w = await world();
  w.hub.fault = (path, count) =>
    path === STORED ? { kind: "cut", after: count === 0 ? 1000 : 0 } : undefined;
  await assert.rejects(fetchModel(ID, w.options()), /the connection was lost again and again .*are kept in/);
  assert.ok(fs.statSync(w.partial).size > 0);
});

test("a connection that falls silent counts as lost", async () => {
  await using w = await world(MODEL, { [STORED]: [{ kind: "stall", after: 5000 }] });
  await fetchModel(ID, w.options({ idleMs: 200 }));
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
});

test("Ctrl-C leaves an .incomplete that the next run goes on from", async () => {
  await using w = await world(MODEL, { [STORED]: [{ kind: "stall", after: 120_000 }] });
  const stop = new AbortController();
  const running = fetchModel(
    ID,
    w.options({
      signal: stop.signal,
      onProgress: ({ file, done }) => {
        if (file === "model.safetensors" && done > 100_000) stop.abort();
      },
    }),
  );
  await assert.rejects(running, (error: Error & { code?: string }) => {
    assert.equal(error.code, "interrupted");
    assert.match(
      error.message,
      /of org\/tiny: model\.safetensors are kept in .*\.incomplete, the same command goes on/,
    );
    return true;
  });
  const kept = fs.statSync(w.partial).size;
  assert.ok(kept > 100_000);
  await fetchModel(ID, w.options());
  assert.equal(ranges(w).at(-1), `bytes=${kept}-`);
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
});

test("shards are those that the index names, and a listed one that is not there is an error", async () => {
  const index = (names: string[]) =>
    JSON.stringify({ weight_map: Object.fromEntries(names.map((name, i) => [`w${i}`, name])) });
  const files = {
    "config.json": "{}",
    "tokenizer.json": "{}",
    "a.safetensors": "A",
    "b.safetensors": "B",
    "c.safetensors": "C",
  };
  const withIndex = (names: string[]): HubRepo => ({
    name: "org/tiny",
    files: { ...files, "model.safetensors.index.json": index(names) },
  });
  await using w = await world(withIndex(["b.safetensors", "a.safetensors", "a.safetensors"]));
  const folder = await fetchModel(ID, w.options());
  assert.deepEqual(
    fs.readdirSync(folder).filter((f) => f.endsWith(".safetensors")),
    ["a.safetensors", "b.safetensors"],
  );
  await using bad = await world(withIndex(["z.safetensors"]));
  await assert.rejects(fetchModel(ID, bad.options()), /org\/tiny has no z\.safetensors/);
});

test("two at once download a file once", async () => {
  await using w = await world();
  await Promise.all([fetchModel(ID, w.options()), fetchModel(ID, w.options())]);
  assert.equal(ranges(w).length, 1);
  assert.deepEqual(fs.readdirSync(join(w.cache, ".locks", "models--org--tiny")), []);
});

test("the lock of a process that is gone is taken over", async () => {
  await using w = await world();
  const locks = join(w.cache, ".locks", "models--org--tiny");
  fs.mkdirSync(locks, { recursive: true });
  const gone = spawnSync(process.execPath, ["-e", ""]).pid;
  fs.writeFileSync(join(locks, `${sha256(WEIGHTS)}.sluice`), `${gone} ${hostname()}`);
  await fetchModel(ID, w.options());
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
});

test("a listing cannot name files outside of the cache, nor hashes that are no hashes", async () => {
  for (const path of ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "a\\..\\evil"]) {
    await using w = await world({ ...MODEL, files: { ...MODEL.files, [path]: "x" } });
    await assert.rejects(fetchModel(ID, w.options()), /lists a file that cannot be had/);
  }
});

test("a truncated file in the cache is noticed and downloaded again", async () => {
  await using w = await world();
  await fetchModel(ID, w.options());
  fs.truncateSync(w.blob, 10);
  await fetchModel(ID, w.options());
  assert.deepEqual(fs.readFileSync(w.blob), WEIGHTS);
  assert.match(w.log.join("\n"), /has 10 bytes, the hub lists 300000/);
});

test("ids of the hub are told from paths", () => {
  assert.deepEqual(parseModelId("org/name@refs/pr/1"), {
    type: "model",
    name: "org/name",
    revision: "refs/pr/1",
  });
  assert.deepEqual(parseModelId("hf://org/na.me-1"), {
    type: "model",
    name: "org/na.me-1",
    revision: "main",
  });
  for (const path of [
    "models",
    "./a/b",
    "/a/b",
    "a/b/c",
    "../b",
    "a/..",
    "org/name@",
    "org/name@../x",
    "a b/c",
  ]) {
    assert.equal(parseModelId(path), undefined, path);
  }
});

test("find takes a file, a folder and patterns", async () => {
  const names = ["README.md", "data/a-1.jsonl", "data/a-2.jsonl", "data/sub/b.jsonl", "x.txt"];
  await using w = await world({ name: "org/tiny", files: Object.fromEntries(names.map((n) => [n, n])) });
  const repo = await openRepo(ID, w.options());
  const find = async (path: string) => (await repo.find(path)).map((f) => f.path);
  assert.deepEqual(await find(""), names);
  assert.deepEqual(await find("data/a-1.jsonl"), ["data/a-1.jsonl"]);
  assert.deepEqual(await find("data"), ["data/a-1.jsonl", "data/a-2.jsonl", "data/sub/b.jsonl"]);
  assert.deepEqual(await find("data/*.jsonl"), ["data/a-1.jsonl", "data/a-2.jsonl"]);
  assert.deepEqual(await find("**/*.jsonl"), ["data/a-1.jsonl", "data/a-2.jsonl", "data/sub/b.jsonl"]);
  assert.deepEqual(await find("data/a-[2-9].jsonl"), ["data/a-2.jsonl"]);
  assert.deepEqual(await find("data/a-[!2].*"), ["data/a-1.jsonl"]);
  assert.deepEqual(await find("*"), ["README.md", "x.txt"]);
  await assert.rejects(find("data/[z-a].jsonl"), /the pattern "\[z-a\]\.jsonl" cannot be read/);
});

test("downloadBlob takes an empty file", async () => {
  using temp = temporaryFolder();
  const blob = join(temp.path, "blob");
  const empty = { path: "e", size: 0, etag: gitSha1(Buffer.alloc(0)) };
  const settings = { endpoint: "http://127.0.0.1:9", cacheDir: temp.path, offline: false };
  await downloadBlob(empty, "http://127.0.0.1:9/e", blob, { repo: ID }, { settings });
  assert.equal(fs.readFileSync(blob).length, 0);
});
