/**
 * Tensors and gradients: a network of one hidden layer learns one period of the sine.
 * B points of a batch · H hidden units
 */
import assert from "node:assert/strict";
import { AdamW } from "sluice/nn";
import { createDevice, linear, mean, square, sub, type Tensor, tanh } from "sluice/tensor";
import { Rng } from "sluice/util";

const B = 256;
const H = 32;
const device = await createDevice();
const rng = new Rng(1);

const random = (shape: [number, number], std: number): Tensor =>
  device.tensor(rng.fillNormal(new Float32Array(shape[0] * shape[1]), 0, std), shape);
const params = {
  w1: random([H, 1], 2), // weights are [out, in]
  b1: device.zeros([H]),
  w2: random([1, H], 0.3),
  b2: device.zeros([1]),
};
const trained = Object.entries(params).map(([name, tensor]) => ({ name, tensor, weightDecay: 0 }));
const optimizer = new AdamW(device, trained, { beta1: 0.9, beta2: 0.999, eps: 1e-8 });

function predict(x: Tensor): Tensor {
  const hidden = tanh(linear(x, params.w1, { bias: params.b1 })); // [B, H]
  return linear(hidden, params.w2, { bias: params.b2 }); // [B, 1]
}

let last = Number.POSITIVE_INFINITY;
for (let step = 1; step <= 600; step++) {
  const points = rng.fillUniform(new Float32Array(B), -1, 1);
  const loss = device.scope(() => {
    const x = device.tensor(points, [B, 1]);
    const y = device.tensor(
      points.map((p) => Math.sin(Math.PI * p)),
      [B, 1],
    );
    const tensors = trained.map(({ tensor }) => tensor);
    const { value, grads } = device.valueAndGrad(() => mean(square(sub(predict(x), y))), tensors);
    optimizer.step(grads as Tensor[], { lr: 0.01 });
    return value;
  });
  if (step % 100 === 0) {
    last = await loss.item();
    console.log(`step ${step}  mean squared error ${last.toExponential(2)}`);
  }
  loss.dispose();
}
assert.ok(last < 1e-3, `the sine was not learnt: ${last}`);
device.close();
