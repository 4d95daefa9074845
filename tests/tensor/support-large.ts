/**
 * One case per op that is large enough to be split between threads and tiles, with extents that are no round numbers.
 * The table is total: a new op must say here what "large" means for it.
 */
import type { CaseInput } from "../../src/tensor/op.ts";
import type { OpName } from "../../src/tensor/ops/index.ts";
import type { Shape } from "../../src/tensor/types.ts";
import { type Case, caseOf, opOf } from "./support.ts";

interface Large {
  readonly inputs: readonly CaseInput[];
  readonly attrs?: unknown;
}

const normal = (...shape: number[]): CaseInput => ({ shape });
const positive = (...shape: number[]): CaseInput => ({ shape, kind: "positive" });
const index = (below: number, ...shape: number[]): CaseInput => ({ shape, kind: "index", below });
const distinct = (below: number, ...shape: number[]): CaseInput => ({ shape, kind: "distinct", below });
const times = (n: number, input: CaseInput): CaseInput[] => Array.from({ length: n }, () => input);

const FLAT = 150_001;
const unary: Large = { inputs: [normal(FLAT)] };
const unaryPositive: Large = { inputs: [positive(FLAT)] };
const binary: Large = { inputs: times(2, normal(389, 387)) };

// attention: B 2, T = S 150, H 4, G 2, Dh 40
const q = normal(2, 150, 4, 40);
const kv = normal(2, 150, 2, 40);
const attention = { scale: 0.2, causal: true, window: 0, softcap: 0 };
const adam = {
  lr: 0.01,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.1,
  step: 7,
  gradScale: 0.5,
};
const moments = (shape: Shape): CaseInput[] => [...times(3, { shape }), { shape, kind: "positive" }];

const table = {
  neg: unary,
  exp: unary,
  log: unaryPositive,
  sqrt: unaryPositive,
  rsqrt: unaryPositive,
  tanh: unary,
  sigmoid: unary,
  relu: unary,
  abs: unary,
  square: unary,
  reciprocal: unaryPositive,
  sin: unary,
  cos: unary,
  add: binary,
  sub: binary,
  mul: binary,
  div: { inputs: times(2, positive(389, 387)) },
  maximum: binary,
  minimum: binary,
  greater: binary,
  greaterEqual: binary,
  equal: { inputs: times(2, { shape: [389, 387], kind: "mask" }) },
  where: { inputs: [{ shape: [389, 387], kind: "mask" }, normal(389, 387), normal(389, 387)] },
  sum: { inputs: [normal(3, 411, 131)], attrs: { axes: [1], keepDims: false } },
  max: { inputs: [normal(3, 411, 131)], attrs: { axes: [1], keepDims: false } },
  argmax: { inputs: [normal(301, 517)] },
  contiguous: { inputs: [normal(389, 387)] },
  cast: { inputs: [normal(FLAT)], attrs: { dtype: "f16" } },
  concat: { inputs: [normal(301, 257), normal(301, 130)], attrs: { axis: 1 } },
  unslice: { inputs: [normal(301, 257)], attrs: { shape: [311, 300], starts: [4, 9] } },
  assign: { inputs: [normal(311, 300), normal(301, 257)], attrs: { starts: [4, 9] } },
  fill: { inputs: [], attrs: { shape: [FLAT], value: 0.1, dtype: "f32" } },
  gatherRows: { inputs: [normal(501, 130), index(501, 7, 180)] },
  scatterAddRows: { inputs: [normal(1260, 130), index(201, 1260)], attrs: { rows: 201 } },
  takeLast: { inputs: [normal(301, 517), index(517, 301, 60)] },
  scatterLast: { inputs: [normal(301, 60), index(517, 301, 60)], attrs: { n: 517 } },
  topk: { inputs: [normal(101, 1517)], attrs: { k: 33 } },
  matmul: { inputs: [normal(130, 190), normal(190, 257)] },
  linear: { inputs: [normal(3, 47, 190), normal(257, 190), normal(257)], attrs: { activation: "none" } },
  softmax: { inputs: [normal(301, 517)] },
  logSoftmax: { inputs: [normal(301, 517)] },
  rmsNorm: { inputs: [normal(401, 387), normal(387)], attrs: { eps: 1e-5, offset: 0 } },
  rmsNormGrad: {
    inputs: [normal(401, 387), normal(401, 387), normal(387), positive(401)],
    attrs: { offset: 1 },
  },
  layerNorm: { inputs: [normal(401, 387), normal(387), normal(387)], attrs: { eps: 1e-5 } },
  layerNormGrad: {
    inputs: [normal(401, 387), normal(401, 387), normal(387), normal(401), positive(401)],
  },
  rope: {
    inputs: [normal(2, 130, 6, 36), normal(200, 18), normal(200, 18), index(200, 2, 130)],
    attrs: { inverse: false },
  },
  swiglu: binary,
  swigluGrad: { inputs: times(3, normal(389, 387)) },
  softmaxCrossEntropy: { inputs: [normal(301, 517), index(517, 301)] },
  softmaxCrossEntropyGrad: {
    inputs: [normal(301), normal(301, 517), index(517, 301), { shape: [301], kind: "positive" }],
  },
  attention: { inputs: [q, kv, kv], attrs: attention },
  attentionGrad: { inputs: [q, q, kv, kv, q, { shape: [2, 4, 150], kind: "positive" }], attrs: attention },
  attentionCached: {
    inputs: [normal(3, 1, 4, 40), normal(3, 400, 2, 40), normal(3, 400, 2, 40), index(50, 3)],
    attrs: { length: 333, scale: 0.2, window: 0, softcap: 0 },
  },
  limeRoute: { inputs: [normal(5, 35), ...times(14, normal(3, 131, 5, 37))] },
  limeRouteGrad: {
    inputs: [normal(5, 15), ...times(9, normal(3, 131, 5, 37))],
    attrs: { wants: ["new", "new", "none", "new", "sum", "new", "new"] },
  },
  linearTopK: { inputs: [normal(61, 66), normal(1050, 66), normal(1050)], attrs: { k: 17 } },
  sparseDecode: { inputs: [normal(301, 17), distinct(700, 301, 17), normal(700, 130), normal(130)] },
  sparseDot: { inputs: [normal(301, 130), normal(700, 130), distinct(700, 301, 17)] },
  sparseOuter: {
    inputs: [normal(301, 17), distinct(700, 301, 17), normal(301, 130)],
    attrs: { rows: 700 },
  },
  sparseSum: { inputs: [normal(1301, 17), distinct(700, 1301, 17)], attrs: { rows: 700 } },
  sparseDecodeLoss: {
    inputs: [normal(301, 17), distinct(700, 301, 17), normal(700, 130), normal(130), normal(301, 130)],
  },
  sparseOuterPair: {
    inputs: [normal(301, 17), normal(301, 130), normal(301, 17), normal(301, 130), distinct(700, 301, 17)],
    attrs: { rows: 700 },
  },
  markFired: { inputs: [index(1000, 9001), normal(301, 17), index(9001, 301, 17)], attrs: { tokens: 301 } },
  linearKronTopK: {
    inputs: [normal(61, 66), normal(372, 66), normal(372)],
    attrs: { m: 5, n: 7, k: 17, product: "mand" },
  },
  kronSpread: {
    inputs: [
      normal(301, 17),
      { shape: [301, 17], kind: "mask" },
      index(700, 301, 17),
      ...times(2, positive(301, 17)),
    ],
    attrs: { m: 4, n: 4, product: "mand" },
  },
  kronScores: { inputs: [normal(301, 372)], attrs: { m: 5, n: 7, product: "mand" } },
  jumpRelu: { inputs: [normal(61, 517), normal(517)], attrs: { bandwidth: 0.1 } },
  heaviside: { inputs: [normal(61, 517), normal(517)], attrs: { bandwidth: 0.1 } },
  prefixLoss: {
    inputs: [
      ...[normal(301, 17), distinct(700, 301, 17), normal(700, 130), normal(130), normal(301, 130)],
      positive(18),
    ],
  },
  keepLargest: { inputs: [normal(701, 130)], attrs: { count: 20_011 } },
  groupPrefixes: {
    inputs: [normal(301, 17), index(700, 301, 17)],
    attrs: { bounds: [11, 230, 231, 700] },
  },
  adam: { inputs: moments([FLAT]), attrs: adam },
  adamRows: {
    inputs: moments([701, 130]),
    attrs: { ...adam, project: true, normalize: true, normEps: 1e-12 },
  },
  normalizeRows: { inputs: [normal(701, 130)], attrs: { eps: 1e-12 } },
  projectRows: { inputs: times(2, normal(701, 130)) },
  scale: { inputs: [normal(FLAT)], attrs: { factor: 0.3 } },
  accumulate: { inputs: times(2, normal(389, 387)) },
  sumSquares: { inputs: [normal(FLAT)] },
} satisfies Record<OpName, Large>;

export function largeCase(name: OpName): Case {
  const { inputs, attrs = {} }: Large = table[name];
  return { ...caseOf(opOf(name), { inputs, attrs }), label: `${name}, large` };
}
