/**
 * `sluice lime routes`: which layers' keys and values each layer reads, and which heads.
 */
import { z } from "zod";
import { type LayerRoute, type LayerRouter, layerRouters, sharesOf } from "../../lime/index.ts";
import type { HeatMap } from "../../report/heat-map.ts";
import { defineCommand } from "../command.ts";
import { modelLabels, refuseTwins } from "./lime-shared.ts";
import { columnsOf, deviceFields, modelHelp, pictureField, withDevice, withTransformer } from "./shared.ts";

interface Routed {
  readonly model: string;
  readonly routers: readonly LayerRouter[];
  readonly routes: readonly LayerRoute[];
}

export const limeRoutes = defineCommand({
  name: "lime routes",
  summary: "which layers' keys and values each layer reads",
  description:
    "Reads the learned routers of a model: the mean over heads of |weight| from each layer into each later one, as shares " +
    "of what that layer reads (LIMe, arXiv 2502.09245, section 5.2). The first layer reads its own only. With --heads the " +
    "weights themselves, from each key-value head of each layer (layer.head) into each head. " +
    "Weights that depend on the token are measured on a text: `sluice lime circuits`.",
  schema: z.object({
    model: z.array(z.string()).describe(modelHelp(" that routes keys and values; several are shown in turn")),
    heads: z.boolean().default(false).describe("weights head by head, not shares of layers"),
    ...pictureField,
    ...deviceFields,
  }),
  examples: [
    "sluice lime routes --model models/brook-lime",
    "sluice lime routes --model models/brook-lime --heads --picture out/heads.svg",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { heads, picture } = options;
      refuseTwins("lime routes", options.model);
      const found: Routed[] = [];
      for (const model of options.model) {
        const routers = await withTransformer(device, model, context, (m) => layerRouters(m, model));
        found.push({ model, routers, routes: routers.map(sharesOf) });
      }
      if (picture !== undefined) {
        const [{ drawHeatMaps }, { writeSvg }] = await Promise.all([
          import("../../report/heat-map.ts"),
          import("../../report/svg.ts"),
        ]);
        const labels = modelLabels(options.model);
        writeSvg(picture, drawHeatMaps(found.map((one, i) => (heads ? headMap : routeMap)(one, labels[i]))));
        context.log(`drawn: ${picture}`);
      }
      const tables = found.map(({ model, routers, routes }) => {
        const table = heads ? headTable(routers) : routeTable(routes);
        return found.length === 1 ? table : `${model}\n${table}`;
      });
      const models = found.map(({ model, routers, routes }) => ({
        model,
        routes,
        ...(heads && {
          routers: routers.map(({ weights, ...rest }) => ({ ...rest, weights: Array.from(weights) })),
        }),
      }));
      return { json: { models, picture }, text: tables.join("\n\n") };
    }),
});

const layersOf = (routes: readonly { readonly layer: number }[]): number =>
  Math.max(...routes.map(({ layer }) => layer)) + 1;

const names = (count: number): string[] => Array.from({ length: count }, (_, i) => String(i));

/** Readers down, sources across, in percent; shaded, so that the pattern is seen. */
function routeTable(routes: readonly LayerRoute[]): string {
  const shade = (share: number) => " ░▒▓█"[Math.min(4, Math.floor(share * 8))];
  const cell = (share: number | undefined) =>
    share === undefined ? "" : `${shade(share)} ${(100 * share).toFixed(0)}`;
  const layers = names(layersOf(routes));
  return columnsOf([
    ["reader", ...layers],
    ...routes.map(({ layer, shares }) => [String(layer), ...layers.map((_, l) => cell(shares[l]))]),
  ]);
}

/** The same as a picture; blank where a layer reads nothing. */
function routeMap({ routers, routes }: Routed, title: string): HeatMap {
  return {
    title,
    x: "layer that is read",
    y: "layer that reads",
    columns: names(layersOf(routes)),
    rows: routes.map(({ layer }) => String(layer)),
    values: routes.map(({ shares }, i) =>
      shares.map((share, l) => (routers[i].sources.includes(l) ? share : undefined)),
    ),
    unit: "share of |router weight|",
    label: (share) => (100 * share).toFixed(0),
  };
}

/** Weights by head that reads and layer.head that is read: a row of `cells` for each; undefined where nothing is read. */
function headRows(routers: readonly LayerRouter[]) {
  const { heads } = routers[0];
  const sources = names(layersOf(routers)).flatMap((layer) => names(heads).map((head) => `${layer}.${head}`));
  const rows = routers.flatMap(({ layer, sources: read, weights }) =>
    Array.from({ length: heads }, (_, head) => ({
      name: `${layer}.${head}`,
      cells: sources.map((_, column) => {
        const at = read.indexOf(Math.floor(column / heads));
        return at < 0 ? undefined : weights[(head * read.length + at) * heads + (column % heads)];
      }),
    })),
  );
  return { sources, rows };
}

function headTable(routers: readonly LayerRouter[]): string {
  const { sources, rows } = headRows(routers);
  return columnsOf([
    ["reader", ...sources],
    ...rows.map(({ name, cells }) => [name, ...cells.map((w) => w?.toFixed(2) ?? "")]),
  ]);
}

function headMap({ routers }: Routed, title: string): HeatMap {
  const { sources, rows } = headRows(routers);
  return {
    title,
    x: "layer.head that is read",
    y: "layer.head that reads",
    columns: sources,
    rows: rows.map(({ name }) => name),
    values: rows.map(({ cells }) => cells.map((w) => (w === undefined ? undefined : Math.abs(w)))),
    unit: "|router weight|",
    label: (weight) => weight.toFixed(2),
  };
}
