/**
 * The language-model kernels of the addon against plain float64 loops: every instruction set of this machine, and the
 * same bits for any number of threads.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { type Addon, loadAddon } from "../../src/tensor/native/addon.ts";
import { attentionKernels } from "../../src/tensor/native/attention.ts";
import { lmKernels } from "../../src/tensor/native/lm.ts";
import { type DType, ITEM_SIZE, type KernelTensor, rowMajor, sizeOf } from "../../src/tensor/types.ts";
import { nativeMissing } from "../native.ts";

const skip = nativeMissing;
const addon = (skip ? undefined : loadAddon()) as Addon; // no test runs without
const pools = skip ? [] : [1, 2, 3].map((threads) => addon.createPool(threads));
const addresses: number[] = [];
after(() => {
  for (const pool of pools) addon.destroyPool(pool);
  for (const address of addresses) addon.free(address);
});

type Values = ArrayLike<number>;

/** Numbers in [-1, 1), the same on every run. */
function random(seed: number, length: number): Float32Array {
  let state = (seed * 2654435761) >>> 0;
  return Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

function tensor(shape: number[], values?: Values, dtype: DType = "f32"): KernelTensor {
  const bytes = Math.max(1, sizeOf(shape)) * ITEM_SIZE[dtype];
  const handle = addon.alloc(bytes);
  addresses.push(handle);
  const data = dtype === "i32" ? Int32Array.from(values ?? []) : Float32Array.from(values ?? []);
  if (values) addon.write(handle, new Uint8Array(data.buffer));
  else addon.write(handle, new Uint8Array(bytes).fill(0xff));
  return { handle, dtype, shape, strides: rowMajor(shape), offset: 0 };
}

const read = (t: KernelTensor) => new Float32Array(addon.read(t.handle as number, sizeOf(t.shape) * 4));

function assertClose(actual: Values, expected: Values, tolerance: number, what: string): void {
  assert.equal(actual.length, expected.length);
  for (let i = 0; i < expected.length; i++) {
    const bound = tolerance * (1 + Math.abs(expected[i]));
    const close = actual[i] === expected[i] || Math.abs(actual[i] - expected[i]) <= bound;
    assert.ok(close, `${what}[${i}]: ${actual[i]}, expected ${expected[i]}`);
  }
}

function assertAllClose(actual: Values[], expected: Values[], tolerance: number, what: string): void {
  for (const [i, e] of expected.entries()) assertClose(actual[i], e, tolerance, `output ${i}, ${what}`);
}

type Kernels = ReturnType<typeof lmKernels> & ReturnType<typeof attentionKernels>;

/** Runs `f` with every instruction set and 1, 2 and 3 threads, checks that threads change no bit, returns the results. */
function onAll(
  f: (k: Kernels) => KernelTensor[],
  check: (results: Float32Array[], isa: string) => void,
): void {
  for (const isa of addon.isas()) {
    const runs = pools.map((pool) =>
      f({ ...lmKernels(addon, pool, isa), ...attentionKernels(addon, pool, isa) }).map(read),
    );
    for (const run of runs.slice(1))
      for (const [i, r] of run.entries())
        assert.deepEqual(new Uint8Array(r.buffer), new Uint8Array(runs[0][i].buffer), `threads, ${isa}`);
    check(runs[0], isa);
  }
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const sum = (xs: number[]) => xs.reduce((a, b) => a + b, 0);
const logSumExp = (xs: number[]) => {
  const max = xs.reduce((a, b) => Math.max(a, b), -Infinity);
  return max === -Infinity ? -Infinity : max + Math.log(sum(xs.map((x) => Math.exp(x - max))));
};

describe("native language-model kernels", { skip }, () => {
  test("softmax of [0, ln 3] is a quarter and three quarters, also with large numbers", () => {
    const x = tensor([2, 2], [0, Math.log(3), 1000, 1000]);
    onAll(
      (k) => {
        const y = tensor([2, 2]);
        k.softmax([x], [y]);
        return [y];
      },
      ([y]) => assertClose(y, [0.25, 0.75, 0.5, 0.5], 1e-6, "y"),
    );
  });

  test("softmax and logSoftmax match float64", () => {
    for (const [rows, n] of [
      [1, 1],
      [3, 7],
      [5, 64],
      [70, 1000],
      [2, 20011],
    ]) {
      const values = random(n, rows * n).map((x) => x * 20);
      const x = tensor([rows, n], values);
      const logs = range(rows).flatMap((r) => {
        const row = Array.from(values.subarray(r * n, (r + 1) * n));
        const lse = logSumExp(row);
        return row.map((v) => v - lse);
      });
      onAll(
        (k) => {
          const out = [tensor([rows, n]), tensor([rows, n])];
          k.softmax([x], [out[0]]);
          k.logSoftmax([x], [out[1]]);
          return out;
        },
        ([y, z], isa) => {
          assertClose(y, logs.map(Math.exp), 1e-6, `softmax ${isa}`);
          assertClose(z, logs, 1e-6, `logSoftmax ${isa}`);
        },
      );
    }
  });

  test("cross-entropy and its gradient match float64, and rows without a target are zero", () => {
    for (const [rows, n] of [
      [3, 5],
      [9, 64],
      [130, 1003],
    ]) {
      const values = random(rows, rows * n).map((x) => x * 10);
      const logits = tensor([rows, n], values);
      const ids = range(rows).map((r) => (r % 4 === 2 ? -100 : (r * 37) % n));
      const targets = tensor([rows], ids, "i32");
      const weights = random(8, rows);
      const dloss = tensor([rows], weights);
      const row = (r: number) => Array.from(values.subarray(r * n, (r + 1) * n));
      const lse = range(rows).map((r) => logSumExp(row(r)));
      const loss = ids.map((t, r) => (t < 0 ? 0 : lse[r] - row(r)[t]));
      const grad = ids.flatMap((t, r) =>
        row(r).map((v, i) => (t < 0 ? 0 : (Math.exp(v - lse[r]) - (i === t ? 1 : 0)) * weights[r])),
      );
      onAll(
        (k) => {
          const out = [tensor([rows]), tensor([rows]), tensor([rows, n])];
          k.softmaxCrossEntropy([logits, targets], out.slice(0, 2));
          k.softmaxCrossEntropyGrad([dloss, logits, targets, out[1]], [out[2]]);
          return out;
        },
        (out, isa) => assertAllClose(out, [loss, lse, grad], 2e-6, isa),
      );
    }
  });

  test("targets and positions out of range are named", () => {
    const kernels = lmKernels(addon, pools[1]);
    const [x, y, n] = [tensor([1, 1, 2, 2], [1, 2, 3, 4]), tensor([1, 1, 2, 2]), tensor([2])];
    const targets = tensor([2], [0, 2], "i32");
    const logits = tensor([2, 2], [1, 2, 3, 4]);
    const table = tensor([3, 1], [1, 1, 1]);
    assert.throws(() => kernels.softmaxCrossEntropy([logits, targets], [n, tensor([2])]), /index 2/);
    assert.throws(
      () => kernels.softmaxCrossEntropyGrad([n, logits, targets, n], [tensor([2, 2])]),
      /index 2/,
    );
    for (const position of [-1, 3]) {
      const positions = tensor([1, 1], [position], "i32");
      assert.throws(
        () => kernels.rope([x, table, table, positions], [y], { inverse: false }),
        /index -1|index 3/,
      );
    }
  });

  test("rmsNorm of [3, 4] divides by sqrt(12.5)", () => {
    onAll(
      (k) => {
        const out = [tensor([1, 2]), tensor([1])];
        k.rmsNorm([tensor([1, 2], [3, 4]), tensor([2], [1, 0])], out, { eps: 0, offset: 1 });
        return out;
      },
      ([y, rstd]) => {
        const r = 1 / Math.sqrt(12.5);
        assertClose(y, [6 * r, 4 * r], 1e-6, "y");
        assertClose(rstd, [r], 1e-6, "rstd");
      },
    );
  });

  test("rmsNorm and its gradient match float64", () => {
    for (const [rows, n, offset] of [
      [1, 3, 0],
      [7, 20, 1],
      [130, 256, 0],
      [200, 77, 1],
    ]) {
      const [xs, ws, gs] = [random(1, rows * n), random(2, n), random(3, rows * n)];
      const eps = 1e-5;
      const [x, w, dy] = [tensor([rows, n], xs), tensor([n], ws), tensor([rows, n], gs)];
      const at = (a: Float32Array, r: number, i: number) => a[r * n + i];
      const rstd = range(rows).map(
        (r) => 1 / Math.sqrt(sum(range(n).map((i) => at(xs, r, i) ** 2)) / n + eps),
      );
      const scale = (i: number) => offset + ws[i];
      const y = range(rows).flatMap((r) => range(n).map((i) => at(xs, r, i) * rstd[r] * scale(i)));
      const dx = range(rows).flatMap((r) => {
        const mean = sum(range(n).map((i) => scale(i) * at(gs, r, i) * at(xs, r, i))) / n;
        return range(n).map((i) => rstd[r] * scale(i) * at(gs, r, i) - at(xs, r, i) * rstd[r] ** 3 * mean);
      });
      const dw = range(n).map((i) => sum(range(rows).map((r) => at(gs, r, i) * at(xs, r, i) * rstd[r])));
      onAll(
        (k) => {
          const out = [tensor([rows, n]), tensor([rows]), tensor([rows, n]), tensor([n])];
          k.rmsNorm([x, w], out.slice(0, 2), { eps, offset });
          k.rmsNormGrad([dy, x, w, out[1]], out.slice(2), { offset });
          return out;
        },
        (out, isa) => assertAllClose(out, [y, rstd, dx, dw], 1e-5, isa),
      );
    }
  });

  test("layerNorm of [1, 3] is [-1, 1], times the weight, plus the bias", () => {
    onAll(
      (k) => {
        const out = [tensor([1, 2]), tensor([1]), tensor([1])];
        k.layerNorm([tensor([1, 2], [1, 3]), tensor([2], [2, 3]), tensor([2], [10, 20])], out, { eps: 0 });
        return out;
      },
      (out, isa) => assertAllClose(out, [[8, 23], [2], [1]], 1e-6, isa),
    );
  });

  test("layerNorm and its gradient match float64, also far from 0", () => {
    for (const [rows, n, shift] of [
      [1, 3, 0],
      [7, 20, 5],
      [130, 256, 0],
      [200, 77, -30],
    ]) {
      const xs = random(1, rows * n).map((v) => v + shift);
      const [ws, bs, gs] = [random(2, n), random(4, n), random(3, rows * n)];
      const eps = 1e-5;
      const [x, w, bias, dy] = [
        tensor([rows, n], xs),
        tensor([n], ws),
        tensor([n], bs),
        tensor([rows, n], gs),
      ];
      const row = (a: Float32Array, r: number) => Array.from(a.subarray(r * n, (r + 1) * n));
      const means = range(rows).map((r) => sum(row(xs, r)) / n);
      const rstd = range(rows).map(
        (r) => 1 / Math.sqrt(sum(row(xs, r).map((v) => (v - means[r]) ** 2)) / n + eps),
      );
      const z = range(rows).map((r) => row(xs, r).map((v) => (v - means[r]) * rstd[r]));
      const y = z.flatMap((zs) => zs.map((v, i) => v * ws[i] + bs[i]));
      const dx = range(rows).flatMap((r) => {
        const h = row(gs, r).map((g, i) => g * ws[i]);
        const [mean, along] = [sum(h) / n, sum(h.map((v, i) => v * z[r][i])) / n];
        return h.map((v, i) => rstd[r] * (v - mean - z[r][i] * along));
      });
      const dw = range(n).map((i) => sum(range(rows).map((r) => gs[r * n + i] * z[r][i])));
      const db = range(n).map((i) => sum(range(rows).map((r) => gs[r * n + i])));
      onAll(
        (k) => {
          const out = [tensor([rows, n]), tensor([rows]), tensor([rows])];
          const back = [tensor([rows, n]), tensor([n]), tensor([n])];
          k.layerNorm([x, w, bias], out, { eps });
          k.layerNormGrad([dy, x, w, out[1], out[2]], back);
          return [...out, ...back];
        },
        (out, isa) => assertAllClose(out, [y, means, rstd, dx, dw, db], shift ? 1e-4 : 1e-5, isa),
      );
    }
  });

  test("rope rotates the pairs (i, i + R/2) and its inverse undoes it", () => {
    for (const [B, T, H, D, half] of [
      [1, 1, 1, 4, 2],
      [2, 5, 3, 14, 5],
      [2, 70, 4, 32, 16],
      [1, 3, 2, 20, 4],
    ]) {
      const P = 2 * T + 1;
      const angles = random(5, P * half).map((x) => x * 3);
      const xs = random(6, B * T * H * D);
      const where = range(B * T).map((i) => (i * 2 + 1) % P);
      const inputs = [
        tensor([P, half], angles.map(Math.cos)),
        tensor([P, half], angles.map(Math.sin)),
        tensor([B, T], where, "i32"),
      ];
      const x = tensor([B, T, H, D], xs);
      const expected = range(B * T * H * D).map((at) => {
        const d = at % D;
        const angle = angles[where[Math.floor(at / (H * D))] * half + (d % half)];
        if (d >= 2 * half) return xs[at];
        if (d < half) return xs[at] * Math.cos(angle) - xs[at + half] * Math.sin(angle);
        return xs[at] * Math.cos(angle) + xs[at - half] * Math.sin(angle);
      });
      onAll(
        (k) => {
          const out = [tensor([B, T, H, D]), tensor([B, T, H, D])];
          k.rope([x, ...inputs], [out[0]], { inverse: false });
          k.rope([out[0], ...inputs], [out[1]], { inverse: true });
          return out;
        },
        ([y, back], isa) => {
          assertClose(y, expected, 1e-6, `rope ${isa}`);
          assertClose(back, xs, 1e-6, `inverse ${isa}`);
        },
      );
    }
  });

  test("swiglu and its gradient match float64, also where the sigmoid saturates", () => {
    for (const n of [1, 13, 40000]) {
      const [gate, up, dy] = [random(1, n).map((x) => x * 100), random(2, n), random(3, n)];
      const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
      const y = range(n).map((i) => gate[i] * sigmoid(gate[i]) * up[i]);
      const dup = range(n).map((i) => dy[i] * gate[i] * sigmoid(gate[i]));
      const dgate = range(n).map((i) => {
        const s = sigmoid(gate[i]);
        return dy[i] * up[i] * s * (1 + gate[i] * (1 - s));
      });
      const [g, u, d] = [gate, up, dy].map((v) => tensor([n], v));
      onAll(
        (k) => {
          const out = [tensor([n]), tensor([n]), tensor([n])];
          k.swiglu([g, u], [out[0]]);
          k.swigluGrad([d, g, u], out.slice(1));
          return out;
        },
        (out, isa) => assertAllClose(out, [y, dgate, dup], 2e-6, isa),
      );
    }
  });
});

interface Case {
  B: number;
  T: number;
  S: number;
  H: number;
  G: number;
  D: number;
  causal?: boolean;
  window?: number;
  softcap?: number;
  segments?: (b: number, t: number) => number;
  /** First visible key per batch. */
  starts?: number[];
}

/** Attention and its gradient for `dout`, in float64, straight from the definition. */
function reference(c: Case, q: Values, k: Values, v: Values, dout: Values) {
  const { B, T, S, H, G, D, window = 0, softcap = 0 } = c;
  const scale = 1 / Math.sqrt(D);
  const out = new Float64Array(B * T * H * D);
  const lse = new Float64Array(B * H * T);
  const [dq, dk, dv] = [q, k, v].map((x) => new Float64Array(x.length));
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let t = 0; t < T; t++) {
        const g = Math.floor(h / (H / G));
        const position = S - T + t;
        const qAt = ((b * T + t) * H + h) * D;
        const kAt = (j: number) => ((b * S + j) * G + g) * D;
        const dot = (x: Values, xAt: number, y: Values, yAt: number) => {
          let s = 0;
          for (let d = 0; d < D; d++) s += x[xAt + d] * y[yAt + d];
          return s;
        };
        const keys = range(S).filter(
          (j) =>
            (c.causal === false || j <= position) &&
            (window === 0 || j > position - window) &&
            j >= (c.starts?.[b] ?? 0) &&
            (!c.segments || c.segments(b, j) === c.segments(b, t)),
        );
        const caps = keys.map((j) => {
          const s = scale * dot(q, qAt, k, kAt(j));
          return softcap ? softcap * Math.tanh(s / softcap) : s;
        });
        const l = logSumExp(caps);
        const p = caps.map((s) => Math.exp(s - l));
        lse[(b * H + h) * T + t] = l;
        keys.forEach((j, n) => {
          for (let d = 0; d < D; d++) out[qAt + d] += p[n] * v[kAt(j) + d];
        });
        const delta = dot(dout, qAt, out, qAt);
        keys.forEach((j, n) => {
          const slope = softcap ? 1 - (caps[n] / softcap) ** 2 : 1;
          const ds = p[n] * (dot(dout, qAt, v, kAt(j)) - delta) * slope * scale;
          for (let d = 0; d < D; d++) {
            dv[kAt(j) + d] += p[n] * dout[qAt + d];
            dk[kAt(j) + d] += ds * q[qAt + d];
            dq[qAt + d] += ds * k[kAt(j) + d];
          }
        });
      }
  return { out, lse, dq, dk, dv };
}

function checkAttention(c: Case): void {
  const { B, T, S, H, G, D } = c;
  const shapes = { q: [B, T, H, D], k: [B, S, G, D], v: [B, S, G, D] };
  const attrs = {
    scale: 1 / Math.sqrt(D),
    causal: c.causal !== false,
    window: c.window ?? 0,
    softcap: c.softcap ?? 0,
  };
  const q = random(1, B * T * H * D).map((x) => x * 3);
  const [k, v, dout] = [
    random(2, B * S * G * D).map((x) => x * 3),
    random(3, B * S * G * D),
    random(4, q.length),
  ];
  const expected = reference(c, q, k, v, dout);
  const inputs = [tensor(shapes.q, q), tensor(shapes.k, k), tensor(shapes.v, v)];
  const ids = range(B * T).map((i) => c.segments?.(Math.floor(i / T), i % T) ?? 0);
  const segments = c.segments ? [tensor([B, T], ids, "i32")] : [];
  const g = tensor(shapes.q, dout);
  onAll(
    (kernels) => {
      const [out, lse] = [tensor(shapes.q), tensor([B, H, T])];
      const grads = [tensor(shapes.q), tensor(shapes.k), tensor(shapes.v)];
      kernels.attention([...inputs, ...segments], [out, lse], attrs);
      kernels.attentionGrad([g, ...inputs, out, lse, ...segments], grads, attrs);
      return [out, lse, ...grads];
    },
    (results, isa) => assertAllClose(results, Object.values(expected), 1e-5, `${JSON.stringify(c)} ${isa}`),
  );
}

describe("native attention", { skip }, () => {
  test("one key gives its value", () => {
    const v = [1, 2, 3, 4];
    onAll(
      (k) => {
        const out = [tensor([1, 1, 1, 4]), tensor([1, 1, 1])];
        const x = tensor([1, 1, 1, 4], [1, 0, 0, 0]);
        k.attention([x, x, tensor([1, 1, 1, 4], v)], out, { scale: 2, causal: true, window: 0, softcap: 0 });
        return out;
      },
      ([out, lse]) => {
        assertClose(out, v, 1e-6, "out");
        assertClose(lse, [2], 1e-6, "lse");
      },
    );
  });

  test("causal attention with grouped heads matches float64 with its gradient", () => {
    checkAttention({ B: 2, T: 70, S: 70, H: 4, G: 2, D: 32 });
    checkAttention({ B: 1, T: 130, S: 130, H: 3, G: 1, D: 16 });
    checkAttention({ B: 3, T: 17, S: 17, H: 2, G: 2, D: 64 });
    checkAttention({ B: 1, T: 1, S: 1, H: 1, G: 1, D: 1 });
  });

  test("head widths that fill no vector are right", () => {
    for (const D of [3, 12, 14, 33, 130]) checkAttention({ B: 1, T: 41, S: 41, H: 4, G: 2, D });
  });

  test("attention without the causal mask is right", () => {
    checkAttention({ B: 1, T: 67, S: 67, H: 2, G: 1, D: 12, causal: false });
    checkAttention({ B: 1, T: 9, S: 150, H: 2, G: 2, D: 16, causal: false });
  });

  test("a window hides old keys", () => {
    for (const window of [1, 5, 64, 100]) checkAttention({ B: 1, T: 150, S: 150, H: 2, G: 1, D: 16, window });
    checkAttention({ B: 1, T: 90, S: 90, H: 2, G: 1, D: 16, window: 7, causal: false });
  });

  test("segments do not see each other, in order or not", () => {
    const shape = { B: 2, T: 140, S: 140, H: 4, G: 2, D: 16 };
    checkAttention({ ...shape, segments: (b, t) => Math.floor((t + 11 * b) / 50) });
    checkAttention({ ...shape, segments: (_, t) => (t * 7) % 3 });
    checkAttention({ ...shape, segments: (_, t) => (t < 30 ? -1 : 1), causal: false, window: 20 });
    checkAttention({ ...shape, segments: (b, t) => (b === 0 ? t >> 4 : -t) });
  });

  test("many segments in order, over several tiles of keys", () => {
    const shape = { B: 2, T: 300, S: 300, H: 4, G: 2, D: 8 };
    const documents = (b: number, t: number) => Math.floor(Math.sqrt(3 * t + 40 * b));
    checkAttention({ ...shape, segments: documents });
    checkAttention({ ...shape, segments: documents, causal: false });
    checkAttention({ ...shape, segments: documents, window: 9 });
    checkAttention({ ...shape, segments: documents, window: 9, causal: false, softcap: 3 });
    checkAttention({ ...shape, segments: (_, t) => t });
    checkAttention({ ...shape, segments: () => 7 });
  });

  test("soft-capped scores are right", () => {
    checkAttention({ B: 1, T: 70, S: 70, H: 2, G: 1, D: 16, softcap: 2 });
    checkAttention({ B: 1, T: 70, S: 70, H: 2, G: 1, D: 16, softcap: 50, window: 30 });
  });

  test("queries behind earlier keys, and queries before the first key", () => {
    checkAttention({ B: 2, T: 5, S: 133, H: 4, G: 2, D: 16 });
    checkAttention({ B: 1, T: 64, S: 300, H: 2, G: 2, D: 32, window: 70 });
    checkAttention({ B: 1, T: 20, S: 6, H: 2, G: 1, D: 8 });
  });

  test("cached attention sees the keys from starts[b] to the query, whatever else the cache holds", () => {
    const base = { B: 3, H: 4, G: 2 };
    for (const [T, length, P, D, window] of [
      [1, 1, 4, 16, 0],
      [1, 100, 128, 32, 0],
      [1, 300, 300, 14, 70],
      [7, 90, 96, 32, 0],
      [60, 129, 200, 64, 0],
    ])
      for (const dtype of ["f32", "f16"] as const) {
        const starts = [0, Math.floor(length / 3), length - 1];
        const c = { ...base, T, S: length, D, window, starts };
        // Eighths are exact in f16. Keys beyond the length and before the start are NaN.
        const q = random(1, 3 * T * 4 * D);
        const cache = [2, 3].map((seed) => random(seed, 3 * P * 2 * D).map((x) => Math.round(x * 16) / 8));
        const at = (b: number, j: number) => (b * P + j) * 2 * D;
        const [k, v] = cache.map((x) =>
          range(3).flatMap((b) => Array.from(x.subarray(at(b, 0), at(b, length)))),
        );
        for (const x of cache)
          for (let b = 0; b < 3; b++) {
            x.fill(Number.NaN, at(b, length), at(b, P));
            x.fill(Number.NaN, at(b, 0), at(b, starts[b]));
          }
        const { out } = reference(c, q, k, v, q);
        const shape = [3, P, 2, D];
        const stored = cache.map((x) => (dtype === "f32" ? tensor(shape, x) : halves(shape, x)));
        const inputs = [tensor([3, T, 4, D], q), ...stored, tensor([3], starts, "i32")];
        const attrs = { length, scale: 1 / Math.sqrt(D), window, softcap: 0 };
        onAll(
          (kernels) => {
            const y = tensor([3, T, 4, D]);
            kernels.attentionCached(inputs, [y], attrs);
            return [y];
          },
          ([y], isa) => assertClose(y, out, 1e-5, `T ${T}, length ${length}, ${dtype}, ${isa}`),
        );
      }
  });
});

/** Eighths in [-2, 2] (or NaN) as f16. */
function halves(shape: number[], values: Values): KernelTensor {
  const bits = Uint16Array.from(values, (x) => {
    if (Number.isNaN(x)) return 0x7e00;
    if (x === 0) return 0;
    const exponent = Math.floor(Math.log2(Math.abs(x)));
    return (x < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | ((Math.abs(x) / 2 ** exponent - 1) * 1024);
  });
  const t = tensor(shape, undefined, "f16");
  addon.write(t.handle as number, new Uint8Array(bits.buffer));
  return t;
}
