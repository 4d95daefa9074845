/**
 * Hook points: places in the forward pass that can be captured, replaced or edited. Names are TransformerLens's;
 * module names of Hugging Face are accepted where a user types one. Values are those of the raw checkpoint: no weight is
 * folded, and `hook_normalized` is what the next matrix reads, with gain and bias. That of TransformerLens's norms comes
 * before both: multiply it by the gain and add the bias to compare.
 */
import type { Tensor } from "../tensor/index.ts";
import { didYouMean, inputError, usageError } from "../util/index.ts";
import { routedLayers, routes } from "./routing.ts";
import type { ModelSpec } from "./spec.ts";

/** Points within block l, in the order of the forward pass, with their shape. B batch, T position, S key position. */
const BLOCK_POINTS = [
  "hook_resid_pre", // [B, T, d] before the block; of several streams, the mixture that attention reads
  "ln1.hook_normalized", // [B, T, d] what attention reads, with the gain
  "attn.hook_q", // [B, T, H, Dh] before its norm and the rotation
  "attn.hook_route", // [B, T, G, S] weights of the S streams that each head's key and value are made of; only where they are mixed
  "attn.hook_k", // [B, T, G, Dh] before its norm and the rotation, and before routing where keys are mixed
  "attn.hook_v", // [B, T, G, Dh] before routing where values are mixed
  "attn.hook_k_routed", // [B, T, G, Dh] mixed from the keys of several layers; only where they are
  "attn.hook_v_routed", // [B, T, G, Dh]
  "attn.hook_pattern", // [B, H, T, S] softmax weights
  "attn.hook_z", // [B, T, H, Dh] values mixed by the weights
  "attn.hook_out", // [B, T, d] before the norm behind it; only where there is one
  "hook_attn_out", // [B, T, d] what attention adds to the stream
  "hook_resid_mid", // [B, T, d] between attention and MLP; not where both read the same stream; of several, what the MLP reads
  "hook_mlp_in", // [B, T, d] the stream as the MLP's branch takes it: an edit leaves the stream alone
  "ln2.hook_normalized", // [B, T, d] what the MLP reads, with the gain
  "mlp.hook_post", // [B, T, dMlp] what the last matrix of the MLP reads
  "mlp.hook_out", // [B, T, d] before the norm behind it; only where there is one
  "hook_mlp_out", // [B, T, d] what the MLP adds to the stream
  "hook_resid_post", // [B, T, d] after the block; not of several streams; before the average over depth where there is one
] as const;

export type BlockPoint = (typeof BLOCK_POINTS)[number];

/** Axis that counts positions of the sequence, where it is not 1. */
const POSITION_AXIS: Readonly<Record<string, number>> = {
  "attn.hook_pattern": 2,
} satisfies Partial<Record<BlockPoint, number>>;

/** Points of each block that only some models have. */
const SOMETIMES: Readonly<Partial<Record<BlockPoint, (spec: ModelSpec, layer: number) => boolean>>> = {
  "attn.hook_route": (spec, layer) => routes(spec, layer, "streams"),
  "attn.hook_k_routed": (spec, layer) => routes(spec, layer, "keysAndValues"),
  "attn.hook_v_routed": (spec, layer) => routes(spec, layer, "keysAndValues"),
  "attn.hook_out": (spec) => spec.normPlacement === "around",
  "mlp.hook_out": (spec) => spec.normPlacement === "around",
  hook_resid_mid: (spec) => !spec.parallelResidual,
  hook_resid_post: (spec) => spec.residual?.kind !== "hyper",
};

/** All points of a model in the order in which the forward pass reaches them. */
export function hookPoints(spec: ModelSpec): string[] {
  const blocks = Array.from({ length: spec.nLayers }, (_, l) =>
    BLOCK_POINTS.filter((p) => SOMETIMES[p]?.(spec, l) ?? true).map((p) => `blocks.${l}.${p}`),
  );
  const positions = spec.positions.kind === "learned" ? ["hook_pos_embed"] : [];
  return ["hook_embed", ...positions, ...blocks.flat(), "ln_final.hook_normalized"];
}

/** Module names of Hugging Face whose output is a hook point, behind the name of the model (`model.`, `transformer.` …). */
const MODULES: Readonly<Record<string, string>> = {
  embed_tokens: "hook_embed",
  embed_in: "hook_embed",
  wte: "hook_embed",
  wpe: "hook_pos_embed",
  norm: "ln_final.hook_normalized",
  final_layer_norm: "ln_final.hook_normalized",
  ln_f: "ln_final.hook_normalized",
};

/** The same within a layer. The first point that the model has holds. */
const LAYER_MODULES: Readonly<Record<string, readonly BlockPoint[]>> = {
  "": ["hook_resid_post"],
  input_layernorm: ["ln1.hook_normalized"],
  ln_1: ["ln1.hook_normalized"],
  self_attn: ["attn.hook_out", "hook_attn_out"],
  attention: ["attn.hook_out", "hook_attn_out"],
  attn: ["attn.hook_out", "hook_attn_out"],
  ln_2: ["ln2.hook_normalized"],
  mlp: ["mlp.hook_out", "hook_mlp_out"],
};

/** `post_attention_layernorm` stands behind attention where norms stand around, and else before the MLP. */
const AROUND_MODULES: Readonly<Record<string, readonly BlockPoint[]>> = {
  post_attention_layernorm: ["hook_attn_out"],
  pre_feedforward_layernorm: ["ln2.hook_normalized"],
  post_feedforward_layernorm: ["hook_mlp_out"],
};
const BEFORE_MODULES: typeof AROUND_MODULES = { post_attention_layernorm: ["ln2.hook_normalized"] };

/** The point that a module's output is, if it is one. */
function pointOfModule(spec: ModelSpec, points: readonly string[], name: string): string | undefined {
  const bare = name.replace(/^(model|transformer|gpt_neox)\./, "");
  const layer = /^(?:layers|h)\.(\d+)(?:\.(\w+))?$/.exec(bare);
  const norms = spec.normPlacement === "around" ? AROUND_MODULES : BEFORE_MODULES;
  const own = layer && { ...LAYER_MODULES, ...norms }[layer[2] ?? ""];
  const candidates = layer ? own?.map((p) => `blocks.${layer[1]}.${p}`) : [MODULES[bare]];
  return candidates?.find((p) => points.includes(p));
}

/** The canonical name of a point, or an error with the nearest names. */
export function resolveHook(spec: ModelSpec, name: string): string {
  const points = hookPoints(spec);
  if (points.includes(name)) return name;
  const module = pointOfModule(spec, points, name);
  if (module) return module;
  throw usageError(
    `hook ${JSON.stringify(name)} does not exist in a model of ${spec.nLayers} layers (0 to ${spec.nLayers - 1})${didYouMean(name, points)}`,
  );
}

/** Width of the last axis at a point. */
export function hookWidth(spec: ModelSpec, name: string): number {
  const point = resolveHook(spec, name);
  if (point.endsWith("mlp.hook_post")) return spec.dMlp;
  if (/hook_(q|k|v|z|k_routed|v_routed)$/.test(point)) return spec.headDim;
  const layer = /^blocks\.(\d+)\.attn\.hook_route$/.exec(point)?.[1];
  if (layer !== undefined) return routedLayers(spec, Number(layer)).length;
  if (point.endsWith("hook_pattern")) {
    throw usageError(
      `hook ${name} has one entry a key position, so no fixed width; choose a point of the stream`,
    );
  }
  return spec.dModel;
}

/** Where an edit happens. */
export interface EditContext {
  readonly point: string;
  /** Axis of the value that counts positions of the sequence. */
  readonly positionAxis: number;
  /** Where the value stands while decoding with a cache. */
  readonly decoding?: Decoding;
}

export interface Decoding {
  /** Positions in the cache, before the first of this value; padding counts. */
  readonly seen: number;
  /** Left padding before each row's first token, [B]. */
  readonly padding: readonly number[];
}

/** Returns the replacement, of the same shape. */
export type Edit = (x: Tensor, context: EditContext) => Tensor;

export interface HookRequest {
  /** Points whose value is returned. */
  readonly capture?: readonly string[];
  /** Points whose value is replaced by what the function returns, before it is captured. */
  readonly edit?: Readonly<Record<string, Edit>>;
  /** Stop after the last point asked for: no logits are computed. */
  readonly stopEarly?: boolean;
}

/** Raised inside the forward pass when nothing more is wanted. */
class Finished extends Error {}

/** The hooks of one forward pass. */
export class HookRun {
  readonly captured: Record<string, Tensor> = {};
  /** Nobody looks at anything: the forward pass need not even build the names. */
  readonly idle: boolean;
  readonly #capture: ReadonlySet<string>;
  readonly #edits: ReadonlyMap<string, Edit>;
  #pending: number;
  readonly #stop: boolean;
  readonly #decoding: Decoding | undefined;

  constructor(
    spec: ModelSpec,
    { capture = [], edit = {}, stopEarly = false }: HookRequest,
    decoding?: Decoding,
  ) {
    this.#decoding = decoding;
    this.#capture = new Set(capture.map((name) => resolveHook(spec, name)));
    this.#edits = new Map(Object.entries(edit).map(([name, f]) => [resolveHook(spec, name), f]));
    this.#stop = stopEarly;
    this.#pending = this.#capture.size;
    this.idle = this.#capture.size + this.#edits.size === 0;
    if (stopEarly && this.#pending === 0)
      throw inputError("forward: stopEarly needs at least one point to capture");
  }

  /** Whether anybody looks at this point. */
  wants(point: string): boolean {
    return this.#capture.has(point) || this.#edits.has(point);
  }

  /** Passes a value through a point. */
  at(point: string, x: Tensor): Tensor {
    if (!this.wants(point)) return x;
    const edit = this.#edits.get(point);
    const y = edit ? edit(x, this.#context(point)) : x;
    if (y.shape.length !== x.shape.length || y.shape.some((d, i) => d !== x.shape[i])) {
      throw inputError(`hook ${point}: the edit returned [${y.shape}], expected [${x.shape}]`);
    }
    if (this.#capture.has(point)) {
      this.captured[point] = y;
      if (--this.#pending === 0 && this.#stop) throw new Finished();
    }
    return y;
  }

  #context(point: string): EditContext {
    const positionAxis = POSITION_AXIS[point.replace(/^blocks\.\d+\./, "")] ?? 1;
    return { point, positionAxis, decoding: this.#decoding };
  }

  /** Runs the forward pass; undefined when it stopped early. */
  run<T>(forward: () => T): T | undefined {
    try {
      return forward();
    } catch (error) {
      if (error instanceof Finished) return undefined;
      throw error;
    }
  }
}
