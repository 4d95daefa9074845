/**
 * lime entropy and lime routes, on a model that lm train made with routed keys and values.
 */
import assert from "node:assert/strict";
import * as path from "node:path";
import { after, before, test } from "node:test";
import type { LayerEntropy, LayerRoute, StateKind } from "../../src/lime/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let plain: string;
let routed: string;
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
  const ran = await sluice([
    ...["lm", "train", "--text", text, "--tokenizer", plain, "--out", routed, ...sizes, "--batch", "4"],
    ...["--tokens", "640", "--kv-routing", "learned", "--threads", "1", "--quiet"],
  ]);
  assert.equal(ran.code, 0, ran.stderr);
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
