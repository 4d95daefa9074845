/**
 * The commands over architectures, objectives, budgets, boosts and stitches, on a model of two thousand parameters.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

const HOOK = "blocks.1.hook_resid_post";
let temp: TemporaryFolder;
let live: string[];
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  live = ["--model", world.model, "--text", world.text, "--hook", HOOK];
  process.env.SLUICE_CACHE = world.cache;
});
after(() => temp[Symbol.dispose]());

const folder = (name: string): string => path.join(temp.path, name);

function ok(ran: Ran): Ran {
  assert.equal(ran.code, 0, ran.stderr);
  return ran;
}

const train = (out: string, more: readonly string[]): Promise<Ran> =>
  sluice(
    ["sae", "train", ...live, "--features", "48", "--out", out, "--batch", "64", "--lr", "2e-3"].concat(
      ["--tokens", "6400", "--json"],
      more,
    ),
  );

const evaluate = async (sae: string, more: readonly string[] = []) =>
  ok(await sluice(["sae", "eval", "--sae", sae, ...live, "--tokens", "500", "--json"].concat(more))).json();

const architectureOf = (sae: string): unknown =>
  JSON.parse(fs.readFileSync(path.join(sae, "cfg.json"), "utf8")).architecture;

for (const [name, architecture, flags] of [
  ["batchtopk", "jumprelu", ["--arch", "batchtopk", "--k", "4"]],
  ["jumprelu", "jumprelu", ["--arch", "jumprelu", "--l0", "0.05", "--bandwidth", "0.5"]],
  ["relu", "standard", ["--arch", "relu", "--l1", "0.1"]],
  ["gated", "gated", ["--arch", "gated", "--l1", "0.1"]],
  ["kron", "sluice", ["--encoder", "kron", "--kron-m", "2", "--k", "4"]],
  ["matryoshka", "topk", ["--objective", "matryoshka", "--levels", "12,48", "--k", "4"]],
  ["transcoder", "sluice", ["--target-hook", "ln_final.hook_normalized", "--skip", "--k", "4"]],
] as const) {
  test(`${name} is trained, saved as ${architecture} and measured`, async () => {
    const out = folder(name);
    const { last_record } = ok(await train(out, flags)).json() as { last_record: { l0: number } };
    assert.ok(last_record.l0 > 0);
    assert.equal(architectureOf(out), architecture);
    const metrics = await evaluate(out);
    assert.ok((metrics.explained_variance as number) > 0.2, JSON.stringify(metrics));
  });
}

test("a hierarchical SAE is measured at every budget in one pass, and each equals its own pass", async () => {
  const out = folder("hierarchical");
  ok(await train(out, ["--objective", "hierarchical", "--k", "8"]));
  const all = await evaluate(out, ["--k", "8,1,4"]);
  const budgets = all.budgets as Record<string, number>[];
  assert.deepEqual(
    budgets.map(({ k }) => k),
    [1, 4, 8],
  );
  for (const budget of budgets) {
    const alone = await evaluate(out, ["--k", String(budget.k)]);
    for (const [metric, value] of Object.entries(budget))
      if (metric !== "k") assert.equal(value, alone[metric], metric);
  }
  assert.equal(all.l0, budgets[2].l0);
  const text = ok(
    await sluice(["sae", "eval", "--sae", out, ...live, "--tokens", "500", "--k", "1,8"]),
  ).stdout;
  assert.match(text, /k +explained_variance/);
  const refused = await sluice(["sae", "eval", "--sae", folder("batchtopk"), ...live, "--k", "3"]);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /k=3 is for topk/);
});

test("a boost names its base, leaves it as it is, adds up, and is stitched where that is exact", async () => {
  const base = folder("batchtopk");
  const before = fs.readFileSync(path.join(base, "sae_weights.safetensors"));
  const [part, other] = [folder("part"), folder("part-2")];
  const boost = (out: string, on: string, seed: number): Promise<Ran> =>
    sluice(
      ["sae", "boost", "--base", on, "--model", live[1], "--domain", live[3], "--features", "16"].concat([
        "--k",
        "2",
        "--out",
        out,
        "--batch",
        "64",
        "--lr",
        "2e-3",
        "--tokens",
        "6400",
        "--seed",
        String(seed),
      ]),
    );
  ok(await boost(part, base, 0));
  ok(await boost(other, base, 1));
  assert.deepEqual(fs.readFileSync(path.join(base, "sae_weights.safetensors")), before);
  const plain = await evaluate(base);
  const boosted = await evaluate(base, ["--parts", part]);
  assert.ok((boosted.explained_variance as number) > (plain.explained_variance as number));
  const ab = await evaluate(base, ["--parts", `${part},${other}`]);
  const ba = await evaluate(base, ["--parts", `${other},${part}`]);
  assert.ok(Math.abs((ab.explained_variance as number) - (ba.explained_variance as number)) < 1e-6);

  const stitched = folder("stitched");
  ok(await sluice(["sae", "stitch", "--base", base, "--parts", part, "--out", stitched]));
  assert.equal(architectureOf(stitched), "jumprelu");
  const one = await evaluate(stitched);
  for (const metric of ["explained_variance", "l0", "loss_recovered"]) {
    assert.ok(Math.abs((one[metric] as number) - (boosted[metric] as number)) < 1e-5, metric);
  }

  const wrong = await sluice(["sae", "eval", "--sae", folder("jumprelu"), "--parts", part, ...live]);
  assert.equal(wrong.code, 1);
  assert.match(wrong.stderr, /corrects the errors of the SAE [0-9a-f]{12}, but .* is [0-9a-f]{12}/);
  const bare = await sluice(["sae", "eval", "--sae", part, ...live]);
  assert.match(bare.stderr, /residual part of a boosted SAE/);
  const topk = folder("hierarchical");
  const onTopk = folder("part-topk");
  ok(await boost(onTopk, topk, 0));
  const refused = await sluice(["sae", "stitch", "--base", topk, "--parts", onTopk, "--out", folder("no")]);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /a topk SAE keeps features by rank/);
});

test("an SAE is trained further, extended beside its frozen self, and gets what changed most", async () => {
  const base = folder("batchtopk");
  const from = (out: string, more: readonly string[]): Promise<Ran> =>
    sluice(
      ["sae", "train", "--init", base, "--model", live[1], "--text", live[3], "--out", out].concat(
        ["--batch", "64", "--lr", "2e-3", "--tokens", "6400", "--json"],
        more,
      ),
    );
  const [tuned, extended] = [folder("tuned"), folder("extended")];
  ok(await from(tuned, []));
  assert.equal(ok(await from(tuned, [])).json().finished_before, true);
  assert.equal(architectureOf(tuned), "jumprelu"); // batchtopk as its start was
  const cfg = JSON.parse(fs.readFileSync(path.join(tuned, "cfg.json"), "utf8"));
  assert.deepEqual(cfg.sluice.trained_as, { kind: "batchtopk", k: 4 });
  assert.match(cfg.sluice.start.sae, /^sha256:/);
  const better = await evaluate(tuned);
  assert.ok((better.explained_variance as number) > ((await evaluate(base)).explained_variance as number));

  ok(await from(extended, ["--features", "64", "--new-features", "most-active", "--freeze", "--k", "6"]));
  assert.equal(JSON.parse(fs.readFileSync(path.join(extended, "cfg.json"), "utf8")).d_sae, 64);

  const grafted = folder("grafted");
  const graft = ["sae", "graft", "--base", base, "--changed", tuned, "--features", "6", "--out", grafted];
  const { features } = ok(await sluice([...graft, "--json"])).json();
  assert.equal(features, 54);
  assert.ok(Number.isFinite((await evaluate(grafted)).explained_variance));

  const idle = await train(folder("x"), ["--freeze"]);
  assert.equal(idle.code, 2);
  assert.match(idle.stderr, /--freeze says what becomes of an SAE to start from/);
  const decided = await from(folder("x"), ["--encoder", "kron"]);
  assert.match(decided.stderr, /--encoder: that is as in the SAE to start from/);
  const other = await from(tuned, ["--k", "5"]);
  assert.match(other.stderr, /holds a finished run with other settings/);
  const missing = await sluice(["sae", "train", ...live, "--out", folder("x"), "--tokens", "6400"]);
  assert.match(missing.stderr, /--features is missing/);
});

test("proxies of several SAEs and budgets from one pass are those of each alone", async () => {
  const saes = [folder("hierarchical"), folder("jumprelu")];
  const on = [...live.slice(0, 4), "--firings", "5", "--tokens", "2000", "--json"];
  const measure = async (names: readonly string[], k: string) =>
    ok(await sluice(["sae", "proxies", "--sae", names.join(","), "--k", k, ...on])).json().saes as {
      max_decoder_cosine: number;
      budgets: { k: number | null; features_counted: number; features_alive: number }[];
    }[];
  const [every, jumprelu] = await measure(saes, "2,4,100");
  assert.deepEqual(
    every.budgets.map(({ k }) => k),
    [2, 4, 8],
  );
  assert.deepEqual(
    jumprelu.budgets.map(({ k }) => k),
    [null],
  );
  const counted = every.budgets.map(({ features_counted }) => features_counted);
  assert.ok(counted[0] > 0 && counted[0] <= counted[1] && counted[1] <= counted[2], String(counted));
  assert.ok(every.max_decoder_cosine > 0 && every.max_decoder_cosine < 1);
  const [alone] = await measure([saes[0]], "2");
  assert.deepEqual(alone.budgets, [every.budgets[0], every.budgets[2]]);
  assert.deepEqual((await measure([saes[1]], "2"))[0], jumprelu);
});

test("absorption of several SAEs is that of each alone", async () => {
  const saes = [folder("gated"), folder("kron")];
  const on = [
    ...live.slice(0, 4),
    "--task",
    "token-form",
    "--min-f1",
    "0",
    "--min-tokens",
    "2",
    "--split",
    "all",
  ];
  const measure = async (names: readonly string[]) =>
    ok(await sluice(["sae", "absorption", "--sae", names.join(","), ...on, "--json"])).json();
  const together = (await measure(saes)).saes as Record<string, unknown>[];
  assert.equal(together.length, 2);
  for (const [i, name] of saes.entries()) assert.deepEqual(together[i], await measure([name]));
  const text = ok(await sluice(["sae", "absorption", "--sae", saes.join(","), ...on])).stdout;
  assert.match(text, /SAE +classes +features +absorption +full/);
});

test("senseless combinations say why", async () => {
  const backwards = await train(folder("x"), ["--target-hook", "blocks.0.hook_mlp_out"]);
  assert.equal(backwards.code, 2);
  assert.match(backwards.stderr, /blocks\.1\.hook_resid_post comes after blocks\.0\.hook_mlp_out/);
  const hierarchical = await train(folder("x"), ["--arch", "relu", "--objective", "hierarchical"]);
  assert.equal(hierarchical.code, 2);
  assert.match(hierarchical.stderr, /needs topk, not relu/);
  const idle = await train(folder("x"), ["--arch", "relu", "--k", "4"]);
  assert.match(idle.stderr, /--k is for topk and batchtopk/);
});
