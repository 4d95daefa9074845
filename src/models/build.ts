/**
 * Making a transformer from random numbers.
 */
import { type Device, sizeOf, type Tensor } from "../tensor/index.ts";
import type { Rng } from "../util/index.ts";
import { familyOf, type Json, llamaNames } from "./families/index.ts";
import { assembleParams, isRouter, type ParamNames, type ParamSlot, paramSlots } from "./params.ts";
import { routerStart } from "./routing.ts";
import { checkSpec, type ModelSpec } from "./spec.ts";
import { Transformer } from "./transformer.ts";

export interface FreshOptions {
  readonly rng: Rng;
  /** Deviation of matrices; default 0.02. */
  readonly std?: number;
  /** Routers of keys and values begin as the identity on a layer's own heads; default true. */
  readonly routerIdentity?: boolean;
}

/**
 * A transformer with fresh parameters, named as Llama's: matrices normal with deviation `std`, residual outputs scaled down;
 * gains begin at 1 and biases at 0. Every parameter is drawn by its own name: models that share one begin with the same numbers
 * in it, routed or not.
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
  {
    rng,
    std = 0.02,
    routerIdentity = true,
    names,
    config,
  }: FreshOptions & { names: ParamNames; config?: Json },
): Transformer {
  const slots = paramSlots(spec, names);
  const tensors = slots.map((slot) => {
    const [heads, width] = slot.shape;
    if (isRouter(slot)) {
      const start = { heads, sources: width / heads, identity: routerIdentity };
      return device.tensor(routerStart(start, rng.fork(slot.name)), slot.shape).keep();
    }
    const data = new Float32Array(sizeOf(slot.shape));
    if (!slot.matrix) data.fill(slot.start);
    else rng.fork(slot.name).fillNormal(data, 0, std * residualScale(spec, slot));
    return device.tensor(data, slot.shape).keep();
  });
  return assemble(device, spec, { slots, tensors, config });
}

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
