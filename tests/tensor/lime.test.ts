/**
 * The routing of keys and values: a fixture, exact cases, the kernels against the plain loops for every
 * instruction set and thread count, gradients that gather over layers, and the memory of a training step.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  add,
  type Device,
  dispatch,
  limeRoute,
  linear,
  mul,
  ops,
  reshape,
  slice,
  sum,
  type Tensor,
} from "../../src/tensor/index.ts";
import { loadAddon } from "../../src/tensor/native/addon.ts";
import { nativeBackend } from "../../src/tensor/native/backend.ts";
import { limeKernels } from "../../src/tensor/native/lime.ts";
import type { Want } from "../../src/tensor/ops/lime.ts";
import { refBackend } from "../../src/tensor/ref/backend.ts";
import type { Dense } from "../../src/tensor/types.ts";
import { Rng } from "../../src/util/rng.ts";
import {
  assertClose,
  backends,
  float64,
  leakFree,
  nativeMissing,
  testDevice,
  withoutFused,
} from "./support.ts";

/** The native kernels of every instruction set, on one to three threads. */
function nativeDevices(): Device[] {
  if (nativeMissing) return [];
  const addon = loadAddon();
  return addon.isas().flatMap((isa) =>
    [1, 2, 3].map((threads) => {
      const pool = addon.createPool(threads);
      after(() => addon.destroyPool(pool));
      const native = nativeBackend({ threads });
      return testDevice({
        ...native,
        name: `native ${isa}, ${threads} threads`,
        kernels: { ...native.kernels, ...limeKernels(addon, pool, isa) },
      });
    }),
  );
}

const everyNative = nativeDevices();
const everyDevice = [
  ...["ref", "ref decomposed"].map((name) => testDevice(backends[name]())),
  ...everyNative,
];

describe("limeRoute", () => {
  test("two sources of two heads give 0.1·[1,2] + 0.2·[3,4] + [5,6] and 0.3·[1,2] - 0.4·[3,4] + [7,8]", async () => {
    for (const device of everyDevice)
      await leakFree(device, async () => {
        const router = device.tensor([0.1, 0.2, 1, 0, 0.3, -0.4, 0, 1], [2, 4]);
        const source = (...heads: number[]) => device.tensor(heads, [1, 1, 2, 2]);
        const keys = [source(1, 2, 3, 4), source(5, 6, 7, 8)];
        const values = [source(10, 20, 30, 40), source(50, 60, 70, 80)];
        const routed = limeRoute(router, keys, values);
        const wanted = [5.7, 7, 6.1, 7];
        assertClose(await routed.keys.data(), wanted, { rel: 1e-6, abs: 0 }, device.name);
        assertClose(
          await routed.values.data(),
          wanted.map((v) => 10 * v),
          { rel: 1e-6, abs: 0 },
          device.name,
        );
      });
  });

  test("one source and the identity give the source, to the bit", async () => {
    const rng = new Rng(3);
    for (const [G, Dh] of [
      [1, 1],
      [3, 5],
      [4, 32],
      [5, 33],
    ])
      for (const device of everyDevice)
        await leakFree(device, async () => {
          const identity = Float32Array.from({ length: G * G }, (_, i) => Number(i % (G + 1) === 0));
          const [k, v] = [0, 1].map(() => rng.fillNormal(new Float32Array(2 * 7 * G * Dh)));
          const [keys, values] = [k, v].map((x) => [device.tensor(x, [2, 7, G, Dh])]);
          const routed = limeRoute(device.tensor(identity, [G, G]), keys, values);
          assert.deepEqual(await routed.keys.data(), k, `keys of ${G} heads of ${Dh} on ${device.name}`);
          assert.deepEqual(await routed.values.data(), v, `values of ${G} heads of ${Dh} on ${device.name}`);
        });
  });

  test("a source with zero weights adds nothing, unless it holds a NaN", async () => {
    const rng = new Rng(4);
    const random = (n: number) => rng.fillNormal(new Float32Array(n));
    const [B, T, G, Dh] = [2, 3, 3, 9];
    const n = B * T * G * Dh;
    const [own, other] = [random(n), random(n)];
    const weights = random(G * G);
    for (const device of everyDevice)
      await leakFree(device, async () => {
        const tensor = (x: Float32Array) => device.tensor(x, [B, T, G, Dh]);
        const alone = limeRoute(device.tensor(weights, [G, G]), [tensor(own)], [tensor(own)]);
        const wide = Float32Array.from({ length: 2 * G * G }, (_, i) =>
          i % (2 * G) < G ? 0 : weights[Math.floor(i / (2 * G)) * G + (i % G)],
        );
        const both = (x: Float32Array) =>
          limeRoute(device.tensor(wide, [G, 2 * G]), [tensor(x), tensor(own)], [tensor(own), tensor(own)]);
        assert.deepEqual(await both(other).keys.data(), await alone.keys.data(), device.name);
        const at = 2 * G * Dh + Dh + 4; // token 2, head 1, dim 4: reaches dim 4 of every head of that token
        const poisoned = other.with(at, Number.NaN);
        const found = await both(poisoned).keys.data();
        const spoiled = [...found.keys()].filter((i) => Number.isNaN(found[i]));
        assert.deepEqual(
          spoiled,
          [0, 1, 2].map((h) => (2 * G + h) * Dh + 4),
          device.name,
        );
      });
  });

  test("sources and routers that do not fit are refused", () => {
    const [device] = everyDevice;
    device.scope(() => {
      const [x, y] = [device.zeros([1, 3, 2, 4]), device.zeros([1, 3, 2, 5])];
      const router = device.zeros([2, 4]);
      const says = (fn: () => unknown, message: string) => assert.throws(fn, { message });
      says(
        () => limeRoute(router, [x, x], [x]),
        "limeRoute: 2 keys and 1 values; expected one of each per source, at least one",
      );
      says(
        () => limeRoute(router, [], []),
        "limeRoute: 0 keys and 0 values; expected one of each per source, at least one",
      );
      says(() => limeRoute(router, [x], [x]), "limeRoute: router is f32 [2, 4], expected [2, 2]");
      says(
        () => limeRoute(device.zeros([3, 4]), [x, x], [x, x]),
        "limeRoute: router is f32 [3, 4], but sources f32 [1, 3, 2, 4] need [2, 2 for each source]",
      );
      says(
        () => limeRoute(router, [x, x], [x, y]),
        "limeRoute: f32 [1, 3, 2, 4] and f32 [1, 3, 2, 5] differ in shape",
      );
      says(
        () => limeRoute(router, [device.zeros([3, 2, 4])], [x]),
        "limeRoute: the first source is f32 [3, 2, 4], expected [·, ·, ·, ·]",
      );
      const wants: Want[] = ["new", "new"];
      assert.throws(() => dispatch(ops.limeRouteGrad, [router, x, x], { wants }), {
        message:
          /^limeRouteGrad: 2 tensors and 2 wants; a router f32 \[2, 4\] takes a gradient and 2 sources/,
      });
    });
  });
});

/** Integers make every sum and product exact, so that all must agree to the bit. */
async function checkExact(S: number, shape: readonly [number, number, number, number]): Promise<void> {
  const rng = new Rng(5).fork(`${S} ${shape}`);
  const G = shape[2];
  const integers = (...dims: number[]): Dense => ({
    shape: dims,
    data: Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => rng.int(7) - 3),
  });
  const blank = (dims: readonly number[]): Dense => ({
    shape: dims,
    data: new Float64Array(dims.reduce((a, b) => a * b, 1)),
  });
  const router = integers(G, S * G);
  const sources = Array.from({ length: 2 * S }, () => integers(...shape));
  const grads = [integers(...shape), integers(...shape)];
  const wants = [...sources, router].map((_, i): Want => (["new", "sum", "none"] as const)[i % 3]);
  const sums = wants.flatMap((want, i) => (want === "sum" ? [i === 0 ? router : sources[i - 1]] : []));

  const routed = [blank(shape), blank(shape)];
  ops.limeRoute.ref([router, ...sources], routed, {});
  const fresh = wants.flatMap((want, i) => (want === "new" ? [blank(i === 0 ? router.shape : shape)] : []));
  const summed = sums.map(({ shape, data }) => ({ shape, data: data.slice() }));
  ops.limeRouteGrad.ref([router, ...grads, ...sources, ...summed], fresh, { wants });

  for (const device of everyNative) {
    await leakFree(device, async () => {
      const place = (d: Dense) => device.tensor(d.data, d.shape);
      const [weights, x, g, into] = [place(router), sources.map(place), grads.map(place), sums.map(place)];
      const forward = dispatch(ops.limeRoute, [weights, ...x], {});
      const backward = dispatch(ops.limeRouteGrad, [weights, ...g, ...x, ...into], { wants });
      const found = [...forward, ...backward, ...into];
      for (const [i, { data }] of [...routed, ...fresh, ...summed].entries()) {
        const label = `result ${i} of ${S} sources [${shape}] on ${device.name}`;
        assert.deepEqual(await found[i].data(), Float32Array.from(data), label);
      }
    });
  }
}

describe("native routing is that of the plain loops, to the bit", { skip: nativeMissing }, () => {
  test("for any number of heads and any head width", async () => {
    for (const G of [1, 2, 3, 4, 5, 8, 11])
      for (const Dh of [1, 3, 4, 8, 16, 21, 32, 50]) await checkExact(2, [1, 9, G, Dh]);
  });

  test("for one token, no token, and more than one span and task of them", async () => {
    for (const T of [0, 1, 63, 65, 700]) await checkExact(3, [1, T, 4, 8]);
    await checkExact(2, [2, 2100, 2, 4]); // spans of more than 64 tokens
    await checkExact(2, [1, 70, 12, 200]); // rows that fill a block
    await checkExact(2, [3, 5, 2, 0]);
  });

  test("for more sources than the argument block could name", async () => {
    for (const S of [1, 2, 31, 32, 128]) await checkExact(S, [1, 5, 3, 6]);
  });
});

// ---- gradients that gather over layers

// L layers · T tokens · D = G Dh width
interface Chain {
  readonly L: number;
  readonly T: number;
  readonly G: number;
  readonly Dh: number;
}

interface Numbers {
  readonly shape: number[];
  readonly data: Float64Array;
}

/** x, and for each layer the weights of its keys and values and its router [G, l G]. */
function chainNumbers({ L, T, G, Dh }: Chain): Numbers[] {
  const rng = new Rng(6);
  const D = G * Dh;
  const random = (shape: number[], scale: number): Numbers => ({
    shape,
    data: Float64Array.from({ length: shape[0] * shape[1] }, () => Math.fround(scale * rng.normal())),
  });
  const layers = Array.from({ length: L }, (_, l) => [
    random([D, D], D ** -0.5),
    random([D, D], D ** -0.5),
    random([G, (l + 1) * G], ((l + 1) * G) ** -0.5),
  ]);
  return [random([T, D], 1), ...layers.flat()];
}

/**
 * Every layer adds its routed values, with `bothSides` its keys too, to the stream; the sum of squares at its
 * end.
 */
function chainLoss(tensors: readonly Tensor[], { L, T, G, Dh }: Chain, bothSides: boolean): Tensor {
  const keys: Tensor[] = [];
  const values: Tensor[] = [];
  let x = tensors[0];
  for (let l = 0; l < L; l++) {
    const [wk, wv, router] = tensors.slice(1 + 3 * l, 4 + 3 * l);
    keys.push(reshape(linear(x, wk), [1, T, G, Dh]));
    values.push(reshape(linear(x, wv), [1, T, G, Dh]));
    const routed = limeRoute(router, keys, values);
    x = add(x, reshape(routed.values, x.shape));
    if (bothSides) x = add(x, mul(reshape(routed.keys, x.shape), 0.5));
  }
  return sum(mul(x, x));
}

describe("gradients through layers that all read the first ones", () => {
  const chain = { L: 4, T: 5, G: 3, Dh: 3 };
  const numbers = chainNumbers(chain);
  const exact = testDevice(refBackend({ keepF64: true }));
  const decomposed = testDevice(withoutFused(refBackend({ keepF64: true })));
  const place = (device: Device) => numbers.map(({ shape, data }) => device.tensor(data, shape));
  const lossOf = (changed: readonly Numbers[]): number =>
    exact.scope(() => {
      const tensors = changed.map(({ shape, data }) => exact.tensor(new Float32Array(data), shape));
      for (const [i, { data }] of changed.entries()) (tensors[i].handle as Float64Array).set(data);
      return float64(chainLoss(tensors, chain, true))[0];
    });
  const slopes = numbers.map(({ data }, n) =>
    Array.from(data, (x, i) => {
      const [above, below] = [1e-5, -1e-5].map((h) =>
        lossOf(numbers.map((d, m) => (m === n ? { shape: d.shape, data: d.data.with(i, x + h) } : d))),
      );
      return (above - below) / 2e-5;
    }),
  );

  for (const device of [exact, decomposed])
    test(`they are central differences on ${device.name}, in float64`, async () => {
      await leakFree(device, async () => {
        const params = place(device);
        const { grads } = device.valueAndGrad(() => chainLoss(params, chain, true), params);
        grads.forEach((g, n) => {
          assert.ok(g);
          assertClose(float64(g), slopes[n], { rel: 1e-7, abs: 1e-7 }, `gradient of parameter ${n}`);
        });
      });
    });

  test("they are central differences on native, as far as f32 goes", { skip: nativeMissing }, async () => {
    for (const device of everyNative)
      await leakFree(device, async () => {
        const params = place(device);
        const { grads } = device.valueAndGrad(() => chainLoss(params, chain, true), params);
        for (const [n, g] of grads.entries()) {
          assert.ok(g);
          const what = `gradient of parameter ${n} on ${device.name}`;
          assertClose(await g.data(), slopes[n], { rel: 1e-4, abs: 1e-5 }, what);
        }
      });
  });

  test("keys that nobody reads get none", async () => {
    for (const device of everyDevice)
      await leakFree(device, async () => {
        const params = place(device);
        const { grads } = device.valueAndGrad(() => chainLoss(params, chain, false), params);
        const given = grads.map((g) => g !== undefined);
        assert.deepEqual(given, [true, ...[1, 2, 3, 4].flatMap(() => [false, true, true])], device.name);
      });
  });

  test("one tensor may be key and value, in several sources, beside others", async () => {
    for (const device of everyDevice)
      await leakFree(device, async () => {
        const x = device.tensor([1, 2], [1, 1, 1, 2]);
        const router = device.tensor([3, 5], [1, 2]);
        const weights = device.tensor([1, 10], [1, 1, 1, 2]);
        const { grads } = device.valueAndGrad(() => {
          const first = limeRoute(router, [x, x], [x, mul(x, 2)]); // keys 8 x, values 13 x
          const second = limeRoute(router, [x, first.keys], [first.values, x]); // keys 43 x, values 44 x
          return sum(mul(add(second.keys, second.values), weights));
        }, [x, router]);
        assert.deepEqual([...(await grads[0]!.data())], [87, 870], device.name);
        // d/dr of r0 x + r1 (r0 + r1) x + r0 (r0 + 2 r1) x + r1 x, at weights · x = 21
        const slope = [1 + 5 + 6 + 10, 3 + 10 + 6 + 1].map((s) => 21 * s);
        assert.deepEqual([...(await grads[1]!.data())], slope, device.name);
      });
  });

  test("a source that is a window or constant gets its own gradient, or none", async () => {
    for (const device of everyDevice)
      await leakFree(device, async () => {
        const whole = device.tensor([1, 2, 3, 4, 5, 6], [1, 3, 1, 2]);
        const constant = device.tensor([7, 8], [1, 1, 1, 2]);
        const router = device.tensor([2, 3], [1, 2]);
        const { grads } = device.valueAndGrad(() => {
          const part = slice(whole, [0, 1, 0, 0], [1, 1, 1, 2]);
          return sum(limeRoute(router, [part, constant], [constant, part]).keys);
        }, [whole, router]);
        assert.deepEqual([...(await grads[0]!.data())], [0, 0, 2, 2, 0, 0], device.name);
        assert.deepEqual([...(await grads[1]!.data())], [7, 15], device.name);
      });
  });
});

describe("the memory of a training step", () => {
  for (const name of ["ref", ...(nativeMissing ? [] : ["native, 2 threads"])])
    test(`grows in proportion to the layers on ${name}`, () => {
      const device = testDevice(backends[name]());
      const peak = (L: number) =>
        device.scope(() => {
          const chain = { L, T: 96, G: 2, Dh: 8 };
          const params = chainNumbers(chain).map(({ shape, data }) => device.tensor(data, shape));
          const before = device.memory().bytes;
          device.resetPeak();
          device.valueAndGrad(() => chainLoss(params, chain, false), params.slice(1));
          return device.memory().peakBytes - before;
        });
      const [four, eight, sixteen] = [4, 8, 16].map(peak);
      const [first, second] = [(eight - four) / 4, (sixteen - eight) / 8]; // bytes a layer
      assert.ok(
        Math.abs(second - first) < 0.15 * first,
        `${four}, ${eight} and ${sixteen} bytes at 4, 8 and 16 layers: ${first} and ${second} bytes a layer`,
      );
    });
});
