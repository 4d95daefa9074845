/**
 * Tables and pictures of docs/results/lime.md from what runs/lime-arithmetic.sh measured.
 */
import { publish } from "./lib/page.ts";
import {
  differenceTable,
  gradeTable,
  lossCurves,
  parameterLine,
  readTaskRuns,
  sharedSettings,
  trainingLine,
} from "./lib/task-runs.ts";

const [out = "out/lime-arithmetic", page = "docs/results/lime.md"] = process.argv.slice(2);
const runs = readTaskRuns(out);
const operators = (group: string): string => group.replace(/^size/, "");

const pictures = Object.fromEntries(
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
const settings = sharedSettings(runs);
const blocks = {
  "arithmetic-accuracy": gradeTable(runs, (group) => `${operators(group)} operators, `),
  "arithmetic-differences": differenceTable(
    runs,
    [
      ["lime", "plain"],
      ["lime-uniform", "plain-uniform"],
    ],
    (group) => `${operators(group)} operators, `,
  ),
  "arithmetic-settings": `Numbers up to ${settings.task.max}; ${trainingLine(settings)} Parameters: ${parameterLine(runs)}.`,
};
publish(page, blocks, { group: "arithmetic", pictures });
