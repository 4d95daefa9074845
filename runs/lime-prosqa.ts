/**
 * Table and picture of docs/results/lime.md from what runs/lime-prosqa.sh measured.
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

const [out = "out/lime-prosqa"] = process.argv.slice(2);
const runs = readTaskRuns(out);
const settings = sharedSettings(runs);
const { d, layers, heads, ffn } = settings.sizes;

writeChart("docs/results/lime/prosqa.svg", {
  title: "Graph questions: loss on held-out ones",
  x: { label: "epochs" },
  y: { label: "cross-entropy, nats a token" },
  series: lossCurves(runs),
});
const blocks = {
  "prosqa-accuracy": gradeTable(runs, () => ""),
  "prosqa-differences": differenceTable(runs, [["lime", "plain"]], () => ""),
  "prosqa-settings": `${layers} layers, ${heads} heads, width ${d}, MLP of ${ffn}; ${trainingLine(settings)} Parameters: ${parameterLine(runs)}.`,
};
fillPage("docs/results/lime.md", blocks, { group: "prosqa" });
