/**
 * Tables and pictures of docs/results/lime.md from what runs/lime-arithmetic.sh measured.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { TaskRun } from "../src/recipes/task-train.ts";
import { type Series, writeChart } from "../src/report/chart.ts";
import { readJsonLines, wilsonInterval } from "../src/util/index.ts";
import { fillPage, markdownTable, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/lime-arithmetic"] = process.argv.slice(2);
const PAGE = "docs/results/lime.md";
const FIGURES = "docs/results/lime";

const ARMS: Readonly<Record<string, string>> = {
  plain: "plain",
  lime: "LIMe",
  "plain-uniform": "plain, keys and values begin uniform",
  "lime-uniform": "LIMe, keys and values begin uniform (the released code)",
};

interface Curve {
  readonly epoch: number;
  readonly loss: number;
}

interface Found {
  readonly arm: string;
  readonly size: number;
  readonly seed: number;
  readonly run: TaskRun;
  readonly curve: readonly Curve[];
}

/** The runs that are done. */
function readRuns(): Found[] {
  const found: Found[] = [];
  for (const name of readdirSync(out).sort()) {
    const [, arm, size, seed] = /^(.+)-size(\d+)-seed(\d+)$/.exec(name) ?? [];
    const file = join(out, name, "run.json");
    if (arm === undefined || !existsSync(file)) continue;
    const run = JSON.parse(readFileSync(file, "utf8")) as TaskRun;
    const { epochs } = run.settings as { epochs: number };
    const records = readJsonLines(join(out, name, "metrics.jsonl")) as {
      step: number;
      validation?: { test: number };
    }[];
    const curve = records.flatMap(({ step, validation }) =>
      validation ? [{ epoch: (epochs * step) / run.steps, loss: validation.test }] : [],
    );
    found.push({ arm, size: Number(size), seed: Number(seed), run, curve });
  }
  if (found.length === 0) throw new Error(`${out}: no run is done`);
  return found;
}

const runs = readRuns();
const sizes = [...new Set(runs.map(({ size }) => size))].sort((a, b) => a - b);
const of = (arm: string, size: number): Found[] => runs.filter((r) => r.arm === arm && r.size === size);
const percent = (share: number): string => `${(100 * share).toFixed(1)}`;

/** A row for each size and arm: accuracy by seed, pooled with Wilson's interval, and the loss. */
function accuracyTable(): string {
  const rows = sizes.flatMap((size) =>
    Object.entries(ARMS).flatMap(([arm, title]) => {
      const all = of(arm, size);
      if (all.length === 0) return [];
      const [count, correct, steps] = (["count", "correct", "stepsValid"] as const).map((key) =>
        all.reduce((n, { run }) => n + run.grades[key], 0),
      );
      const [low, high] = wilsonInterval(correct, count);
      return [
        [
          `${size} operators, ${title}`,
          String(all.length),
          `${percent(correct / count)} (${percent(low)} to ${percent(high)})`,
          all.map(({ run }) => percent(run.grades.accuracy)).join(", "),
          percent(steps / count),
          showSpread(spreadOf(all.map(({ run }) => run.loss))),
        ],
      ];
    }),
  );
  return markdownTable(
    ["", "seeds", "right answers, % (95 %)", "by seed, %", "every step right, %", "test loss, nats"],
    rows,
  );
}

/** Test loss by epoch, mean and extremes over the seeds. */
function curves(size: number): Series[] {
  return Object.entries(ARMS).flatMap(([arm, title]) => {
    const all = of(arm, size);
    if (all.length === 0) return [];
    const points = all[0].curve.map(({ epoch }, i) => {
      const { mean, min, max } = spreadOf(all.flatMap(({ curve }) => (curve[i] ? [curve[i].loss] : [])));
      return { x: epoch, mean, min, max };
    });
    return [{ name: title, points, dashed: arm.endsWith("-uniform") }];
  });
}

for (const size of sizes) {
  writeChart(`${FIGURES}/arithmetic-${size}.svg`, {
    title: `Arithmetic with ${size} operators: loss on held-out expressions`,
    x: { label: "epochs" },
    y: { label: "cross-entropy, nats a token" },
    series: curves(size),
  });
}

interface Settings {
  readonly task: { readonly max: number };
  readonly sizes: { readonly context: number; readonly kvRouting?: unknown };
  readonly start: unknown;
  readonly epochs: number;
  readonly loss: string;
  readonly train: {
    readonly lr: number;
    readonly routerLr?: number;
    readonly batch: number;
    readonly seed: number;
  };
}

/** What the runs were, by their own records, which must agree in all but seed, size and arm. */
function settingsLine(): string {
  const kinds = new Set(
    runs.map(({ run }) => {
      const { task, sizes: shape, start: _, train, ...rest } = run.settings as unknown as Settings;
      const shared = { ...shape, context: shape.context, kvRouting: undefined };
      return JSON.stringify([{ ...task, operands: 0 }, shared, { ...train, seed: 0, tokens: 0 }, rest]);
    }),
  );
  if (kinds.size > 1) throw new Error(`${out}: runs of several kinds: ${[...kinds].join(" | ")}`);
  const [{ run }] = runs;
  const { task, sizes: shape, epochs, loss, train } = run.settings as unknown as Settings;
  const counts = ["plain", "lime"].flatMap((arm) => {
    const found = runs.find((r) => r.arm.startsWith(arm));
    return found ? [`${ARMS[arm]} ${found.run.parameters.total}`] : [];
  });
  const learnt = loss === "all" ? "the whole text" : "the completion";
  return `Numbers up to ${task.max}; ${epochs} epochs of 50,000 expressions, learning rate ${train.lr} (routers ${train.lr * (train.routerLr ?? 10)}) falling to 0 in a straight line, ${train.batch} windows of ${shape.context} tokens a step, loss on ${learnt}; ${run.grades.count} held-out expressions, the same for all. Parameters: ${counts.join(", ")}.`;
}

const blocks = { "arithmetic-accuracy": accuracyTable(), "arithmetic-settings": settingsLine() };
fillPage(PAGE, blocks, "arithmetic-");
