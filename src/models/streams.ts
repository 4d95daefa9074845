/**
 * Keys and values made of mixtures of residual streams: the routers of LIMe's first version (arXiv 2502.09245v1).
 * B batch · T position · d model width · S streams, oldest first · G key-value heads · Dh head width · N = B·T.
 */
import {
  add,
  cast,
  concat,
  div,
  linear,
  matmul,
  mul,
  permute,
  reshape,
  softmax,
  sum,
  type Tensor,
  transpose,
} from "../tensor/index.ts";
import type { BlockParams } from "./params.ts";

/** Softmax of logits [G, S] over the streams. What a mask leaves out weighs 0, and the others share its part. */
export function staticWeights(logits: Tensor, mask?: Tensor): Tensor {
  const weights = softmax(logits);
  if (!mask) return weights;
  const kept = mul(weights, mask);
  return div(kept, sum(kept, { axes: [1], keepDims: true }));
}

/**
 * Weights of the streams, which sum to 1 for each head: [G, S] where they are the same for all tokens, else [B, T, G, S], of the
 * reader's own stream [B, T, d], normed.
 */
export function routeWeights(
  own: Tensor,
  { routeLogits, routeMask, routeOf }: BlockParams,
  G: number,
): Tensor {
  if (routeOf) {
    const [B, T] = own.shape;
    return softmax(reshape(linear(own, routeOf), [B, T, G, routeOf.shape[0] / G]));
  }
  if (!routeLogits) throw new Error("routeWeights: the layer has no router");
  return staticWeights(routeLogits, routeMask);
}

/** Σ_s weight[h, s] · stream_s for each head h and token, [G, N, d]; streams [B, T, d], weights [G, S] or [B, T, G, S]. */
export function mixStreams(streams: readonly Tensor[], weights: Tensor): Tensor {
  const [B, T, d] = streams[0].shape;
  const [G, S] = weights.shape.slice(-2);
  const N = B * T;
  if (weights.rank === 2) {
    const rows = concat(
      streams.map((x) => reshape(x, [1, N * d])),
      0,
    );
    return reshape(matmul(weights, rows), [G, N, d]);
  }
  const stack = concat(
    streams.map((x) => reshape(x, [N, 1, d])),
    1,
  );
  return permute(matmul(reshape(weights, [N, G, S]), stack), [1, 0, 2]);
}

/** What each head's own part of a matrix [G·Dh, d] makes of its mixture [G, N, d]: [N, G, Dh]. */
export function headsOf(mixed: Tensor, w: Tensor, bias?: Tensor): Tensor {
  const [G, , d] = mixed.shape;
  const Dh = w.shape[0] / G;
  const parts = transpose(reshape(cast(w, "f32"), [G, Dh, d])); // [G, d, Dh]
  const made = permute(matmul(mixed, parts), [1, 0, 2]);
  return bias ? add(made, reshape(bias, [G, Dh])) : made;
}
