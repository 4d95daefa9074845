/**
 * Tables and pictures of docs/results/lime.md, "Language modelling", from what runs/lime-lm.sh has trained so far; and what that
 * script asks in between.
 *
 *   page OUT LR                             fills the page; without finished runs it says so
 *   rate OUT SEED LR...                     the learning rate at which the plain model is best
 *   sizes LAYERS D LAYERS HEADS KV FFN      flags of a model of so many layers, with the parameters of the one behind it
 */
import { type Point, type Series, writeChart } from "../src/report/chart.ts";
import { formatCount, signed } from "../src/util/index.ts";
import {
  bestRate,
  comparePair,
  type FoundRun,
  finalPoint,
  pairsOf,
  readRuns,
  sizesAtDepth,
} from "./lib/lime-lm.ts";
import { fillPage, markdownTable, showSpread, spreadOf } from "./lib/page.ts";

const PAGE = "docs/results/lime.md";
const FIGURES = "docs/results/lime";
const NOTHING = "Not run yet.";

const ARMS = [
  "plain",
  "lime",
  "first-4",
  "first-2",
  "first-1",
  "last-2",
  "average",
  "lime-random",
  "hyper",
  "dense",
];

/** Points of the pictures begin here, as a share of the run: before it all curves fall together. */
const SHOWN_FROM = 0.25;

/** More curves than this show means only: the bars of so many lie on each other. The table has the extremes. */
const MOST_WITH_BARS = 4;

const byArm = (a: FoundRun, b: FoundRun): number =>
  ARMS.indexOf(a.arm) - ARMS.indexOf(b.arm) || a.seed - b.seed;

/** `-0.0123 (-0.0140 to -0.0101)` */
function signedSpread(values: readonly number[], digits = 4): string {
  if (values.length === 0) return "";
  const { mean, min, max } = spreadOf(values);
  const range = values.length > 1 ? ` (${signed(min, digits)} to ${signed(max, digits)})` : "";
  return signed(mean, digits) + range;
}

const defined = (values: readonly (number | undefined)[]): number[] => values.filter((v) => v !== undefined);

/** What a run has beyond a plain one, in percent of it. */
const over = (value: number, plain: number | undefined): string =>
  plain === undefined || value === plain ? "" : ` (${signed(100 * (value / plain - 1), 2)} %)`;

function rateTable(runs: readonly FoundRun[]): string {
  const tried = runs.filter(({ arm, depth }) => (arm === "plain" || arm === "lime") && depth === undefined);
  const seeds = [...new Set(tried.map(({ seed }) => seed))].filter(
    (seed) => new Set(tried.filter((r) => r.seed === seed).map(({ lr }) => lr)).size > 1,
  );
  if (seeds.length === 0) return runs.length === 0 ? NOTHING : "Not tried in these runs.";
  const rates = [...new Set(tried.filter((r) => seeds.includes(r.seed)).map(({ lr }) => lr))];
  const cell = (arm: string, seed: number, lr: string): string => {
    const found = tried.find((r) => r.arm === arm && r.seed === seed && r.lr === lr);
    return found ? finalPoint(found).loss.toFixed(4) : "";
  };
  const rows = rates
    .sort((a, b) => Number(a) - Number(b))
    .flatMap((lr) =>
      seeds.map((seed) => [lr, String(seed), cell("plain", seed, lr), cell("lime", seed, lr)]),
    );
  return markdownTable(["peak learning rate", "seed", "plain, loss", "lime, loss"], rows);
}

/** A row for each arm that has runs. */
function armTable(runs: readonly FoundRun[]): string {
  const plain = runs.find(({ arm }) => arm === "plain")?.run;
  const rows = ARMS.flatMap((arm) => {
    const all = runs.filter((r) => r.arm === arm);
    if (all.length === 0) return [];
    const [{ run }] = all;
    const pairs = arm === "plain" ? [] : pairsOf(runs, arm).map(comparePair);
    const gains = defined(pairs.map(({ gain }) => gain));
    const faster =
      gains.length === pairs.length
        ? signedSpread(
            gains.map((g) => 100 * g),
            1,
          )
        : `not reached in ${pairs.length - gains.length} of ${pairs.length}`;
    return [
      [
        arm,
        String(all.length),
        run.parameters.total + over(run.parameters.total, plain?.parameters.total),
        formatCount(run.flops.training) + over(run.flops.training, plain?.flops.training),
        showSpread(spreadOf(all.map((r) => finalPoint(r).loss))),
        signedSpread(pairs.map(({ atTokens }) => atTokens)),
        signedSpread(defined(pairs.map(({ atFlops }) => atFlops))),
        faster,
      ],
    ];
  });
  return markdownTable(
    [
      "",
      "seeds",
      "parameters",
      "training FLOPs a token",
      "held-out loss",
      "minus plain, at equal tokens",
      "at equal FLOPs",
      "faster to plain's loss, %",
    ],
    rows,
  );
}

/** Seeds that every arm has, or all seeds where there is none. */
function sharedSeeds(runs: readonly FoundRun[]): Set<number> {
  const arms = [...new Set(runs.map(({ arm }) => arm))];
  const shared = runs
    .map(({ seed }) => seed)
    .filter((seed) => arms.every((arm) => runs.some((r) => r.arm === arm && r.seed === seed)));
  return new Set(shared.length > 0 ? shared : runs.map(({ seed }) => seed));
}

/** A point over seeds. */
const pointOf = (x: number, values: readonly number[], bars: boolean): Point => {
  const { mean, min, max } = spreadOf(values);
  return bars ? { x, mean, min, max } : { x, mean };
};

/** Loss of each arm at its validations, over the seeds that all arms have. */
function lossCurves(runs: readonly FoundRun[], x: "tokens" | "flops", unit: number): Series[] {
  const seeds = sharedSeeds(runs);
  const arms = ARMS.filter((arm) => runs.some((r) => r.arm === arm && seeds.has(r.seed)));
  return arms.map((arm): Series => {
    const all = runs.filter((r) => r.arm === arm && seeds.has(r.seed));
    const last = finalPoint(all[0]).tokens;
    const points = all[0].curve.flatMap((point, i) => {
      const losses = all.flatMap(({ curve }) => (curve[i] ? [curve[i].loss] : []));
      return point.tokens < SHOWN_FROM * last
        ? []
        : [pointOf(point[x] / unit, losses, arms.length <= MOST_WITH_BARS)];
    });
    return { name: arm, points };
  });
}

/** Of each arm, its loss minus plain's after the same tokens, over the seeds that all arms have. */
function differenceCurves(runs: readonly FoundRun[]): Series[] {
  const seeds = sharedSeeds(runs);
  const paired = ARMS.filter((arm) => arm !== "plain").flatMap((arm) => {
    const pairs = pairsOf(runs, arm).filter(({ seed }) => seeds.has(seed));
    return pairs.length > 0 ? [{ arm, pairs }] : [];
  });
  return paired.map(({ arm, pairs }): Series => {
    const [{ plain }] = pairs;
    const points = plain.curve.flatMap(({ tokens }, i) => {
      const differences = pairs.map(({ plain: a, other: b }) => b.curve[i].loss - a.curve[i].loss);
      return tokens < SHOWN_FROM * finalPoint(plain).tokens
        ? []
        : [pointOf(tokens / 1e6, differences, paired.length <= MOST_WITH_BARS)];
    });
    return { name: arm, points };
  });
}

function armsBlock(runs: readonly FoundRun[]): string {
  if (runs.length === 0) return NOTHING;
  const y = { label: "cross-entropy, nats a token" };
  const title = "Held-out loss after the first quarter";
  const seeds = [...sharedSeeds(runs)].sort((a, b) => a - b);
  writeChart(`${FIGURES}/lm-tokens.svg`, {
    title,
    x: { label: "million tokens" },
    y,
    series: lossCurves(runs, "tokens", 1e6),
  });
  writeChart(`${FIGURES}/lm-flops.svg`, {
    title,
    x: { label: "TFLOP of training" },
    y,
    series: lossCurves(runs, "flops", 1e12),
  });
  const pictures = [
    seeds.length === 1 ? `Curves of seed ${seeds[0]}:` : `Curves, means over the seeds ${seeds.join(", ")}:`,
    "",
    "![Loss against tokens](lime/lm-tokens.svg)",
    "",
    "![Loss against FLOPs](lime/lm-flops.svg)",
  ];
  const differences = differenceCurves(runs);
  if (differences.length > 0) {
    writeChart(`${FIGURES}/lm-difference.svg`, {
      title: "Held-out loss minus that of the plain model of the same seed",
      x: { label: "million tokens" },
      y: { label: "difference, nats a token" },
      series: differences,
    });
    pictures.push("", "![Difference from plain against tokens](lime/lm-difference.svg)");
  }
  return [armTable(runs), "", ...pictures].join("\n");
}

/** Rows by depth; those of the reference's depth are among the arms. */
function depthBlock(runs: readonly FoundRun[]): string {
  if (!runs.some(({ depth }) => depth !== undefined)) return NOTHING;
  const seeds = new Set(runs.filter(({ depth }) => depth !== undefined).map(({ seed }) => seed));
  const all = runs.filter(({ arm, seed }) => (arm === "plain" || arm === "lime") && seeds.has(seed));
  const layers = [...new Set(all.map(({ run }) => run.sizes.layers))].sort((a, b) => a - b);
  const at = (depth: number, arm: string) => all.filter((r) => r.run.sizes.layers === depth && r.arm === arm);
  const losses = (found: readonly FoundRun[]): number[] => found.map((r) => finalPoint(r).loss);
  const rows = layers.map((depth) => {
    const here = all.filter((r) => r.run.sizes.layers === depth);
    const { sizes, parameters, flops } = (at(depth, "plain")[0] ?? here[0]).run;
    const pairs = pairsOf(here, "lime").map(comparePair);
    const show = (arm: string): string => {
      const found = losses(at(depth, arm));
      return found.length > 0 ? showSpread(spreadOf(found)) : "";
    };
    return [
      String(depth),
      `${sizes.d}, ${sizes.ffn}`,
      String(parameters.blocks),
      formatCount(flops.training),
      show("plain"),
      show("lime"),
      signedSpread(pairs.map(({ atTokens }) => atTokens)),
    ];
  });
  writeChart(`${FIGURES}/lm-depth.svg`, {
    title: "Final held-out loss by depth, blocks with as many parameters",
    x: { label: "layers", log: true, ticks: layers },
    y: { label: "cross-entropy, nats a token" },
    series: ["plain", "lime"].flatMap((arm) => {
      const points = layers.flatMap((depth) => {
        const found = losses(at(depth, arm));
        return found.length > 0 ? [{ x: depth, ...spreadOf(found) }] : [];
      });
      return points.length > 0 ? [{ name: arm, points }] : [];
    }),
  });
  const head = [
    "layers",
    "width, MLP",
    "parameters of the blocks",
    "training FLOPs a token",
    "plain, loss",
    "lime, loss",
    "lime minus plain",
  ];
  return [markdownTable(head, rows), "", "![Loss by depth](lime/lm-depth.svg)"].join("\n");
}

const without = (fields: object, names: readonly string[]) =>
  Object.fromEntries(Object.entries(fields).filter(([name]) => !names.includes(name)));

/** What the runs were, by their own records, which must agree in all but arm, seed, learning rate and depth. */
function settingsLine(all: readonly FoundRun[], lr: string): string {
  if (all.length === 0) return NOTHING;
  const kinds = new Set(
    all.map(({ run, depth }) => {
      const { text, tokenizer, segments } = run;
      const varied = depth === undefined ? [] : ["d", "ffn", "layers"];
      const sizes = without(run.sizes, ["kvRouting", "residual", ...varied]);
      const train = without(run.train, ["lr", "routerLr", "seed"]);
      return `${depth !== undefined} ${JSON.stringify([sizes, train, text.tokens, tokenizer, segments])}`;
    }),
  );
  const depths = Number(all.some(({ depth }) => depth !== undefined));
  const bases = Number(all.some(({ depth }) => depth === undefined));
  if (kinds.size > depths + bases)
    throw new Error(
      `runs of several kinds, which no table can hold; give each its own folder: ${[...kinds].join(" | ")}`,
    );
  const reference = all.find(({ depth }) => depth === undefined) ?? all[0];
  const { sizes, train, tokens } = reference.run;
  const routed = all.find(({ arm, lr: own }) => arm === "lime" && own === lr)?.run.train;
  const routers =
    routed?.routerLr === undefined
      ? ""
      : ` (routers ${Number((routed.lr * routed.routerLr).toPrecision(6))})`;
  return `${sizes.layers} layers, width ${sizes.d}, ${sizes.heads} heads, ${sizes.kvHeads} of keys and values, MLP of ${sizes.ffn}; ${formatCount(tokens)} tokens of training in steps of ${train.batch} windows of ${sizes.context} tokens, AdamW with weight decay ${train.weightDecay}, peak learning rate ${lr}${routers} after ${train.warmup} steps of warm-up, then half a cosine to a tenth.`;
}

function writePage(out: string, lr: string): void {
  const all = readRuns(out).sort(byArm);
  const runs = all.filter((r) => r.lr === lr);
  if (all.length > 0 && runs.length === 0)
    throw new Error(`${out}: no run at a learning rate of ${lr} is done`);
  const unknown = runs.find(({ arm }) => !ARMS.includes(arm));
  if (unknown) throw new Error(`${out}: the page has no row for ${unknown.arm}`);
  const blocks = {
    "lm-settings": settingsLine(all, lr),
    "lm-rates": rateTable(all),
    "lm-arms": armsBlock(runs.filter(({ depth }) => depth === undefined)),
    "lm-depth": depthBlock(runs),
  };
  fillPage(PAGE, blocks, { group: "lm" });
  console.log(`${PAGE}: language modelling is written from ${all.length} runs`);
}

const [action, ...args] = process.argv.slice(2);
if (action === "page") writePage(args[0], args[1]);
else if (action === "rate") console.log(bestRate(readRuns(args[0]), Number(args[1]), args.slice(2)));
else if (action === "sizes") {
  const [layers, d, reference, heads, kvHeads, ffn] = args.map(Number);
  const shape = { d, layers: reference, heads, kvHeads, ffn, context: 256, tied: true, ropeTheta: 10_000 };
  const found = sizesAtDepth(shape, layers);
  console.log(`--d ${found.d} --layers ${found.layers} --ffn ${found.ffn}`);
} else throw new Error(`lime-lm: ${action} is none of page, rate, sizes`);
