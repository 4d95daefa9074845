/**
 * A batch of packed windows through a model. B windows · T context.
 */
import type { PackedBatch } from "../text/index.ts";
import type { ForwardOptions, ForwardResult, Transformer } from "./transformer.ts";

/** Runs a batch through the model; where it keeps documents apart, learned positions begin anew in each. Call inside a scope. */
export function forwardPacked(
  model: Transformer,
  { tokens, segments }: Pick<PackedBatch, "tokens" | "segments">,
  context: number,
  options: Omit<ForwardOptions, "segments" | "positions" | "cache"> = {},
): ForwardResult {
  const { device, spec } = model;
  const shape = [tokens.length / context, context];
  const learned = spec.positions.kind === "learned";
  return model.forward(device.tensor(tokens, shape, "i32"), {
    ...options,
    segments: segments && device.tensor(segments, shape, "i32"),
    positions: segments && learned ? documentPositions(segments, context) : undefined,
  });
}

/** Position of each token within its document. */
function documentPositions(segments: Int32Array, context: number): Int32Array {
  const positions = new Int32Array(segments.length);
  for (let i = 0; i < segments.length; i++) {
    const goesOn = i % context !== 0 && segments[i] === segments[i - 1];
    positions[i] = goesOn ? positions[i - 1] + 1 : 0;
  }
  return positions;
}
