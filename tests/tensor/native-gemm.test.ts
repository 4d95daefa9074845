/**
 * The native matrix products against plain loops in double precision: every layout, edge, storage type, epilogue,
 * instruction set and thread count. Skipped where the addon was not built.
 */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Addon, dtypeCode, loadAddon } from "../../src/tensor/native/addon.ts";
import { nativeMissing } from "../native.ts";

const skip = nativeMissing;
const addon: Addon | undefined = skip ? undefined : loadAddon();

const pools = new Map<number, number>();
function pool(threads: number): number {
  let p = pools.get(threads);
  if (p === undefined) {
    p = addon!.createPool(threads);
    pools.set(threads, p);
  }
  return p;
}
after(() => {
  for (const p of pools.values()) addon!.destroyPool(p);
});

let state = 1;
/** Uniform in [-0.5, 0.5), the same on every run. */
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32 - 0.5;
}
const randoms = (n: number) => Float32Array.from({ length: n }, random);

/** Copies arrays into the addon's memory for the time of `run`. */
function withBuffers<T>(arrays: readonly (ArrayBufferView | undefined)[], run: (at: number[]) => T): T {
  const at = arrays.map((a) => (a ? addon!.alloc(Math.max(a.byteLength, 1)) : 0));
  arrays.forEach((a, i) => {
    if (a) addon!.write(at[i], new Uint8Array(a.buffer, a.byteOffset, a.byteLength));
  });
  try {
    return run(at);
  } finally {
    for (const p of at) if (p) addon!.free(p);
  }
}

interface Case {
  m: number;
  n: number;
  k: number;
  batch?: number;
  /** Stored [K, M] / [N, K]. */
  ta?: boolean;
  tb?: boolean;
  dtype?: "f32" | "f16" | "bf16";
  oneB?: boolean;
  bias?: boolean;
  residual?: boolean;
  accumulate?: boolean;
  activation?: number;
}

const activations = [
  (x: number) => x,
  (x: number) => Math.max(x, 0),
  (x: number) => x / (1 + Math.exp(-x)),
  (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
];

/** Its power series, which cancels beyond 4, where 1 is exact enough. */
function erf(x: number): number {
  if (Math.abs(x) > 4) return Math.sign(x);
  let [term, total] = [x, x];
  for (let n = 1; n < 120; n++) {
    term *= (-x * x) / n;
    total += term / (2 * n + 1);
  }
  return (2 * total) / Math.sqrt(Math.PI);
}

/** Halves as stored bits, and the numbers that they stand for (small integers over 8: exact in both formats). */
function halves(n: number, dtype: "f16" | "bf16") {
  const values = Float32Array.from({ length: n }, () => Math.round(random() * 30) / 8);
  const bits = new Uint16Array(n);
  const wide = new Uint32Array(values.buffer);
  for (let i = 0; i < n; i++) {
    if (dtype === "bf16") bits[i] = wide[i] >>> 16;
    else if (values[i] !== 0)
      bits[i] =
        ((wide[i] >>> 16) & 0x8000) | ((((wide[i] >>> 23) & 255) - 112) << 10) | ((wide[i] >>> 13) & 1023);
  }
  return { values, bits };
}

/** Runs one case on the given ISA and thread counts; checks the first against loops, the others bit by bit. */
function check(c: Case, isa: string, threads: readonly number[]): void {
  const { m, n, k, batch = 1, ta = false, tb = false, dtype = "f32", activation = 0 } = c;
  const a = randoms(batch * m * k);
  const bCount = (c.oneB ? 1 : batch) * k * n;
  const b = dtype === "f32" ? undefined : halves(bCount, dtype);
  const bv = b ? b.values : randoms(bCount);
  const bias = c.bias ? randoms(n) : undefined;
  const residual = c.residual ? randoms(batch * m * n) : undefined;
  const before = randoms(batch * m * n);
  const what = `${JSON.stringify(c)} on ${isa}`;
  let first: Float32Array | undefined;
  for (const t of threads) {
    const got = withBuffers([a, b ? b.bits : bv, before, bias, residual], (at) => {
      const args = addon!.args;
      args.set([at[0], at[1], at[2], m, n, k, ta ? 1 : k, ta ? m : 1, tb ? 1 : n, tb ? k : 1, n]);
      args.set([batch, m * k, c.oneB ? 0 : k * n, m * n, dtypeCode[dtype], at[3], activation], 11);
      args.set([c.accumulate ? 1 : 0, at[4], n], 18);
      addon!.call(pool(t), addon!.kernels(isa).matmul);
      return new Float32Array(addon!.read(at[2], before.byteLength));
    });
    if (first) {
      assert.deepEqual(got, first, `${what}: ${t} threads differ from ${threads[0]}`);
      continue;
    }
    first = got;
    for (let s = 0; s < batch; s++)
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++) {
          const at = (s * m + i) * n + j;
          let sum = (c.accumulate ? before[at] : 0) + (bias ? bias[j] : 0);
          const shiftB = c.oneB ? 0 : s * k * n;
          for (let p = 0; p < k; p++)
            sum += a[s * m * k + (ta ? p * m + i : i * k + p)] * bv[shiftB + (tb ? j * k + p : p * n + j)];
          const want = activations[activation](sum) + (residual ? residual[at] : 0);
          if (!(Math.abs(got[at] - want) <= 2e-6 * (1 + Math.sqrt(k)) * (dtype === "f32" ? 1 : 4)))
            assert.fail(`${what}: C[${s}, ${i}, ${j}] is ${got[at]}, expected ${want}`);
        }
  }
}

const isas = addon?.isas() ?? [];
const layouts = [0, 1, 2, 3].map((bits) => ({ ta: (bits & 1) !== 0, tb: (bits & 2) !== 0 }));

test("every edge from 1 to 40 gives the plain product, in all four layouts", { skip }, () => {
  for (const isa of isas)
    for (let e = 1; e <= 40; e++) {
      const layout = layouts[e % 4];
      check({ m: e, n: 41 - e, k: 1 + ((e * 7) % 40), ...layout }, isa, [1]);
      check({ m: 65 + (e % 9), n: e, k: e, ...layouts[(e + 1) % 4] }, isa, [1]);
      check({ m: e, n: 37, k: 19, tb: true }, isa, [1]);
    }
});

test("thread counts 1, 2 and 3 give the same bits over several slices of K and tiles", { skip }, () => {
  for (const isa of isas)
    for (const layout of layouts) {
      check({ m: 101, n: 135, k: 401, ...layout }, isa, [1, 2, 3]);
      check({ m: 7, n: 260, k: 300, ...layout }, isa, [1, 2, 3]);
    }
});

test("a long sum with a small result is split the same way for any thread count", { skip }, () => {
  for (const isa of isas) {
    check({ m: 70, n: 9, k: 5003, ta: true }, isa, [1, 2, 3]);
    check({ m: 40, n: 17, k: 4096, tb: true, bias: true, activation: 1, accumulate: true }, isa, [1, 2]);
    check({ m: 66, n: 140, k: 4500, ta: true }, isa, [1, 2]);
  }
});

test("16-bit weights multiply like the numbers that they stand for", { skip }, () => {
  for (const isa of isas)
    for (const dtype of ["f16", "bf16"] as const)
      for (const m of [1, 2, 3, 4, 5, 16, 33, 70])
        for (const tb of [true, false]) check({ m, n: 45, k: 83, tb, dtype }, isa, [1, 2]);
});

test("bias, activation, residual and accumulation are applied once, after the whole sum", { skip }, () => {
  for (const isa of isas)
    for (const activation of [0, 1, 2, 3, 4])
      for (const m of [1, 6, 70])
        for (const k of [30, 800]) {
          check({ m, n: 37, k, tb: true, bias: true, activation }, isa, [1]);
          check(
            { m, n: 37, k, tb: true, bias: true, residual: true, accumulate: true, activation },
            isa,
            [1],
          );
        }
});

test("batches have their own matrices, or share b", { skip }, () => {
  for (const isa of isas)
    for (const layout of layouts) {
      check({ batch: 3, m: 10, n: 21, k: 17, ...layout }, isa, [1, 2]);
      check({ batch: 2, m: 40, n: 50, k: 33, oneB: true, ...layout }, isa, [1, 2]);
    }
});

test("matrix times vector, and sums over nothing", { skip }, () => {
  for (const isa of isas) {
    check({ m: 200, n: 1, k: 77 }, isa, [1, 2]);
    check({ batch: 2, m: 50, n: 1, k: 40, tb: true }, isa, [1, 2]);
    check({ m: 5, n: 7, k: 0, bias: true }, isa, [1]);
    check({ m: 50, n: 7, k: 0, bias: true, accumulate: true }, isa, [1]);
  }
});

interface TopCase {
  rows: number;
  width: number;
  features: number;
  k: number;
  relu?: boolean;
  x?: Float32Array;
  w?: Float32Array;
  bias?: Float32Array;
}

function topK(c: TopCase & { x: Float32Array; w: Float32Array }, isa: string, threads: number) {
  const size = c.rows * c.k;
  return withBuffers([c.x, c.w, c.bias, new Float32Array(size), new Int32Array(size)], (at) => {
    addon!.args.set([...at, c.rows, c.features, c.width, c.k, c.relu === false ? 0 : 1]);
    addon!.call(pool(threads), addon!.kernels(isa).linearTopK);
    return {
      values: new Float32Array(addon!.read(at[3], size * 4)),
      indices: new Int32Array(addon!.read(at[4], size * 4)),
    };
  });
}

/** Small integers make every product exact, so values and indices must agree exactly, ties included. */
function checkTopK(c: TopCase, isa: string, threads: readonly number[]): void {
  const { rows, width, features, k, relu = true } = c;
  const integers = (n: number, span: number) => randoms(n).map((v) => Math.round(v * span));
  const x = c.x ?? integers(rows * width, 6);
  const w = c.w ?? integers(features * width, 6);
  const bias = c.bias ?? integers(features, 8);
  const what = `rows ${rows}, width ${width}, features ${features}, k ${k}, relu ${relu} on ${isa}`;
  const results = threads.map((t) => topK({ ...c, x, w, bias }, isa, t));
  for (let i = 1; i < results.length; i++) assert.deepEqual(results[i], results[0], what);
  const { values, indices } = results[0];
  for (let r = 0; r < rows; r++) {
    const pre = Array.from({ length: features }, (_, f) => {
      let sum = bias[f];
      for (let d = 0; d < width; d++) sum += x[r * width + d] * w[f * width + d];
      return relu && sum < 0 ? 0 : sum;
    });
    const order = pre.map((_, f) => f).sort((i, j) => pre[j] - pre[i] || i - j);
    const best = order.slice(0, k);
    assert.deepEqual([...indices.subarray(r * k, (r + 1) * k)], best, `${what}: indices of row ${r}`);
    const want = best.map((f) => pre[f] + 0);
    assert.deepEqual([...values.subarray(r * k, (r + 1) * k)], want, `${what}: values of row ${r}`);
  }
}

test("linearTopK takes the k largest, the lower index on ties, for any threads", { skip }, () => {
  for (const isa of isas) {
    for (const k of [1, 2, 7, 32, 100]) {
      checkTopK({ rows: 70, width: 9, features: 1301, k }, isa, [1, 2, 3]);
      checkTopK({ rows: 67, width: 20, features: 300, k, relu: false }, isa, [1, 2]);
      for (const rows of [1, 5, 20]) checkTopK({ rows, width: 40, features: 501, k }, isa, [1, 3]);
    }
    checkTopK({ rows: 66, width: 400, features: 700, k: 512 }, isa, [1, 2]);
    checkTopK({ rows: 34, width: 0, features: 10, k: 4 }, isa, [1]);
  }
});

test("linearTopK with k = F sorts the row, zeros at the lowest unused indices", { skip }, () => {
  for (const isa of isas)
    for (const rows of [2, 80]) checkTopK({ rows, width: 8, features: 37, k: 37 }, isa, [1]);
  const x = Float32Array.of(1, 1);
  const w = Float32Array.of(-1, 0, 2, 0, -3, 0);
  for (const isa of isas) {
    const { values, indices } = topK({ rows: 1, width: 2, features: 3, k: 3, x, w }, isa, 1);
    assert.deepEqual([...values], [2, 0, 0]);
    assert.deepEqual([...indices], [1, 0, 2]);
  }
});

test("linearTopK survives thousands of equal values, NaN and infinities", { skip }, () => {
  for (const isa of isas)
    for (const rows of [1, 70]) {
      const features = 3000;
      const x = new Float32Array(rows * 8).fill(1);
      const flat = { rows, width: 8, features, k: 5, x, w: new Float32Array(features * 8).fill(1) };
      checkTopK({ ...flat, bias: new Float32Array(features) }, isa, [1, 2]);
      checkTopK({ ...flat, bias: new Float32Array(features).fill(-9) }, isa, [1, 2]);
      const bias = Float32Array.from({ length: features }, (_, f) => f % 7);
      bias[2000] = Number.NaN;
      bias[1000] = Number.POSITIVE_INFINITY;
      const { indices } = topK({ ...flat, bias }, isa, 2);
      assert.deepEqual([...indices.subarray(0, 5)], [2000, 1000, 6, 13, 20]);
    }
});
