/**
 * Making a transformer from random numbers.
 */
import { type Device, sizeOf, type Tensor } from "../tensor/index.ts";
import type { Rng } from "../util/index.ts";
import { familyOf, type Json, llamaNames } from "./families/index.ts";
import { assembleParams, type ParamNames, type ParamSlot, paramSlots } from "./params.ts";
import { HYPER_SCALE, hyperStart } from "./residual.ts";
import { routerStart } from "./routing.ts";
import { checkSpec, type ModelSpec } from "./spec.ts";
import { Transformer } from "./transformer.ts";

export interface FreshOptions {
  readonly rng: Rng;
  /** Deviation of matrices; default 0.02. */
  readonly std?: number;
  /**
   * What the matrices of keys and values begin as: `normal` (default), like all others; `uniform` within ±1/√d, as in LIMe's
   * released code, whose plain models have them `normal`: a difference that is no part of the method.
   */
  readonly kvStart?: "normal" | "uniform";
  /** Routers of kind `learned` begin as the identity on a layer's own heads; default true. */
  readonly routerIdentity?: boolean;
  /**
   * Deviation of the logits that routers of kind `hidden-static` begin with: all heads take nearly the mean of their sources.
   * Default 0.1, a choice of ours.
   */
  readonly routeDeviation?: number;
}

/**
 * A transformer with fresh parameters, named as Llama's: matrices normal with deviation `std`, residual outputs scaled down;
 * gains begin at 1 and biases at 0. A seed gives a routed model and a plain one the same numbers in all that they share.
 */
export function createTransformer(device: Device, spec: ModelSpec, options: FreshOptions): Transformer {
  return fresh(device, checkSpec(spec), { ...options, names: llamaNames });
}

/** The same for the model that a `config.json` of any family describes; it is saved under that config. */
export function createFromConfig(device: Device, config: Json, options: FreshOptions): Transformer {
  const family = familyOf(config);
  return fresh(device, family.spec(config), { ...options, names: family.names, config });
}

function fresh(
  device: Device,
  spec: ModelSpec,
  { names, config, ...options }: FreshOptions & { names: ParamNames; config?: Json },
): Transformer {
  const slots = paramSlots(spec, names);
  const tensors = slots.map((slot) => device.tensor(startOf(slot, spec, options), slot.shape).keep());
  return assemble(device, spec, { slots, tensors, config });
}

/** What a parameter begins as. Drawn by its name: models that share a parameter begin with the same numbers in it. */
export function startOf(slot: ParamSlot, spec: ModelSpec, options: FreshOptions): Float32Array {
  const { std = 0.02, kvStart = "normal" } = options;
  const rng = options.rng.fork(slot.name);
  const data = new Float32Array(sizeOf(slot.shape));
  const router = freshRouter(slot, rng, options);
  if (router) return router;
  const connection = connectionStart(slot, spec, data);
  if (connection) return connection;
  if (!slot.matrix) return data.fill(slot.start);
  const bound = spec.dModel ** -0.5;
  if (kvStart === "uniform" && isKeyOrValue(slot)) return rng.fillUniform(data, -bound, bound);
  return rng.fillNormal(data, 0, std * residualScale(spec, slot));
}

/** What a router begins as; undefined for all other parameters. */
function freshRouter(
  { role, shape }: ParamSlot,
  rng: Rng,
  { std = 0.02, routerIdentity = true, routeDeviation = 0.1 }: FreshOptions,
): Float32Array | undefined {
  if (typeof role === "string") return undefined;
  const [heads, width] = shape;
  const normal = (deviation: number) => rng.fillNormal(new Float32Array(heads * width), 0, deviation);
  if (role.role === "router")
    return routerStart({ heads, sources: width / heads, identity: routerIdentity }, rng);
  if (role.role === "routeLogits") return normal(routeDeviation);
  return role.role === "routeOf" ? normal(std) : undefined;
}

/** What the weights of a residual that is no plain sum begin as; undefined for all other parameters. */
function connectionStart(
  { role }: ParamSlot,
  { residual }: ModelSpec,
  data: Float32Array,
): Float32Array | undefined {
  if (typeof role === "string" || !residual) return undefined;
  if (role.role === "depth") {
    data[data.length - 1] = 1;
    return data;
  }
  const [, module, part] =
    /^(attn|mlp)(Alpha|Beta|AlphaOf|BetaOf|AlphaScale|BetaScale)$/.exec(role.role) ?? [];
  if (module === undefined || residual.kind !== "hyper") return undefined;
  if (part === "Alpha") return hyperStart(2 * role.layer + Number(module === "mlp"), residual.streams);
  if (part.endsWith("Scale")) return data.fill(HYPER_SCALE);
  return data.fill(part === "Beta" ? 1 : 0);
}

const isKeyOrValue = ({ role }: ParamSlot): boolean =>
  typeof role === "object" && (role.role === "wK" || role.role === "wV");

/** GPT-2's rule: matrices that write into the stream start smaller by √(2 L), so that its variance does not grow. */
function residualScale(spec: ModelSpec, { role }: ParamSlot): number {
  const writes = typeof role === "object" && (role.role === "wO" || role.role === "wDown");
  return writes ? (2 * spec.nLayers) ** -0.5 : 1;
}

/** A transformer of parameters, one a slot. */
export function assemble(
  device: Device,
  spec: ModelSpec,
  { slots, tensors, config }: { slots: readonly ParamSlot[]; tensors: readonly Tensor[]; config?: Json },
): Transformer {
  return new Transformer(device, spec, {
    params: assembleParams(spec, slots, tensors),
    slots: slots.map((slot, i) => ({ ...slot, tensor: tensors[i] })),
    config,
  });
}
