/**
 * Tables of docs/results/lime.md on the inside of brook and brook-lime, from what runs/lime-inside.sh measured.
 */
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { StateKind } from "../src/lime/index.ts";
import { fillPage, markdownTable, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/lime-inside"] = process.argv.slice(2);
const PAGE = "docs/results/lime.md";

interface Moments {
  readonly mean: number;
  readonly std: number;
}
interface ByLayer {
  readonly context: number;
  readonly models: readonly {
    readonly model: string;
    readonly layers: Readonly<Record<StateKind, readonly Moments[]>>;
  }[];
}
interface Entropy extends ByLayer {
  readonly order: number;
  readonly sequences: number;
}
interface Words extends ByLayer {
  readonly words: readonly string[];
  readonly perWord: number;
  readonly folds: number;
  readonly epochs: number;
}
/** Entropy of values that are mixed by routers as they begin; of each seed, layer by layer. */
interface Mixed {
  readonly models: readonly { readonly model: string; readonly layers: readonly (readonly number[])[] }[];
}
interface Routes {
  readonly models: readonly {
    readonly routes: readonly { readonly layer: number; readonly shares: readonly number[] }[];
  }[];
}
interface Circuits {
  readonly windows: number;
  readonly positions: number;
  readonly minCount: number;
  readonly strongest: readonly {
    readonly layer: number;
    readonly head: number;
    readonly source: number;
    readonly mean: number;
    readonly tokens: readonly { readonly text: string; readonly share: number }[];
  }[];
}

const read = <T>(name: string): T => JSON.parse(readFileSync(join(out, `${name}.json`), "utf8")) as T;

/** A row for each layer, a column for each model and kind of states; what a plain model reads is what it makes, and left out. */
function layerTable({ models }: ByLayer, digits: number): string {
  const columns = models.flatMap(({ model, layers }) => {
    const routed = layers.values.some(({ mean }, l) => mean !== layers.read[l].mean);
    const kinds: StateKind[] = routed ? ["values", "read", "hidden"] : ["values", "hidden"];
    return kinds.map((kind) => ({ title: `${basename(model)}: ${kind}`, states: layers[kind] }));
  });
  const show = ({ mean, std }: Moments): string => `${mean.toFixed(digits)} ± ${std.toFixed(digits)}`;
  return markdownTable(
    ["layer", ...columns.map(({ title }) => title)],
    columns[0].states.map((_, l) => [String(l), ...columns.map(({ states }) => show(states[l]))]),
  );
}

function mixedTable({ models }: Mixed): string {
  return markdownTable(
    ["layer", ...models.map(({ model }) => `${basename(model)}'s values, mixed at random`)],
    models[0].layers[0].map((_, l) => [
      String(l),
      ...models.map(({ layers }) => showSpread(spreadOf(layers.map((seed) => seed[l])), 2)),
    ]),
  );
}

function routeTable({ models: [{ routes }] }: Routes): string {
  const layers = Math.max(...routes.map(({ layer }) => layer)) + 1;
  return markdownTable(
    ["reader", ...Array.from({ length: layers }, (_, l) => `from layer ${l}`)],
    routes.map(({ layer, shares }) => [
      String(layer),
      ...Array.from({ length: layers }, (_, l) => (l in shares ? `${(100 * shares[l]).toFixed(0)} %` : "")),
    ]),
  );
}

/** A token in a table's cell, as code. */
const quoted = (token: string): string =>
  `\`${JSON.stringify(token).replaceAll("|", "\\|").replaceAll("`", "'")}\``;
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

function circuitTable({ strongest }: Circuits): string {
  return markdownTable(
    ["layer, head", "reads layer", "mean share", "strongest at (share there)"],
    strongest.map(({ layer, head, source, mean, tokens }) => [
      `${layer}, ${head}`,
      String(source),
      percent(mean),
      tokens.map(({ text, share }) => `${quoted(text)} ${percent(share)}`).join(", "),
    ]),
  );
}

const entropy = read<Entropy>("entropy");
const words = read<Words>("words");
const converged = read<Words>("words-converged");
const circuits = read<Circuits>("circuits");
const number = (n: number): string => n.toLocaleString("en-US");
const picture = (title: string, file: string): string => `![${title}](lime/${file}.svg)`;

fillPage(
  PAGE,
  {
    "inside-entropy": [
      `Order ${entropy.order}, ${entropy.sequences} held-out windows of ${entropy.context} tokens; ± is the deviation over windows.`,
      layerTable(entropy, 2),
      picture("Entropy by layer", "entropy"),
    ].join("\n\n"),
    "inside-mixed": mixedTable(read<Mixed>("mixed")),
    "inside-words": [
      `${number(words.perWord)} of each of ${words.words.join(", ")}, ${words.folds} folds, ± over folds. After ${words.epochs} epoch, as in the paper:`,
      layerTable(words, 3),
      picture("Words told apart, one epoch", "words"),
      `After ${converged.epochs} epochs:`,
      layerTable(converged, 3),
      picture("Words told apart, converged", "words-converged"),
    ].join("\n\n"),
    "inside-routes": `${routeTable(read<Routes>("routes"))}\n\n${picture("Shares of the routers' weights", "routes")}`,
    "inside-circuits": [
      `${number(circuits.positions)} positions of ${circuits.windows} held-out windows; tokens that occur at least ${circuits.minCount} times.`,
      circuitTable(circuits),
      picture("Routes and their tokens", "circuits"),
    ].join("\n\n"),
  },
  { group: "inside" },
);
console.log(`${PAGE}: tables are written`);
