/**
 * Table and picture of docs/results/lime.md on the training of brook beside its twin's: losses at the same steps, on the same tokens.
 *
 *   node dist/runs/lime-twin.js [BROOK [TWIN]]    run folders of runs/train-brook.sh; default out/brook and out/brook-lime
 */
import { join } from "node:path";
import type { LmTrainRecord } from "../src/models/index.ts";
import { mean, readJsonLines, signed } from "../src/util/index.ts";
import { markdownTable, publish } from "./lib/page.ts";

/** Steps of a row of the table, of a point of the picture, and that a loss is a mean of where the runs are compared. */
const [ROW, POINT, SMOOTH] = [500, 100, 200];

const [brook = "out/brook", lime = "out/brook-lime"] = process.argv.slice(2);
const runs = [brook, lime].map((dir) => readJsonLines(join(dir, "metrics.jsonl")) as LmTrainRecord[]);
const [plain, routed] = runs;
for (const [i, { step, tokens, lr }] of plain.entries()) {
  const other = routed[i];
  if (other?.step !== step || other.tokens !== tokens || other.lr !== lr)
    throw new Error(`${brook} and ${lime} part at step ${step}: these are not runs of the same steps`);
}
const steps = plain[plain.length - 1].step;

interface Bin {
  readonly from: number;
  readonly to: number;
  readonly tokens: number;
  /** Mean training loss of each run. */
  readonly losses: readonly number[];
}

function bins(width: number): Bin[] {
  return Array.from({ length: Math.ceil(steps / width) }, (_, i) => {
    const [from, to] = [i * width, Math.min(steps, (i + 1) * width)];
    const own = runs.map((records) => records.filter(({ step }) => step > from && step <= to));
    const { tokens } = own[0][own[0].length - 1];
    return { from, to, tokens, losses: own.map((records) => mean(records.map(({ loss }) => loss))) };
  });
}

/** Mean over the held-out domains at the validations between two steps, and in how many of all the twin is better. */
function heldOut({ from, to }: Bin): string {
  const pairs = plain.flatMap((record, i) => {
    const [a, b] = [record.validation, routed[i].validation];
    if (!a || !b || record.step <= from || record.step > to) return [];
    return Object.keys(a).map((domain) => b[domain] - a[domain]);
  });
  if (pairs.length === 0) return "";
  return `${signed(mean(pairs), 3)} (lower in ${pairs.filter((d) => d < 0).length} of ${pairs.length})`;
}

const rows = bins(ROW).map((bin) => [
  `${bin.from + 1} to ${bin.to}`,
  ...bin.losses.map((loss) => loss.toFixed(3)),
  signed(bin.losses[1] - bin.losses[0], 3),
  heldOut(bin),
]);
/** Mean training loss of the steps up to one. */
function lossAt(records: readonly LmTrainRecord[], step: number): number {
  const own = records.filter((r) => r.step > step - SMOOTH && r.step <= step);
  return mean(own.map(({ loss }) => loss));
}

/** Where the twin is as good as brook is at a step, before the learning rate falls: rates there are the same. */
function caughtUp(): string[] {
  const peak = Math.max(...plain.map(({ lr }) => lr));
  const constant = plain.filter(({ lr, step }) => lr === peak && step % ROW === 0);
  return constant.slice(1).map(({ step }) => {
    const loss = lossAt(plain, step);
    const first = routed.find((r) => r.step >= SMOOTH && lossAt(routed, r.step) <= loss);
    if (!first) throw new Error(`${lime} never has the loss of ${loss} that ${brook} has at step ${step}`);
    return `brook's ${step} at ${first.step} (${signed(100 * (step / first.step - 1), 0)} %)`;
  });
}

const curve = bins(POINT).filter(({ from }) => from >= ROW);

publish(
  "docs/results/lime.md",
  {
    "twin-training": [
      markdownTable(["steps", "brook", "brook-lime", "difference", "difference on held-out text"], rows),
      `The steps at which brook-lime's loss, a mean of ${SMOOTH} steps, is down to brook's, and how many more brook takes: ${caughtUp().join(", ")}.`,
    ].join("\n\n"),
  },
  {
    group: "twin",
    pictures: {
      "twin-training": {
        title: `Training loss of brook and its twin, means of ${POINT} steps`,
        x: { label: "tokens, millions" },
        y: { label: "cross-entropy, nats a token" },
        series: ["brook", "brook-lime"].map((name, i) => ({
          name,
          points: curve.map(({ tokens, losses }) => ({ x: tokens / 1e6, mean: losses[i] })),
        })),
      },
    },
  },
);
console.log("docs/results/lime.md: the training of the twins is written");
