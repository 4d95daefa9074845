/**
 * Bindings of native/src/lime.inl: keys and values routed. M tokens · S sources · G heads · Dh head width.
 */
import { type LimeGradAttrs, targets } from "../ops/lime.ts";
import type { KernelTensor, Shape } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller, withTable } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** The kernels of this family by op; `isa` picks an instruction set other than the best. */
export function limeKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const route = call("limeRoute");
  const routeGrad = call("limeRouteGrad");

  /** M, S, G and Dh. */
  const problem = (router: KernelTensor, [B, T, G, Dh]: Shape) => [B * T, router.shape[1] / G, G, Dh];

  return {
    /** router, S keys, S values -> keys, values */
    limeRoute: ([router, ...sources]: Tensors, outputs: Tensors): void =>
      withTable(addon, [...outputs, ...sources], (table) =>
        route(addressOf(router), table, ...problem(router, sources[0].shape)),
      ),
    /** router, a gradient for each side, S sources for each side, sums -> the gradients that are no sums */
    limeRouteGrad: ([router, ...tensors]: Tensors, outputs: Tensors, { wants }: LimeGradAttrs): void => {
      const sides = (wants.length - 1) / (router.shape[1] / router.shape[0]);
      const read = tensors.slice(0, sides + wants.length - 1);
      const added = targets(wants, tensors.slice(read.length), []);
      const fresh = targets(wants, [], outputs);
      withTable(addon, [...read, ...fresh, ...added], (table) =>
        routeGrad(addressOf(router), table, sides, ...problem(router, tensors[0].shape)),
      );
    },
  };
}
