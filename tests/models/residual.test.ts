/**
 * Blocks that join what came before otherwise than by a sum: DenseFormer and Hyper-Connections.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  crossEntropies,
  hashTransformer,
  hookPoints,
  loadTransformer,
  type ModelSpec,
  saveTransformer,
  type Transformer,
} from "../../src/models/index.ts";
import { depthAverage, hyperRead, hyperStart } from "../../src/models/residual.ts";
import { sum } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
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

const HYPER = { kind: "hyper", streams: 4 } as const;
const KINDS = [{ kind: "dense" }, HYPER] as const satisfies readonly ModelSpec["residual"][];

async function logits(model: Transformer): Promise<Float32Array> {
  const ids = someTokens(model.device, 2, 7);
  return await take(model.device, () => model.forward(ids).logits!).finally(() => ids.dispose());
}

for (const backend of BACKENDS) {
  test(`streams are read, mixed and written as the equations say, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const [B, T, n, d] = [1, 2, 3, 5];
      const rng = new Rng(2);
      const draw = (...shape: number[]) => {
        const size = shape.reduce((a, b) => a * b, 1);
        return { shape, data: rng.fillNormal(new Float32Array(size)) };
      };
      const x = draw(B, T, n, d);
      const made = draw(B, T, d);
      const [alpha, beta, alphaOf, betaOf] = [draw(n, n + 1), draw(n), draw(n + 1, d), draw(1, d)];
      const [alphaScale, betaScale] = [draw(1), draw(1)];
      const on = ({ shape, data }: { shape: number[]; data: Float32Array }) => device.tensor(data, shape);
      const run = (which: "input" | "written") =>
        take(device, () => {
          const params = {
            alpha: on(alpha),
            beta: on(beta),
            alphaOf: on(alphaOf),
            betaOf: on(betaOf),
            alphaScale: on(alphaScale),
            betaScale: on(betaScale),
          };
          const { input, write } = hyperRead(on(x), params, device.full([d], 1));
          return which === "input" ? input : write(on(made));
        });
      const input = new Float64Array(T * d);
      const written = new Float64Array(T * n * d);
      for (let t = 0; t < T; t++) {
        for (let i = 0; i < n; i++) {
          const stream = [...x.data.slice((t * n + i) * d, (t * n + i + 1) * d)];
          const mean = stream.reduce((a, b) => a + b, 0) / d;
          const variance = stream.reduce((a, b) => a + (b - mean) ** 2, 0) / d;
          const normed = stream.map((v) => (v - mean) / Math.sqrt(variance + 1e-5));
          const dot = (w: Float32Array, row: number) => normed.reduce((a, v, j) => a + v * w[row * d + j], 0);
          const weight = (c: number) =>
            alpha.data[i * (n + 1) + c] + Math.tanh(dot(alphaOf.data, c)) * alphaScale.data[0];
          const out = beta.data[i] + Math.tanh(dot(betaOf.data, 0)) * betaScale.data[0];
          for (let j = 0; j < d; j++) {
            input[t * d + j] += weight(0) * stream[j];
            for (let s = 0; s < n; s++) written[(t * n + s) * d + j] += weight(s + 1) * stream[j];
            written[(t * n + i) * d + j] += out * made.data[t * d + j];
          }
        }
      }
      const near = { absolute: 1e-5, relative: 1e-5 };
      assertNear(await run("input"), input, "input", near);
      assertNear(await run("written"), written, "written", near);
    }));

  test(`a fresh dense model is the plain one, and four fresh streams are one, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const make = (residual?: ModelSpec["residual"]) => tinyModel(device, { residual });
      const models = [make(), make({ kind: "dense" }), make({ ...HYPER, streams: 1 }), make(HYPER)];
      const [plain, dense, one, four] = await Promise.all(models.map(logits));
      assert.deepEqual(dense, plain);
      assertNear(four, one, "streams", { absolute: 1e-4, relative: 1e-4 });
      for (const m of models) m.dispose();
    }));
}

test("the average over depth weighs what left every block", () =>
  withDevice("native", async (device) => {
    const found = await take(device, () => {
      const left = [1, 10, 100].map((v) => device.full([1, 2, 3], v));
      return depthAverage(device.tensor([2, -1, 0.5], [1, 3]), left);
    });
    assert.deepEqual([...found], new Array(6).fill(2 - 10 + 50));
  }));

test("a module reads the stream of its number, and all streams stay", () => {
  assert.deepEqual([...hyperStart(5, 4)], [0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
});

for (const residual of KINDS) {
  test(`${residual.kind}: every parameter learns, decoding with a cache agrees, and the model comes back from its folder`, () =>
    withDevice("native", async (device) => {
      using temp = temporaryFolder();
      const model = tinyModel(device, { residual });
      const rng = new Rng(9);
      for (const { tensor } of model.slots) {
        const moved = (await tensor.floats()).map((v) => v + 0.05 * rng.normal());
        device.write(tensor, moved); // away from a start where parts do nothing
      }
      const tokens = Int32Array.from([1, 5, 9, 2, 8, 3]);
      const targets = Int32Array.from([5, 9, 2, 8, 3, -1]);
      const { value, grads } = device.valueAndGrad(
        () => sum(crossEntropies(model, { tokens, targets }, 6)),
        model.parameters(),
      );
      for (const [i, { name }] of model.slots.entries()) {
        const g = await grads[i]?.floats();
        assert.ok(
          g?.some((v) => v !== 0),
          `${name} has a gradient`,
        );
      }
      for (const t of [value, ...grads]) t?.dispose();

      const prompts = [
        [1, 5, 9, 2],
        [1, 7],
      ];
      await assertDecodes(model, prompts, 5);
      await saveTransformer(model, temp.path);
      const again = await loadTransformer(device, temp.path);
      assert.deepEqual(again.spec, model.spec);
      assert.equal(await hashTransformer(again), await hashTransformer(model));
      for (const m of [model, again]) m.dispose();
    }));
}

test("several streams have no stream behind a block, and go with no parallel residual", () =>
  withDevice("native", async (device) => {
    const points = hookPoints({ ...tinySpec, residual: HYPER });
    assert.ok(
      !points.some((p) => p.endsWith("hook_resid_post")) && points.includes("blocks.1.hook_resid_mid"),
    );
    assert.throws(
      () => tinyModel(device, { residual: HYPER, parallelResidual: true }),
      /several streams go with/,
    );
    assert.throws(() => tinyModel(device, { residual: { kind: "hyper", streams: 0 } }), /0 streams/);
  }));
