/**
 * Cross-entropy on held-out text. Windows are spread evenly over the text when not all are wanted. B windows · T context.
 */
import { reshape, softmaxCrossEntropy, type Tensor } from "../tensor/index.ts";
import type { PackedBatch, WindowSource } from "../text/index.ts";
import { throwIfAborted } from "../util/index.ts";
import { forwardPacked } from "./packed.ts";
import type { Transformer } from "./transformer.ts";

/** Cross-entropy of every position [B·T]; 0 where there is no target. */
export function crossEntropies(model: Transformer, batch: PackedBatch, context: number): Tensor {
  const { logits } = forwardPacked(model, batch, context);
  if (!logits) throw new Error("crossEntropies: no logits");
  const n = batch.tokens.length;
  const targets = model.device.tensor(batch.targets, [n], "i32");
  return softmaxCrossEntropy(reshape(logits, [n, -1]), targets);
}

export interface HeldOutOptions {
  /** Most windows to read; default all. */
  readonly windows?: number;
  /** Windows of a forward pass; default 8. */
  readonly micro?: number;
  readonly signal?: AbortSignal;
}

/** Numbers of up to `wanted` windows out of `windows`, evenly spread, in order. */
export function spreadWindows(windows: number, wanted = Number.POSITIVE_INFINITY): number[] {
  const count = Math.min(windows, wanted);
  return Array.from({ length: count }, (_, i) => Math.floor((i * windows) / count));
}

/** Targets and their cross-entropies in nats, micro-batch by micro-batch; both [B·T], target -1 where nothing counts. */
export async function* heldOutBatches(
  model: Transformer,
  packer: WindowSource,
  { windows, micro = 8, signal }: HeldOutOptions = {},
): AsyncGenerator<{ targets: Int32Array; losses: Float32Array }> {
  const chosen = spreadWindows(packer.windows, windows);
  for (let at = 0; at < chosen.length; at += micro) {
    throwIfAborted(signal);
    const batch = joinBatches(chosen.slice(at, at + micro).map((w) => packer.at(w)));
    const losses = model.device.scope(() => crossEntropies(model, batch, packer.context));
    yield { targets: batch.targets, losses: await losses.floats().finally(() => losses.dispose()) };
    await new Promise(setImmediate);
  }
}

function joinBatches(parts: readonly PackedBatch[]): PackedBatch {
  const join = (of: (part: PackedBatch) => Int32Array) => Int32Array.from(parts.flatMap((p) => [...of(p)]));
  return {
    tokens: join((p) => p.tokens),
    targets: join((p) => p.targets),
    ...(parts[0].segments ? { segments: join((p) => p.segments as Int32Array) } : {}),
  };
}

/** Mean cross-entropy in nats a token, and the tokens counted. */
export async function heldOutLoss(
  model: Transformer,
  packer: WindowSource,
  options: HeldOutOptions = {},
): Promise<{ loss: number; tokens: number }> {
  let total = 0;
  let tokens = 0;
  for await (const { targets, losses } of heldOutBatches(model, packer, options)) {
    for (const v of losses) total += v;
    for (const t of targets) if (t >= 0) tokens++;
  }
  return { loss: total / tokens, tokens };
}
