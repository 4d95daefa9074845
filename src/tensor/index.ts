/**
 * Tensors, ops, gradients and backends.
 */
export type { Backend, KernelTable } from "./backend.ts";
export { type BackendName, createDevice, type DeviceOptions } from "./create.ts";
export { Device, type MemoryStats } from "./device.ts";
export { dispatch } from "./dispatch.ts";
export type { CaseInput, Op, OpCase } from "./op.ts";
export {
  type AttentionAttrs,
  type AttentionOptions,
  attend,
  attention,
  attentionCached,
  attentionPattern,
} from "./ops/attention.ts";
export * from "./ops/elementwise.ts";
export { gatherRows, scatterAddRows, scatterLast, takeLast, topk } from "./ops/gather.ts";
export { type OpName, type OpTable, ops } from "./ops/index.ts";
export { heaviside, type JumpReluAttrs, jumpRelu } from "./ops/jumprelu.ts";
export {
  type KronAttrs,
  type KronCodes,
  type KronProduct,
  kronScores,
  kronSpread,
  linearKronTopK,
} from "./ops/kron.ts";
export { limeRoute } from "./ops/lime.ts";
export { layerNorm, logSoftmax, rmsNorm, rope, softmax, softmaxCrossEntropy, swiglu } from "./ops/lm.ts";
export { type Activation, linear, matmul } from "./ops/matmul.ts";
export {
  type AdamAttrs,
  type AdamRowsAttrs,
  adam,
  adamRows,
  normalizeRows,
  projectRows,
  scaleInPlace,
  sumSquares,
} from "./ops/optim.ts";
export { groupPrefixes, keepLargest, type PrefixLoss, prefixLoss } from "./ops/prefix.ts";
export { argmax, max, mean, type ReduceOptions, sum } from "./ops/reduce.ts";
export { assign, concat } from "./ops/shape.ts";
export {
  linearTopK,
  markFired,
  type OuterPair,
  sparseDecode,
  sparseDecodeLoss,
  sparseDot,
  sparseOuter,
  sparseOuterPair,
  sparseSum,
} from "./ops/sparse.ts";
export { Tensor } from "./tensor.ts";
export {
  type DType,
  describe,
  ITEM_SIZE,
  type Kernel,
  type KernelTensor,
  type Shape,
  sizeOf,
  type TensorType,
} from "./types.ts";
export {
  alias,
  cast,
  contiguous,
  copy,
  expand,
  permute,
  reshape,
  slice,
  stopGradient,
  transpose,
} from "./views.ts";
