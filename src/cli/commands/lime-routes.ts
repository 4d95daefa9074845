/**
 * `sluice lime routes`: which layers' keys and values each layer reads.
 */
import { z } from "zod";
import { type LayerRoute, routerShares } from "../../lime/index.ts";
import { defineCommand } from "../command.ts";
import { columnsOf, deviceFields, modelHelp, withDevice, withTransformer } from "./shared.ts";

export const limeRoutes = defineCommand({
  name: "lime routes",
  summary: "which layers' keys and values each layer reads",
  description:
    "Reads the learned routers of a model: the mean over heads of |weight| from each layer into each later one, as shares " +
    "of what that layer reads (LIMe, arXiv 2502.09245, section 5.2). The first layer reads its own only. Weights that depend on " +
    "the token are measured on a text: `sluice lime circuits`.",
  schema: z.object({
    model: z.string().describe(modelHelp(" that routes keys and values")),
    ...deviceFields,
  }),
  examples: ["sluice lime routes --model out/brook-lime"],
  run: (options, context) =>
    withDevice(options, (device) =>
      withTransformer(device, options.model, context, async (model) => {
        const routes = await routerShares(model);
        return { json: { model: options.model, routes }, text: routeTable(routes) };
      }),
    ),
});

/** Readers down, sources across, in percent; shaded, so that the pattern is seen. */
function routeTable(routes: readonly LayerRoute[]): string {
  const layers = Math.max(...routes.map(({ layer }) => layer)) + 1;
  const shade = (share: number) => " ░▒▓█"[Math.min(4, Math.floor(share * 8))];
  const cell = (share: number | undefined) =>
    share === undefined ? "" : `${shade(share)} ${(100 * share).toFixed(0)}`;
  const head = ["reader", ...Array.from({ length: layers }, (_, l) => String(l))];
  return columnsOf([
    head,
    ...routes.map(({ layer, shares }) => [String(layer), ...head.slice(1).map((_, l) => cell(shares[l]))]),
  ]);
}
