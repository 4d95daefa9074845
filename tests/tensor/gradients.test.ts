/**
 * Every gradient rule against central differences of the op's plain loops in float64, on every case of the op.
 * Run three times: on a `ref` device that keeps float64, on the same one by decomposition, and on `native` in f32.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Device } from "../../src/tensor/device.ts";
import { dispatch } from "../../src/tensor/dispatch.ts";
import { add, mul } from "../../src/tensor/ops/elementwise.ts";
import type { OpName } from "../../src/tensor/ops/index.ts";
import { type Activation, activate } from "../../src/tensor/ops/matmul.ts";
import { sum } from "../../src/tensor/ops/reduce.ts";
import { refBackend } from "../../src/tensor/ref/backend.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import type { Dense } from "../../src/tensor/types.ts";
import { Rng } from "../../src/util/rng.ts";
import {
  assertClose,
  backends,
  type Case,
  casesOf,
  expected,
  float64,
  leakFree,
  nativeMissing,
  opNames,
  opOf,
  type Tolerance,
  testDevice,
  valuesOf,
  withoutFused,
} from "./support.ts";

const FLAT = "piecewise constant: the gradient is 0 wherever there is one";
const IN_PLACE = "writes in place, never recorded";
const SECOND = "is itself a gradient; second derivatives are not taken";

/** Ops without a gradient rule, and why. */
const WITHOUT: Partial<Record<OpName, string>> = {
  greater: FLAT,
  greaterEqual: FLAT,
  equal: FLAT,
  argmax: FLAT,
  fill: "has no inputs",
  assign: IN_PLACE,
  markFired: IN_PLACE,
  adam: IN_PLACE,
  adamRows: IN_PLACE,
  normalizeRows: IN_PLACE,
  projectRows: IN_PLACE,
  scale: IN_PLACE,
  accumulate: IN_PLACE,
  rmsNormGrad: SECOND,
  layerNormGrad: SECOND,
  swigluGrad: SECOND,
  softmaxCrossEntropyGrad: SECOND,
  attentionGrad: SECOND,
  kronSpread: SECOND,
  limeRouteGrad: SECOND,
  attentionCached: "generation only",
  sparseOuterPair: "used by explicit training steps only",
  sumSquares: "used on gradients, for clipping",
};

const STEP = 1e-5;
/** Truncation and cancellation of central differences with that step. */
const FLOAT64: Tolerance = { rel: 1e-7, abs: 1e-8 };
const FLOAT32: Tolerance = { rel: 1e-4, abs: 2e-5 };

/** Elements of an input that are tried; a larger input is sampled. */
const TRIED = 48;

const differentiable = (name: OpName) =>
  casesOf(name).filter((c) => !c.forwardOnly && c.inputs.some((i) => !i.constant));

/** Fixed weights that turn an op's outputs into one number: Σ weight · output over those that carry a gradient. */
function weightsOf(c: Case, outputs: readonly { shape: readonly number[] }[]): Float32Array[] {
  const rng = new Rng(11).fork(c.label);
  return outputs.map(({ shape }) =>
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => rng.normal()),
  );
}

const carries = (c: Case, dtype: string, i: number) => dtype !== "i32" && !c.op.saved?.includes(i);

function objective(c: Case, inputs: readonly Dense[]): number {
  const outputs = expected(c, inputs);
  let total = 0;
  weightsOf(c, outputs).forEach((w, o) => {
    const { data } = outputs[o];
    if (!carries(c, data instanceof Int32Array ? "i32" : "f32", o)) return;
    for (let i = 0; i < w.length; i++) total += w[i] * data[i];
  });
  return total;
}

interface Slopes {
  readonly at: readonly number[];
  readonly values: readonly number[];
}

/** Numerical gradients at some elements of each input; undefined for constant inputs. */
function central(c: Case, inputs: readonly Dense[]): (Slopes | undefined)[] {
  const rng = new Rng(13).fork(c.label);
  return inputs.map(({ data }, n) => {
    if (c.inputs[n].constant || data instanceof Int32Array) return undefined;
    const at = [...rng.permutation(data.length).subarray(0, TRIED)];
    const values = at.map((i) => {
      const x = data[i];
      const [above, below] = [STEP, -STEP].map((h) => {
        data[i] = x + h;
        return objective(c, inputs);
      });
      data[i] = x;
      return (above - below) / (2 * STEP);
    });
    return { at, values };
  });
}

function gradients(device: Device, c: Case, inputs: readonly Dense[]): (Tensor | undefined)[] {
  const tensors = inputs.map((d) =>
    device.tensor(d.data, d.shape, d.data instanceof Int32Array ? "i32" : "f32"),
  );
  const { grads } = device.valueAndGrad(() => {
    const outputs = dispatch(c.op, tensors, c.attrs, device);
    const parts = weightsOf(c, outputs)
      .map((w, i) => ({ w, y: outputs[i] }))
      .filter(({ y }, i) => carries(c, y.dtype, i))
      .map(({ w, y }) => sum(mul(y, device.tensor(w, y.shape))));
    return parts.reduce((a, b) => add(a, b));
  }, tensors);
  return grads;
}

const known = new Map<string, (Slopes | undefined)[]>();

async function check(
  device: Device,
  c: Case,
  read: (t: Tensor) => ArrayLike<number> | Promise<ArrayLike<number>>,
  tolerance: Tolerance,
): Promise<void> {
  const inputs = valuesOf(c);
  const wanted = known.get(c.label) ?? central(c, inputs);
  known.set(c.label, wanted);
  await leakFree(device, async () => {
    const grads = gradients(device, c, inputs);
    for (const [i, w] of wanted.entries()) {
      if (!w) continue;
      const g = grads[i];
      assert.ok(g, `${c.label}: no gradient of input ${i}`);
      assert.deepEqual(g.shape, c.inputs[i].shape, `${c.label}: shape of the gradient of input ${i}`);
      const all = await read(g);
      const tried = w.at.map((n) => all[n]);
      assertClose(tried, w.values, tolerance, `${c.label}: gradient of input ${i} on ${device.name}`);
    }
  });
}

/** Ops whose gradient is no limit of differences. */
const STRAIGHT_THROUGH: Partial<Record<OpName, string>> = {
  heaviside: "tests/sae/golden.test.ts has its table",
};

test("every op has a gradient rule or a reason to have none", () => {
  for (const name of opNames) {
    const { vjp } = opOf(name);
    assert.equal(
      vjp === undefined,
      name in WITHOUT,
      `${name}: a rule and an entry in WITHOUT exclude each other`,
    );
    if (!vjp || name in STRAIGHT_THROUGH) continue;
    const tested = differentiable(name).some((c) =>
      c.inputs.some((i) => !i.constant && !i.shape.includes(0)),
    );
    assert.ok(tested, `${name}: no case exercises its gradient`);
  }
});

const exact = testDevice(refBackend({ keepF64: true }));
const decomposed = testDevice(withoutFused(refBackend({ keepF64: true })));
const rules = opNames.filter((name) => opOf(name).vjp);

describe("gradients in float64", () => {
  for (const name of rules) {
    test(`${name} matches central differences`, async () => {
      for (const c of differentiable(name)) await check(exact, c, float64, FLOAT64);
    });
  }
  for (const name of rules.filter((n) => opOf(n).kind === "fused")) {
    test(`${name} by decomposition has the same gradient`, async () => {
      for (const c of differentiable(name)) await check(decomposed, c, float64, FLOAT64);
    });
  }
});

describe("gradients on native", { skip: nativeMissing }, () => {
  for (const name of nativeMissing ? [] : ["native, 2 threads", "native decomposed"]) {
    const device = testDevice(backends[name]());
    test(`${name}: every rule matches central differences as far as f32 goes`, async () => {
      for (const op of rules) {
        for (const c of differentiable(op)) await check(device, c, (t) => t.data(), FLOAT32);
      }
    });
  }
});

test("activations that linear leaves to the tape have the gradients of their formulas", async () => {
  const x = [-3, -1.2, -0.4, 0.3, 0.9, 2.5];
  const phi = (z: number) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  const sigmoid = (z: number) => 1 / (1 + Math.exp(-z));
  const slopes: Record<Exclude<Activation, "none" | "geluTanh">, (z: number) => number> = {
    relu: (z) => Number(z > 0),
    silu: (z) => sigmoid(z) * (1 + z * (1 - sigmoid(z))),
    gelu: (z) => cdf(z) + z * phi(z),
  };
  await leakFree(exact, async () => {
    for (const [name, slope] of Object.entries(slopes)) {
      const t = exact.tensor(x);
      const { grads } = exact.valueAndGrad(() => sum(activate(t, name as Activation)), [t]);
      assert.ok(grads[0]);
      assertClose(float64(grads[0]), x.map(slope), { rel: 1e-6, abs: 1e-6 }, name);
    }
  });
});

/** Φ by Simpson's rule from 0. */
function cdf(z: number): number {
  const n = 2000;
  const h = z / n;
  let total = 0;
  for (let i = 0; i <= n; i++) {
    const weight = i === 0 || i === n ? 1 : i % 2 ? 4 : 2;
    total += weight * Math.exp(-((i * h) ** 2) / 2);
  }
  return 0.5 + (total * h) / 3 / Math.sqrt(2 * Math.PI);
}
