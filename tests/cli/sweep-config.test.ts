/**
 * The SAEs that a sweep's file names: grids, names, common defaults, and what is refused where.
 */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { readSweep } from "../../src/cli/commands/sae-sweep.ts";
import { saeTrain } from "../../src/cli/commands/sae-train.ts";
import { givenOptions, plainOptions } from "../../src/cli/options.ts";
import { temporaryFolder } from "../temporary.ts";

const temp = temporaryFolder();
after(() => temp[Symbol.dispose]());

const COMMON = { activations: "acts", out: "out", tokens: 1000, batch: 10 };

const sweep = (values: Record<string, unknown>) => readSweep(plainOptions({ ...COMMON, ...values }));
const names = (values: Record<string, unknown>): string[] => sweep(values).saes.map(({ name }) => name);

async function refused(text: string, message: RegExp, flags: Record<string, unknown> = {}): Promise<void> {
  const path = join(temp.path, "sweep.yaml");
  await writeFile(path, text);
  await assert.rejects(
    async () => readSweep(await givenOptions(saeTrain, path, { ...COMMON, ...flags })),
    (error) => {
      assert.match((error as Error).message, message);
      assert.equal((error as { code?: string }).code, "usage");
      return true;
    },
  );
}

test("a list where one value is expected makes a grid, named by what varies, the seed last", () => {
  const { saes } = sweep({
    features: 64,
    saes: [
      { seed: [0, 1], name: "topk", k: [4, 8], lr: 1e-3 },
      { name: "gated", arch: "gated", l1: [1, 2] },
    ],
  });
  assert.deepEqual(
    saes.map(({ name, setting }) => [name, setting]),
    [
      ["topk-k4-seed0", "topk-k4"],
      ["topk-k4-seed1", "topk-k4"],
      ["topk-k8-seed0", "topk-k8"],
      ["topk-k8-seed1", "topk-k8"],
      ["gated-l1=1", "gated-l1=1"],
      ["gated-l1=2", "gated-l1=2"],
    ],
  );
  const [, second] = saes;
  assert.deepEqual(second.config.activation, { kind: "topk", k: 4 });
  assert.deepEqual([second.train.seed, second.train.lr, second.train.tokens], [1, 1e-3, 1000]);
});

test("what stands beside the list is the default of all, lists and flag spellings too", () => {
  const { saes, options } = sweep({
    features: 64,
    seed: [3, 4],
    hook: "blocks.0.hook_resid_post",
    saes: [{ name: "a" }, { name: "b", seed: 9, hook: "blocks.1.hook_resid_post", "warmup-steps": 2 }],
  });
  assert.deepEqual(
    saes.map(({ name, hook, train }) => [name, hook, train.seed]),
    [
      ["a-seed3", "blocks.0.hook_resid_post", 3],
      ["a-seed4", "blocks.0.hook_resid_post", 4],
      ["b", "blocks.1.hook_resid_post", 9],
    ],
  );
  assert.equal(saes[2].train.warmupSteps, 2);
  assert.equal(options.dataSeed, 3, "the first of the common seeds");
  assert.equal(sweep({ features: 64, seed: 5, saes: [{ name: "a" }] }).options.dataSeed, 5);
  assert.equal(sweep({ features: 64, dataSeed: 7, seed: 5, saes: [{ name: "a" }] }).options.dataSeed, 7);
  assert.equal(sweep({ features: 64, saes: [{ name: "a", seed: 5 }] }).options.dataSeed, 0);
});

test("a common default is for those that it means something for", () => {
  const all = {
    features: 64,
    k: [4, 8],
    targetL0: [16, 32],
    budgets: [1, 2],
    encoder: "dense",
    kronM: [2, 4],
    saes: [
      { name: "topk" },
      { name: "jump", arch: "jumprelu" },
      { name: "both", arch: ["relu", "batchtopk"] },
      { name: "every", objective: "hierarchical", k: 8 },
    ],
  };
  assert.deepEqual(names(all), [
    "topk-k4",
    "topk-k8",
    "jump-targetL0=16",
    "jump-targetL0=32",
    "both-relu",
    "both-batchtopk-k4",
    "both-batchtopk-k8",
    "every",
  ]);
  assert.deepEqual(sweep(all).saes.at(-1)?.train.budgets, [1, 2]);
});

test("fields that are lists by themselves vary as lists of lists; values of other kinds name themselves", () => {
  assert.deepEqual(
    names({
      features: 64,
      saes: [
        { name: "one", objective: "hierarchical", budgets: [4, 8] },
        { name: "two", objective: "hierarchical", budgets: [[4, 8], [16]] },
        { name: "single", objective: "hierarchical", budgets: 8 },
        { name: "three", removeParallelGradient: [true, false] },
        { name: "hook", hook: ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"] },
      ],
    }),
    [
      "one",
      "two-budgets4+8",
      "two-budgets16",
      "single",
      "three-removeParallelGradient",
      "three-no-removeParallelGradient",
      "hook-blocks.0.hook_resid_post",
      "hook-blocks.1.mlp.hook_post",
    ],
  );
});

test("an entry may take over another's options, and keys may be spelled as flags", async () => {
  const path = join(temp.path, "merge.yaml");
  const { activations, out, batch } = COMMON;
  await writeFile(
    path,
    "features: 64\nlog-every: 5\nsaes:\n  - &a {name: a, k: 4, warmup-steps: 3}\n  - <<: *a\n    name: b\n    lr: 1e-3\n",
  );
  const given = await givenOptions(saeTrain, path, { activations, out, batch, tokens: 1000 });
  const { saes, options } = readSweep(given);
  assert.equal(options.logEvery, 5);
  const [a, b] = saes.map(({ train }) => [train.warmupSteps, train.lr]);
  assert.deepEqual(
    [a, b],
    [
      [3, undefined],
      [3, 1e-3],
    ],
  );
});

test("mistakes are said with file, line and name", async () => {
  const head = "features: 64\nsaes:\n";
  await refused("saes: 3\n", /sweep\.yaml:1: saes: a list was expected/);
  await refused("saes: []\n", /sweep\.yaml:1: saes: a list was expected/);
  await refused(`${head}  - topk\n`, /sweep\.yaml:3: saes: item 1 is no set of options/);
  await refused(`${head}  - k: 4\n`, /sweep\.yaml:3: saes: item 1 needs a name/);
  await refused(`${head}  - name: 16\n`, /sweep\.yaml:3: saes: item 1 needs a name, a text/);
  await refused(
    `${head}  - name: a\n    feature: 4\n`,
    /sweep\.yaml:4: a: unknown option "feature"; did you mean features\?/,
  );
  await refused(
    `${head}  - name: a\n    tokens: 4\n`,
    /sweep\.yaml:4: a: tokens is the same for all; put it beside saes/,
  );
  await refused(`${head}  - name: a\n    k: [4, many]\n`, /sweep\.yaml:4: a-many: k "many": /);
  await refused(`${head}  - name: a\n    k: []\n`, /sweep\.yaml:4: a: k is an empty list/);
  await refused(`${head}  - name: a\n  - name: a\n`, /sweep\.yaml:4: saes: the name a is given twice/);
  await refused(`${head}  - name: a\n    seed: [1, 1]\n`, /saes: the name a-seed1 is given twice/);
  await refused(
    `${head}  - name: a\n    arch: gated\n    k: 4\n`,
    /sweep\.yaml:5: a: --k is for topk and batchtopk/,
  );
  await refused(
    `log-every: 5\nlogEvery: 6\n${head}  - name: a\n`,
    /:2: logEvery was given already, as log-every/,
  );
  await refused("saes:\n  - name: a\n", /a: features is missing/);
  await refused("k: -1\nfeatures: 64\nsaes:\n  - name: a\n", /sweep\.yaml:1: a: k -1: /);
  await refused(`${head}  - name: a\n`, /--eval-tokens 1: /, { evalTokens: 1 });
});

test("the example's SAEs are as it says", async () => {
  const file = fileURLToPath(new URL("../../../examples/sweep.yaml", import.meta.url));
  const { saes, options } = readSweep(await givenOptions(saeTrain, file, { out: "out" }));
  assert.ok(saes.length >= 6, `${saes.length} SAEs`);
  assert.ok((options.evalK?.length ?? 0) > 1);
  assert.equal(new Set(saes.map(({ train }) => train.tokens)).size, 1);
});
