/**
 * The engine itself: scopes, views, errors, and the tape with everything that aliases.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  add,
  argmax,
  assign,
  attention,
  attentionCached,
  cast,
  concat,
  contiguous,
  createDevice,
  div,
  equal,
  exp,
  expand,
  gatherRows,
  linear,
  linearTopK,
  log,
  matmul,
  max,
  mean,
  mul,
  neg,
  permute,
  relu,
  reshape,
  rmsNorm,
  rope,
  scaleInPlace,
  sigmoid,
  slice,
  softmax,
  softmaxCrossEntropy,
  sparseDecode,
  stopGradient,
  sub,
  sum,
  swiglu,
  type Tensor,
  topk,
  transpose,
  where,
} from "../../src/tensor/index.ts";
import { refBackend } from "../../src/tensor/ref/backend.ts";
import { backends, leakFree, nativeMissing, testDevice, withoutFused } from "./support.ts";

const names = ["ref", "ref decomposed", ...(nativeMissing ? [] : ["native, 2 threads"])];
const list = async (t: Tensor | undefined) => (t ? [...(await t.data())] : undefined);

for (const name of names) {
  const device = testDevice(backends[name]());
  const clean = (sentence: string, fn: () => Promise<void> | void) =>
    test(sentence, () => leakFree(device, async () => fn()));
  const refuses = (fn: () => unknown, message: string | RegExp) => assert.throws(fn, { message });

  describe(`tensors on ${name}`, () => {
    clean("data comes back as it was given, in every dtype", async () => {
      assert.deepEqual(await device.tensor([1.5, -2, 0]).data(), Float32Array.of(1.5, -2, 0));
      assert.deepEqual(await device.tensor([1, -2], [2], "i32").data(), Int32Array.of(1, -2));
      assert.deepEqual(await list(device.tensor([1.5, 65504], [2], "f16")), [1.5, 65504]);
      assert.deepEqual(await list(device.tensor([1.5, 2 ** 100], [2], "bf16")), [1.5, 2 ** 100]);
      assert.deepEqual(await list(device.tensor([2 ** -8 + 1], [1], "bf16")), [1]);
      assert.deepEqual(await list(device.tensor(Uint16Array.of(0x3c00, 0xfc00), [2], "f16")), [1, -Infinity]);
      assert.equal(await device.full([], 7).item(), 7);
    });

    clean("floats, ints and item say what they expected", async () => {
      await assert.rejects(device.tensor([1], [1], "i32").floats(), {
        message: "floats: the tensor is i32 [1]; use ints()",
      });
      await assert.rejects(device.tensor([1]).ints(), {
        message: "ints: the tensor is f32 [1]; use floats()",
      });
      await assert.rejects(device.tensor([1, 2]).item(), {
        message: "item: f32 [2] has 2 elements, expected 1",
      });
      refuses(() => device.tensor([1, 2, 3], [2, 2]), "tensor: 3 numbers do not fill [2,2], which has 4");
    });

    clean("views share the buffer and keep it alive", async () => {
      const x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      const { buffers } = device.memory();
      const row = slice(x, [1, 0], [1, 3]);
      const back = permute(x, [1, 0]);
      const flat = reshape(x, [-1]);
      assert.equal(device.memory().buffers, buffers);
      scaleInPlace(x, 10);
      assert.deepEqual(await list(row), [40, 50, 60]);
      x.dispose();
      back.dispose();
      assert.equal(device.memory().buffers, buffers);
      assert.deepEqual(await list(flat), [10, 20, 30, 40, 50, 60]);
      row.dispose();
      flat.dispose();
      assert.equal(device.memory().buffers, buffers - 1);
    });

    clean("strided views read back in row-major order", async () => {
      const x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      assert.deepEqual(await list(transpose(x)), [1, 4, 2, 5, 3, 6]);
      assert.deepEqual(await list(slice(x, [0, 1], [2, 2])), [2, 3, 5, 6]);
      assert.deepEqual(
        await list(expand(device.tensor([7, 8], [2, 1]), [2, 2, 3])),
        [7, 7, 7, 8, 8, 8, 7, 7, 7, 8, 8, 8],
      );
      assert.deepEqual(await list(reshape(transpose(x), [2, 3])), [1, 4, 2, 5, 3, 6]);
      assert.equal(contiguous(x), x);
      assert.equal(cast(x, "f32"), x);
    });

    clean("write overwrites whole tensors only", async () => {
      const x = device.zeros([2, 2]);
      device.write(x, [1, 2, 3, 4]);
      assert.deepEqual(await list(x), [1, 2, 3, 4]);
      refuses(() => device.write(x, [1]), "write: 1 numbers into f32 [2, 2]");
      refuses(() => device.write(slice(x, [1, 0], [1, 2]), [1, 2]), "write: f32 [1, 2] is a view");
    });

    clean("a disposed tensor says so and a second dispose does nothing", () => {
      const x = device.zeros([2, 3]);
      x.dispose();
      x.dispose();
      assert.equal(x.disposed, true);
      assert.equal(String(x), "Tensor(f32 [2, 3], disposed)");
      refuses(
        () => neg(x),
        "tensor: f32 [2, 3] was disposed; keep() it, or return it from its scope, to use it later",
      );
    });

    clean("assign writes into f16 caches in place", async () => {
      const cache = device.zeros([1, 4, 2], "f16");
      assign(cache, cast(device.tensor([1, 2, 3, 4], [1, 2, 2]), "f16"), [0, 1, 0]);
      assert.deepEqual(await list(cache), [0, 0, 1, 2, 3, 4, 0, 0]);
      refuses(
        () => assign(cache, device.zeros([1, 2, 2]), [0, 0, 0]),
        "assign: f32 [1, 2, 2] at [0,0,0] does not fit into f16 [1, 4, 2]",
      );
    });
  });

  describe(`scopes on ${name}`, () => {
    clean("a scope frees all but what it returns, wherever that hides", () => {
      const before = device.memory().tensors;
      const kept = device.scope(() => {
        const x = device.tensor([1, 2]);
        const y = exp(x);
        return { y, more: [new Map([["z", neg(y)]])], text: "a" };
      });
      assert.equal(device.memory().tensors, before + 2);
      assert.equal(kept.y.disposed, false);
      kept.y.dispose();
      kept.more[0].get("z")?.dispose();
      assert.equal(device.memory().tensors, before);
    });

    clean("inner results belong to the outer scope", () => {
      const before = device.memory().tensors;
      device.scope(() => {
        const inner = device.scope(() => device.zeros([3]));
        assert.equal(inner.disposed, false);
        return undefined;
      });
      assert.equal(device.memory().tensors, before);
    });

    clean("keep takes a tensor out of every scope", () => {
      let saved: Tensor | undefined;
      device.scope(() => {
        device.scope(() => {
          saved = device.zeros([3]).keep();
        });
      });
      assert.equal(saved?.disposed, false);
      saved?.dispose();
    });

    clean("a view that leaves its scope keeps the buffer of the base", async () => {
      const view = device.scope(() => slice(exp(device.zeros([4])), [1], [2]));
      assert.deepEqual(await list(view), [1, 1]);
    });

    clean("a scope that throws frees everything", () => {
      const before = device.memory();
      refuses(
        () =>
          device.scope(() => {
            device.zeros([3]);
            throw new Error("stop");
          }),
        "stop",
      );
      assert.deepEqual(device.memory().tensors, before.tensors);
    });

    clean("a failing op leaves nothing behind", () => {
      const x = device.tensor([1, 2, 3, 4], [2, 2]);
      const bad = device.tensor([5, 0], [2], "i32");
      const before = device.memory().tensors;
      assert.throws(() => gatherRows(transpose(x), bad), /index 5 is out(side| of)/);
      assert.equal(device.memory().tensors, before + 1); // the transposed view
    });

    clean("an async function is refused", () => {
      refuses(
        () => device.scope(async () => {}),
        "scope: the function is async; tensors made after an await would escape the scope",
      );
      refuses(
        () => device.valueAndGrad((async () => device.zeros([])) as unknown as () => Tensor, []),
        "valueAndGrad: the function is async; what it does after an await is not recorded",
      );
    });

    clean("ops leave no temporaries outside of scopes", () => {
      const x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      const before = device.memory().tensors;
      const made = [
        add(x, 1),
        mul(
          x,
          device.scope(() => reshape(device.tensor([1, 2]), [2, 1])),
        ),
        softmax(x),
        where(x, 0, x),
        mean(x, { axes: [0] }),
        sum(reshape(x, [1, 2, 3]), { axes: [0, 2] }),
        linear(x, x, { activation: "gelu" }),
        rmsNorm(
          x,
          device.scope(() => reshape(slice(x, [0, 0], [1, 3]), [3])),
        ),
        cast(transpose(x), "f16"),
      ];
      const named = 4; // reshape, transpose, and two results of inner scopes
      assert.equal(device.memory().tensors, before + made.length + named);
    });

    clean("peak bytes count what lived at once", () => {
      device.resetPeak();
      const start = device.memory().bytes;
      for (let i = 0; i < 5; i++) device.scope(() => neg(device.zeros([256]))).dispose();
      assert.equal(device.memory().peakBytes - start, 2 * 1024);
    });
  });

  describe(`errors on ${name}`, () => {
    clean("they name the op and the shapes", () => {
      const x = device.zeros([2, 3]);
      const y = device.zeros([4, 5]);
      const i = device.zeros([2], "i32");
      refuses(() => matmul(x, y), "matmul: f32 [2, 3] · f32 [4, 5] do not multiply");
      refuses(() => linear(x, y), "linear: x f32 [2, 3] needs w [N, 3], got f32 [4, 5]");
      refuses(() => add(x, y), "add: f32 [2, 3] and f32 [4, 5] do not broadcast (2 against 4)");
      refuses(() => topk(x, { k: 4 }), "topk: k=4, but the last axis of [2,3] has 3");
      refuses(() => reshape(x, [4]), "reshape: f32 [2, 3] has 6 elements, which do not fill [4]");
      refuses(() => permute(x, [0, 0]), "permute: [0,0] is not an order of the 2 axes of f32 [2, 3]");
      refuses(() => slice(x, [0, 2], [2, 2]), "slice: [0,2] + [2,2] leaves f32 [2, 3] on axis 1");
      refuses(() => slice(x, [0], [2]), "slice: [0] + [2] must name every axis of f32 [2, 3]");
      refuses(() => expand(x, [2, 6]), "expand: f32 [2, 3] cannot be repeated to [2,6]");
      refuses(() => transpose(device.zeros([2])), "transpose: f32 [2] has no two axes");
      refuses(() => concat([x, y], 0), "concat: f32 [2, 3] and f32 [4, 5] do not join along axis 0");
      refuses(() => max(device.zeros([2, 0]), { axes: [1] }), "max: axes [1] of f32 [2, 0] are empty");
      refuses(() => softmax(device.zeros([2, 0])), "softmax: f32 [2, 0] has an empty or no last axis");
      refuses(() => rmsNorm(x, y), "rmsNorm: x f32 [2, 3] needs a weight [3], got f32 [4, 5]");
      refuses(() => swiglu(x, y), "swiglu: f32 [2, 3] and f32 [4, 5] differ in shape");
      refuses(
        () => linearTopK(x, device.zeros([5, 3]), device.zeros([5]), { k: 6 }),
        "linearTopK: k=6, but there are 5 features",
      );
      refuses(
        () => sparseDecode(x, device.zeros([2, 2], "i32"), y),
        "sparseDecode: values f32 [2, 3] and indices i32 [2, 2] must both be [B, K]",
      );
      refuses(
        () => softmaxCrossEntropy(x, device.zeros([3], "i32")),
        "softmaxCrossEntropy: logits f32 [2, 3] need i32 targets [2], got i32 [3]",
      );
      refuses(
        () => rope(x, y, y, i),
        "rope: x f32 [2, 3], cos f32 [4, 5], sin f32 [4, 5], positions i32 [2] do not fit; expected [B, T, H, Dh], [P, R/2] twice, [B, T]",
      );
      refuses(
        () => attention(device.zeros([1, 2, 3, 4]), device.zeros([1, 2, 2, 4]), device.zeros([1, 2, 2, 4])),
        /^attention: q f32 \[1, 2, 3, 4\], k f32 \[1, 2, 2, 4\], v .* H a multiple of G$/,
      );
      const [q, cache] = [device.zeros([1, 1, 2, 4]), device.zeros([1, 6, 2, 4])];
      refuses(
        () =>
          attentionCached(q, cache, cache, device.zeros([1], "i32"), {
            length: 7,
            scale: 1,
            window: 0,
            softcap: 0,
          }),
        "attentionCached: length 7 in a cache of 6, starts i32 [1] for f32 [1, 1, 2, 4]",
      );
    });

    clean("integers where floats belong, and the reverse, are refused", () => {
      const x = device.zeros([2, 3]);
      const i = device.zeros([2, 3], "i32");
      refuses(() => relu(i), "relu: input 0 is i32 [2, 3], expected floats; cast() it first");
      refuses(
        () => matmul(x, transpose(i)),
        "matmul: input 1 is i32 [3, 2], expected floats; cast() it first",
      );
      refuses(() => gatherRows(x, x), "gatherRows: input 1 is f32 [2, 3], expected i32; cast() it first");
    });

    clean("tensors of two devices do not mix", () => {
      const other = testDevice(refBackend());
      const far = other.zeros([2]);
      refuses(
        () => add(device.zeros([2]), far),
        new RegExp(`^add: inputs live on different devices \\(${device.name}, ref\\); copy one over first$`),
      );
      far.dispose();
    });

    clean("in-place ops refuse what they cannot write", () => {
      refuses(
        () => scaleInPlace(transpose(device.zeros([2, 3])), 2),
        "scale: input 0, f32 [3, 2], is written in place and must be contiguous f32",
      );
      refuses(
        () => scaleInPlace(device.zeros([2], "f16"), 2),
        "scale: input 0, f16 [2], is written in place and must be contiguous f32",
      );
    });
  });

  describe(`gradients on ${name}`, () => {
    const gradsOf = async (params: Tensor[], fn: () => Tensor) => {
      const { value, grads } = device.valueAndGrad(fn, params);
      return { value: await value.item(), grads: await Promise.all(grads.map(list)) };
    };

    clean("x + x and x · x count both uses", async () => {
      const x = device.tensor([3, -2]);
      assert.deepEqual(await gradsOf([x], () => sum(add(x, x))), { value: 2, grads: [[2, 2]] });
      assert.deepEqual(await gradsOf([x], () => sum(mul(x, x))), { value: 13, grads: [[6, -4]] });
      assert.deepEqual((await gradsOf([x], () => sum(sub(x, x)))).grads, [[0, 0]]);
      assert.deepEqual((await gradsOf([x], () => sum(div(x, x)))).grads, [[0, 0]]);
    });

    clean("a gradient that an op hands on to both inputs is not shared", async () => {
      const [x, y] = [device.tensor([1, 2]), device.tensor([3, 4])];
      const { grads } = device.valueAndGrad(() => sum(add(x, y)), [x, y]);
      assert.notEqual(grads[0], grads[1]);
      grads[0]?.dispose();
      assert.deepEqual(await list(grads[1]), [1, 1]);
    });

    clean("adding to a gradient leaves another one alone that shows the same numbers", async () => {
      const [x, y] = [device.tensor([1, 2]), device.tensor([3, 4])];
      const fn = () => {
        const scaled = mul(x, 10); // its gradient reaches x after that of the sum, which x and y share
        return add(sum(mul(add(x, y), device.tensor([5, 6]))), sum(scaled));
      };
      assert.deepEqual((await gradsOf([x, y], fn)).grads, [
        [15, 16],
        [5, 6],
      ]);
      const repeated = () => {
        const scaled = mul(x, device.tensor([5, 6]));
        return add(mul(sum(x), 3), sum(scaled)); // one number stands for the gradient of all of x at first
      };
      assert.deepEqual((await gradsOf([x], repeated)).grads, [[8, 9]]);
    });

    clean("gradients that meet at a tensor take no memory beside their sum", () => {
      const x = device.tensor(new Float32Array(1000), [1000]);
      device.resetPeak();
      const start = device.memory().bytes;
      device.valueAndGrad(() => {
        const parts = Array.from({ length: 20 }, (_, i) => sum(mul(x, i)));
        return parts.reduce((a, b) => add(a, b));
      }, [x]);
      const peak = (device.memory().peakBytes - start) / 4000;
      assert.ok(peak < 22.5, `${peak} arrays alive at once: 20 products, a gradient and its sum`);
    });

    clean("paths of different lengths add up", async () => {
      const x = device.tensor([2]);
      // d/dx (x² + 3x + x·x²) = 2x + 3 + 3x² = 19
      const f = () => {
        const square = mul(x, x);
        return sum(add(add(square, mul(x, 3)), mul(x, square)));
      };
      assert.deepEqual((await gradsOf([x], f)).grads, [[19]]);
    });

    clean("the loss may be the parameter, or not reach it", async () => {
      const x = device.tensor([5], []);
      const y = device.tensor([6], []);
      assert.deepEqual(await gradsOf([x, y], () => x), { value: 5, grads: [[1], undefined] });
      assert.deepEqual(await gradsOf([x], () => device.full([], 4)), { value: 4, grads: [undefined] });
      assert.deepEqual((await gradsOf([x], () => mul(stopGradient(x), x))).grads, [[5]]);
      assert.deepEqual((await gradsOf([x], () => device.untracked(() => mul(x, x)))).grads, [undefined]);
      assert.deepEqual((await gradsOf([x, x], () => mul(x, 2))).grads, [[2], [2]]);
    });

    clean("chains of views carry the gradient to the right places", async () => {
      const x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      const f = () => {
        const t = transpose(x); // [3, 2] = 1 4 2 5 3 6
        const s = slice(reshape(t, [6]), [1], [3]); // 4 2 5
        return sum(mul(s, device.tensor([10, 20, 30])));
      };
      assert.deepEqual(await gradsOf([x], f), { value: 230, grads: [[0, 20, 0, 10, 30, 0]] });
    });

    clean("gradients of strided results come back in the shape of the parameter", async () => {
      const x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
      const { grads } = device.valueAndGrad(
        () => sum(mul(transpose(x), device.tensor([1, 2, 3, 4, 5, 6], [3, 2]))),
        [x],
      );
      assert.deepEqual(grads[0]?.shape, [2, 3]);
      assert.deepEqual(await list(grads[0]), [1, 3, 5, 2, 4, 6]);
    });

    clean("broadcasting sums the gradient over what was repeated", async () => {
      const x = device.tensor([1, 2, 3], [3]);
      const column = device.tensor([10, 20], [2, 1]);
      const f = () => sum(mul(x, column));
      assert.deepEqual(await gradsOf([x, column], f), {
        value: 180,
        grads: [
          [30, 30, 30],
          [6, 6],
        ],
      });
      const scalar = device.tensor([2], []);
      assert.deepEqual((await gradsOf([scalar], () => sum(mul(scalar, column)))).grads, [[30]]);
      const wide = () => sum(expand(reshape(x, [1, 3, 1]), [2, 3, 4]));
      assert.deepEqual((await gradsOf([x], wide)).grads, [[8, 8, 8]]);
    });

    clean("concat, gatherRows and where split the gradient", async () => {
      const [a, b] = [device.tensor([1, 2], [1, 2]), device.tensor([3, 4, 5, 6], [2, 2])];
      const weights = device.tensor([1, 2, 3, 4, 5, 6], [3, 2]);
      const joined = () => sum(mul(concat([a, b], 0), weights));
      assert.deepEqual((await gradsOf([a, b], joined)).grads, [
        [1, 2],
        [3, 4, 5, 6],
      ]);
      const rows = () => sum(mul(gatherRows(b, device.tensor([1, 1, 0], [3], "i32")), weights));
      assert.deepEqual((await gradsOf([b], rows)).grads, [[5, 6, 4, 6]]);
      const cond = device.tensor([1, 0], [1, 2]);
      assert.deepEqual((await gradsOf([a, b], () => sum(where(cond, a, b)))).grads, [
        [2, 0],
        [0, 1, 0, 1],
      ]);
    });

    clean("a table in f16 gets its gradient in f32", async () => {
      const table = device.tensor([1, 2, 3, 4], [2, 2], "f16");
      const rows = () => sum(gatherRows(table, device.tensor([1, 1], [2], "i32")));
      assert.deepEqual((await gradsOf([table], rows)).grads, [[0, 0, 2, 2]]);
      const x = device.tensor([1, 10], [1, 2]);
      const { grads } = device.valueAndGrad(() => sum(linear(x, table)), [table, x]);
      assert.deepEqual(
        grads.map((g) => g?.dtype),
        ["f32", "f32"],
      );
      assert.deepEqual(await list(grads[0]), [1, 10, 1, 10]);
      assert.deepEqual(await list(grads[1]), [4, 6]);
    });

    clean("what is returned beside the loss survives, the rest is freed", async () => {
      const x = device.tensor([1, 2]);
      const before = device.memory().tensors;
      const { value, grads } = device.valueAndGrad(() => {
        const hidden = exp(x);
        const logits = log(hidden);
        return { loss: sum(logits), aux: [hidden], note: 3 };
      }, [x]);
      assert.equal(device.memory().tensors, before + 3); // loss, hidden, gradient
      assert.ok(Math.abs((await value.aux[0].data())[1] - Math.exp(2)) < 1e-5);
      assert.equal(value.note, 3);
      assert.equal(await value.loss.item(), 3);
      assert.ok(Math.abs(((await list(grads[0])) ?? [])[0] - 1) < 1e-6);
    });

    clean("kept intermediates survive too", async () => {
      const x = device.tensor([1, 2]);
      let kept: Tensor | undefined;
      device.valueAndGrad(() => {
        kept = mul(x, x).keep();
        return sum(mul(kept, kept));
      }, [x]);
      assert.deepEqual(await list(kept), [1, 4]);
      kept?.dispose();
    });

    clean("scopes inside of the function do not cut the gradient", async () => {
      const x = device.tensor([0.5, 2]);
      const before = device.memory().tensors;
      const f = () =>
        device.scope(() => {
          const h = device.scope(() => mul(add(mul(x, x), 1), 2));
          return sum(mul(h, h)); // 4 (x² + 1)², so 16 x (x² + 1)
        });
      const { grads } = device.valueAndGrad(f, [x]);
      assert.deepEqual(await list(grads[0]), [10, 160]);
      grads[0]?.dispose();
      assert.equal(device.memory().tensors, before + 1); // the loss
    });

    clean("a failing function leaves nothing behind and the tape is off again", async () => {
      const x = device.tensor([1, 2]);
      const before = device.memory().tensors;
      refuses(
        () =>
          device.valueAndGrad(() => {
            device.scope(() => exp(x));
            throw new Error("stop");
          }, [x]),
        "stop",
      );
      assert.equal(device.memory().tensors, before);
      assert.equal(device.tape, undefined);
      assert.deepEqual((await gradsOf([x], () => sum(x))).grads, [[1, 1]]);
    });

    clean("the loss must be one number, and gradients do not nest", () => {
      const x = device.tensor([1, 2]);
      refuses(
        () => device.valueAndGrad(() => exp(x), [x]),
        "valueAndGrad: the loss is f32 [2], expected a single number",
      );
      refuses(
        () => device.valueAndGrad(() => device.valueAndGrad(() => sum(x), [x]).value, [x]),
        "valueAndGrad: a gradient is being taken already; it cannot be nested",
      );
    });

    clean("a tensor of the recorded computation cannot be overwritten", () => {
      const x = device.tensor([1, 2]);
      const fn = () => {
        const y = exp(x);
        scaleInPlace(y, 2);
        return sum(y);
      };
      refuses(
        () => device.valueAndGrad(fn, [x]),
        "scale: input 0, f32 [2], takes part in the gradient being taken and cannot be overwritten",
      );
    });

    clean("indices and comparisons carry no gradient", async () => {
      const x = device.tensor([1, 3, 2], [1, 3]);
      const f = () => {
        const { values, indices } = topk(x, { k: 2 });
        const hits = cast(equal(cast(argmax(x), "f32"), 1), "f32");
        return add(sum(mul(values, cast(indices, "f32"))), sum(hits));
      };
      assert.deepEqual(await gradsOf([x], f), { value: 3 + 4 + 1, grads: [[0, 1, 2]] });
    });

    clean("activations are released on the way back", () => {
      const x = device.tensor(new Float32Array(1000), [1000]);
      device.resetPeak();
      const start = device.memory().bytes;
      device.valueAndGrad(() => {
        let h: Tensor = x;
        for (let i = 0; i < 20; i++) h = sigmoid(h);
        return sum(h);
      }, [x]);
      const peak = (device.memory().peakBytes - start) / 4000;
      assert.ok(peak < 27, `${peak} activations alive at once, expected about 20`);
    });
  });
}

test("fused and decomposed ops give one gradient", async () => {
  const fused = testDevice(refBackend({ keepF64: true }));
  const plain = testDevice(withoutFused(refBackend({ keepF64: true })));
  const run = async (device: typeof fused) =>
    leakFree(device, async () => {
      const x = device.tensor([0.1, -0.4, 0.7, 0.2, 0.9, -0.3], [2, 3]);
      const w = device.tensor([0.3, 0.1, -0.2, 0.5, -0.6, 0.4, 0.8, 0.2, 0.1], [3, 3]);
      const { grads } = device.valueAndGrad(
        () => mean(softmaxCrossEntropy(softmax(linear(x, w)), device.tensor([2, 0], [2], "i32"))),
        [x, w],
      );
      return Promise.all(grads.map(list));
    });
  assert.deepEqual(await run(fused), await run(plain));
});

test("createDevice refuses thread counts that are none", async () => {
  await assert.rejects(createDevice({ threads: 0 }), {
    message: "createDevice: threads=0, expected an integer of at least 1",
  });
  const device = await createDevice({ backend: "ref" });
  assert.equal(device.name, "ref");
  device.close();
});
