/**
 * Keys and values made of mixtures of streams (LIMe's first version): a plain loop, gradients, decoding, files, top p.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  createTransformer,
  crossEntropies,
  hashTransformer,
  hookPoints,
  hookWidth,
  type KvRoutingSpec,
  loadTransformer,
  type ModelSpec,
  parameterCount,
  refreshTopP,
  saveTransformer,
  type Transformer,
} from "../../src/models/index.ts";
import { isRouter } from "../../src/models/params.ts";
import { topPMask } from "../../src/models/top-p.ts";
import { paramGroups } from "../../src/models/train.ts";
import { mul, sum, type Tensor } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import {
  assertDecodes,
  assertNear,
  BACKENDS,
  someIds,
  someTokens,
  take,
  tinyModel,
  tinySpec,
  withDevice,
} from "./helpers.ts";

const STATIC = { kind: "hidden-static" } as const;
const DYNAMIC = { kind: "hidden-dynamic" } as const;
const TOP = { kind: "hidden-static", topP: 0.8 } as const;

/** Logits and gains that matter: all routers and norms of streams at random. */
async function shake(model: Transformer): Promise<void> {
  for (const slot of model.slots) {
    const role = typeof slot.role === "string" ? slot.role : slot.role.role;
    if (!/^route(Logits|Of|Norm)$/.test(role)) continue;
    const rng = new Rng(11).fork(slot.name);
    const start = role === "routeNorm" ? 1 : 0;
    const numbers = rng.fillNormal(new Float32Array(slot.tensor.size), start, role === "routeOf" ? 0.4 : 0.7);
    model.device.write(slot.tensor, numbers);
  }
  if (model.spec.kvRouting?.topP === undefined) return;
  const { kept, total } = await refreshTopP(model);
  assert.ok(kept < total, "nothing is masked");
}

type Rows = readonly (readonly number[])[];
const sumOf = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => sumOf(Array.from(a, (x, i) => x * b[i]));

function normed(x: readonly number[], gain: readonly number[], eps: number): number[] {
  const r = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((v, i) => v * r * gain[i]);
}

function softmaxOf(x: readonly number[]): number[] {
  const e = x.map((v) => Math.exp(v));
  return e.map((v) => v / sumOf(e));
}

/** Keys or values [T, G, Dh] of one layer from the definition, in float64. `sources` [S][T, d], oldest first. */
async function fromDefinition(
  model: Transformer,
  layer: number,
  sources: readonly Rows[],
): Promise<{
  weights: number[][][];
  keys: number[];
  values: number[];
}> {
  const { spec, params } = model;
  const { nKvHeads: G, headDim: Dh, dModel: d, norm } = spec;
  const { routeNorm, routeLogits, routeMask, routeOf, wK, wV } = params.blocks[layer];
  const read = async (t?: Tensor) => (t ? Array.from(await t.floats()) : undefined);
  const [gain, logits, mask, map, k, v] = [
    (await read(routeNorm)) as number[],
    await read(routeLogits),
    await read(routeMask),
    await read(routeOf),
    (await read(wK)) as number[],
    (await read(wV)) as number[],
  ];
  const stack = sources.map((rows) => rows.map((x) => normed(x, gain, norm.eps)));
  const S = stack.length;
  const found = { weights: [] as number[][][], keys: [] as number[], values: [] as number[] };
  for (let t = 0; t < sources[0].length; t++) {
    found.weights.push([]);
    for (let h = 0; h < G; h++) {
      const scores = Array.from({ length: S }, (_, s) => {
        const row = h * S + s;
        return map ? dot(map.slice(row * d, (row + 1) * d), stack[S - 1][t]) : (logits as number[])[row];
      });
      const kept = softmaxOf(scores).map((w, s) => w * (mask?.[h * S + s] ?? 1));
      const weights = kept.map((w) => w / sumOf(kept));
      const mixture = Array.from({ length: d }, (_, i) => sumOf(weights.map((w, s) => w * stack[s][t][i])));
      for (let c = 0; c < Dh; c++) {
        const at = (h * Dh + c) * d;
        found.keys.push(dot(k.slice(at, at + d), mixture));
        found.values.push(dot(v.slice(at, at + d), mixture));
      }
      found.weights[t].push(weights);
    }
  }
  return found;
}

for (const backend of BACKENDS) {
  test(`keys, values and weights are those of the definition on ${backend}`, () =>
    withDevice(backend, async (device) => {
      for (const kvRouting of [STATIC, DYNAMIC, TOP] as const) {
        const model = tinyModel(device, { kvRouting });
        await shake(model);
        const T = 5;
        const ids = someTokens(device, 1, T);
        const capture = hookPoints(model.spec).filter((p) => /resid_pre|attn\.hook_(k|v|route)$/.test(p));
        const run = (points: string[]) =>
          device.scope(() => model.forward(ids, { capture: points }).captured);
        const captured = run(capture);
        const unwatched = run(capture.filter((p) => !p.endsWith("route")));
        const rows = (flat: Float32Array): number[][] =>
          Array.from({ length: T }, (_, t) => Array.from(flat.subarray(t * 16, (t + 1) * 16)));
        const entered = await Promise.all(
          [0, 1, 2].map(async (l) => rows(await captured[`blocks.${l}.hook_resid_pre`].floats())),
        );
        for (const layer of [1, 2]) {
          const want = await fromDefinition(model, layer, entered.slice(0, layer + 1));
          const at = `blocks.${layer}.attn.`;
          assertNear(await captured[`${at}hook_route`].floats(), want.weights.flat(2), `${at}route`);
          for (const found of [captured, unwatched]) {
            assertNear(await found[`${at}hook_k`].floats(), want.keys, `${kvRouting.kind} ${at}k`);
            assertNear(await found[`${at}hook_v`].floats(), want.values, `${kvRouting.kind} ${at}v`);
          }
        }
        for (const t of [...Object.values(captured), ...Object.values(unwatched)]) t.dispose();
        for (const x of [ids, model]) x.dispose();
      }
    }));

  test(`gradients of routers, their norms and all else agree with differences on ${backend}`, () =>
    withDevice(backend, async (device) => {
      for (const kvRouting of [STATIC, DYNAMIC, TOP] as const) {
        const model = tinyModel(device, { kvRouting });
        await shake(model);
        const ids = someIds(6);
        const batch = { tokens: ids, targets: Int32Array.from(ids, (_, i) => (i < 5 ? ids[i + 1] : -1)) };
        const loss = () => sum(crossEntropies(model, batch, 6));
        const { value, grads } = device.valueAndGrad(loss, model.parameters());
        value.dispose();
        let checked = 0;
        for (const [i, { name, tensor }] of model.learned.entries()) {
          const grad = await grads[i]!.floats();
          grads[i]!.dispose();
          if (!/lime_router|layers\.1.*[kv]_proj|embed/.test(name)) continue;
          const numbers = Float32Array.from(await tensor.floats());
          // Along the gradient itself, where rounding weighs least: dL = ε·|g|².
          const length = Math.sqrt(grad.reduce((n, g) => n + g * g, 0));
          const at = async (step: number) => {
            device.write(
              tensor,
              numbers.map((x, n) => x + (step * grad[n]) / length),
            );
            return (await take(device, loss))[0];
          };
          const eps = 4e-3;
          const slope = ((await at(eps)) - (await at(-eps))) / (2 * eps);
          device.write(tensor, numbers);
          assert.ok(length > 1e-3, `${name} has a gradient of ${length}`);
          assert.ok(Math.abs(slope - length) < 0.01 * length + 2e-3, `${name}: ${slope}, |g| = ${length}`);
          checked++;
        }
        assert.equal(checked, 3 + 2 * 2, kvRouting.kind);
        model.dispose();
      }
    }));

  test(`decoding with a cache writes what whole passes write, batched and padded, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      for (const kvRouting of [TOP, DYNAMIC] as const) {
        const model = tinyModel(device, { kvRouting });
        await shake(model);
        const prompts = [
          [1, 5, 9, 2, 8],
          [1, 7],
        ];
        await assertDecodes(model, prompts, 5);
        model.dispose();
      }
    }));
}

test("a router that takes its own stream only, under the layer's own norm, leaves the plain model", () =>
  withDevice("native", async (device) => {
    const ids = someTokens(device, 2, 7);
    const plain = tinyModel(device);
    const want = await take(device, () => plain.forward(ids).logits!);
    const routed = tinyModel(device, { kvRouting: STATIC });
    assert.notDeepEqual(await take(device, () => routed.forward(ids).logits!), want);
    for (const { routeLogits } of routed.params.blocks) {
      if (!routeLogits) continue;
      const [, S] = routeLogits.shape;
      device.write(
        routeLogits,
        Float32Array.from({ length: routeLogits.size }, (_, i) => (i % S === S - 1 ? 0 : -200)),
      );
    }
    assertNear(await take(device, () => routed.forward(ids).logits!), want, "logits");
    const alone = tinyModel(device, { kvRouting: { ...DYNAMIC, last: 1 } });
    assert.equal(alone.slots.length, plain.slots.length);
    assert.deepEqual(await take(device, () => alone.forward(ids).logits!), want);
    for (const x of [ids, plain, routed, alone]) x.dispose();
  }));

test("layers before the first that routes are those of the plain model", () =>
  withDevice("native", async (device) => {
    const ids = someTokens(device, 1, 6);
    const plain = tinyModel(device);
    for (const kvRouting of [
      { ...STATIC, from: 2 },
      { ...DYNAMIC, from: 2 },
      { kind: "learned", from: 2 },
    ] as const) {
      const routed = tinyModel(device, { kvRouting });
      const at = (model: Transformer, point: string) =>
        take(device, () => model.forward(ids, { capture: [point] }).captured[point]);
      const [before, after] = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"];
      assert.deepEqual(await at(routed, before), await at(plain, before));
      assert.notDeepEqual(await at(routed, after), await at(plain, after));
      assert.ok(hookPoints(routed.spec).every((p) => !/^blocks\.[01].*rout/.test(p)));
      routed.dispose();
    }
    for (const x of [ids, plain]) x.dispose();
  }));

test("parameters are counted exactly, and a mask is none of them", () => {
  const G = 4;
  const base = {
    ...tinySpec,
    nLayers: 16,
    nHeads: G,
    nKvHeads: G,
    dModel: 16,
    windowPattern: Array(16).fill(0),
  };
  const extra = (kvRouting: KvRoutingSpec) =>
    parameterCount({ ...base, kvRouting } as ModelSpec).total - parameterCount(base).total;
  const sources = 135; // 2 + 3 + … + 16
  const gains = 15 * 16;
  assert.equal(extra(STATIC), G * sources + gains);
  assert.equal(extra({ ...STATIC, topP: 0.9 }), G * sources + gains);
  assert.equal(extra(DYNAMIC), 16 * G * sources + gains);
  assert.equal(extra({ ...DYNAMIC, from: 14 }), 16 * G * (15 + 16) + 2 * 16);
  assert.equal(extra({ ...STATIC, last: 2 }), G * 15 * 2 + gains);
});

test("the smallest set of largest weights that reaches p is kept, and the others share what is left out", () =>
  withDevice("native", async (device) => {
    const log = (...weights: number[]) => weights.map(Math.log);
    const mask = (logits: number[], topP: number) => [...topPMask(logits, { sources: 4, topP })];
    assert.deepEqual(mask(log(0.1, 0.5, 0.05, 0.35), 0.4), [0, 1, 0, 0]);
    assert.deepEqual(mask(log(0.1, 0.5, 0.05, 0.35), 0.6), [0, 1, 0, 1]);
    assert.deepEqual(mask(log(0.1, 0.5, 0.05, 0.35), 0.9), [1, 1, 0, 1]);
    assert.deepEqual(mask(log(0.1, 0.5, 0.05, 0.35), 0.97), [1, 1, 1, 1]);
    assert.deepEqual(mask([...log(1, 1, 1, 1), ...log(0.7, 0.1, 0.1, 0.1)], 0.4), [1, 1, 0, 0, 1, 0, 0, 0]);

    const model = tinyModel(device, { kvRouting: { ...STATIC, topP: 0.75 } });
    const { routeLogits, routeMask } = model.params.blocks[2];
    device.write(routeLogits!, [...log(0.5, 0.2, 0.3), ...log(0.1, 0.1, 0.8)]);
    const ids = someTokens(device, 1, 2);
    const point = "blocks.2.attn.hook_route";
    const weights = () => take(device, () => model.forward(ids, { capture: [point] }).captured[point]);
    const whole = [0.5, 0.2, 0.3, 0.1, 0.1, 0.8];
    assertNear(await weights(), [...whole, ...whole], "before a mask is made");
    const [{ routeLogits: early }] = model.params.blocks.slice(1);
    device.write(early!, [...log(0.9, 0.1), ...log(0.4, 0.6)]);
    assert.deepEqual(await refreshTopP(model), { kept: 1 + 2 + 2 + 1, total: 10 });
    assert.deepEqual([...(await routeMask!.floats())], [1, 0, 1, 0, 0, 1]);
    const kept = [0.625, 0, 0.375, 0, 0, 1];
    assertNear(await weights(), [...kept, ...kept], "what is kept");
    // The mask stays as it is until it is made anew.
    device.write(routeLogits!, [...log(0.1, 0.8, 0.1), ...log(0.8, 0.1, 0.1)]);
    const stale = [0.5, 0, 0.5, 0, 0, 1];
    assertNear(await weights(), [...stale, ...stale], "under the old mask");
    await refreshTopP(model);
    const fresh = [0, 1, 0, 1, 0, 0];
    assertNear(await weights(), [...fresh, ...fresh], "under the new mask");
    const other = tinyModel(device, { kvRouting: STATIC });
    await assert.rejects(refreshTopP(other), /its kvRouting has no topP/);
    for (const x of [ids, model, other]) x.dispose();
  }));

test("a model is saved with its router and comes back the same, mask and all", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const ids = someTokens(device, 1, 6);
    for (const kvRouting of [
      { ...STATIC, from: 2 },
      { ...TOP, first: 1 },
      { ...DYNAMIC, last: 2 },
    ] as const) {
      const model = tinyModel(device, { kvRouting });
      await shake(model);
      for (const { routeLogits } of model.params.blocks) {
        // Logits that the mask was not made of: it must come from the file.
        if (routeLogits)
          device.write(
            routeLogits,
            (await routeLogits.floats()).map((x) => -x),
          );
      }
      await saveTransformer(model, temp.path);
      const again = await loadTransformer(device, temp.path);
      assert.deepEqual(again.spec, model.spec);
      assert.equal(await hashTransformer(again), await hashTransformer(model));
      const logits = (m: Transformer) => take(device, () => m.forward(ids).logits!);
      assert.deepEqual(await logits(again), await logits(model));
      for (const m of [model, again]) m.dispose();
    }
    const { kv_routing } = JSON.parse(fs.readFileSync(path.join(temp.path, "config.json"), "utf8"));
    assert.deepEqual(kv_routing, { kind: "hidden-dynamic", last: 2 });
    ids.dispose();
  }));

test("routers learn faster and undecayed, norms as norms do, and masks not at all", () =>
  withDevice("native", (device) => {
    for (const [kvRouting, routers] of [
      [TOP, 2],
      [DYNAMIC, 2],
    ] as const) {
      const model = tinyModel(device, { kvRouting });
      const groups = paramGroups(model, { weightDecay: 0.1 });
      const fast = groups.filter(({ lrScale }) => lrScale === 10);
      assert.deepEqual(
        fast.map(({ name }) => name),
        model.slots.filter(isRouter).map(({ name }) => name),
      );
      assert.equal(fast.length, routers);
      assert.ok(fast.every(({ weightDecay }) => weightDecay === 0));
      const gain = groups.find(({ name }) => name.endsWith("lime_router.norm.weight"))!;
      assert.deepEqual([gain.lrScale, gain.weightDecay], [1, 0]);
      assert.ok(!groups.some(({ name }) => name.endsWith("mask")));
      assert.equal(model.slots.length - groups.length, kvRouting === TOP ? 2 : 0);
      model.dispose();
    }
    return Promise.resolve();
  }));

test("routed or not, a seed gives the same numbers in all that is shared; routers begin as declared", () =>
  withDevice("native", async (device) => {
    const plain = createTransformer(device, tinySpec, { rng: new Rng(5) });
    const deviations: Record<string, number> = { "hidden-static": 0.3, "hidden-dynamic": 0.02 };
    for (const kvRouting of [STATIC, DYNAMIC] as const) {
      const routed = createTransformer(
        device,
        { ...tinySpec, kvRouting },
        { rng: new Rng(5), routeDeviation: 0.3 },
      );
      for (const slot of plain.slots) {
        const twin = routed.slots.find(({ name }) => name === slot.name);
        assert.deepEqual(await twin?.tensor.floats(), await slot.tensor.floats(), slot.name);
      }
      const numbers: number[] = [];
      for (const { tensor } of routed.slots.filter(isRouter)) numbers.push(...(await tensor.floats()));
      const deviation = Math.sqrt(sumOf(numbers.map((x) => x * x)) / numbers.length);
      const want = deviations[kvRouting.kind];
      assert.ok(deviation > 0.5 * want && deviation < 1.6 * want, `${kvRouting.kind}: ${deviation}`);
      routed.dispose();
    }
    plain.dispose();
  }));

test("an edit of the weights changes what later layers see, and their point is as wide as the sources are many", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: DYNAMIC });
    await shake(model);
    const ids = someTokens(device, 1, 5);
    const point = "blocks.2.attn.hook_route";
    const [key] = ["blocks.2.attn.hook_k"];
    const run = (factor: number) =>
      take(
        device,
        () => model.forward(ids, { capture: [key], edit: { [point]: (w) => mul(w, factor) } }).captured[key],
      );
    assertNear(
      await run(2),
      (await run(1)).map((x) => 2 * x),
      "keys are linear in the weights",
    );
    assert.equal(hookWidth(model.spec, point), 3);
    assert.equal(hookWidth(model.spec, "blocks.1.attn.hook_route"), 2);
    assert.ok(!hookPoints(model.spec).some((p) => p.endsWith("_routed")));
    for (const x of [ids, model]) x.dispose();
  }));

test("what does not go together is refused, with the way out", () =>
  withDevice("native", (device) => {
    const refused = (changes: Partial<ModelSpec>, message: RegExp) =>
      assert.throws(() => tinyModel(device, changes), { message });
    refused(
      { kvRouting: { ...DYNAMIC, topP: 0.9 } },
      /topP goes with kind "hidden-static", not "hidden-dynamic"; leave/,
    );
    refused(
      { kvRouting: { kind: "learned", topP: 0.9 } },
      /topP goes with kind "hidden-static", not "learned"/,
    );
    refused({ kvRouting: { ...STATIC, topP: 1 } }, /topP is 1, expected a number between 0 and 1/);
    refused({ kvRouting: { ...STATIC, from: 3 } }, /from is 3, but the last of 3 layers is 2/);
    refused({ kvRouting: { ...STATIC, from: 0 } }, /from is 0, expected a whole number of at least 1/);
    refused(
      { kvRouting: STATIC, norm: { kind: "layer", eps: 1e-5 } },
      /goes with a norm of kind "rms", not "layer"/,
    );
    refused({ kvRouting: DYNAMIC, residual: { kind: "hyper", streams: 2 } }, /plain residual only/);
    refused(
      { kvRouting: { kind: "hidden" as "learned" } },
      /kind is "hidden", expected one of "learned", .*"hidden-dynamic"/,
    );
    return Promise.resolve();
  }));
