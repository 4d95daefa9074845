/**
 * Bindings of native/src/lime.inl: routing of keys and values. M tokens · S sources · G heads · Dh head width.
 */
import type { LimeGradAttrs } from "../ops/lime.ts";
import type { KernelTensor } from "../types.ts";
import type { Addon } from "./addon.ts";
import { addressOf, caller, withTable } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** The kernels of this family by op; `isa` picks an instruction set other than the best. */
export function limeKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const route = call("limeRoute");
  const routeGrad = call("limeRouteGrad");

  /** Number of sides, then M, S, G and Dh. */
  const problem = (router: KernelTensor, [first, ...rest]: Tensors, own: number) => {
    const [B, T, G, Dh] = first.shape;
    const S = router.shape[1] / G;
    return [(1 + rest.length) / (S + own), B * T, S, G, Dh];
  };

  return {
    /** router, S keys, S values -> keys, values */
    limeRoute: ([router, ...sources]: Tensors, outputs: Tensors): void =>
      withTable(addon, [...outputs, ...sources], (table) =>
        route(addressOf(router), table, ...problem(router, sources, 0)),
      ),
    /** router, a gradient for each side, S sources for each side -> gradients of what is wanted */
    limeRouteGrad: ([router, ...tensors]: Tensors, outputs: Tensors, { needs }: LimeGradAttrs): void => {
      const left = [...outputs];
      const [dRouter, ...dSources] = needs.map((want) => (want ? left.shift() : undefined));
      withTable(addon, [...tensors, ...dSources], (table) =>
        routeGrad(addressOf(router), addressOf(dRouter), table, ...problem(router, tensors, 1)),
      );
    },
  };
}
