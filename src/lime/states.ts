/**
 * States of a model layer by layer: what flows between blocks, the values that each layer makes, and those that it reads.
 */
import { hookPoints, type Transformer } from "../models/index.ts";
import { mean, std, throwIfAborted, usageError } from "../util/index.ts";
import { ENTROPY_ORDER, matrixEntropy, standardize } from "./entropy.ts";

/** Every kind, in the order in which they are shown. */
export const STATE_KINDS = ["values", "read", "hidden"] as const;

/**
 * `hidden`: the stream after a block; `values`: what the layer's own matrix makes, heads side by side; `read`: the values that
 * its attention reads, routed where the model routes them. LIMe's text means the second, its code records the third.
 */
export type StateKind = (typeof STATE_KINDS)[number];

/** Hook point of each layer's states. */
export function statePoint({ spec }: Transformer, kind: StateKind, layer: number): string {
  if (kind === "hidden") {
    if (spec.residual?.kind === "hyper")
      throw usageError("states: a model of several streams has no one stream behind a block");
    return `blocks.${layer}.hook_resid_post`;
  }
  const routed = `blocks.${layer}.attn.hook_v_routed`;
  return kind === "read" && hookPoints(spec).includes(routed) ? routed : `blocks.${layer}.attn.hook_v`;
}

export interface LayerStates {
  readonly width: number;
  /** [T, width] a sequence. */
  readonly sequences: readonly Float32Array[];
}

/** States of each layer, sequence by sequence. */
export async function layerStates(
  model: Transformer,
  sequences: readonly ArrayLike<number>[],
  { kind, signal }: { readonly kind: StateKind; readonly signal?: AbortSignal },
): Promise<LayerStates[]> {
  const { device, spec } = model;
  const points = Array.from({ length: spec.nLayers }, (_, l) => statePoint(model, kind, l));
  const width = kind === "hidden" ? spec.dModel : spec.nKvHeads * spec.headDim;
  const states = points.map((): Float32Array[] => []);
  for (const ids of sequences) {
    throwIfAborted(signal);
    const captured = device.scope(() => {
      const tokens = device.tensor(Int32Array.from(ids), [1, ids.length], "i32");
      return model.forward(tokens, { capture: points, stopEarly: true }).captured;
    });
    for (const [l, point] of points.entries()) {
      states[l].push(await captured[point].floats());
      captured[point].dispose();
    }
  }
  return states.map((found) => ({ width, sequences: found }));
}

export interface LayerEntropy {
  /** Over sequences, nats. */
  readonly mean: number;
  readonly std: number;
}

/** Matrix Rényi entropy of each layer's states, standardised over all sequences, as LIMe measures it. */
export async function layerEntropies(
  model: Transformer,
  sequences: readonly ArrayLike<number>[],
  options: { readonly kind: StateKind; readonly order?: number; readonly signal?: AbortSignal },
): Promise<LayerEntropy[]> {
  const { order = ENTROPY_ORDER } = options;
  const entropies: LayerEntropy[] = [];
  for (const { width, sequences: states } of await layerStates(model, sequences, options)) {
    const found: number[] = [];
    for (const z of standardize(states, width)) {
      throwIfAborted(options.signal);
      found.push(matrixEntropy(z, width, order));
      await new Promise(setImmediate); // the event loop gets its turn
    }
    entropies.push({ mean: mean(found), std: std(found) });
  }
  return entropies;
}
