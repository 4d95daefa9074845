/**
 * `sluice lime circuits`: which tokens each route between layers and heads is for.
 */
import { z } from "zod";
import {
  type Circuits,
  embeddingRoutes,
  type MeasuredRoute,
  measureCircuits,
  type Route,
  rankRoutes,
} from "../../lime/index.ts";
import { type LanguageModel, windowsOf } from "../../recipes/language-model.ts";
import type { RoutePage } from "../../report/route-page.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { spreadOver } from "./lime-shared.ts";
import {
  columnsOf,
  count,
  deviceFields,
  modelFields,
  modelHelp,
  pictureField,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  model: z.string().describe(modelHelp(" that routes keys and values")),
  ...modelFields,
  ...textFields("heldout"),
  sequences: count().default(256).describe("windows, evenly spread over the text"),
  routes: count().default(12).describe("routes listed, those with the largest mean share"),
  tokens: count().default(8).describe("tokens listed of each"),
  minCount: count().default(10).describe("least occurrences of a token that is listed"),
  ...pictureField,
  ...deviceFields,
});
type Options = z.output<typeof schema>;

/** A route with its tokens as text. */
interface NamedRoute extends Omit<MeasuredRoute, "tokens"> {
  readonly tokens: readonly (MeasuredRoute["tokens"][number] & { readonly text: string })[];
  /** Of routers that depend on the token. */
  readonly embedding?: readonly { readonly token: number; readonly text: string; readonly logit: number }[];
}

export const limeCircuits = defineCommand({
  name: "lime circuits",
  summary: "which tokens each route between layers and heads is for, measured on a text",
  description:
    "Runs windows of a text through a model with routed keys and values. A route goes from a key-value head of a layer to an " +
    "earlier layer; its share at a token is the norm of what that layer adds to the head's values, among those of all layers " +
    "that it reads. Lists the routes with the largest mean share, a layer's own left out, and the tokens whose share lies the " +
    "most above the mean. With --kv-routing hidden-dynamic also the tokens that the router favours by their embedding alone " +
    "(docs/metrics.md).",
  schema,
  examples: ["sluice lime circuits --model models/brook-lime --text sotu --picture out/circuits.svg"],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { model: name, text } = options;
      if (text === undefined) throw usageError("lime circuits: name the text with --text");
      return await withModel(device, options, context, async (lm) => {
        const { measured, windows } = await withTokens(
          { ...options, text },
          lm.tokenizer,
          context,
          async (tokens) => {
            const packer = windowsOf(lm, tokens, { context: options.context, shuffle: false });
            const windows = await spreadOver(packer, options.sequences);
            return { measured: await measure(lm, windows, options, context), windows: windows.length };
          },
        );
        const all = await named(lm, measured, options);
        const strongest = rankRoutes(measured.routes).slice(0, options.routes);
        const listed = strongest.map((route) => all.find((r) => same(r, route)) as NamedRoute);
        if (options.picture !== undefined) {
          const { drawRoutePage } = await import("../../report/route-page.ts");
          const { writeSvg } = await import("../../report/svg.ts");
          writeSvg(options.picture, drawRoutePage(pageOf(name, measured, listed)));
          context.log(`drawn: ${options.picture}`);
        }
        const { positions, vocabulary } = measured;
        const { minCount } = options;
        return {
          json: {
            model: name,
            windows,
            positions,
            vocabulary,
            minCount,
            strongest: listed,
            routes: all,
            picture: options.picture,
          },
          text: [
            `${formatCount(positions)} positions, ${formatCount(vocabulary)} tokens with at least ${minCount} occurrences`,
            columnsOf([["reader", "head", "source", "share", "tokens (share there)"], ...listed.map(rowOf)], {
              left: 5,
            }),
          ].join("\n"),
        };
      });
    }),
});

const same = (a: Route, b: Route): boolean =>
  a.layer === b.layer && a.source === b.source && a.head === b.head;

async function measure(
  { model }: LanguageModel,
  windows: readonly Int32Array[],
  { tokens, minCount }: Options,
  context: CommandContext,
): Promise<Circuits> {
  const progress = context.progress({ label: "measuring routes", unit: "windows", total: windows.length });
  const onProgress = (done: number) => progress.update(done);
  const found = await measureCircuits(model, windows, {
    tokens,
    minCount,
    signal: context.signal,
    onProgress,
  });
  progress.finish();
  return found;
}

/** All routes, with what their tokens are. */
async function named(
  { model, tokenizer }: LanguageModel,
  { routes }: Circuits,
  { tokens }: Options,
): Promise<NamedRoute[]> {
  const withText = <T extends { readonly token: number }>(list: readonly T[]) =>
    list.map((entry) => ({ ...entry, text: tokenizer.tokenText(entry.token) }));
  const dynamic = model.spec.kvRouting?.kind === "hidden-dynamic";
  const byEmbedding = dynamic
    ? await embeddingRoutes(model, { tokens, vocabulary: tokenizer.vocabSize })
    : undefined;
  return routes.map((route) => {
    const embedding = byEmbedding?.find((r) => same(r, route))?.tokens;
    return {
      ...route,
      tokens: withText(route.tokens),
      ...(embedding && { embedding: withText(embedding) }),
    };
  });
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** `" the" 41 %, …`; of token-dependent routers also what the embedding alone says. */
function tokensOf({ tokens, embedding }: NamedRoute): string {
  const shown = tokens.map(({ text, share }) => `${JSON.stringify(text)} ${(100 * share).toFixed(0)} %`);
  const measured = shown.length > 0 ? shown.join(", ") : "none above the mean";
  if (!embedding) return measured;
  return `${measured}; by embedding ${embedding.map(({ text }) => JSON.stringify(text)).join(", ")}`;
}

function rowOf(route: NamedRoute): string[] {
  const { layer, head, source, mean } = route;
  return [String(layer), String(head), String(source), percent(mean), tokensOf(route)];
}

/** Heads of readers down, sources across; a layer's own share is what is missing to 1. */
function pageOf(model: string, { positions, routes }: Circuits, listed: readonly NamedRoute[]): RoutePage {
  const rowName = ({ layer, head }: Route) => `${layer}, ${head}`;
  const others = routes.filter(({ layer, source }) => source !== layer);
  const rows = [...new Set(others.map(rowName))];
  const sources = [...new Set(others.map(({ source }) => source))].sort((a, b) => a - b);
  const at = new Map(others.map((r) => [`${rowName(r)} ${r.source}`, r.mean]));
  return {
    title: `Routes of ${model}`,
    note: `Mean share of an earlier layer in what a head reads, over ${formatCount(positions)} positions; the rest is its own layer's.`,
    map: {
      title: "mean share",
      x: "layer that is read",
      y: "layer and head that read",
      columns: sources.map(String),
      rows,
      values: rows.map((row) => sources.map((source) => at.get(`${row} ${source}`))),
      unit: "mean share",
      label: (share) => `${(100 * share).toFixed(0)}`,
    },
    head: ["route", "share", "tokens that it is strongest at, with their share"],
    routes: listed.map((route) => ({
      name: `layer ${route.layer}, head ${route.head} reads layer ${route.source}`,
      share: percent(route.mean),
      tokens: tokensOf(route),
    })),
  };
}
