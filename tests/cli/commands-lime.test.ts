/**
 * lime entropy, lime routes and lime circuits, on a model that lm train made with routed keys and values.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import type { LayerEntropy, LayerRoute, MeasuredRoute, StateKind } from "../../src/lime/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let plain: string;
let routed: string;
let dynamic: string;
let text: string;
before(async () => {
  temp = temporaryFolder();
  const world = await tinyWorld(temp.path);
  ({ model: plain, text } = world);
  process.env.SLUICE_CACHE = world.cache;
  routed = path.join(temp.path, "routed");
  const sizes = [
    "--d",
    "8",
    "--layers",
    "3",
    "--heads",
    "2",
    "--kv-heads",
    "2",
    "--ffn",
    "16",
    "--context",
    "16",
  ];
  dynamic = path.join(temp.path, "dynamic");
  for (const [out, kind] of [
    [routed, "learned"],
    [dynamic, "hidden-dynamic"],
  ]) {
    const ran = await sluice([
      ...["lm", "train", "--text", text, "--tokenizer", plain, "--out", out, ...sizes, "--batch", "4"],
      ...["--tokens", "640", "--kv-routing", kind, "--threads", "1", "--quiet"],
    ]);
    assert.equal(ran.code, 0, ran.stderr);
  }
});
after(() => temp[Symbol.dispose]());

test("lime routes gives shares of each layer's sources; a plain model has none", async () => {
  const ran = await sluice(["lime", "routes", "--model", routed, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { routes } = ran.json<{ routes: LayerRoute[] }>();
  assert.deepEqual(
    routes.map(({ layer, shares }) => [layer, shares.length]),
    [
      [1, 2],
      [2, 3],
    ],
  );
  for (const { shares } of routes) assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-6);
  const shown = await sluice(["lime", "routes", "--model", routed]);
  assert.match(shown.stdout, /^reader +0 +1 +2\n *1 .*\n *2 /);
  const none = await sluice(["lime", "routes", "--model", plain]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /no learned routers/);
});

test("lime entropy compares models layer by layer; what a plain model makes and reads is the same", async () => {
  const args = ["--text", text, "--split", "all", "--context", "12", "--sequences", "4"];
  const ran = await sluice(["lime", "entropy", "--model", `${plain},${routed}`, ...args, "--json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { models } = ran.json<{ models: { layers: Record<StateKind, LayerEntropy[]> }[] }>();
  assert.equal(models.length, 2);
  for (const { layers } of models) {
    for (const { mean, std } of Object.values(layers).flat())
      assert.ok(mean > 0 && mean <= Math.log(12) + 1e-9 && std >= 0, `${mean} ± ${std}`);
  }
  assert.deepEqual(models[0].layers.read, models[0].layers.values);
  assert.notDeepEqual(models[1].layers.read[2], models[1].layers.values[2]);
  const apart = await sluice(["lime", "entropy", "--model", `${plain},${routed}`, ...args.slice(0, 4)]);
  assert.equal(apart.code, 2);
  assert.match(apart.stderr, /routed has another context than .*tiny, so their windows differ/);
  const bare = await sluice(["lime", "entropy", "--model", plain]);
  assert.equal(bare.code, 2);
  assert.match(bare.stderr, /name the text with --text/);
});

test("lime circuits lists the strongest routes with their tokens, as JSON, as a table and as a picture", async () => {
  const args = ["--text", text, "--split", "all", "--sequences", "20", "--min-count", "3", "--routes", "4"];
  for (const model of [routed, dynamic]) {
    const ran = await sluice(["lime", "circuits", "--model", model, ...args, "--json"]);
    assert.equal(ran.code, 0, ran.stderr);
    const { strongest, routes, positions } = ran.json<{
      strongest: (MeasuredRoute & { embedding?: { text: string; logit: number }[] })[];
      routes: MeasuredRoute[];
      positions: number;
    }>();
    assert.ok(positions > 200 && positions < 20 * 16, `${positions}`);
    assert.equal(routes.length, 2 * 2 + 3 * 2);
    for (let i = 0; i < 4; i++) {
      assert.ok(strongest[i].source < strongest[i].layer);
      assert.ok(i === 0 || strongest[i - 1].mean >= strongest[i].mean);
      assert.equal(strongest[i].embedding?.length, model === dynamic ? 8 : undefined);
      for (const { share, count, z } of strongest[i].tokens)
        assert.ok(share > strongest[i].mean && share <= 1 && count >= 3 && z > 0);
    }
    for (const head of [0, 1]) {
      const shares = routes.filter((r) => r.layer === 2 && r.head === head).map((r) => r.mean);
      assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-6);
    }
  }
  const picture = path.join(temp.path, "pictures", "circuits.svg");
  const shown = await sluice(["lime", "circuits", "--model", dynamic, ...args, "--picture", picture]);
  assert.equal(shown.code, 0, shown.stderr);
  const [, head, ...rows] = shown.stdout.trimEnd().split("\n");
  assert.match(head, /^reader +head +source +share +tokens/);
  assert.equal(rows.filter((row) => /^[12] +[01] +[01] +\d+\.\d % .*; by embedding "/.test(row)).length, 4);
  const svg = fs.readFileSync(picture, "utf8");
  assert.match(svg, /^<svg [^>]*width="\d+(\.\d+)?"/);
  assert.equal(svg.match(/>layer \d, head \d reads layer \d</g)?.length, 4);
  assert.match(svg, /by embedding &quot;/);
  const none = await sluice(["lime", "circuits", "--model", plain, ...args]);
  assert.equal(none.code, 2);
  assert.match(none.stderr, /no layer of the model reads another one/);
  const rare = await sluice(["lime", "circuits", "--model", routed, ...args, "--min-count", "100000"]);
  assert.equal(rare.code, 1);
  assert.match(rare.stderr, /no token occurs 100000 times/);
});
