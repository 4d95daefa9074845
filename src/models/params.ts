/**
 * A model's parameters by role. Matrices are [out, in]; a checkpoint that has them otherwise says so in its names.
 */
import { sizeOf, type Tensor } from "../tensor/index.ts";
import { routedLayers } from "./routing.ts";
import type { ModelSpec } from "./spec.ts";

export interface BlockParams {
  readonly ln1?: Tensor; // [d]; not where the norm has no gain
  readonly ln1Bias?: Tensor;
  readonly wQ: Tensor; // [H·Dh, d]
  readonly wK: Tensor; // [G·Dh, d]
  readonly wV: Tensor; // [G·Dh, d]
  readonly bQ?: Tensor;
  readonly bK?: Tensor;
  readonly bV?: Tensor;
  readonly qNorm?: Tensor; // [Dh]
  readonly kNorm?: Tensor; // [Dh]
  readonly router?: Tensor; // [G, sources·G], columns by source, oldest first, then by head
  readonly routeNorm?: Tensor; // [d], on each stream that is mixed
  readonly routeLogits?: Tensor; // [G, sources]
  readonly routeMask?: Tensor; // [G, sources], 1 for the sources that a head reads, 0 for others
  readonly routeOf?: Tensor; // [G·sources, d], rows by head, then by source
  readonly wO: Tensor; // [d, H·Dh]
  readonly bO?: Tensor;
  readonly ln1Post?: Tensor; // [d], on what attention adds
  readonly ln1PostBias?: Tensor;
  readonly ln2?: Tensor; // [d]
  readonly ln2Bias?: Tensor;
  readonly wGate?: Tensor; // [dMlp, d]
  readonly bGate?: Tensor;
  readonly wUp: Tensor; // [dMlp, d]
  readonly bUp?: Tensor;
  readonly wDown: Tensor; // [d, dMlp]
  readonly bDown?: Tensor;
  readonly ln2Post?: Tensor; // [d], on what the MLP adds
  readonly ln2PostBias?: Tensor;
  /** Of the embedding and of what left blocks 0 to l, behind block l, [1, l + 2]. */
  readonly depth?: Tensor;
  /** What attention and MLP read of n streams and write to them: see `HyperParams`. */
  readonly attnAlpha?: Tensor; // [n, n + 1]
  readonly attnBeta?: Tensor; // [n]
  readonly attnAlphaOf?: Tensor; // [n + 1, d]
  readonly attnBetaOf?: Tensor; // [1, d]
  readonly attnAlphaScale?: Tensor; // [1]
  readonly attnBetaScale?: Tensor; // [1]
  readonly mlpAlpha?: Tensor;
  readonly mlpBeta?: Tensor;
  readonly mlpAlphaOf?: Tensor;
  readonly mlpBetaOf?: Tensor;
  readonly mlpAlphaScale?: Tensor;
  readonly mlpBetaScale?: Tensor;
}

interface TopParams {
  readonly embed: Tensor; // [V, d]
  /** Learned positions [context, d]. */
  readonly posEmbed?: Tensor;
  readonly lnFinal: Tensor; // [d]
  readonly lnFinalBias?: Tensor;
  /** [V, d]; the same tensor as `embed` when tied. */
  readonly head: Tensor;
}

export interface ModelParams extends TopParams {
  readonly blocks: readonly BlockParams[];
}

export type BlockRole = keyof BlockParams;
export type TopRole = keyof TopParams;

/** Where a parameter lies in a checkpoint that does not have it as a tensor of its own, [out, in]. */
export interface StoredAs {
  readonly name: string;
  /** The tensor is [in, out]. */
  readonly transposed?: boolean;
  /** The tensor's outputs are [groups, of, n] and this is number `index` of each group: a group a head, or one in all. */
  readonly part?: { readonly index: number; readonly of: number; readonly perHead: boolean };
}

/** One parameter: where it belongs, its name and its shape. */
export interface ParamSlot {
  readonly role: TopRole | { readonly layer: number; readonly role: BlockRole };
  /** Its name in the checkpoint; of a part, that of the whole and the role. Unique. */
  readonly name: string;
  readonly shape: readonly number[];
  /** A matrix that meets every token: decayed in training, and stored in 16 bits where asked. */
  readonly matrix: boolean;
  /** What a vector begins as in a fresh model: a gain of 1, or a bias of 0. Others have starts of their own. */
  readonly start: number;
  /** Numbers that belong to the model but are set by rule: training leaves them alone, and nobody counts them. */
  readonly fixed: boolean;
  /** Where the file has it otherwise. */
  readonly stored?: Stored;
}

/** A router of keys and values: trained faster than the rest, and not decayed. */
export const isRouter = ({ role }: Pick<ParamSlot, "role">): boolean =>
  typeof role === "object" && ROUTERS.has(role.role);

const ROUTERS: ReadonlySet<BlockRole> = new Set<BlockRole>(["router", "routeLogits", "routeOf"]);

const FIXED: ReadonlySet<string> = new Set<BlockRole>(["routeMask"]);

/** Layout of the tensor that a parameter is read from. */
export interface Stored {
  readonly name: string;
  readonly shape: readonly number[];
  readonly transposed: boolean;
  /** Outputs are [groups, parts, n]; this is `part` of each group. */
  readonly groups: number;
  readonly parts: number;
  readonly part: number;
}

/** Names of a family's parameters; those that its models do not have may be missing. */
export interface ParamNames {
  readonly embed: string;
  readonly posEmbed?: string;
  readonly lnFinal: string;
  readonly lnFinalBias?: string;
  readonly head: string;
  readonly block: (layer: number) => Readonly<Partial<Record<BlockRole, string | StoredAs>>>;
}

type Shapes<Role extends string> = readonly (readonly [Role, readonly number[]])[];

/** Gain, and bias where the norm has one. */
function normShapes<R extends "ln1" | "ln1Post" | "ln2" | "ln2Post" | "lnFinal">(
  { norm, dModel }: ModelSpec,
  role: R,
): Shapes<R | `${R}Bias`> {
  return norm.kind === "layer"
    ? [
        [role, [dModel]],
        [`${role}Bias`, [dModel]],
      ]
    : [[role, [dModel]]];
}

/** Parameters of one block, in the order of the forward pass. */
function blockShapes(spec: ModelSpec, layer: number): Shapes<BlockRole> {
  const { dModel: d, dMlp, headDim } = spec;
  const q = spec.nHeads * headDim;
  const kv = spec.nKvHeads * headDim;
  const around = spec.normPlacement === "around";
  const list = <R extends BlockRole>(wanted: boolean | undefined, shapes: Shapes<R>) =>
    wanted ? shapes : [];
  const { residual } = spec;
  const streams = residual?.kind === "hyper" ? residual.streams : 0;
  return [
    ...list(streams > 0, hyperShapes("attn", streams, d)),
    ...list(streams === 0, normShapes(spec, "ln1")),
    ["wQ", [q, d]],
    ["wK", [kv, d]],
    ["wV", [kv, d]],
    ...list(spec.qkvBias, [
      ["bQ", [q]],
      ["bK", [kv]],
      ["bV", [kv]],
    ]),
    ...list(spec.qkNorm, [
      ["qNorm", [headDim]],
      ["kNorm", [headDim]],
    ]),
    ...routerShapes(spec, layer),
    ["wO", [d, q]],
    ...list(spec.outBias, [["bO", [d]]]),
    ...list(around, normShapes(spec, "ln1Post")),
    ...list(streams > 0, hyperShapes("mlp", streams, d)),
    ...list(streams === 0, normShapes(spec, "ln2")),
    ...list(spec.mlp.kind === "gated", [["wGate", [dMlp, d]]]),
    ...list(spec.mlp.kind === "gated" && spec.mlpBias, [["bGate", [dMlp]]]),
    ["wUp", [dMlp, d]],
    ...list(spec.mlpBias, [["bUp", [dMlp]]]),
    ["wDown", [d, dMlp]],
    ...list(spec.mlpBias, [["bDown", [d]]]),
    ...list(around, normShapes(spec, "ln2Post")),
    ...list(residual?.kind === "dense", [["depth", [1, layer + 2]]]),
  ];
}

/** What a layer that reads others learns for it. */
function routerShapes(spec: ModelSpec, layer: number): Shapes<BlockRole> {
  const { kvRouting, nKvHeads: G, dModel: d } = spec;
  const sources = routedLayers(spec, layer).length;
  if (!kvRouting || sources === 1) return [];
  const { kind, topP } = kvRouting;
  switch (kind) {
    case "learned":
      return [["router", [G, sources * G]]];
    case "average":
      return [];
    case "hidden-static": {
      const mask: Shapes<BlockRole> = topP === undefined ? [] : [["routeMask", [G, sources]]];
      return [["routeNorm", [d]], ["routeLogits", [G, sources]], ...mask];
    }
    case "hidden-dynamic":
      return [
        ["routeNorm", [d]],
        ["routeOf", [G * sources, d]],
      ];
    default:
      return kind satisfies never;
  }
}

/** Connections of one module to n streams. */
function hyperShapes<M extends "attn" | "mlp">(
  module: M,
  n: number,
  d: number,
): Shapes<`${M}${"Alpha" | "Beta"}${"" | "Of" | "Scale"}`> {
  return [
    [`${module}Alpha`, [n, n + 1]],
    [`${module}Beta`, [n]],
    [`${module}AlphaOf`, [n + 1, d]],
    [`${module}BetaOf`, [1, d]],
    [`${module}AlphaScale`, [1]],
    [`${module}BetaScale`, [1]],
  ];
}

/** Parameters before and after the blocks. */
function topShapes(spec: ModelSpec): { before: Shapes<TopRole>; after: Shapes<TopRole> } {
  const { dModel: d, vocabSize, contextLength } = spec;
  const learned: Shapes<TopRole> = [["posEmbed", [contextLength, d]]];
  const head: Shapes<TopRole> = [["head", [vocabSize, d]]];
  return {
    before: [["embed", [vocabSize, d]], ...(spec.positions.kind === "learned" ? learned : [])],
    after: [...normShapes(spec, "lnFinal"), ...(spec.tiedHead ? [] : head)],
  };
}

/** Every parameter of a model, in the order of the forward pass. */
export function paramSlots(spec: ModelSpec, names: ParamNames): ParamSlot[] {
  const top = (shapes: Shapes<TopRole>) =>
    shapes.map(([role, shape]) => slotOf(spec, role, shape, names[role]));
  const { before, after } = topShapes(spec);
  const blocks = Array.from({ length: spec.nLayers }, (_, layer) => {
    const own = names.block(layer);
    return blockShapes(spec, layer).map(([role, shape]) => slotOf(spec, { layer, role }, shape, own[role]));
  });
  return [...top(before), ...blocks.flat(), ...top(after)];
}

function slotOf(
  spec: ModelSpec,
  role: ParamSlot["role"],
  shape: readonly number[],
  as: string | StoredAs | undefined,
): ParamSlot {
  const own = typeof role === "string" ? role : role.role;
  if (as === undefined) throw new Error(`paramSlots: the family has no name for ${own}`);
  const small = /^(router|routeLogits|routeMask|routeOf|depth|attnAlpha|mlpAlpha)$/.test(own);
  const matrix = shape.length === 2 && !small;
  const isBias = own.endsWith("Bias") || own.startsWith("b");
  const slot = { role, shape, matrix, start: isBias ? 0 : 1, fixed: FIXED.has(own) };
  if (typeof as === "string") return { ...slot, name: as };
  return {
    ...slot,
    name: as.part ? `${as.name}:${own}` : as.name,
    stored: storedOf(spec, shape, as),
  };
}

function storedOf(spec: ModelSpec, shape: readonly number[], as: StoredAs): Stored {
  const { name, transposed = false, part } = as;
  const whole = [shape[0] * (part?.of ?? 1), ...shape.slice(1)];
  return {
    name,
    shape: transposed ? whole.toReversed() : whole,
    transposed,
    groups: part?.perHead ? spec.nHeads : 1,
    parts: part?.of ?? 1,
    part: part?.index ?? 0,
  };
}

/** Number of parameters, all of them and without embeddings, final norm and head. */
export function parameterCount(spec: ModelSpec): { total: number; blocks: number } {
  const count = (shapes: Shapes<string>) =>
    shapes.reduce((n, [role, shape]) => (FIXED.has(role) ? n : n + sizeOf(shape)), 0);
  const { before, after } = topShapes(spec);
  const layers = Array.from({ length: spec.nLayers }, (_, layer) => count(blockShapes(spec, layer)));
  const blocks = layers.reduce((a, b) => a + b, 0);
  return { blocks, total: blocks + count(before) + count(after) };
}

/** Puts tensors, one a slot, in their places. */
export function assembleParams(
  spec: ModelSpec,
  slots: readonly ParamSlot[],
  tensors: readonly Tensor[],
): ModelParams {
  const blocks = Array.from({ length: spec.nLayers }, () => ({}) as Partial<Record<BlockRole, Tensor>>);
  const top: Partial<Record<TopRole, Tensor>> = {};
  slots.forEach(({ role }, i) => {
    if (typeof role === "string") top[role] = tensors[i];
    else blocks[role.layer][role.role] = tensors[i];
  });
  const { embed, lnFinal } = top;
  if (!embed || !lnFinal) throw new Error("assembleParams: embedding or final norm missing");
  return { ...top, embed, lnFinal, head: top.head ?? embed, blocks: blocks as BlockParams[] };
}
