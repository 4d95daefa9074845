/**
 * Every op on every backend, in every memory layout and storage type, against its plain loops in float64.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Device } from "../../src/tensor/device.ts";
import { dispatch } from "../../src/tensor/dispatch.ts";
import { loadAddon } from "../../src/tensor/native/addon.ts";
import { mutated } from "../../src/tensor/op.ts";
import type { OpName } from "../../src/tensor/ops/index.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import type { Dense, DType } from "../../src/tensor/types.ts";
import {
  assertClose,
  backends,
  type Case,
  casesOf,
  expected,
  type Layout,
  layouts,
  leakFree,
  nativeMissing,
  opNames,
  opOf,
  place,
  rounded,
  shownIn,
  type Tolerance,
  testDevice,
  valuesOf,
} from "./support.ts";
import { largeCase } from "./support-large.ts";

const EXACT: Tolerance = { rel: 0, abs: 0 };
/** A handful of f32 roundings. */
const ROUNDED: Tolerance = { rel: 1e-6, abs: 1e-6 };
/** Sums in f32 of up to a few hundred products, in another order than the loops. */
const SUMMED: Tolerance = { rel: 2e-6, abs: 2e-6 };
/** Several exponentials and sums behind each other. */
const CHAINED: Tolerance = { rel: 1e-5, abs: 5e-6 };

/** How far a kernel may be from the float64 loops. Copies and IEEE operations are exact. */
const TOLERANCE: Readonly<Record<OpName, Tolerance>> = {
  neg: EXACT,
  exp: ROUNDED,
  log: ROUNDED,
  sqrt: EXACT,
  rsqrt: ROUNDED,
  tanh: ROUNDED,
  sigmoid: ROUNDED,
  relu: EXACT,
  abs: EXACT,
  square: EXACT,
  reciprocal: EXACT,
  sin: ROUNDED,
  cos: ROUNDED,
  add: EXACT,
  sub: EXACT,
  mul: EXACT,
  div: EXACT,
  maximum: EXACT,
  minimum: EXACT,
  greater: EXACT,
  greaterEqual: EXACT,
  equal: EXACT,
  where: EXACT,
  sum: ROUNDED,
  max: EXACT,
  argmax: EXACT,
  contiguous: EXACT,
  cast: EXACT,
  concat: EXACT,
  unslice: EXACT,
  assign: EXACT,
  fill: EXACT,
  gatherRows: EXACT,
  scatterAddRows: SUMMED,
  takeLast: EXACT,
  scatterLast: SUMMED,
  topk: EXACT,
  matmul: SUMMED,
  linear: SUMMED,
  softmax: CHAINED,
  logSoftmax: CHAINED,
  rmsNorm: SUMMED,
  rmsNormGrad: SUMMED,
  layerNorm: SUMMED,
  layerNormGrad: SUMMED,
  rope: ROUNDED,
  swiglu: ROUNDED,
  swigluGrad: CHAINED,
  softmaxCrossEntropy: CHAINED,
  softmaxCrossEntropyGrad: CHAINED,
  attention: CHAINED,
  attentionGrad: CHAINED,
  attentionCached: CHAINED,
  limeRoute: SUMMED,
  limeRouteGrad: SUMMED,
  linearTopK: SUMMED,
  sparseDecode: SUMMED,
  sparseDot: SUMMED,
  sparseOuter: SUMMED,
  sparseSum: SUMMED,
  sparseDecodeLoss: SUMMED,
  sparseOuterPair: SUMMED,
  markFired: EXACT,
  linearKronTopK: CHAINED, // a root of a product of two sums
  kronSpread: ROUNDED,
  kronScores: ROUNDED,
  jumpRelu: EXACT,
  heaviside: EXACT,
  prefixLoss: SUMMED,
  keepLargest: EXACT,
  groupPrefixes: EXACT,
  adam: CHAINED, // a quotient of two moments, each corrected for its bias
  adamRows: CHAINED,
  normalizeRows: ROUNDED,
  projectRows: SUMMED,
  scale: ROUNDED, // the factor is rounded to f32 first
  accumulate: EXACT,
  sumSquares: ROUNDED,
};

/** A decomposition rounds after every step. */
const DECOMPOSED: Tolerance = { rel: 3e-5, abs: 1e-5 };

function toleranceOf(name: OpName, device: Device): Tolerance {
  if (device.name === "ref") return EXACT;
  const fused = !(name in device.backend.kernels);
  return fused ? DECOMPOSED : device.name.startsWith("ref") ? EXACT : TOLERANCE[name];
}

interface Run {
  readonly layout?: Layout;
  /** Storage of the float inputs that are not written in place. */
  readonly dtype?: DType;
  /** A NaN may also stand where the loops have a number. */
  readonly spills?: boolean;
}

/** Results of the plain loops, which every backend is compared with. */
const known = new Map<string, Dense[]>();

/** Runs a case on a device and compares outputs, inputs written in place, and inputs that must stay as they are. */
async function check(
  device: Device,
  c: Case,
  { layout = "contiguous", dtype = "f32", spills = false }: Run,
  special?: readonly Dense[],
): Promise<void> {
  const values = special ?? valuesOf(c);
  const key = special ? undefined : `${c.label} ${layout} ${dtype}`;
  await leakFree(device, async () => {
    const written = mutated(c.op, c.inputs.length, c.attrs);
    const dense = values.map((v, i) =>
      written.includes(i) ? v : shownIn(layout, rounded(v, v.data instanceof Int32Array ? "i32" : dtype)),
    );
    const inputs = dense.map((d, i) => {
      if (written.includes(i)) return place(device, d, layout === "offset" ? "offset" : "contiguous");
      return place(device, d, layout, d.data instanceof Int32Array ? "i32" : dtype);
    });
    const outputs = dispatch(c.op, inputs, c.attrs, device);
    const wanted = (key && known.get(key)) || expected(c, dense);
    if (key) known.set(key, wanted);
    const results = [...outputs, ...written.map((i) => inputs[i])];
    const what = `${c.label}, ${layout} ${dtype} on ${device.name}`;
    assert.equal(results.length, wanted.length, what);
    for (const [i, t] of results.entries()) {
      assert.deepEqual(t.shape, wanted[i].shape, `${what}: shape of output ${i}`);
      const tolerance = toleranceOf(c.op.name as OpName, device);
      const found = await t.data();
      const loops = rounded(wanted[i], t.dtype).data;
      const goal = spills ? loops.map((w, n) => (Number.isNaN(found[n]) ? Number.NaN : w)) : loops;
      assertClose(found, goal, tolerance, `${what}: output ${i}`);
    }
    await assertUntouched(inputs, dense, written, what);
  });
}

async function assertUntouched(
  inputs: readonly Tensor[],
  dense: readonly Dense[],
  written: readonly number[],
  what: string,
): Promise<void> {
  for (const [i, t] of inputs.entries()) {
    if (!written.includes(i))
      assertClose(await t.data(), dense[i].data, EXACT, `${what}: input ${i} afterwards`);
  }
}

/** Kernels that move or compare single numbers: any float may stand anywhere in their inputs. */
const SPECIALS: readonly OpName[] = [
  ...(["neg", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "abs", "square"] as const),
  ...(["reciprocal", "add", "sub", "mul", "div", "maximum", "minimum", "greater", "greaterEqual"] as const),
  ...([
    "equal",
    "where",
    "sum",
    "max",
    "argmax",
    "contiguous",
    "cast",
    "concat",
    "unslice",
    "assign",
  ] as const),
  ...([
    "gatherRows",
    "scatterAddRows",
    "takeLast",
    "scatterLast",
    "topk",
    "keepLargest",
    "scale",
    "accumulate",
    "sumSquares",
  ] as const),
];
/** Kernels that compute with rows: a NaN must come out wherever the loops let it. */
const NAN_SPREADS: readonly OpName[] = [
  ...(["sin", "cos", "matmul", "linear", "softmax", "logSoftmax", "rmsNorm", "rmsNormGrad", "rope"] as const),
  ...(["layerNorm", "layerNormGrad"] as const),
  ...(["swiglu", "swigluGrad", "softmaxCrossEntropy", "softmaxCrossEntropyGrad", "sparseDecode"] as const),
  ...(["sparseDot", "sparseOuter", "sparseSum", "sparseDecodeLoss", "linearTopK"] as const),
  ...(["linearKronTopK", "kronScores", "kronSpread"] as const),
  ...(["sparseDot", "sparseOuter", "sparseSum", "sparseDecodeLoss", "linearTopK", "prefixLoss"] as const),
  ...(["attention", "attentionGrad", "attentionCached", "limeRoute", "limeRouteGrad"] as const),
];
/** These multiply tiles of numbers by weights that are 0 behind the mask, so a NaN also reaches the tile's other rows. */
const NAN_SPILLS: readonly OpName[] = ["attention", "attentionGrad", "attentionCached"];

/** Integers that name documents, first positions or rows to be looked up later, not places in memory. */
const UNBOUNDED: readonly OpName[] = ["attention", "attentionGrad", "attentionCached", "kronSpread"];
const NEGATIVE_MEANS_NONE: readonly OpName[] = ["softmaxCrossEntropy", "softmaxCrossEntropyGrad"];

/** The numbers of a case with some replaced, at other places in each input; or in input `only` alone. */
function withSpecials(c: Case, specials: readonly number[], only?: number): Dense[] {
  return valuesOf(c).map((d, i) => {
    if (d.data instanceof Int32Array || d.data.length === 0 || i !== (only ?? i)) return d;
    const data = d.data.slice();
    for (const [n, v] of specials.entries()) data[(1 + i * 2 + n * 3) % data.length] = v;
    return { shape: d.shape, data };
  });
}

for (const [name, make] of Object.entries(backends)) {
  describe(`conformance of ${name}`, () => {
    const device = testDevice(make());
    for (const op of opNames) {
      test(`${op} agrees with its plain loops in every layout`, async () => {
        for (const c of casesOf(op)) for (const layout of layouts) await check(device, c, { layout });
      });
    }

    test("16-bit inputs give what their rounded values give, for every op", async () => {
      for (const op of opNames) {
        for (const c of casesOf(op)) {
          if (op === "assign" || c.inputs.length === 0) continue; // equal dtypes: see below
          for (const dtype of ["f16", "bf16"] as const) {
            await check(device, c, { dtype, layout: "offset" });
            await check(device, c, { dtype, layout: "transposed" });
          }
        }
      }
    });

    test("infinities and NaN pass through kernels that handle single numbers", async () => {
      const specials = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0];
      for (const op of SPECIALS)
        for (const c of casesOf(op)) {
          await check(device, c, {}, withSpecials(c, specials));
          await check(device, c, { layout: "transposed" }, withSpecials(c, specials));
        }
    });

    test("a NaN spreads through the others exactly as far as through the plain loops", async () => {
      for (const op of NAN_SPREADS)
        for (const c of casesOf(op)) {
          const run = { spills: NAN_SPILLS.includes(op) };
          await check(device, c, run, withSpecials(c, [Number.NaN]));
          for (const i of c.inputs.keys()) await check(device, c, run, withSpecials(c, [Number.NaN], i));
        }
    });

    test("an index out of range is refused by every op that takes one", async () => {
      for (const op of opNames) {
        const at = opOf(op).ints?.[opOf(op).ints!.length - 1];
        if (at === undefined || UNBOUNDED.includes(op)) continue;
        for (const bad of NEGATIVE_MEANS_NONE.includes(op) ? [1000] : [1000, -5]) {
          const [c] = casesOf(op);
          const values = valuesOf(c).map((d, i) =>
            i === at ? { shape: d.shape, data: d.data.map((v, n) => (n === 1 ? bad : v)) } : d,
          );
          await leakFree(device, async () => {
            const inputs = values.map((d) => place(device, d, "contiguous"));
            const message = new RegExp(`: index ${bad} is out(side \\[0, \\d+\\)| of range)$`);
            assert.throws(() => dispatch(c.op, inputs, c.attrs, device), { message }, c.label);
          });
        }
      }
    });

    if (name.startsWith("native")) {
      test("large inputs, split between threads and tiles, agree too", async () => {
        for (const op of opNames) await check(device, largeCase(op), {});
      });
    }
  });
}

test("the native backend is built", { skip: nativeMissing }, () => {
  assert.doesNotThrow(loadAddon); // in CI it must be
});
