/**
 * Routes told by tokens, on models whose shares are known.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { embeddingRoutes, measureCircuits, rankRoutes, routerShares } from "../../src/lime/index.ts";
import type { KvRoutingSpec, Transformer } from "../../src/models/index.ts";
import type { Tensor } from "../../src/tensor/index.ts";
import { assertNear, tinyModel, tinySpec, withDevice } from "../models/helpers.ts";

const A = 7;
const SEQUENCES = [
  [0, A, 9, 12, 8, A],
  [0, 9, 9, 12, 1],
  [0, 8, A, 12],
];
/** Occurrences of the tokens but for BOS and EOS. */
const COUNTS = new Map([
  [A, 3],
  [8, 2],
  [9, 3],
  [12, 3],
]);
const POSITIONS = 11;

/**
 * A model whose stream stays the embedding: 4 e_0 of token A and 4 e_1 of all others, once normed. Nothing else is written.
 */
function stillModel(device: Parameters<typeof tinyModel>[0], kvRouting: KvRoutingSpec): Transformer {
  const { nKvHeads: G, headDim: Dh, dModel: d, vocabSize: V } = tinySpec;
  const model = tinyModel(device, { kvRouting });
  const { params } = model;
  const matrix = (rows: number, at: (row: number, column: number) => number) =>
    Float32Array.from({ length: rows * d }, (_, i) => at(Math.floor(i / d), i % d));
  device.write(
    params.embed,
    matrix(V, (id, c) => Number(c === (id === A ? 0 : 1))),
  );
  for (const { wO, wDown, wV } of params.blocks) {
    for (const w of [wO, wDown]) device.write(w, new Float32Array(w.size));
    device.write(
      wV,
      matrix(G * Dh, (row, c) => Number(row % Dh === 0 && c < 2)),
    );
  }
  return model;
}

test("a router set to one layer has share 1 there, 0 elsewhere, and no token stands out", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: { kind: "learned" } });
    const { router } = model.params.blocks[2];
    const width = 3 * tinySpec.nKvHeads;
    device.write(
      router as Tensor,
      Float32Array.from({ length: 2 * width }, (_, i) => Number(i % width === 1)),
    );
    const { routes, positions, vocabulary } = await measureCircuits(model, SEQUENCES, { minCount: 2 });
    assert.deepEqual([positions, vocabulary], [POSITIONS, 4]);
    assert.equal(routes.length, 2 * 2 + 3 * 2);
    for (const { source, mean, std, tokens } of routes.filter(({ layer }) => layer === 2))
      assert.deepEqual({ mean, std, tokens }, { mean: Number(source === 0), std: 0, tokens: [] });
    const ranked = rankRoutes(routes);
    assert.deepEqual(
      ranked.slice(0, 2).map(({ layer, source, head }) => [layer, source, head]),
      [
        [2, 0, 0],
        [2, 0, 1],
      ],
    );
    assert.ok(ranked.every(({ layer, source }) => layer !== source));
    model.dispose();
  }));

test("a share that depends on the token by construction is found with its mean and z", () =>
  withDevice("native", async (device) => {
    const model = stillModel(device, { kind: "learned", last: 2 });
    const { blocks } = model.params;
    // Layer 0 makes values of token A only, three times as large as those of layer 1; head 0 takes both, head 1 its own.
    device.write(
      blocks[0].wV,
      Float32Array.from({ length: blocks[0].wV.size }, (_, i) => 3 * Number(i % (4 * 16) === 0)),
    );
    device.write(blocks[1].router as Tensor, [1, 0, 1, 0, 0, 0, 0, 1]);
    const { routes } = await measureCircuits(model, SEQUENCES, { minCount: 3 });
    const found = routes.find((r) => r.layer === 1 && r.source === 0 && r.head === 0)!;
    const mean = (0.75 * 3) / POSITIONS;
    const std = Math.sqrt((3 * (0.75 - mean) ** 2 + 8 * mean ** 2) / (POSITIONS - 1));
    assertNear([found.mean, found.std], [mean, std], "mean and deviation", { absolute: 1e-6 });
    assert.equal(found.tokens.length, 1);
    const [{ token, count, share, z }] = found.tokens;
    assert.deepEqual([token, count], [A, 3]);
    assertNear([share, z], [0.75, (0.75 - mean) / (std / Math.sqrt(3))], "share and z", { absolute: 1e-5 });
    const own = routes.find((r) => r.layer === 1 && r.source === 1 && r.head === 0)!;
    assert.deepEqual(
      own.tokens.map((t) => [t.token, t.count]),
      [
        [9, 3],
        [12, 3],
      ],
    );
    assertNear([own.mean + found.mean], [1], "shares of a head add up to 1");
    const none = routes.find((r) => r.layer === 1 && r.source === 0 && r.head === 1)!;
    assert.deepEqual([none.mean, none.tokens], [0, []]);
    model.dispose();
  }));

test("routers that depend on the token: their weights are the shares of equal streams, and the embedding tells them too", () =>
  withDevice("native", async (device) => {
    const model = stillModel(device, { kind: "hidden-dynamic", last: 2 });
    const { params } = model;
    const { blocks } = params;
    // Two sources a head. Head 0 of layer 1: token A gives the older one 3 to 1, others 1 to 1.
    const map = new Float32Array(4 * 16);
    map[0] = Math.log(3) / 4;
    for (const { routeOf } of blocks.slice(1)) device.write(routeOf as Tensor, new Float32Array(4 * 16));
    device.write(blocks[1].routeOf as Tensor, map);
    const { routes } = await measureCircuits(model, SEQUENCES, { minCount: 2, tokens: 2 });
    const of = (layer: number, source: number, head: number) =>
      routes.find((r) => r.layer === layer && r.source === source && r.head === head)!;
    assertNear([of(1, 0, 0).mean], [(3 * 0.75 + 8 * 0.5) / POSITIONS], "mean");
    assert.deepEqual(
      of(1, 0, 0).tokens.map(({ token }) => token),
      [A],
    );
    assertNear([of(1, 0, 0).tokens[0].share], [0.75], "share of the token");
    assert.deepEqual(
      of(1, 1, 0).tokens.map(({ token }) => token),
      [8, 9],
    );
    assertNear([of(1, 0, 1).mean, of(2, 1, 0).mean, of(2, 2, 1).mean], [0.5, 0.5, 0.5], "others");
    assert.ok(of(2, 1, 0).tokens.length === 0);

    const read = await embeddingRoutes(model, { tokens: 3 });
    assert.equal(read.length, 2 * 4);
    const { tokens } = read.find((r) => r.layer === 1 && r.source === 0 && r.head === 0)!;
    assert.equal(tokens[0].token, A);
    assertNear(
      tokens.map(({ logit }) => logit),
      [Math.log(3), 0, 0],
      "logits",
    );
    assert.ok(
      read.flatMap((r) => r.tokens).every(({ token }) => token > 1),
      "special tokens are left out",
    );
    // Half of A's embedding lies along a channel that the gain of the final norm, divided out, leaves nothing of.
    const embed = await params.embed.floats();
    embed[A * 16 + 1] = 1;
    device.write(params.embed, embed);
    const logitOfA = async () => (await embeddingRoutes(model, { tokens: 1 }))[0].tokens[0].logit;
    assertNear([await logitOfA()], [Math.log(3) / Math.SQRT2], "with a gain of 1");
    device.write(
      params.lnFinal,
      Float32Array.from({ length: 16 }, (_, i) => (i === 1 ? 1e4 : 1)),
    );
    assertNear([await logitOfA()], [Math.log(3)], "with a large gain");
    const early = await embeddingRoutes(model, { tokens: 1, vocabulary: A });
    assert.ok(early.every(({ tokens: [t] }) => t.token < A));
    device.write(params.lnFinal, new Float32Array(16));
    await assert.rejects(embeddingRoutes(model), /gain of the final norm has a 0/);
    model.dispose();
  }));

for (const kvRouting of [
  { kind: "learned", first: 1 },
  { kind: "average" },
  { kind: "hidden-static" },
  { kind: "hidden-dynamic", from: 2 },
] as const) {
  test(`shares of ${kvRouting.kind} are those of a plain loop over captured states`, () =>
    withDevice("native", async (device) => {
      const model = tinyModel(device, { kvRouting });
      const { nKvHeads: G, headDim: Dh, dModel: d, norm } = tinySpec;
      const { router, routeNorm, wV } = model.params.blocks[2];
      const hidden = kvRouting.kind.startsWith("hidden");
      const points = [0, 1, 2].map((l) => `blocks.${l}.${hidden ? "hook_resid_pre" : "attn.hook_v"}`);
      const weigh = "blocks.2.attn.hook_route";
      const sums = new Float64Array(G * 3);
      const R = router && (await router.floats());
      const [gain, W] = [routeNorm && (await routeNorm.floats()), await wV.floats()];
      for (const ids of SEQUENCES) {
        const captured = device.scope(() => {
          const tokens = device.tensor(ids, [1, ids.length], "i32");
          return model.forward(tokens, { capture: [...points, ...(hidden ? [weigh] : [])] }).captured;
        });
        const states = await Promise.all(points.map((p) => captured[p].floats()));
        const weights = hidden ? await captured[weigh].floats() : undefined;
        for (const t of Object.values(captured)) t.dispose();
        ids.forEach((id, t) => {
          if (id < 2) return;
          for (let h = 0; h < G; h++) {
            const norms = states.map((state, s) => {
              const added = Array.from({ length: Dh }, (_, c) => {
                let total = 0;
                if (weights && gain) {
                  const x = state.subarray(t * d, (t + 1) * d);
                  const r = 1 / Math.sqrt(x.reduce((n, v) => n + v * v, 0) / d + norm.eps);
                  for (let i = 0; i < d; i++) total += W[(h * Dh + c) * d + i] * x[i] * r * gain[i];
                  return total * weights[(t * G + h) * 3 + s];
                }
                for (let from = 0; from < G; from++) {
                  const weight = R ? R[h * 3 * G + s * G + from] : Number(from === h) / 3;
                  total += weight * state[(t * G + from) * Dh + c];
                }
                return total;
              });
              return Math.hypot(...added);
            });
            const whole = norms.reduce((a, b) => a + b, 0);
            norms.forEach((n, s) => {
              sums[h * 3 + s] += n / whole / POSITIONS;
            });
          }
        });
      }
      const { routes } = await measureCircuits(model, SEQUENCES, { minCount: 2 });
      const last = routes.filter(({ layer }) => layer === 2);
      assert.deepEqual(
        last.map(({ head, source }) => head * 3 + source),
        [0, 1, 2, 3, 4, 5],
      );
      assertNear(
        last.map(({ mean }) => mean),
        sums,
        "mean shares",
        { absolute: 1e-5 },
      );
      for (const { mean, tokens } of last) {
        for (const { token, share, count } of tokens) {
          assert.equal(count, COUNTS.get(token));
          assert.ok(share > mean);
        }
      }
      model.dispose();
    }));
}

test("fixed weights of streams are read without a text; those that depend on the token are not", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: { kind: "hidden-static", topP: 0.9 } });
    const { routeLogits, routeMask } = model.params.blocks[2];
    device.write(routeLogits as Tensor, [0.5, 0.2, 0.3, 0.25, 0.5, 0.25].map(Math.log));
    device.write(routeMask as Tensor, [1, 0, 1, 1, 1, 1]);
    const routes = await routerShares(model);
    assert.deepEqual(
      routes.map(({ layer }) => layer),
      [1, 2],
    );
    assertNear(routes[1].shares, [(0.625 + 0.25) / 2, 0.5 / 2, (0.375 + 0.25) / 2], "shares");
    const dynamic = tinyModel(device, { kvRouting: { kind: "hidden-dynamic" } });
    await assert.rejects(
      routerShares(dynamic),
      /depend on the token; measure them on a text with `sluice lime circuits`/,
    );
    for (const m of [model, dynamic]) m.dispose();
  }));

test("models that route nothing, and texts in which no token is frequent enough, are refused", () =>
  withDevice("native", async (device) => {
    const [plain, routed] = [tinyModel(device), tinyModel(device, { kvRouting: { kind: "learned" } })];
    await assert.rejects(measureCircuits(plain, SEQUENCES), /no layer of the model reads another one/);
    await assert.rejects(
      measureCircuits(routed, SEQUENCES),
      /no token occurs 10 times in 11 positions, the most frequent 3 times/,
    );
    await assert.rejects(embeddingRoutes(routed), /only in routers of kind "hidden-dynamic"/);
    for (const m of [plain, routed]) m.dispose();
  }));
