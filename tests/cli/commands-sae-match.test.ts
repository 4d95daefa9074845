/**
 * sae match on brook: an SAE is all in itself, less in another seed; models, layers and errors.
 */
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { saveTinyModel, TINY, tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

const BROOK = "models/brook";
let temp: TemporaryFolder;
let text: string;
let tiny: string;
const folder = (name: string): string => join(temp.path, name);

async function train(name: string, model: string, hook: string, ...more: string[]): Promise<void> {
  const argv = ["sae", "train", "--model", model, "--text", text, "--split", "all", "--hook", hook];
  const sizes = ["--k", "4", "--features", "48", "--batch", "128", "--tokens", "4000", "--buffer", "1024"];
  const { code, stderr } = await sluice([...argv, ...sizes, "--lr", "1e-2", "--out", folder(name), ...more]);
  assert.equal(code, 0, stderr);
}

before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  process.env.SLUICE_CACHE = world.cache;
  [text, tiny] = [world.text, world.model];
  await train("seed0", BROOK, "blocks.1.hook_resid_post");
  await train("seed1", BROOK, "blocks.1.hook_resid_post", "--seed", "1");
  await train("deeper", BROOK, "blocks.3.hook_resid_post");
  await train("tiny-a", tiny, "blocks.1.hook_resid_post");
});
after(() => temp[Symbol.dispose]());

interface Side {
  readonly features: number;
  readonly alive: number;
  readonly compared: number;
  readonly mean_best: number;
  readonly shares: readonly number[];
}
interface Matched {
  readonly tokens: number;
  readonly thresholds: readonly number[];
  readonly pairs: readonly { sae: string; other: string; sae_in_other: Side; other_in_sae: Side }[];
}

const run = (sae: string, other: string, ...more: string[]) =>
  sluice([
    ...["sae", "match", "--sae", sae, "--other", other, "--text", text, "--split", "all", "--tokens", "2000"],
    ...(more.includes("--model") ? more : ["--model", BROOK, ...more]),
  ]);

async function matched(sae: string, other: string, ...more: string[]): Promise<Matched> {
  const ran = await run(sae, other, "--json", ...more);
  assert.equal(ran.code, 0, ran.stderr);
  return ran.json<Matched>();
}

test("an SAE finds every feature in itself, and fewer in another seed, in both directions", async () => {
  const [itself, seed] = (
    await matched(folder("seed0"), `${folder("seed0")},${folder("seed1")}`, "--pairs", "all")
  ).pairs;
  for (const side of [itself.sae_in_other, itself.other_in_sae]) {
    assert.deepEqual(side.shares, [1, 1, 1]);
    assert.ok(side.mean_best > 1 - 1e-9);
    assert.ok(side.compared > 4 && side.compared <= side.alive && side.alive <= side.features);
  }
  for (const side of [seed.sae_in_other, seed.other_in_sae]) {
    assert.ok(side.mean_best > 0.05 && side.mean_best < 0.99, String(side.mean_best));
    assert.ok(side.shares[0] >= side.shares[1] && side.shares[1] >= side.shares[2] && side.shares[2] < 1);
  }
});

test("turned round, a pair gives the same numbers; layers of one model are compared too", async () => {
  const there = await matched(folder("seed0"), folder("deeper"), "--thresholds", "0.4");
  const back = await matched(folder("deeper"), folder("seed0"), "--thresholds", "0.4");
  assert.deepEqual(there.thresholds, [0.4]);
  const close = (a: Side, b: Side): void => {
    assert.ok(Math.abs(a.mean_best - b.mean_best) < 1e-9);
    assert.deepEqual({ ...a, mean_best: 0 }, { ...b, mean_best: 0 });
  };
  close(there.pairs[0].sae_in_other, back.pairs[0].other_in_sae);
  close(there.pairs[0].other_in_sae, back.pairs[0].sae_in_other);
});

test("a copy of the model under another name gives what the model itself gives", async () => {
  cpSync(BROOK, folder("copy"), { recursive: true });
  const one = await matched(folder("seed0"), folder("seed1"));
  const two = await matched(folder("seed0"), folder("seed1"), "--other-model", folder("copy"));
  assert.deepEqual(two, one);
});

test("partners stand in a file, a line each, and the table has a line for each direction", async () => {
  const file = folder("partners.jsonl");
  const { pairs } = await matched(folder("seed0"), folder("seed1"), "--partners", file);
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map(
      (line) => JSON.parse(line) as { sae: string; firings: number; correlation: number; partner: number },
    );
  const mine = lines.filter(({ sae }) => sae === folder("seed0"));
  assert.equal(mine.length, pairs[0].sae_in_other.compared);
  const mean = mine.reduce((sum, { correlation }) => sum + correlation, 0) / mine.length;
  assert.ok(Math.abs(mean - pairs[0].sae_in_other.mean_best) < 1e-12);
  assert.ok(lines.every(({ firings, partner }) => firings >= 10 && partner >= 0 && partner < 48));
  const { stdout } = await run(folder("seed0"), folder("seed1"));
  assert.match(stdout, /features of +in +compared +mean best r +r >= 0.5/);
  assert.equal(stdout.trim().split("\n").length, 3);
});

test("what cannot be compared is refused with the way out", async () => {
  const [seed0, seed1] = [folder("seed0"), folder("seed1")];
  const refused = async (code: number, says: RegExp, ...argv: Parameters<typeof run>): Promise<void> => {
    const ran = await run(...argv);
    assert.match(ran.stderr, says);
    assert.equal(ran.code, code);
  };
  const other = [folder("tiny-a"), "--other-model", tiny] as const;
  await refused(
    1,
    /tiny has another tokenizer than brook.*compare SAEs of models of one tokenizer/,
    seed0,
    ...other,
  );
  await refused(1, /trained on tiny with weights .*use the model it belongs to/, seed0, folder("tiny-a"));
  await refused(2, /--sae names 1 and --other 2.*--pairs all/, seed0, `${seed0},${seed1}`);
  await refused(
    1,
    /no feature of .*seed0 fired 1000000 times on \d+ tokens/,
    seed0,
    seed1,
    "--firings",
    "1000000",
  );
  const none = await sluice(["sae", "match", "--sae", seed0, "--other", seed1, "--model", BROOK]);
  assert.match(none.stderr, /--text/);
  assert.equal(none.code, 2);
});

test("models of the same tokenizer and other sizes are compared over the shorter context", async () => {
  const wide = await saveTinyModel(folder("wide"), { seed: 9, spec: { ...TINY, contextLength: 48 } });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    writeFileSync(join(wide, name), readFileSync(join(tiny, name)));
  }
  await train("wide-a", wide, "blocks.1.hook_resid_post");
  const on = ["--model", tiny, "--other-model", wide];
  const { tokens, pairs } = await matched(folder("tiny-a"), folder("wide-a"), ...on);
  assert.ok(tokens > 1000 && tokens <= 2000, String(tokens));
  assert.ok(pairs[0].sae_in_other.compared > 0);
  const same = await matched(
    folder("tiny-a"),
    folder("wide-a"),
    ...on,
    "--context",
    String(TINY.contextLength),
  );
  assert.deepEqual(same.pairs, pairs);
});
