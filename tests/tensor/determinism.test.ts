/**
 * The same inputs give the same bits: twice on one device, on any number of threads, and over whole training runs.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { dispatch } from "../../src/tensor/dispatch.ts";
import {
  adamRows,
  attention,
  type Device,
  linearTopK,
  markFired,
  mean,
  reshape,
  sparseDecodeLoss,
  square,
  sum,
  type Tensor,
} from "../../src/tensor/index.ts";
import { nativeBackend } from "../../src/tensor/native/backend.ts";
import { mutated } from "../../src/tensor/op.ts";
import { refBackend } from "../../src/tensor/ref/backend.ts";
import { Rng } from "../../src/util/rng.ts";
import { type Case, nativeMissing, opNames, place, testDevice, valuesOf } from "./support.ts";
import { largeCase } from "./support-large.ts";

async function bits(t: Tensor): Promise<Uint8Array> {
  const { buffer, byteOffset, byteLength } = await t.data();
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Bytes of all outputs and of the inputs written in place. */
async function run(device: Device, c: Case): Promise<Uint8Array[]> {
  const inputs = valuesOf(c).map((d) => place(device, d, "contiguous"));
  const outputs = dispatch(c.op, inputs, c.attrs, device);
  const results = [...outputs, ...mutated(c.op, c.inputs.length, c.attrs).map((i) => inputs[i])];
  const all = await Promise.all(results.map(bits));
  for (const t of [...inputs, ...outputs]) t.dispose();
  return all;
}

function sameBits(a: readonly Uint8Array[], b: readonly Uint8Array[], what: string): void {
  for (const [i, x] of a.entries()) assert.ok(Buffer.compare(x, b[i]) === 0, `${what}: output ${i} differs`);
}

describe("bits on native", { skip: nativeMissing }, () => {
  const devices = nativeMissing ? [] : [1, 2, 3].map((threads) => testDevice(nativeBackend({ threads })));

  for (const name of opNames) {
    test(`${name} gives the same bits in two runs and on 1, 2 and 3 threads`, async () => {
      const c = largeCase(name);
      const first = await run(devices[0], c);
      sameBits(await run(devices[0], c), first, `${name}, again`);
      for (const device of devices.slice(1)) {
        for (let n = 0; n < 2; n++)
          sameBits(await run(device, c), first, `${name}, ${device.backend.threads} threads`);
      }
    });
  }
});

/** Twelve steps of a small autoencoder with a little attention in front, from a seed: losses and final weights. */
async function train(device: Device, seed: number): Promise<Uint8Array[]> {
  const rng = new Rng(seed);
  const [B, D, F] = [24, 16, 96];
  const random = (...shape: number[]) =>
    device.tensor(rng.fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1)), 0, 0.3), shape);
  const params = [random(F, D), random(F, D)];
  const [bias, biasDec] = [device.zeros([F]), device.zeros([D])];
  const moments = params.map((p) => [device.zeros(p.shape), device.zeros(p.shape)]);
  const fired = device.zeros([F], "i32");
  const results: Tensor[] = [];
  for (let step = 1; step <= 12; step++) {
    const loss = device.scope(() => {
      const x = random(1, B, 2, D / 2);
      const { value, grads } = device.valueAndGrad(() => {
        const seen = reshape(attention(x, x, x), [B, D]);
        const codes = linearTopK(seen, params[0], bias, { k: 8 });
        markFired(fired, codes.values, codes.indices, B);
        const { loss, error } = sparseDecodeLoss(codes, params[1], biasDec, seen);
        return { loss, sparse: mean(sum(square(error), { axes: [1] })) };
      }, params);
      const attrs = { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, step, gradScale: 1 };
      grads.forEach((g, i) => {
        assert.ok(g);
        const rows = { ...attrs, project: i === 1, normalize: i === 1, normEps: 1e-8 };
        adamRows(params[i], g, moments[i][0], moments[i][1], rows);
      });
      return value.loss;
    });
    results.push(loss);
  }
  const all = await Promise.all([...results, ...params, fired].map(bits));
  for (const t of [...results, ...params, ...moments.flat(), bias, biasDec, fired]) t.dispose();
  return all;
}

test("two training runs from one seed give the same bits, two seeds do not", async () => {
  const device = testDevice(refBackend());
  const first = await train(device, 5);
  sameBits(await train(device, 5), first, "ref");
  assert.notDeepEqual(await train(device, 6), first);
});

test("native training gives the same bits on any number of threads", { skip: nativeMissing }, async () => {
  const first = await train(testDevice(nativeBackend({ threads: 1 })), 5);
  for (const threads of [1, 2, 3]) {
    sameBits(await train(testDevice(nativeBackend({ threads })), 5), first, `${threads} threads`);
  }
});
