/**
 * How what a block adds joins what came before, where that is no plain sum: baselines that LIMe (arXiv 2502.09245) is compared
 * with. B batch · T position · d model width · n streams · L blocks.
 */
import {
  add,
  contiguous,
  expand,
  layerNorm,
  linear,
  matmul,
  mul,
  reshape,
  slice,
  sum,
  type Tensor,
  tanh,
  transpose,
} from "../tensor/index.ts";

/**
 * Hyper-Connections (Zhu et al., arXiv 2409.19606), the dynamic ones: n streams [B, T, n, d]. A module reads one mixture of
 * them, they are mixed among each other, and what the module makes is added to each by a weight of its own; all weights are a
 * learned number plus a bounded function of the stream.
 */
export interface HyperParams {
  /** Fixed part of the mixture, [n, n + 1]: column 0 is what the module reads, the others what the streams become. */
  readonly alpha: Tensor;
  /** Fixed part of the weights of what is added, [n]. */
  readonly beta: Tensor;
  /** [n + 1, d] and [1, d]: the parts that depend on the stream, before tanh. */
  readonly alphaOf: Tensor;
  readonly betaOf: Tensor;
  /** What those parts are multiplied by, [1] each. */
  readonly alphaScale: Tensor;
  readonly betaScale: Tensor;
}

/** Scale of the parts that depend on the stream, in a fresh model. */
export const HYPER_SCALE = 0.01;

/** What the fixed mixture of module number `module` begins as: it reads stream `module` mod n, and every stream stays. */
export function hyperStart(module: number, n: number): Float32Array {
  return Float32Array.from({ length: n * (n + 1) }, (_, i) => {
    const [stream, column] = [Math.floor(i / (n + 1)), i % (n + 1)];
    return Number(column === 0 ? stream === module % n : column - 1 === stream);
  });
}

/** n equal streams, [B, T, n, d]. */
export function hyperStreams(x: Tensor, n: number): Tensor {
  const [B, T, d] = x.shape;
  return contiguous(expand(reshape(x, [B, T, 1, d]), [B, T, n, d]));
}

/** What leaves the last block: the sum of the streams, [B, T, d]. */
export function hyperSum(streams: Tensor): Tensor {
  return sum(streams, { axes: [2] });
}

/** What a module reads, [B, T, d], and how what it makes joins the streams. */
export function hyperRead(
  streams: Tensor,
  p: HyperParams,
  ones: Tensor,
): { input: Tensor; write: (made: Tensor) => Tensor } {
  const [B, T, n, d] = streams.shape;
  const normed = layerNorm(streams, ones);
  const alpha = add(p.alpha, mul(tanh(linear(normed, p.alphaOf)), p.alphaScale)); // [B, T, n, n + 1]
  const beta = add(reshape(p.beta, [n, 1]), mul(tanh(linear(normed, p.betaOf)), p.betaScale)); // [B, T, n, 1]
  const rows = B * T;
  const mixed = matmul(
    contiguous(transpose(reshape(alpha, [rows, n, n + 1]))),
    reshape(streams, [rows, n, d]),
  ); // [rows, n + 1, d]
  const input = reshape(slice(mixed, [0, 0, 0], [rows, 1, d]), [B, T, d]);
  const kept = reshape(slice(mixed, [0, 1, 0], [rows, n, d]), [B, T, n, d]);
  return { input, write: (made) => add(kept, mul(beta, reshape(made, [B, T, 1, d]))) };
}

/**
 * DenseFormer (Pagliardini et al., arXiv 2402.02622): behind every block a learned sum of the embedding and of all that left
 * blocks so far; `weights` [1, l + 2] for block l, which begin as the identity on the last.
 */
export function depthAverage(weights: Tensor, left: readonly Tensor[]): Tensor {
  return left.map((x, i) => mul(x, slice(weights, [0, i], [1, 1]))).reduce((a, b) => add(a, b));
}
