/**
 * features build, list and show on a model of two thousand parameters: against codes computed here, and after Ctrl-C and kill.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { packagePath } from "../../src/cli/package.ts";
import { openFeatureDatabase } from "../../src/interpret/index.ts";
import { openLanguageModel, openTextTokens, windowsOf } from "../../src/recipes/index.ts";
import type { PageData } from "../../src/report/index.ts";
import { encode, loadSae, sparseCodes } from "../../src/sae/index.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { startChatServer } from "../interpret/chat-server.ts";
import { saveTinyModel, TINY, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
const T = TINY.contextLength;
const CONTEXTS = 70;
let temp: TemporaryFolder;
let model: string;
let text: string;
let sae: string;
let whole: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model, text } = world);
  process.env.SLUICE_CACHE = world.cache;
  sae = folder("sae");
  whole = folder("features");
  ok(
    await sluice(
      ["sae", "train", "--model", model, "--text", text, "--hook", HOOK, "--k", "4", "--features", "48"]
        .concat(["--batch", "64", "--tokens", "3200", "--buffer", "512", "--lr", "2e-3"])
        .concat(["--out", sae]),
    ),
  );
  ok(await sluice(build(whole)));
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);
const build = (out: string, more: readonly string[] = []): string[] =>
  ["features", "build", "--sae", sae, "--model", model, "--text", text, "--out", out]
    .concat(["--tokens", String(CONTEXTS * T), "--sample", "12", "--top", "4", "--windows", "3"])
    .concat(["--backend", "ref"])
    .concat(more);

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

async function refused(argv: readonly string[], code: 1 | 2, message: RegExp): Promise<void> {
  const ran = await sluice(argv);
  assert.match(ran.stderr, message);
  assert.equal(ran.code, code, ran.stderr);
  assert.doesNotMatch(ran.stderr, /^\s+at |looks like a bug/m);
}

/** Every row of every table. */
async function contents(database: string) {
  const open = await openFeatureDatabase(database);
  try {
    const features = await open.features();
    const examples = [];
    for (const { id } of features) examples.push(await open.examples(id));
    return { index: open.index, features, examples, controls: await open.controls() };
  } finally {
    open.close();
  }
}

/** Codes of the windows that the build reads: value of each feature on each token. */
async function codesByHand() {
  const device = await createDevice({ backend: "ref" });
  const lm = await openLanguageModel(device, model);
  const loaded = await loadSae(device, sae);
  const tokens = await openTextTokens({ text: [text], split: "train", tokenizer: lm.tokenizer });
  const packer = windowsOf(lm, tokens, { shuffle: true, seed: 0 });
  const rows: { token: number; fired: Map<number, number> }[] = [];
  for (let c = 0; c < CONTEXTS; c++) {
    const ids = packer.next(1).tokens;
    const { captured } = lm.model.forward(device.tensor(ids, [1, T], "i32"), { capture: [HOOK] });
    const x = device.tensor(await captured[HOOK].floats(), [T, TINY.dModel]);
    const { values, indices } = await sparseCodes(encode(loaded.sae, x));
    const [v, i] = [await values.floats(), await indices.ints()];
    const K = v.length / T;
    for (let t = 0; t < T; t++) {
      const fired = new Map<number, number>();
      for (let s = t * K; s < (t + 1) * K; s++) if (v[s] > 0) fired.set(i[s], v[s]);
      rows.push({ token: ids[t], fired: lm.tokenizer.specialIds.has(ids[t]) ? new Map() : fired });
    }
  }
  const { specialIds } = lm.tokenizer;
  tokens.close();
  device.close();
  return { rows, measured: rows.filter((r) => !specialIds.has(r.token)).length };
}

test("the database holds what one computes from the model and the SAE by hand", async () => {
  const { rows, measured } = await codesByHand();
  const { index, features, examples } = await contents(whole);
  assert.equal(index.contexts, CONTEXTS);
  assert.equal(index.tokens, measured);
  const near = (a: number, b: number) =>
    assert.ok(Math.abs(a - b) <= 1e-5 * Math.max(1, Math.abs(b)), `${a} ${b}`);
  for (const { id, firings, density, maxActivation, meanActivation } of features) {
    const values = rows.flatMap((r) => r.fired.get(id) ?? []);
    assert.equal(firings, values.length, `feature ${id}`);
    near(density, values.length / measured);
    near(maxActivation, Math.max(0, ...values));
    if (values.length > 0) near(meanActivation!, values.reduce((a, b) => a + b) / values.length);
    for (const e of examples[id]) {
      const start = e.context * T + e.position - e.peak;
      assert.deepEqual(
        e.tokens,
        e.tokens.map((_, i) => rows[start + i].token),
      );
      e.activations.forEach((value, i) => {
        near(value, rows[start + i].fired.get(id) ?? 0);
      });
      assert.equal(e.activations[e.peak], e.activation);
    }
    const peaks = Array.from({ length: CONTEXTS }, (_, c) =>
      Math.max(...rows.slice(c * T, (c + 1) * T).map((r) => r.fired.get(id) ?? 0)),
    ).filter((v) => v > 0);
    const top = examples[id].filter((e) => e.top !== null);
    assert.equal(top.length, Math.min(4, peaks.length));
    assert.equal(examples[id].filter((e) => e.quantile !== null).length, Math.min(12, peaks.length));
    peaks.sort((a, b) => b - a);
    top.forEach((e, rank) => {
      near(e.activation, peaks[rank]);
    });
  }
  assert.ok(features.some((f) => f.promoted?.length === 10 && f.nearest.length === 10));
});

test("a build that was interrupted goes on to the same rows, and a finished one is left alone", async () => {
  const out = folder("interrupted");
  const state = path.join(out, "build", "scan", "state.safetensors");
  const args = build(out, ["--save-minutes", "0"]);
  const cut = await sluice(args, () => fs.existsSync(state));
  assert.equal(cut.code, 130, cut.stderr);
  assert.match(
    cut.stderr,
    /interrupted; \d+ of 1680 tokens are counted in .* the same command goes on from there/,
  );
  const next = ok(await sluice([...args, "--json"])).json();
  assert.ok((next.resumedFrom as number) > 0 && (next.resumedFrom as number) < CONTEXTS);
  assert.deepEqual(await contents(out), await contents(whole));
  const again = ok(await sluice([...args, "--json"])).json();
  assert.equal(again.finishedBefore, true);
});

test("a build that was killed goes on to the same rows", { timeout: 120_000 }, async () => {
  const out = folder("killed");
  const args = build(out, ["--save-minutes", "0"]);
  const state = path.join(out, "build", "scan", "state.safetensors");
  const child = spawn(process.execPath, [packagePath("dist", "src", "cli", "main.js"), ...args], {
    stdio: "ignore",
  });
  const ended = once(child, "exit");
  while (!fs.existsSync(state) && child.exitCode === null) await sleep(2);
  child.kill("SIGKILL");
  const [, signal] = await ended;
  assert.equal(signal, "SIGKILL");
  assert.equal(fs.existsSync(path.join(out, "features.parquet")), false);
  const next = ok(await sluice([...args, "--json"])).json();
  assert.ok((next.resumedFrom as number) > 0 && (next.resumedFrom as number) < CONTEXTS);
  assert.deepEqual(await contents(out), await contents(whole));
});

test("list sorts and filters, show prints passages; --json has the same", async () => {
  const args = ["features", "list", "--features", whole, "--sort", "density", "--descending", "--limit", "3"];
  const listed = ok(await sluice([...args, "--json"])).json<{
    total: number;
    features: { density: number }[];
  }>();
  assert.equal(listed.total, 48);
  const [a, b, c] = listed.features.map((f) => f.density);
  assert.ok(a >= b && b >= c);
  assert.match(ok(await sluice(args)).stdout, /^\s*id +density .*\n(.*\n){3}3 of 48 features/);
  const few = ok(
    await sluice([...args, "--json", "--min", "firings=5", "--max", "density=0.1", "--token", "d"]),
  ).json<{ features: { firings: number; density: number; topTokens: { text: string }[] }[] }>();
  for (const f of few.features) assert.ok(f.firings >= 5 && f.density <= 0.1);

  const shown = ok(await sluice(["features", "show", "3", "5", "--features", whole, "--json"])).json<{
    features: { id: number; examples: { texts: string[]; tokens: number[] }[] }[];
  }>();
  assert.deepEqual(
    shown.features.map((f) => f.id),
    [3, 5],
  );
  for (const e of shown.features[0].examples) assert.equal(e.texts.length, e.tokens.length);
  const page = ok(await sluice(["features", "show", "3", "--features", whole])).stdout;
  assert.match(page, /^feature 3\n {2}fires on .*%/);
});

test("explain shows the cost, begins only with --yes, and list and show read the result", async () => {
  const out = folder("explained");
  fs.cpSync(whole, out, { recursive: true });
  const server = await startChatServer(({ messages }) =>
    messages[0].content.includes("[EXPLANATION]") ? "[EXPLANATION]: rivers" : "[1, 0, 1, 0]",
  );
  try {
    const args = ["features", "explain", "--features", out, "--endpoint", server.url, "--model", "m"]
      .concat(["--max-features", "3", "--shown", "2", "--per-question", "4", "--key-env", "SLUICE_TEST_KEY"])
      .concat(["--prompt-price", "2", "--answer-price", "8"]);
    const cost =
      /3\.00? features|3 features: \d+ requests to m at .* about .* prompt tokens and at most .* by the prices/;
    const dry = ok(await sluice([...args, "--dry-run"]));
    assert.match(dry.stderr, cost);
    assert.match(dry.stdout, /dry run: nothing was sent/);
    const asked = await sluice([...args, "--json"]);
    assert.equal(asked.code, 1, "a script that forgot --yes notices");
    assert.equal(asked.json().started, false);
    assert.equal(server.received.length, 0);
    assert.equal(fs.existsSync(path.join(out, "answers.jsonl")), false);

    process.env.SLUICE_TEST_KEY = "secret";
    const { requests, explanations } = ok(await sluice([...args, "--yes", "--json"])).json<{
      requests: number;
      explanations: { feature: number; explanation: string }[];
    }>();
    assert.equal(requests, asked.json().requests);
    assert.equal(server.received.length, requests);
    assert.equal(server.received[0].headers.authorization, "Bearer secret");
    assert.equal(explanations.length, 3);
    const again = ok(await sluice([...args, "--yes"]));
    assert.match(again.stderr, /0 requests to m/);
    assert.match(
      again.stdout,
      /^3 features explained, median detection 0\.\d+, median fuzzing 0\.\d+ \(0 requests/,
    );
    assert.equal(server.received.length, requests);

    const id = String(explanations[0].feature);
    assert.match(
      ok(await sluice(["features", "show", id, "--features", out])).stdout,
      /\n {2}m: rivers \(detection 0\.\d+, fuzzing 0\.\d+\)/,
    );
    const listed = ok(
      await sluice(["features", "list", "--features", out, "--explained", "RIVER", "--sort", "fuzzing"]),
    );
    assert.match(listed.stdout, /rivers \(0\.\d+, 0\.\d+\)\n(.*\n)*3 of 3 features/);
  } finally {
    delete process.env.SLUICE_TEST_KEY;
    await server.close();
  }
});

test("report shows the features asked for, or a random choice, from the database alone", async () => {
  const html = folder("page.html");
  const args = ["features", "report", "--features", whole, "--out", html];
  const { features } = ok(await sluice([...args, "--count", "5", "--json"])).json<{ features: number[] }>();
  assert.equal(new Set(features).size, 5);
  assert.match(fs.readFileSync(html, "utf8"), /The 5 randomly chosen of 48/);
  ok(await sluice([...args, "7", "3"]));
  const page = fs.readFileSync(html, "utf8");
  assert.match(page, /The 2 chosen of 48/);
  const data = JSON.parse(/id="data">(.*?)<\/script>/s.exec(page)![1]) as PageData;
  const { features: expected, examples } = await contents(whole);
  for (const [n, id] of [7, 3].entries()) {
    const { counts } = data.cards[n].activations;
    assert.equal(data.cards[n].id, id);
    assert.equal(
      counts.reduce((a, b) => a + b),
      expected[id].firings,
    );
    assert.deepEqual(
      data.cards[n].contexts.map((c) => c.activations),
      examples[id]
        .filter((e) => e.top !== null)
        .map((e) => e.activations.map((a) => Number(a.toPrecision(4)))),
    );
  }
  await refused([...args, "48"], 2, /feature 48: there are 48/);
});

test("explain refuses what it cannot do by name", async () => {
  const args = ["features", "explain", "--features", whole, "--model", "m", "--endpoint"];
  const server = await startChatServer(() => "");
  const closed = server.url;
  await server.close();
  await refused([...args, "nowhere", "--dry-run"], 2, /--endpoint nowhere: not a URL; expected one such as/);
  await refused(
    [...args, closed, "--yes", "--retries", "0"],
    1,
    /the only attempt failed with: fetch failed \(ECONNREFUSED\)/,
  );
  await refused([...args, "http://x/v1", "--body", "[1]"], 2, /--body \[1\]: a JSON object was expected/);
  await refused([...args, "http://x/v1", "--score", "none,fuzzing"], 2, /none stands alone/);
  await refused([...args, "http://x/v1", "99"], 2, /feature 99: there are 48/);
  await refused(
    ["features", "list", "--features", whole, "--sort", "fuzzing"],
    2,
    /has no explanations yet; make some with sluice features explain/,
  );
});

test("wrong columns, numbers, words and folders are refused by name", async () => {
  const list = ["features", "list", "--features", whole];
  await refused([...list, "--sort", "densty"], 2, /"densty" is unknown; did you mean density/);
  await refused([...list, "--min", "density"], 2, /--min density: a column and a number were expected/);
  await refused([...list, "--token", "xylophone"], 2, /--token xylophone: no token of the vocabulary/);
  await refused(["features", "show", "48", "--features", whole], 2, /feature 48: there are 48, from 0 to 47/);
  await refused(["features", "show", "1", "--features", sae], 1, /no feature database; make one with/);
  await refused(
    build(whole, ["--seed", "1"]),
    2,
    /finished feature database with other settings: .*seed 0 instead of 1/,
  );
  const other = await saveTinyModel(folder("other"), { seed: 9 });
  await refused([...build(folder("x")), "--model", other], 1, /the SAE was trained on tiny with weights/);
  await refused(
    [...build(folder("x")), "--hook", "blocks.1.mlp.hook_post"],
    1,
    /width 16, but .* has width 24/,
  );
  assert.equal(fs.existsSync(folder("x")), false);
});
