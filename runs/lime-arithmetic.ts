/**
 * Tables and pictures of docs/results/lime.md from what runs/lime-arithmetic.sh measured.
 */
import { createDevice } from "../src/tensor/index.ts";
import { publish } from "./lib/page.ts";
import { arithmeticEntropies, entropyCurves, entropyTable } from "./lib/state-entropy.ts";
import {
  differenceTable,
  gradeTable,
  lossCurves,
  parameterLine,
  readTaskRuns,
  sharedSettings,
  trainingLine,
} from "./lib/task-runs.ts";

/** Held-out samples that entropies are taken over. */
const ENTROPY_SAMPLES = 64;

const [out = "out/lime-arithmetic", page = "docs/results/lime.md"] = process.argv.slice(2);
const runs = readTaskRuns(out);
const operators = (group: string): string => group.replace(/^size/, "");

const settings = sharedSettings(runs);
const device = await createDevice();
const entropies = await arithmeticEntropies(device, runs, ENTROPY_SAMPLES);
device.close();

const losses = Object.fromEntries(
  [...new Set(runs.map((r) => r.group))].map((group) => [
    `arithmetic-${operators(group)}`,
    {
      title: `Arithmetic with ${operators(group)} operators: loss on held-out expressions`,
      x: { label: "epochs" },
      y: { label: "cross-entropy, nats a token" },
      series: lossCurves(runs.filter((r) => r.group === group)),
    },
  ]),
);
const largest = entropies.filter(({ group }) => group === runs[runs.length - 1].group);
const [first, second] = new Set(largest.map(({ arm }) => arm)); // more would be too many lines
const pictures = {
  ...losses,
  "arithmetic-entropy": {
    title: `Matrix entropy of states, ${operators(largest[0].group)} operators, ${ENTROPY_SAMPLES} held-out expressions`,
    x: { label: "layer", ticks: entropies[0].layers.map((_, layer) => layer) },
    y: { label: "entropy, nats (bars: extremes over seeds)" },
    series: entropyCurves(largest.filter(({ arm }) => arm === first || arm === second)),
  },
};
const blocks = {
  "arithmetic-accuracy": gradeTable(runs, (group) => `${operators(group)} operators, `),
  "arithmetic-differences": differenceTable(
    runs,
    [
      ["lime", "plain"],
      ["lime-uniform", "plain-uniform"],
      ["lime-uniform", "plain"], // as the released code sets them beside each other
    ],
    (group) => `${operators(group)} operators, `,
  ),
  "arithmetic-entropy": entropyTable(entropies, (group) => `${operators(group)} operators, `),
  "arithmetic-settings": `Numbers up to ${settings.task.max}; ${trainingLine(settings)} Parameters: ${parameterLine(runs)}.`,
};
publish(page, blocks, { group: "arithmetic", pictures });
