/**
 * Memory over time: steps of training and of generation hold what they held before, on the books and in the process.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  adam,
  assign,
  attentionCached,
  type Device,
  gatherRows,
  linear,
  mean,
  reshape,
  rmsNorm,
  scaleInPlace,
  softmaxCrossEntropy,
  sumSquares,
  swiglu,
  type Tensor,
} from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/rng.ts";
import { backends, nativeMissing, testDevice } from "./support.ts";

// V words · D model width · N tokens of a step
interface Sizes {
  readonly V: number;
  readonly D: number;
  readonly N: number;
}

/** A small model and its optimiser; every tensor is kept. */
function training(device: Device, { V, D, N }: Sizes) {
  const rng = new Rng(3);
  const random = (...shape: number[]) =>
    device.tensor(rng.fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1)), 0, 0.2), shape).keep();
  const params = [random(V, D), random(D), random(2 * D, D), random(2 * D, D), random(D, 2 * D)];
  const moments = params.map((p) => [device.zeros(p.shape).keep(), device.zeros(p.shape).keep()]);
  const [embed, gain, gate, up, down] = params;

  /** One step; the loss is the only new tensor that is left. */
  function step(t: number): Tensor {
    return device.scope(() => {
      const ids = Int32Array.from({ length: N }, () => rng.int(V));
      const { value, grads } = device.valueAndGrad(() => {
        const x = rmsNorm(gatherRows(embed, device.tensor(ids, [N], "i32")), gain);
        const y = linear(swiglu(linear(x, gate), linear(x, up)), down);
        return mean(softmaxCrossEntropy(linear(y, embed), device.tensor(ids, [N], "i32")));
      }, params);
      grads.forEach((g, i) => {
        assert.ok(g);
        sumSquares(g);
        scaleInPlace(g, 0.9);
        const attrs = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, step: t, gradScale: 1 };
        adam(params[i], g, moments[i][0], moments[i][1], attrs);
      });
      return value;
    });
  }
  return { step, dispose: () => [...params, ...moments.flat()].forEach((t) => void t.dispose()) };
}

for (const name of ["ref", ...(nativeMissing ? [] : ["native, 2 threads"])]) {
  describe(`memory on ${name}`, () => {
    const device = testDevice(backends[name]());

    test("training steps hold constant memory and lower the loss", async () => {
      const run = training(device, { V: 24, D: 8, N: 16 });
      const losses: number[] = [];
      const loss = run.step(1);
      losses.push(await loss.item());
      loss.dispose();
      const start = device.memory();
      device.resetPeak();
      run.step(2).dispose();
      const { peakBytes } = device.memory();
      for (let t = 3; t < 60; t++) {
        const value = run.step(t);
        losses.push(await value.item());
        value.dispose();
        const now = device.memory();
        assert.deepEqual([now.tensors, now.bytes], [start.tensors, start.bytes], `step ${t}`);
        assert.equal(now.peakBytes, peakBytes, `peak of step ${t}`);
      }
      assert.ok(losses[losses.length - 1] < 0.7 * losses[0], `loss ${losses[0]} to ${losses.at(-1)}`);
      run.dispose();
    });

    test("a cache of keys and values grows nothing", async () => {
      const [B, P, H, Dh] = [2, 16, 2, 4];
      const cache = device.zeros([B, P, H, Dh], "f32").keep();
      const starts = device.tensor([0, 3], [B], "i32").keep();
      const start = device.memory();
      for (let at = 3; at < P; at++) {
        device.scope(() => {
          const x = reshape(device.full([B * H * Dh], at), [B, 1, H, Dh]);
          assign(cache, x, [0, at, 0, 0]);
          attentionCached(x, cache, cache, starts, { length: at + 1, scale: 0.5, window: 0, softcap: 0 });
        });
        const now = device.memory();
        assert.deepEqual([now.tensors, now.bytes], [start.tensors, start.bytes]);
      }
      cache.dispose();
      starts.dispose();
    });
  });
}

test("native training holds constant resident memory", { skip: nativeMissing }, async () => {
  const device = testDevice(backends["native, 2 threads"]());
  const run = training(device, { V: 512, D: 64, N: 256 }); // a step makes some 6 MB of tensors
  for (let t = 1; t <= 30; t++) run.step(t).dispose();
  const before = process.memoryUsage.rss();
  for (let t = 31; t <= 130; t++) run.step(t).dispose();
  const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
  assert.ok(grown < 60, `resident memory grew by ${grown.toFixed(1)} MB over 100 steps`);
  run.dispose();
});
