/**
 * Table and picture of docs/results/lime.md from what runs/lime-prosqa.sh measured.
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

const [out = "out/lime-prosqa", page = "docs/results/lime.md"] = process.argv.slice(2);
const runs = readTaskRuns(out);
const settings = sharedSettings(runs);
const { d, layers, heads, ffn } = settings.sizes;

const loss = {
  title: "Graph questions: loss on held-out ones",
  x: { label: "epochs" },
  y: { label: "cross-entropy, nats a token" },
  series: lossCurves(runs),
};
const blocks = {
  "prosqa-accuracy": gradeTable(runs, () => ""),
  "prosqa-differences": differenceTable(runs, [["lime", "plain"]], () => ""),
  "prosqa-settings": `${layers} layers, ${heads} heads, width ${d}, MLP of ${ffn}; ${trainingLine(settings)} Parameters: ${parameterLine(runs)}.`,
};
publish(page, blocks, { group: "prosqa", pictures: { prosqa: loss } });
