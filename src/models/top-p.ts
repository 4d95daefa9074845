/**
 * Static routers that read their largest weights only (LIMe, arXiv 2502.09245v1). Which ones is held as a mask beside the
 * logits and stored with the model: it changes by `refreshTopP` and by nothing else.
 */
import { usageError } from "../util/index.ts";
import type { Transformer } from "./transformer.ts";

/** Routes, a source for a head, that are read, of how many. */
export interface KeptRoutes {
  readonly kept: number;
  readonly total: number;
}

/**
 * 1 for the smallest set of largest weights of each row whose sum reaches `topP`, 0 for the others; the weights are the softmax of
 * the row, in float64. Of equal weights the older source comes first.
 */
export function topPMask(
  logits: ArrayLike<number>,
  { sources, topP }: { readonly sources: number; readonly topP: number },
): Float32Array {
  const mask = new Float32Array(logits.length);
  for (let at = 0; at < logits.length; at += sources) {
    const row = Array.from({ length: sources }, (_, s) => logits[at + s]);
    const largest = Math.max(...row);
    const weights = row.map((x) => Math.exp(x - largest));
    const wanted = topP * weights.reduce((a, b) => a + b, 0);
    const order = weights.map((_, s) => s).sort((a, b) => weights[b] - weights[a] || a - b);
    let sum = 0;
    for (const s of order) {
      mask[at + s] = 1;
      sum += weights[s];
      if (sum >= wanted) break;
    }
  }
  return mask;
}

/** Makes the masks of a model anew from the logits that its routers have now. A fresh model reads all sources. */
export async function refreshTopP({ spec, params, device }: Transformer): Promise<KeptRoutes> {
  const topP = spec.kvRouting?.topP;
  if (topP === undefined)
    throw usageError("refreshTopP: the model's routers read all their sources; its kvRouting has no topP");
  let [kept, total] = [0, 0];
  for (const { routeLogits, routeMask } of params.blocks) {
    if (!routeLogits || !routeMask) continue;
    const mask = topPMask(await routeLogits.floats(), { sources: routeLogits.shape[1], topP });
    device.write(routeMask, mask);
    kept += mask.reduce((a, b) => a + b, 0);
    total += mask.length;
  }
  return { kept, total };
}
