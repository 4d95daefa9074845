/**
 * Routed keys and values (LIMe): the golden stack, what a router begins as, and what does not depend on one.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { llamaNames } from "../../src/models/families/index.ts";
import {
  createTransformer,
  crossEntropies,
  hashTransformer,
  hookPoints,
  loadTransformer,
  type ModelSpec,
  parameterCount,
  saveTransformer,
  type Transformer,
} from "../../src/models/index.ts";
import { isRouter, paramSlots } from "../../src/models/params.ts";
import { Rotary } from "../../src/models/rotary.ts";
import { averageRouter, routedLayers, routerStart } from "../../src/models/routing.ts";
import { paramGroups } from "../../src/models/train.ts";
import { type Device, mul, permute, rope, sum, type Tensor } from "../../src/tensor/index.ts";
import { Rng, writeJson } from "../../src/util/index.ts";
import { type GoldenFile, golden, goldenJson, goldenPath } from "../golden.ts";
import { temporaryFolder } from "../temporary.ts";
import {
  assertDecodes,
  assertNear,
  BACKENDS,
  someTokens,
  take,
  tinyModel,
  tinySpec,
  withDevice,
} from "./helpers.ts";

const LEARNED = { kind: "learned" } as const;

/** The golden stack, with its config under the name of the family. */
async function loadGolden(device: Device): Promise<Transformer> {
  using temp = temporaryFolder();
  const config = { ...goldenJson("lime", "config.json"), model_type: "lime", kv_routing: LEARNED };
  await writeJson(path.join(temp.path, "config.json"), config);
  fs.copyFileSync(goldenPath("lime", "weights.safetensors"), path.join(temp.path, "model.safetensors"));
  return await loadTransformer(device, temp.path);
}

/** Hook point of a tensor of the golden file, and the order of its axes there. */
function pointOf(spec: ModelSpec, name: string): { point: string; heads: boolean } | undefined {
  const [, what, layer] = /^(\w+)\.(\d+)$/.exec(name) ?? [];
  if (name === "final_norm") return { point: "ln_final.hook_normalized", heads: false };
  const at = `blocks.${layer}.`;
  const routed = routedLayers(spec, Number(layer)).length > 1 ? "_routed" : "";
  const points: Record<string, string> = {
    attn_out: "hook_attn_out",
    mlp_out: "hook_mlp_out",
    resid_post: "hook_resid_post",
    attn_pattern: "attn.hook_pattern",
    k_raw: "attn.hook_k",
    v_raw: "attn.hook_v",
    k_routed: `attn.hook_k${routed}`,
    v_routed: `attn.hook_v${routed}`,
  };
  const point = points[what];
  return point === undefined ? undefined : { point: at + point, heads: /^[kv]_/.test(what) };
}

function assertGolden(got: Float32Array, want: Float32Array, name: string, relative = 2e-5): void {
  const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  assertNear(got, want, name, { absolute: relative * largest, relative: 0 });
}

async function streamsAgree(model: Transformer, expected: GoldenFile): Promise<void> {
  const { device, spec } = model;
  const shape = expected.shape("input_ids");
  const ids = device.tensor(expected.ints("input_ids"), shape, "i32");
  const forward = (point: string) => model.forward(ids, { capture: [point] }).captured[point];
  let compared = 0;
  for (const name of expected.names()) {
    const at = pointOf(spec, name);
    if (!at) continue;
    const got = await take(device, () => {
      const value = forward(at.point);
      return at.heads ? permute(value, [0, 2, 1, 3]) : value; // [B, G, T, Dh] there
    });
    assertGolden(got, expected.floats(name), name);
    compared++;
  }
  assert.ok(compared >= 30, `${compared} tensors were compared`);
  const [, T] = shape;
  const rotary = new Rotary(device, spec);
  rotary.ensure(T);
  for (let l = 0; l < spec.nLayers; l++) {
    const name = `k_rotated.${l}`;
    const got = await take(device, () => {
      const { point } = pointOf(spec, `k_routed.${l}`) as { point: string };
      const positions = device.tensor(
        Int32Array.from({ length: ids.size }, (_, i) => i % T),
        shape,
        "i32",
      );
      const { cos, sin } = rotary.of(l) as { cos: Tensor; sin: Tensor };
      return permute(rope(forward(point), cos, sin, positions), [0, 2, 1, 3]);
    });
    assertGolden(got, expected.floats(name), name);
  }
  assertGolden(await take(device, () => model.forward(ids).logits!), expected.floats("logits"), "logits");
  rotary.dispose();
  ids.dispose();
}

async function gradientsAgree(model: Transformer, expected: GoldenFile): Promise<void> {
  const [, T] = expected.shape("input_ids");
  const ids = expected.ints("input_ids");
  const targets = Int32Array.from(ids, (_, i) => (i % T === T - 1 ? -1 : ids[i + 1]));
  const { value, grads } = model.device.valueAndGrad(
    () => mul(sum(crossEntropies(model, { tokens: ids, targets }, T)), T / (ids.length * (T - 1))),
    model.parameters(),
  );
  assertNear([await value.item()], [expected.scalar("loss")], "loss", { absolute: 2e-5, relative: 0 });
  const names = expected.names().filter((n) => n.startsWith("grad."));
  assert.ok(names.filter((n) => n.startsWith("grad.router.")).length >= 2);
  for (const name of names) {
    const bare = name.slice("grad.".length);
    const [, layer] = /^router\.(\d+)$/.exec(bare) ?? [];
    const parameter = layer ? llamaNames.block(Number(layer)).router : bare;
    const at = model.slots.findIndex((slot) => slot.name === parameter);
    assertGolden(await (grads[at] as Tensor).floats(), expected.floats(name), name, 1e-4);
  }
  for (const t of [value, ...grads]) t?.dispose();
}

/** Takes the own heads of every layer and nothing else. */
function setIdentity(model: Transformer): void {
  for (const slot of model.slots.filter(isRouter)) {
    const [heads, width] = slot.shape;
    const router = Float32Array.from({ length: heads * width }, (_, i) =>
      (i % width) - (width - heads) === Math.floor(i / width) ? 1 : 0,
    );
    model.device.write(slot.tensor, router);
  }
}

for (const backend of BACKENDS) {
  test(`the golden stack: every stream, key, value, pattern and gradient on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const model = await loadGolden(device);
      const expected = golden("lime", "expected.safetensors");
      await streamsAgree(model, expected);
      await gradientsAgree(model, expected);
      setIdentity(model);
      const ids = device.tensor(expected.ints("input_ids"), expected.shape("input_ids"), "i32");
      const logits = await take(device, () => model.forward(ids).logits!);
      assertGolden(logits, expected.floats("identity.logits"), "identity.logits");
      ids.dispose();
      model.dispose();
    }));

  test(`identity routers leave the plain model, bit for bit, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const [plain, routed] = [tinyModel(device), tinyModel(device, { kvRouting: LEARNED })];
      setIdentity(routed);
      const ids = someTokens(device, 2, 7);
      const [a, b] = [plain, routed].map((m) => take(device, () => m.forward(ids).logits!));
      assert.deepEqual(await a, await b);
      for (const x of [ids, plain, routed]) x.dispose();
    }));

  test(`decoding with a cache writes what whole passes write, batched and padded, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const model = tinyModel(device, { kvRouting: LEARNED });
      const prompts = [
        [1, 5, 9, 2, 8],
        [1, 7],
        [1, 3, 3, 3],
      ];
      await assertDecodes(model, prompts, 6);
      model.dispose();
    }));
}

test("a layer reads itself and those before it: all, the first and the one before, or the last", () => {
  const layers = (kvRouting?: ModelSpec["kvRouting"]) =>
    [0, 1, 2, 3, 4].map((l) => routedLayers({ kvRouting }, l).join(""));
  assert.deepEqual(layers(), ["0", "1", "2", "3", "4"]);
  assert.deepEqual(layers(LEARNED), ["0", "01", "012", "0123", "01234"]);
  assert.deepEqual(layers({ ...LEARNED, last: 2 }), ["0", "01", "12", "23", "34"]);
  assert.deepEqual(layers({ ...LEARNED, first: 2 }), ["0", "01", "012", "0123", "0134"]);
  assert.deepEqual(layers({ ...LEARNED, first: 2, previous: false }), ["0", "01", "012", "013", "014"]);
  assert.deepEqual(layers({ ...LEARNED, last: 1 }), ["0", "1", "2", "3", "4"]);
});

test("routers have as many parameters as the paper counts, none in the first layer", () => {
  const { router_parameters_16_layers: counts } = goldenJson<{
    router_parameters_16_layers: Record<string, number>;
  }>("lime", "init_bounds.json");
  for (const [heads, want] of Object.entries(counts)) {
    const G = Number(heads);
    const spec = { ...tinySpec, nLayers: 16, nHeads: G, nKvHeads: G, headDim: 2, dModel: 2 * G };
    const full = { ...spec, windowPattern: new Array<number>(16).fill(0) };
    const routed = { ...full, kvRouting: LEARNED };
    assert.equal(parameterCount(routed).total - parameterCount(full).total, want);
    const routers = paramSlots(routed, llamaNames).filter(isRouter);
    assert.deepEqual(
      routers.map(({ shape }) => shape),
      Array.from({ length: 15 }, (_, i) => [G, (i + 2) * G]),
    );
  }
});

test("a router begins as the identity on its own heads and uniform elsewhere, in the released code's bounds", () => {
  const { rows } = goldenJson<{
    rows: { kv_heads: number; layer_1_based: number; bound: number; variance: number }[];
  }>("lime", "init_bounds.json");
  for (const { kv_heads: heads, layer_1_based: sources, bound, variance } of rows) {
    const router = routerStart({ heads, sources, identity: true }, new Rng(7));
    const width = heads * sources;
    const others = [...router].filter((_, i) => i % width < width - heads);
    const own = [...router].filter((_, i) => i % width >= width - heads);
    assert.deepEqual(
      own,
      Array.from({ length: heads ** 2 }, (_, i) => Number(i % heads === Math.floor(i / heads))),
    );
    assert.ok(others.every((x) => Math.abs(x) <= bound));
    if (others.length > 1000) {
      const found = others.reduce((n, x) => n + x * x, 0) / others.length;
      assert.ok(Math.abs(found / variance - 1) < 0.1, `variance ${found}, ${variance} wanted`);
      assert.ok(Math.max(...others) > 0.98 * bound);
    }
    const random = routerStart({ heads, sources, identity: false }, new Rng(7));
    assert.deepEqual(
      [...random].filter((_, i) => i % width < width - heads),
      others,
    );
    assert.ok(random.every((x) => x !== 0 && x !== 1));
  }
});

test("the mean over the sources gives every head of the layer an equal share", () => {
  assert.deepEqual([...averageRouter(2, 2)], [0.5, 0, 0.5, 0, 0, 0.5, 0, 0.5]);
});

test("routed or not, a seed gives the same keys, values and all else to begin with", () =>
  withDevice("native", async (device) => {
    const [plain, routed] = [undefined, LEARNED].map((kvRouting) =>
      createTransformer(device, { ...tinySpec, kvRouting }, { rng: new Rng(5) }),
    );
    for (const slot of plain.slots) {
      const twin = routed.slots.find(({ name }) => name === slot.name);
      assert.ok(twin, slot.name);
      assert.deepEqual(await twin.tensor.floats(), await slot.tensor.floats(), slot.name);
    }
    assert.equal(routed.slots.length, plain.slots.length + tinySpec.nLayers - 1);
    for (const m of [plain, routed]) m.dispose();
  }));

test("routers learn ten times as fast as the rest and are not decayed", () =>
  withDevice("native", (device) => {
    const model = tinyModel(device, { kvRouting: LEARNED });
    const groups = paramGroups(model, { weightDecay: 0.1 });
    for (const [i, slot] of model.slots.entries()) {
      const { lrScale, weightDecay } = groups[i];
      assert.equal(lrScale, isRouter(slot) ? 10 : 1);
      assert.equal(weightDecay, slot.matrix ? 0.1 : 0);
    }
    assert.ok(model.slots.some((slot) => isRouter(slot) && !slot.matrix));
    model.dispose();
    return Promise.resolve();
  }));

test("a routed model is saved under a name of its own and comes back the same", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    for (const kvRouting of [
      LEARNED,
      { kind: "learned", first: 1 },
      { kind: "learned", first: 1, previous: false },
      { kind: "average", last: 2 },
    ] as const) {
      const model = tinyModel(device, { kvRouting });
      await saveTransformer(model, temp.path);
      const config = JSON.parse(fs.readFileSync(path.join(temp.path, "config.json"), "utf8"));
      assert.deepEqual([config.model_type, config.kv_routing], ["lime", kvRouting]);
      const again = await loadTransformer(device, temp.path);
      assert.deepEqual(again.spec, model.spec);
      assert.equal(await hashTransformer(again), await hashTransformer(model));
      for (const m of [model, again]) m.dispose();
    }
    const broken = async (kv_routing: unknown, message: RegExp) => {
      const file = path.join(temp.path, "config.json");
      const config = JSON.parse(fs.readFileSync(file, "utf8"));
      await writeJson(file, { ...config, kv_routing });
      await assert.rejects(loadTransformer(device, temp.path), { message });
    };
    await broken(null, /kv_routing is missing/);
    await broken(
      { kind: "random" },
      /kv_routing\.kind = "random" is not supported, only "learned", "average", "hidden-static", "hidden-dynamic"/,
    );
    await broken({ kind: "learned", first: 0 }, /first is 0, expected a whole number of at least 1/);
    await broken({ kind: "learned", previous: false }, /previous goes with first/);
    await broken({ kind: "learned", first: 1, last: 1 }, /first and last exclude each other/);
    await broken({ kind: "learned", top_p: 0.9 }, /topP goes with kind "hidden-static", not "learned"/);
    await broken({ kind: "learned", top_k: 2 }, /kv_routing\.top_k = 2 is not known/);
  }));

test("hook points of routed keys and values stand where layers are mixed, and an edit of early ones reaches later layers", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: LEARNED });
    const points = hookPoints(model.spec).filter((p) => p.endsWith("_routed"));
    assert.equal(points.length, 2 * (model.spec.nLayers - 1));
    assert.ok(!points.some((p) => p.startsWith("blocks.0.")));
    const ids = someTokens(device, 1, 5);
    const last = `blocks.${model.spec.nLayers - 1}.attn.hook_k_routed`;
    const run = (edit = {}) =>
      take(device, () => model.forward(ids, { capture: [last], edit }).captured[last]);
    const edited = await run({ "blocks.0.attn.hook_k": (k: Tensor) => mul(k, 2) });
    assert.notDeepEqual(edited, await run());
    for (const x of [ids, model]) x.dispose();
  }));
