/**
 * A model's parameters by role. Matrices are [out, in], as checkpoints of Hugging Face store them.
 */
import type { Tensor } from "../tensor/index.ts";
import type { ModelSpec } from "./spec.ts";

export interface BlockParams {
  readonly ln1: Tensor; // [d]
  readonly wQ: Tensor; // [H·Dh, d]
  readonly wK: Tensor; // [G·Dh, d]
  readonly wV: Tensor; // [G·Dh, d]
  readonly bQ?: Tensor;
  readonly bK?: Tensor;
  readonly bV?: Tensor;
  readonly wO: Tensor; // [d, H·Dh]
  readonly ln2: Tensor; // [d]
  readonly wGate: Tensor; // [dMlp, d]
  readonly wUp: Tensor; // [dMlp, d]
  readonly wDown: Tensor; // [d, dMlp]
}

export interface ModelParams {
  readonly embed: Tensor; // [V, d]
  readonly blocks: readonly BlockParams[];
  readonly lnFinal: Tensor; // [d]
  /** [V, d]; the same tensor as `embed` when tied. */
  readonly head: Tensor;
}

export type BlockRole = keyof BlockParams;

/** One parameter: where it belongs, its name in the checkpoint and its shape. */
export interface ParamSlot {
  readonly role: "embed" | "lnFinal" | "head" | { readonly layer: number; readonly role: BlockRole };
  readonly name: string;
  readonly shape: readonly number[];
  /** A matrix that meets every token: decayed in training, and stored in 16 bits where asked. */
  readonly matrix: boolean;
}

/** Names of a family's parameters. */
export interface ParamNames {
  readonly embed: string;
  readonly lnFinal: string;
  readonly head: string;
  readonly block: (layer: number) => Record<BlockRole, string>;
}

/** Every parameter of a model, in the order of the forward pass. */
export function paramSlots(spec: ModelSpec, names: ParamNames): ParamSlot[] {
  const { dModel: d, dMlp, vocabSize } = spec;
  const q = spec.nHeads * spec.headDim;
  const kv = spec.nKvHeads * spec.headDim;
  const shapes: Partial<Record<BlockRole, readonly number[]>> = {
    ln1: [d],
    wQ: [q, d],
    wK: [kv, d],
    wV: [kv, d],
    ...(spec.qkvBias ? { bQ: [q], bK: [kv], bV: [kv] } : {}),
    wO: [d, q],
    ln2: [d],
    wGate: [dMlp, d],
    wUp: [dMlp, d],
    wDown: [d, dMlp],
  };
  const slots: ParamSlot[] = [{ role: "embed", name: names.embed, shape: [vocabSize, d], matrix: true }];
  for (let layer = 0; layer < spec.nLayers; layer++) {
    const blockNames = names.block(layer);
    for (const [role, shape] of Object.entries(shapes) as [BlockRole, readonly number[]][]) {
      slots.push({ role: { layer, role }, name: blockNames[role], shape, matrix: shape.length === 2 });
    }
  }
  slots.push({ role: "lnFinal", name: names.lnFinal, shape: [d], matrix: false });
  if (!spec.tiedHead) slots.push({ role: "head", name: names.head, shape: [vocabSize, d], matrix: true });
  return slots;
}

/** Puts tensors, one a slot, in their places. */
export function assembleParams(
  spec: ModelSpec,
  slots: readonly ParamSlot[],
  tensors: readonly Tensor[],
): ModelParams {
  const blocks = Array.from({ length: spec.nLayers }, () => ({}) as Partial<Record<BlockRole, Tensor>>);
  const top: Partial<Record<"embed" | "lnFinal" | "head", Tensor>> = {};
  slots.forEach(({ role }, i) => {
    if (typeof role === "string") top[role] = tensors[i];
    else blocks[role.layer][role.role] = tensors[i];
  });
  const { embed, lnFinal } = top;
  if (!embed || !lnFinal) throw new Error("assembleParams: embedding or final norm missing");
  return { embed, lnFinal, head: top.head ?? embed, blocks: blocks as BlockParams[] };
}
