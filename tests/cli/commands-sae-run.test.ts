/**
 * SAE runs at the command level: what they refuse, what survives when they fail, and what they record.
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import * as path from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { lockFolder } from "../../src/sae/index.ts";
import { readJson } from "../../src/util/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
const WEIGHTS = "sae_weights.safetensors";
let temp: TemporaryFolder;
let model: string;
let text: string;
/** Its embedding of BOS holds a NaN. */
let broken: string;
let acts: string;
let whole: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model, text } = world);
  process.env.SLUICE_CACHE = world.cache;
  broken = folder("broken");
  fs.cpSync(model, broken, { recursive: true });
  const weights = path.join(broken, "model.safetensors");
  const bytes = fs.readFileSync(weights);
  bytes.writeFloatLE(Number.NaN, 8 + Number(bytes.readBigUInt64LE(0))); // the first weight: in the embedding of BOS
  fs.writeFileSync(weights, bytes);
  acts = folder("the acts");
  whole = folder("whole");
  ok(await sluice(harvest(acts)));
  ok(await sluice(train(whole)));
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);
const live = (): string[] => ["--model", model, "--text", text, "--hook", HOOK];
const harvest = (out: string, more: readonly string[] = []): string[] =>
  ["harvest", ...live(), "--tokens", "600", "--shard-rows", "100", "--out", out].concat(more);
const train = (out: string, source: readonly string[] = ["--activations", acts]): string[] =>
  ["sae", "train", "--k", "3", "--features", "32", "--batch", "50", "--tokens", "2000", "--buffer", "300"]
    .concat(["--log-every", "1", "--out", out])
    .concat(source);
const bytesOf = (out: string): Buffer => fs.readFileSync(path.join(out, WEIGHTS));

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

test("NaN from the live model is named by window and token, also where norms are judged", async () => {
  const named =
    /blocks\.1\.hook_resid_post is NaN at dimension \d+ of window \d+, position \d+ \(token \d+\)/;
  const source = [...live(), "--model", broken];
  await refused(train(folder("nan"), [...source, "--max-norm", "10"]), 1, named);
  await refused(train(folder("nan-2"), source), 1, named);
  await refused(harvest(folder("nan-3"), ["--model", broken, "--max-norm", "10"]), 1, named);
  assert.equal(fs.existsSync(folder("nan-3")), false);
});

test("a norm limit that no row meets is an error, for training and for a harvest, which leaves nothing", async () => {
  const none =
    /a whole pass over the text \(\d+ windows\) gave no row: of \d+ tokens \d+ were left out .* raise --max-norm/;
  await refused(train(folder("none"), [...live(), "--max-norm", "1e-9"]), 1, none);
  const out = folder("none-acts");
  await refused(harvest(out, ["--max-norm", "1e-9"]), 1, none);
  assert.equal(fs.existsSync(out), false);
  ok(await sluice(harvest(out)));
});

test("points named twice are one point, in the folder itself", async () => {
  const out = folder("twice");
  const ran = ok(await sluice([...harvest(out, ["--json"]), "--hook", HOOK])).json();
  assert.deepEqual(ran.folders, [out]);
});

test("flags of the live model are refused beside --activations", async () => {
  for (const [flag, value] of [
    ["--max-norm", "0"],
    ["--windows", "16"],
    ["--context", "12"],
    ["--split", "train"],
    ["--field", "body"],
    ["--exclude-tokens", "none"],
  ]) {
    await refused(
      train(folder("x"), ["--activations", acts, flag, value]),
      2,
      new RegExp(`${flag}: only for --model`),
    );
  }
  assert.equal(fs.existsSync(folder("x")), false);
});

test("the tokens to leave out can be chosen, and are recorded", async () => {
  const labels = async (
    name: string,
    spec: string,
  ): Promise<{ excludeTokens: number[]; skipped: number }> => {
    const out = folder(`exclude-${name}`);
    const ran = ok(await sluice(harvest(out, ["--exclude-tokens", spec, "--json"]))).json<{
      skipped: { special: number };
    }>();
    const { source } = readJson(path.join(out, "index.json")) as { source: { excludeTokens: number[] } };
    return { excludeTokens: source.excludeTokens, skipped: ran.skipped.special };
  };
  assert.deepEqual(await labels("none", "none"), { excludeTokens: [], skipped: 0 });
  const special = (readJson(path.join(acts, "index.json")) as { source: { excludeTokens: number[] } }).source
    .excludeTokens;
  assert.ok(special.includes(0) && special.includes(1), "BOS and EOS by default");
  const more = await labels("more", "special,40,t");
  assert.equal(more.excludeTokens.length, special.length + 2);
  assert.ok(more.excludeTokens.includes(40) && more.skipped > 0);
  await refused(
    harvest(folder("e"), ["--exclude-tokens", "9999"]),
    2,
    /"9999": the tokenizer has only \d+ ids/,
  );
  await refused(
    harvest(folder("e"), ["--exclude-tokens", "no such word"]),
    2,
    /this is \d+ tokens .*, not one/,
  );

  const out = folder("exclude-run");
  ok(await sluice(train(out, [...live(), "--exclude-tokens", "0"])));
  const run = readJson(path.join(out, "run.json")) as { settings: { source: Record<string, unknown> } };
  assert.deepEqual(run.settings.source.excludeTokens, [0]);
  assert.deepEqual(run.settings.source.exclude_special_tokens, [0]);
  await refused(train(out, live()), 2, /source\.exclude_special_tokens/);
});

/** Writes to matching files fail as on a full disk, from the `after`-th on, until the returned function is called. */
function diskFull(t: TestContext, name: RegExp, method: "open" | "openSync", after = 0): () => void {
  const full = () => Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  if (method === "open") {
    const { open } = fs.promises;
    const mocked = t.mock.method(fs.promises, "open", async (...args: Parameters<typeof open>) => {
      const handle = await open(...args);
      if (!name.test(String(args[0]))) return handle;
      t.mock.method(handle, "write", async () => {
        throw full();
      });
      return handle;
    });
    return () => mocked.mock.restore();
  }
  const { openSync, writeSync } = fs;
  const handles = new Set<number>();
  let left = after;
  const opened = t.mock.method(fs, "openSync", (...args: Parameters<typeof openSync>) => {
    const handle = openSync(...args);
    if (name.test(String(args[0]))) handles.add(handle);
    else handles.delete(handle);
    return handle;
  });
  const written = t.mock.method(fs, "writeSync", (handle: number, data: Uint8Array, ...rest: number[]) => {
    if (!handles.has(handle) || left-- > 0) return writeSync(handle, data, ...rest);
    writeSync(handle, data, 0, 7); // a part of the line fits
    throw full();
  });
  syncBuiltinESMExports();
  return () => {
    opened.mock.restore();
    written.mock.restore();
    syncBuiltinESMExports();
  };
}

/** A checkpoint after every step. */
const everyStep = (): string[] => ["--activations", acts, "--checkpoint-minutes", "1e-9"];

test("a full disk at a checkpoint keeps the one before it; the same command ends with the same bytes", async (t) => {
  const out = folder("full-checkpoint");
  const argv = train(out, everyStep());
  const room = diskFull(t, /\.step-00000013\.tmp-/, "open");
  await refused(argv, 1, /cannot write .*step-00000013.*: the disk is full; free some space/);
  assert.deepEqual(fs.readdirSync(path.join(out, "checkpoints")).sort(), ["step-00000011", "step-00000012"]);
  assert.equal(fs.existsSync(path.join(out, ".lock")), false);
  room();
  const { resumed_from } = ok(await sluice([...argv, "--json"])).json();
  assert.equal(resumed_from, 12);
  assert.deepEqual(bytesOf(out), bytesOf(whole));
});

test("a full disk at metrics.jsonl keeps the checkpoint; the same command ends with the same bytes and lines", async (t) => {
  const out = folder("full-metrics");
  const argv = train(out, everyStep());
  const room = diskFull(t, /metrics\.jsonl$/, "openSync", 20);
  await refused(argv, 1, /cannot write .*metrics\.jsonl: the disk is full/);
  assert.deepEqual(fs.readdirSync(path.join(out, "checkpoints")).sort(), ["step-00000019", "step-00000020"]);
  room();
  assert.equal(ok(await sluice([...argv, "--json"])).json().resumed_from, 20);
  assert.deepEqual(bytesOf(out), bytesOf(whole));
  const steps = fs.readFileSync(path.join(out, "metrics.jsonl"), "utf8").trim().split("\n");
  assert.deepEqual(
    steps.map((line) => JSON.parse(line).step),
    Array.from({ length: 40 }, (_, i) => i + 1),
  );
});

test("a folder that a living run holds is refused, and free when that has ended", async () => {
  const out = folder("busy");
  const unlock = lockFolder(out);
  await refused(train(out), 2, /busy is in use by another job of this process/);
  unlock();
  ok(await sluice(train(out)));
  assert.equal(fs.existsSync(path.join(out, ".lock")), false);
});

test("run.json names version, backend and commit; another backend is another run", async (t) => {
  const run = readJson(path.join(whole, "run.json")) as {
    version: string;
    commit?: string;
    settings: { backend: string };
  };
  assert.match(run.version, /^\d+\./);
  assert.match(run.commit ?? "0".repeat(40), /^[0-9a-f]{40,64}$/);
  if (run.settings.backend !== "native") return t.skip("there is one backend only");
  const other = [...train(whole), "--backend", "ref"];
  await refused(other, 2, /finished run with other settings: backend "native" instead of "ref"/);
});

test("checkpoints that a finished run left, killed at its very end, go when it is found finished", async () => {
  const out = folder("leftovers");
  fs.cpSync(whole, out, { recursive: true });
  fs.mkdirSync(path.join(out, "checkpoints", "step-00000040"), { recursive: true });
  ok(await sluice(train(out)));
  assert.equal(fs.existsSync(path.join(out, "checkpoints")), false);
});

test("the command that the result names measures the SAE as it stands", async () => {
  for (const source of [["--activations", acts], live()]) {
    const { stdout } = ok(await sluice(train(folder(`my sae ${source.length}`), source)));
    const next = /Next: (.*)$/m.exec(stdout)?.[1] ?? "";
    const words = [...next.matchAll(/'([^']*)'|(\S+)/g)].map((m) => m[1] ?? m[2]);
    assert.deepEqual(words.slice(0, 3), ["sluice", "sae", "eval"]);
    ok(await sluice(words.slice(1)));
  }
});

test("--json tells the memory at the start, at the end and at the peak", async () => {
  const { rss_start_mb, rss_end_mb, peak_rss_mb } = ok(
    await sluice([...train(folder("memory")), "--json"]),
  ).json<Record<string, number>>();
  assert.ok(rss_start_mb > 10 && rss_end_mb > 10);
  assert.ok(peak_rss_mb >= Math.max(rss_start_mb, rss_end_mb) - 1);
});

test("a batch of one is refused", async () => {
  await refused([...train(folder("one")), "--batch", "1"], 2, /batch=1 is too small/);
});

test("a model held in 16 bits reads nearly the same, and its runs are not taken for those in f32", async () => {
  const loss = async (more: readonly string[]) =>
    ok(await sluice(["lm", "eval", "--model", model, "--text", text, "--json", ...more])).json<{
      loss: number;
    }>().loss;
  const [wide, half] = [await loss([]), await loss(["--model-dtype", "bf16"])];
  assert.ok(half !== wide && Math.abs(half - wide) < 0.05, `${half} and ${wide}`);
  const out = folder("held");
  ok(await sluice(harvest(out, ["--model-dtype", "bf16"])));
  assert.equal((readJson(path.join(out, "index.json")) as { model: { dtype: string } }).model.dtype, "bf16");
  await refused(harvest(out), 1, /holds other activations \(model is .*"dtype":"bf16".*, not /);
  const source = [...live(), "--model-dtype", "f16"];
  ok(await sluice(train(folder("held-sae"), source)));
  await refused(train(folder("held-sae"), live()), 2, /other settings: source\.modelDtype .*"f16"/);
  await refused(
    train(folder("held-disk"), ["--activations", acts, "--model-dtype", "f16"]),
    2,
    /--model-dtype: only for --model and --text/,
  );
});
