/**
 * What a feature writes: the effect of its decoder row on the logits, and the features that write nearly the same.
 * The direct path only (the "logit lens"): row · final norm's gain · unembedding, centred over the vocabulary.
 */
import type { Transformer } from "../models/index.ts";
import type { Sae } from "../sae/index.ts";
import {
  gatherRows,
  linear,
  matmul,
  mean,
  mul,
  neg,
  rsqrt,
  square,
  sub,
  sum,
  type Tensor,
  topk,
  transpose,
} from "../tensor/index.ts";

export interface LogitEffects {
  /** Per feature, strongest first. */
  readonly promoted: readonly { token: number; weight: number }[];
  /** Per feature, most negative first. */
  readonly suppressed: readonly { token: number; weight: number }[];
}

/** Effects of the chosen features at unit decoder norm. Only for activations as wide as the model. */
export async function logitEffects(
  model: Transformer,
  sae: Sae,
  features: readonly number[],
  count = 10,
): Promise<LogitEffects[]> {
  const { device } = model;
  const { offset } = model.spec.norm;
  const [up, down] = device.scope(() => {
    const rows = unitRows(gatherRows(sae.params.wDec, device.tensor(features, [features.length], "i32")));
    const gain = offset ? sub(model.params.lnFinal, -offset) : model.params.lnFinal;
    const raw = linear(mul(rows, gain), model.params.head); // [n, V]
    const effects = sub(raw, mean(raw, { axes: [1], keepDims: true }));
    return [topk(effects, { k: count }), topk(neg(effects), { k: count })];
  });
  const read = async ({ values, indices }: typeof up, sign: number) => {
    const [v, i] = [await values.floats(), await indices.ints()];
    values.dispose();
    indices.dispose();
    return features.map((_, n) =>
      Array.from({ length: count }, (_, j) => ({ token: i[n * count + j], weight: sign * v[n * count + j] })),
    );
  };
  const promoted = await read(up, 1);
  const suppressed = await read(down, -1);
  return features.map((_, n) => ({ promoted: promoted[n], suppressed: suppressed[n] }));
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

/** Rows of w [n, D] at unit length. */
function unitRows(w: Tensor): Tensor {
  return mul(w, rsqrt(sum(square(w), { axes: [1], keepDims: true })));
}
