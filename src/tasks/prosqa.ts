/**
 * Questions of reach in the manner of ProsQA (Coconut, arXiv 2412.06769): facts "Every lamek is a depir.", a
 * question "Is Almo a depir or gobor?", the steps from the name to the answer. The graphs and the words are
 * our own: of ProsQA only the sizes are followed. One answer is right, and only the paths of the asked name
 * say which.
 */
import { Rng, usageError } from "../util/index.ts";
import { drawDistinct, type Splits } from "./distinct.ts";
import { drawReachGraph } from "./reach-graph.ts";
import { type TaskSample, TaskVocabulary } from "./vocabulary.ts";

export interface ProsqaOptions {
  /**
   * Mean number of nodes (names and kinds), spread evenly over five below to five above; default 22.8, as in
   * ProsQA.
   */
  readonly nodes?: number;
  /** Mean number of edges, in proportion to the nodes of each graph; default 36, as in ProsQA. */
  readonly edges?: number;
  /** Weights of the path lengths; default { 3: 40, 4: 43, 5: 14, 6: 2 }, the percentages of ProsQA. */
  readonly steps?: Readonly<Record<number, number>>;
}

/** `[a, b]`: the name a is a b, or every a is a b. */
export type Fact = readonly [subject: string, kind: string];

export interface ProsqaSample extends TaskSample {
  /** Whom the question is about. */
  readonly name: string;
  /** As mentioned in the question. */
  readonly options: readonly [string, string];
  readonly answer: string;
  /** The option that the name does not reach. */
  readonly distractor: string;
  /** In the order of the text. */
  readonly facts: readonly Fact[];
  /** A shortest path from the name to the answer, as facts. */
  readonly steps: readonly Fact[];
}

const NODES = 22.8;
const EDGES = 36;
const STEPS: Readonly<Record<number, number>> = { 3: 40, 4: 43, 5: 14, 6: 2 };
const SPREAD = 5;

const combine = (first: string, second: string): readonly string[] =>
  first.split(" ").flatMap((a) => second.split(" ").map((b) => a + b));

/** Names of the things that questions are about: sources of the graph. */
const NAMES = combine("Al Be Cor Da El Fen", "mo rin ta vek");
/** Made-up kinds: all other nodes. */
const KINDS = combine("ba de fi go ku la me ni po ru sa te", "bor dun fel gim lan mek nov pir sut zam");

interface Settings {
  readonly nodes: number;
  readonly edgesPerNode: number;
  /** Path lengths with their cumulative share, which ends at 1. */
  readonly steps: readonly { readonly length: number; readonly upTo: number }[];
}

function resolve({ nodes = NODES, edges = EDGES, steps = STEPS }: ProsqaOptions): Settings {
  const weights = Object.entries(steps).map(([length, weight]) => ({ length: Number(length), weight }));
  const total = weights.reduce((sum, { weight }) => sum + weight, 0);
  for (const { length, weight } of weights) {
    if (!Number.isInteger(length) || length < 1 || !(weight >= 0))
      throw usageError(
        `prosqa: steps ${length}: ${weight} must be a path length of 1 or more and its weight`,
      );
  }
  if (!(total > 0 && total < Number.POSITIVE_INFINITY))
    throw usageError("prosqa: steps must give some path length a weight above 0");
  const longest = Math.max(...weights.filter(({ weight }) => weight > 0).map(({ length }) => length));
  const [fewest, most] = [2 * longest + 5 + SPREAD, KINDS.length - SPREAD];
  if (!(nodes >= fewest && nodes <= most))
    throw usageError(
      `prosqa: nodes=${nodes} must be between ${fewest} and ${most}: graphs have up to ${SPREAD} fewer ` +
        `or more, need 3 more than two paths of ${longest} steps have, and there are ${KINDS.length} words`,
    );
  if (!(edges >= nodes && edges <= 2 * nodes))
    throw usageError(`prosqa: edges=${edges} must be one to two a node, with nodes=${nodes}`);
  let sum = 0;
  return {
    nodes,
    edgesPerNode: edges / nodes,
    steps: weights.map(({ length, weight }) => {
      sum += weight;
      return { length, upTo: sum / total };
    }),
  };
}

/** The whole number below or above, so that the mean is `x`. */
const roundAtRandom = (rng: Rng, x: number): number => Math.floor(x + rng.uniform());

/** One question, drawn anew. */
export function generateProsqa(rng: Rng, options: ProsqaOptions = {}): ProsqaSample {
  return generate(rng, resolve(options));
}

function generate(rng: Rng, settings: Settings): ProsqaSample {
  const share = rng.uniform();
  const steps = settings.steps.find(({ upTo }) => share < upTo)!.length;
  const nodes = roundAtRandom(rng, settings.nodes) + rng.int(2 * SPREAD + 1) - SPREAD;
  const edges = roundAtRandom(rng, nodes * settings.edgesPerNode);
  const graph = drawReachGraph(rng, { nodes, edges, steps });

  const asked = rng.int(2);
  const words = drawWords(rng, graph.nodes, graph.sources);
  const fact = ([from, to]: readonly number[]): Fact => [words[from], words[to]];
  const facts = rng.shuffle(graph.edges.map(fact));
  const path = graph.paths[asked];
  const answer = words[path[steps]];
  const distractor = words[graph.paths[1 - asked][steps]];
  const sample = {
    name: words[asked],
    options: rng.int(2) === 0 ? ([answer, distractor] as const) : ([distractor, answer] as const),
    answer,
    distractor,
    facts,
    steps: path.slice(1).map((node, i) => fact([path[i], node])),
  };
  return { ...sample, prompt: promptOf(sample), completion: completionOf(sample) };
}

/** A word a node, no word twice. Sources beyond the names there are go by kinds. */
function drawWords(rng: Rng, nodes: number, sources: readonly number[]): string[] {
  const kinds = rng.shuffle([...KINDS]);
  const names = rng.shuffle([...NAMES]);
  const words = kinds.slice(0, nodes);
  sources.slice(0, names.length).forEach((node, i) => {
    words[node] = names[i];
  });
  return words;
}

const NAME_SET: ReadonlySet<string> = new Set(NAMES);

/** `Almo is a lamek.` or `Every lamek is a depir.` */
export const factText = ([subject, kind]: Fact): string =>
  `${NAME_SET.has(subject) ? subject : `Every ${subject}`} is a ${kind}.`;

type Content = Omit<ProsqaSample, "prompt" | "completion">;

const promptOf = ({ facts, name, options }: Content): string =>
  `${facts.map(factText).join(" ")} Is ${name} a ${options[0]} or ${options[1]}?\n`;

const completionOf = ({ steps, name, answer }: Content): string =>
  `${steps.map((step) => `${factText(step)}\n`).join("")}So ${name} is a ${answer}.`;

export interface ProsqaSplitOptions extends ProsqaOptions {
  /** Questions to train on; default 18,000. */
  readonly train?: number;
  /** Default 300. */
  readonly valid?: number;
  /** Default 500. */
  readonly test?: number;
  readonly seed: number;
}

/**
 * Splits without any question twice: two that differ only in the order of facts or of options count as one. A
 * seed's test set stays the same whatever the size of the others.
 */
export function makeProsqaSplits(options: ProsqaSplitOptions): Splits<ProsqaSample> {
  const { train = 18_000, valid = 300, test = 500, seed } = options;
  const settings = resolve(options);
  return drawDistinct("prosqa", {
    rng: new Rng(seed).fork("prosqa"),
    draw: (rng) => generate(rng, settings),
    key: ({ name, options, facts }) => [name, ...options.toSorted(), ...facts.map(factText).sort()].join(" "),
    sizes: { test, valid, train },
    wayOut: "raise nodes, or ask for fewer",
  });
}

/**
 * Tokens of the questions: a token a word, the full stop, the question mark and the newline. Fits all
 * options.
 */
export function prosqaVocabulary(): TaskVocabulary {
  return new TaskVocabulary(["\n", ".", "?", "Every", "is", "a", "Is", "or", "So", ...NAMES, ...KINDS], {
    split: (text) => text.match(/\n|[A-Za-z]+|\S/g) ?? [],
    join: (words) =>
      words
        .join(" ")
        .replace(/ ([.?])/g, "$1")
        .replace(/ ?\n ?/g, "\n"),
  });
}

export interface ProsqaStatistics {
  readonly questions: number;
  /** Means over questions. */
  readonly nodes: number;
  readonly names: number;
  readonly edges: number;
  /** Share of questions by path length. */
  readonly steps: Readonly<Record<number, number>>;
  /** Share of questions whose first option is right. */
  readonly firstIsRight: number;
}

/** What a set of questions is like; not for none. */
export function prosqaStatistics(samples: readonly ProsqaSample[]): ProsqaStatistics {
  if (samples.length === 0) throw usageError("prosqaStatistics: there are no questions to describe");
  const mean = (of: (sample: ProsqaSample) => number): number =>
    samples.reduce((sum, sample) => sum + of(sample), 0) / samples.length;
  const lengths = [...new Set(samples.map((sample) => sample.steps.length))].sort((a, b) => a - b);
  return {
    questions: samples.length,
    nodes: mean(({ facts }) => new Set(facts.flat()).size),
    names: mean(({ facts }) => new Set(facts.flat().filter((word) => NAME_SET.has(word))).size),
    edges: mean(({ facts }) => facts.length),
    steps: Object.fromEntries(lengths.map((n) => [n, mean(({ steps }) => (steps.length === n ? 1 : 0))])),
    firstIsRight: mean(({ options, answer }) => (options[0] === answer ? 1 : 0)),
  };
}
