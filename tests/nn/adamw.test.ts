import assert from "node:assert/strict";
import { test } from "node:test";
import { AdamW, clipFactor, globalNorm } from "../../src/nn/index.ts";
import { BACKENDS, withDevice } from "../models/helpers.ts";

const options = { beta1: 0.9, beta2: 0.99, eps: 0 };

for (const backend of BACKENDS) {
  test(`the first step moves by the learning rate against the sign of the gradient on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const tensor = device.tensor([1, 1, 1]);
      const optimizer = new AdamW(device, [{ name: "w", tensor, weightDecay: 0 }], options);
      const grad = device.tensor([5, -0.1, 3]);
      optimizer.step([grad], { lr: 0.5 });
      assert.deepEqual(
        [...(await tensor.floats())].map((x) => Math.round(1e5 * x) / 1e5),
        [0.5, 1.5, 0.5],
      );
      assert.equal(optimizer.steps, 1);
      optimizer.dispose();
      for (const t of [tensor, grad]) t.dispose();
    }));

  test(`decay multiplies a parameter by 1 - lr · decay, apart from the gradient, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const [decayed, free] = [device.tensor([8]), device.tensor([8])];
      const zero = device.zeros([1]);
      const params = [
        { name: "decayed", tensor: decayed, weightDecay: 0.5 },
        { name: "free", tensor: free, weightDecay: 0 },
      ];
      const optimizer = new AdamW(device, params, { ...options, eps: 1e-8 });
      optimizer.step([zero, zero], { lr: 0.5 });
      assert.equal(await decayed.item(), 6);
      assert.equal(await free.item(), 8);
      optimizer.dispose();
      for (const t of [decayed, free, zero]) t.dispose();
    }));

  test(`two steps equal PyTorch's formula on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const tensor = device.tensor([2]);
      const optimizer = new AdamW(device, [{ name: "w", tensor, weightDecay: 0.1 }], {
        ...options,
        eps: 1e-3,
      });
      let [w, m, v] = [2, 0, 0];
      for (const [i, g] of [3, -4].entries()) {
        const grad = device.tensor([g]);
        optimizer.step([grad], { lr: 0.1, gradScale: 0.5 });
        grad.dispose();
        m = 0.9 * m + 0.1 * (g / 2);
        v = 0.99 * v + 0.01 * (g / 2) ** 2;
        w =
          w * (1 - 0.1 * 0.1) -
          (0.1 * m) / (1 - 0.9 ** (i + 1)) / (Math.sqrt(v / (1 - 0.99 ** (i + 1))) + 1e-3);
      }
      assert.ok(Math.abs((await tensor.item()) - w) < 1e-6);
      optimizer.dispose();
      tensor.dispose();
    }));
}

test("restored moments and step count continue a run to the same bits", () =>
  withDevice("native", async (device) => {
    const grads = [3, -1, 2, 0.5].map((g) => device.tensor([g, 2 * g]));
    const make = () => {
      const tensor = device.tensor([1, 2]);
      return { tensor, optimizer: new AdamW(device, [{ name: "w", tensor, weightDecay: 0.1 }], options) };
    };
    const [whole, resumed] = [make(), make()];
    for (const g of grads) whole.optimizer.step([g], { lr: 0.1 });
    const half = make();
    for (const g of grads.slice(0, 2)) half.optimizer.step([g], { lr: 0.1 });
    device.write(resumed.tensor, await half.tensor.floats());
    for (const key of ["m", "v"] as const)
      device.write(resumed.optimizer.moments[0][key], await half.optimizer.moments[0][key].floats());
    resumed.optimizer.restore(2);
    for (const g of grads.slice(2)) resumed.optimizer.step([g], { lr: 0.1 });
    assert.deepEqual(await resumed.tensor.floats(), await whole.tensor.floats());
    for (const { tensor, optimizer } of [whole, resumed, half]) {
      optimizer.dispose();
      tensor.dispose();
    }
    for (const g of grads) g.dispose();
  }));

test("the global norm is that of all tensors together, and clipping brings it to the limit", () =>
  withDevice("native", async (device) => {
    const tensors = [device.tensor([1, 2]), device.tensor([[2, 4]].flat(), [2, 1])];
    assert.equal(await globalNorm(tensors), 5);
    assert.equal(clipFactor(5, 10), 1);
    assert.ok(Math.abs(5 * clipFactor(5, 1) - 1) < 1e-5);
    for (const t of tensors) t.dispose();
  }));
