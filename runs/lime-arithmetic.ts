/**
 * Tables and pictures of docs/results/lime.md from what runs/lime-arithmetic.sh measured.
 */
import { writeChart } from "../src/report/chart.ts";
import { fillPage } from "./lib/page.ts";
import {
  differenceTable,
  gradeTable,
  lossCurves,
  parameterLine,
  readTaskRuns,
  sharedSettings,
  trainingLine,
} from "./lib/task-runs.ts";

const [out = "out/lime-arithmetic"] = process.argv.slice(2);
const runs = readTaskRuns(out);
const operators = (group: string): string => group.replace(/^size/, "");

for (const group of new Set(runs.map((r) => r.group))) {
  writeChart(`docs/results/lime/arithmetic-${operators(group)}.svg`, {
    title: `Arithmetic with ${operators(group)} operators: loss on held-out expressions`,
    x: { label: "epochs" },
    y: { label: "cross-entropy, nats a token" },
    series: lossCurves(runs.filter((r) => r.group === group)),
  });
}
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
fillPage("docs/results/lime.md", blocks, { group: "arithmetic" });
