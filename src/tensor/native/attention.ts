/**
 * Bindings of native/src/attention.inl. B batch · T queries · S keys · H heads · G key heads · D head width.
 */
import type { KernelTensor } from "../types.ts";
import { type Addon, dtypeCode } from "./addon.ts";
import { addressOf, caller } from "./call.ts";

type Tensors = readonly KernelTensor[];

interface AttentionAttrs {
  readonly scale: number;
  readonly causal: boolean;
  /** Keys a query sees, itself included; 0 for all. */
  readonly window: number;
  /** Scores become cap · tanh(score / cap); 0 for none. */
  readonly softcap: number;
}

/** The kernels of this family by op; `isa` picks an instruction set other than the best. */
export function attentionKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const attention = call("attention");
  const attentionGrad = call("attentionGrad");
  const attentionCached = call("attentionCached");

  /** B, T, S, H, G, D, then the attributes. */
  const problem = (q: KernelTensor, k: KernelTensor, length: number, a: AttentionAttrs) => [
    ...q.shape.slice(0, 2),
    length,
    q.shape[2],
    k.shape[2],
    q.shape[3],
    a.scale,
    a.causal ? 1 : 0,
    a.window,
    a.softcap,
  ];

  return {
    /** q [B, T, H, D], k [B, S, G, D], v [B, S, G, D], segments? [B, T] -> out [B, T, H, D], lse [B, H, T]. */
    attention: (inputs: Tensors, outputs: Tensors, attrs: AttentionAttrs) => {
      const [q, k, v, segments] = inputs;
      attention(...[q, k, v, segments, ...outputs].map(addressOf), ...problem(q, k, k.shape[1], attrs));
    },
    /** dout, q, k, v, out, lse, segments? -> dq, dk, dv. */
    attentionGrad: (inputs: Tensors, outputs: Tensors, attrs: AttentionAttrs) => {
      const [dout, q, k, v, out, lse, segments] = inputs;
      const tensors = [dout, q, k, v, out, lse, segments, ...outputs];
      attentionGrad(...tensors.map(addressOf), ...problem(q, k, k.shape[1], attrs));
    },
    /** q [B, T, H, D], kCache [B, P, G, D], vCache, starts [B] -> out; the queries are the last of `length` keys. */
    attentionCached: (
      inputs: Tensors,
      outputs: Tensors,
      attrs: Omit<AttentionAttrs, "causal"> & { readonly length: number },
    ) => {
      const [q, k] = inputs;
      const cache = [dtypeCode[k.dtype], k.shape[1]];
      const causal = { ...attrs, causal: true };
      attentionCached(
        ...[...inputs, ...outputs].map(addressOf),
        ...cache,
        ...problem(q, k, attrs.length, causal),
      );
    },
  };
}
