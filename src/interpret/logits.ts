/**
 * What a feature writes: the effect of its decoder row on the logits, and the features that write nearly the same.
 * The direct path only (the "logit lens"): row, less its mean where the final norm takes that off, · final norm's gain ·
 * unembedding, centred over the vocabulary.
 */
import type { Transformer } from "../models/index.ts";
import type { Sae } from "../sae/index.ts";
import {
  gatherRows,
  linear,
  matmul,
  maximum,
  mean,
  mul,
  neg,
  rsqrt,
  square,
  sub,
  sum,
  type Tensor,
  takeLast,
  topk,
  transpose,
} from "../tensor/index.ts";
import { usageError } from "../util/index.ts";

export interface LogitEffects {
  /** Per feature, strongest first. */
  readonly promoted: readonly { token: number; weight: number }[];
  /** Per feature, most negative first. */
  readonly suppressed: readonly { token: number; weight: number }[];
}

export interface LogitOptions {
  /** Tokens each way; default 10. */
  readonly count?: number;
  /** Tokens to choose from; default the vocabulary. Those that a text never holds have embeddings that were hardly trained. */
  readonly among?: readonly number[];
}

/** Effects of the chosen features at unit decoder norm. Only for points on the residual stream, whose rows add to it. */
export async function logitEffects(
  model: Transformer,
  sae: Sae,
  features: readonly number[],
  { count = 10, among }: LogitOptions = {},
): Promise<LogitEffects[]> {
  const { device, spec, params } = model;
  if (sae.config.dIn !== spec.dModel) {
    throw usageError(
      `logit effects: decoder rows are ${sae.config.dIn} wide, but the residual stream is ${spec.dModel} wide`,
    );
  }
  const k = Math.min(count, among?.length ?? spec.vocabSize);
  const [up, down] = device.scope(() => {
    const rows = unitRows(gatherRows(sae.params.wDec, device.tensor(features, [features.length], "i32")));
    const raw = linear(throughFinalNorm(model, rows), params.head); // [n, V]
    const centred = sub(raw, mean(raw, { axes: [1], keepDims: true }));
    const effects = among ? columns(centred, among) : centred;
    return [topk(effects, { k }), topk(neg(effects), { k })];
  });
  const read = async ({ values, indices }: typeof up, sign: number) => {
    const [v, i] = [await values.floats(), await indices.ints()];
    values.dispose();
    indices.dispose();
    const entry = (at: number) => ({ token: among ? among[i[at]] : i[at], weight: sign * v[at] });
    return features.map((_, n) => Array.from({ length: k }, (_, j) => entry(n * k + j)));
  };
  const promoted = await read(up, 1);
  const suppressed = await read(down, -1);
  return features.map((_, n) => ({ promoted: promoted[n], suppressed: suppressed[n] }));
}

/** Directions [n, d] as the unembedding reads them, up to the length of the stream that they are part of. */
function throughFinalNorm({ spec: { norm }, params: { lnFinal } }: Transformer, rows: Tensor): Tensor {
  if (norm.kind === "layer") return mul(sub(rows, mean(rows, { axes: [1], keepDims: true })), lnFinal);
  return mul(rows, norm.offset ? sub(lnFinal, -norm.offset) : lnFinal);
}

/** Columns of x [n, V] by number, [n, chosen]. */
function columns(x: Tensor, chosen: readonly number[]): Tensor {
  const [n] = x.shape;
  const indices = new Int32Array(n * chosen.length);
  for (let row = 0; row < n; row++) indices.set(chosen, row * chosen.length);
  return takeLast(x, x.device.tensor(indices, [n, chosen.length], "i32"));
}

/** The `count` features with the most similar decoder rows, by cosine, the feature itself left out. */
export async function nearestFeatures(
  sae: Sae,
  features: readonly number[],
  count = 5,
): Promise<{ id: number; cosine: number }[][]> {
  const { wDec } = sae.params;
  const { device } = wDec;
  const { values, indices } = device.scope(() => {
    const all = unitRows(wDec);
    const rows = gatherRows(all, device.tensor(features, [features.length], "i32"));
    return topk(matmul(rows, transpose(all)), { k: Math.min(count + 1, sae.config.features) });
  });
  const k = values.shape[1];
  const [v, i] = [await values.floats(), await indices.ints()];
  values.dispose();
  indices.dispose();
  return features.map((feature, n) =>
    Array.from({ length: k }, (_, j) => ({ id: i[n * k + j], cosine: v[n * k + j] }))
      .filter(({ id }) => id !== feature)
      .slice(0, count),
  );
}

/** Rows of w [n, D] at unit length; rows of zeros stay. */
function unitRows(w: Tensor): Tensor {
  return mul(w, rsqrt(maximum(sum(square(w), { axes: [1], keepDims: true }), 1e-30)));
}
