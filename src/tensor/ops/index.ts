/**
 * The list of all ops. Backends' kernel tables, the conformance tests and the gradient tests derive from it.
 */
import * as attention from "./attention.ts";
import * as elementwise from "./elementwise.ts";
import * as gather from "./gather.ts";
import * as jumprelu from "./jumprelu.ts";
import * as kron from "./kron.ts";
import * as lime from "./lime.ts";
import * as lm from "./lm.ts";
import * as matmul from "./matmul.ts";
import * as optim from "./optim.ts";
import * as prefix from "./prefix.ts";
import * as reduce from "./reduce.ts";
import * as shape from "./shape.ts";
import * as sparse from "./sparse.ts";

export const ops = {
  neg: elementwise.negOp,
  exp: elementwise.expOp,
  log: elementwise.logOp,
  sqrt: elementwise.sqrtOp,
  rsqrt: elementwise.rsqrtOp,
  tanh: elementwise.tanhOp,
  sigmoid: elementwise.sigmoidOp,
  relu: elementwise.reluOp,
  abs: elementwise.absOp,
  square: elementwise.squareOp,
  reciprocal: elementwise.reciprocalOp,
  sin: elementwise.sinOp,
  cos: elementwise.cosOp,
  add: elementwise.addOp,
  sub: elementwise.subOp,
  mul: elementwise.mulOp,
  div: elementwise.divOp,
  maximum: elementwise.maximumOp,
  minimum: elementwise.minimumOp,
  greater: elementwise.greaterOp,
  greaterEqual: elementwise.greaterEqualOp,
  equal: elementwise.equalOp,
  where: elementwise.whereOp,
  sum: reduce.sumOp,
  max: reduce.maxOp,
  argmax: reduce.argmaxOp,
  contiguous: shape.contiguousOp,
  cast: shape.castOp,
  concat: shape.concatOp,
  unslice: shape.unsliceOp,
  assign: shape.assignOp,
  fill: shape.fillOp,
  gatherRows: gather.gatherRowsOp,
  scatterAddRows: gather.scatterAddRowsOp,
  takeLast: gather.takeLastOp,
  scatterLast: gather.scatterLastOp,
  topk: gather.topkOp,
  matmul: matmul.matmulOp,
  linear: matmul.linearOp,
  softmax: lm.softmaxOp,
  logSoftmax: lm.logSoftmaxOp,
  rmsNorm: lm.rmsNormOp,
  rmsNormGrad: lm.rmsNormGradOp,
  layerNorm: lm.layerNormOp,
  layerNormGrad: lm.layerNormGradOp,
  rope: lm.ropeOp,
  swiglu: lm.swigluOp,
  swigluGrad: lm.swigluGradOp,
  softmaxCrossEntropy: lm.softmaxCrossEntropyOp,
  softmaxCrossEntropyGrad: lm.softmaxCrossEntropyGradOp,
  attention: attention.attentionOp,
  attentionGrad: attention.attentionGradOp,
  attentionCached: attention.attentionCachedOp,
  limeRoute: lime.limeRouteOp,
  limeRouteGrad: lime.limeRouteGradOp,
  linearTopK: sparse.linearTopKOp,
  jumpRelu: jumprelu.jumpReluOp,
  heaviside: jumprelu.heavisideOp,
  sparseDecode: sparse.sparseDecodeOp,
  sparseDot: sparse.sparseDotOp,
  sparseOuter: sparse.sparseOuterOp,
  sparseSum: sparse.sparseSumOp,
  sparseDecodeLoss: sparse.sparseDecodeLossOp,
  sparseOuterPair: sparse.sparseOuterPairOp,
  markFired: sparse.markFiredOp,
  linearKronTopK: kron.linearKronTopKOp,
  kronSpread: kron.kronSpreadOp,
  kronScores: kron.kronScoresOp,
  prefixLoss: prefix.prefixLossOp,
  keepLargest: prefix.keepLargestOp,
  groupPrefixes: prefix.groupPrefixesOp,
  adam: optim.adamOp,
  adamRows: optim.adamRowsOp,
  normalizeRows: optim.normalizeRowsOp,
  projectRows: optim.projectRowsOp,
  scale: optim.scaleOp,
  accumulate: optim.accumulateOp,
  sumSquares: optim.sumSquaresOp,
} as const;

export type OpTable = typeof ops;
export type OpName = keyof OpTable;
