/**
 * What `sluice task train` left in the folders of a script's runs: tables of grades, curves of loss. A run's folder is called
 * ARM-…-seedN, ARM being what is compared.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { TaskRun } from "../../src/recipes/task-train.ts";
import type { Series } from "../../src/report/chart.ts";
import { readJsonLines, signed, wilsonInterval } from "../../src/util/index.ts";
import { markdownTable, showSpread, spreadOf } from "./page.ts";

/** Names of the arms on the page, in its order. */
export const ARMS: Readonly<Record<string, string>> = {
  plain: "plain",
  lime: "LIMe",
  "plain-uniform": "plain, keys and values begin uniform",
  "lime-random": "LIMe, routers begin random",
  "lime-uniform": "LIMe, keys and values begin uniform (the released code)",
};

export interface FoundRun {
  readonly dir: string;
  readonly arm: string;
  /** What stands between arm and seed, as `size6`; empty where nothing does. */
  readonly group: string;
  readonly seed: number;
  readonly run: TaskRun;
  /** Loss on the test set by epoch. */
  readonly curve: readonly { readonly epoch: number; readonly loss: number }[];
}

/** The runs that are done, by group, arm and seed. */
export function readTaskRuns(out: string): FoundRun[] {
  const found = (existsSync(out) ? readdirSync(out) : []).flatMap((name): FoundRun[] => {
    const [, arm, group = "", seed] = /^([a-z]+(?:-uniform|-random)?)-(?:(.+)-)?seed(\d+)$/.exec(name) ?? [];
    const dir = join(out, name);
    const file = join(dir, "run.json");
    if (arm === undefined || !existsSync(file)) return [];
    const run = JSON.parse(readFileSync(file, "utf8")) as TaskRun;
    const { epochs } = run.settings as { epochs: number };
    const records = readJsonLines(join(dir, "metrics.jsonl")) as {
      step: number;
      validation?: { test: number };
    }[];
    const curve = records.flatMap(({ step, validation }) =>
      validation ? [{ epoch: (epochs * step) / run.steps, loss: validation.test }] : [],
    );
    return [{ dir, arm, group, seed: Number(seed), run, curve }];
  });
  if (found.length === 0) throw new Error(`${out}: no run is done`);
  return found.sort((a, b) => a.group.localeCompare(b.group) || a.seed - b.seed);
}

/** Runs of each arm, in the order of the page. */
const byArm = (runs: readonly FoundRun[]): { arm: string; title: string; runs: FoundRun[] }[] =>
  Object.entries(ARMS).flatMap(([arm, title]) => {
    const own = runs.filter((r) => r.arm === arm);
    return own.length > 0 ? [{ arm, title, runs: own }] : [];
  });

const percent = (share: number): string => (100 * share).toFixed(1);

/** A row for each group and arm: accuracy by seed, pooled with Wilson's interval, and the loss. */
export function gradeTable(runs: readonly FoundRun[], nameOf: (group: string) => string): string {
  const rows = [...new Set(runs.map(({ group }) => group))].flatMap((group) =>
    byArm(runs.filter((r) => r.group === group)).map(({ title, runs: own }) => {
      const total = (key: "count" | "correct" | "stepsValid") =>
        own.reduce((n, { run }) => n + run.grades[key], 0);
      const [low, high] = wilsonInterval(total("correct"), total("count"));
      return [
        `${nameOf(group)}${title}`,
        String(own.length),
        `${percent(total("correct") / total("count"))} (${percent(low)} to ${percent(high)})`,
        own.map(({ run }) => percent(run.grades.accuracy)).join(", "),
        percent(total("stepsValid") / total("count")),
        showSpread(spreadOf(own.map(({ run }) => run.loss))),
      ];
    }),
  );
  return markdownTable(
    ["", "seeds", "right answers, % (95 %)", "by seed, %", "every step right, %", "test loss, nats"],
    rows,
  );
}

/**
 * A row for each group and pair of arms that share a seed, so the numbers that both begin with and the order of samples: the
 * difference in points of accuracy and in loss, of each seed and on average.
 */
export function differenceTable(
  runs: readonly FoundRun[],
  pairs: readonly (readonly [arm: string, base: string])[],
  nameOf: (group: string) => string,
): string {
  const rows = [...new Set(runs.map(({ group }) => group))].flatMap((group) =>
    pairs.flatMap(([arm, base]) => {
      const own = runs.filter((r) => r.group === group);
      const both = own.flatMap((r) => {
        const other = own.find((o) => o.arm === base && o.seed === r.seed);
        return r.arm === arm && other ? [{ run: r.run, base: other.run }] : [];
      });
      if (both.length === 0) return [];
      const points = both.map((pair) => 100 * (pair.run.grades.accuracy - pair.base.grades.accuracy));
      const losses = both.map((pair) => pair.run.loss - pair.base.loss);
      return [
        [
          `${nameOf(group)}${ARMS[arm]} − ${ARMS[base]}`,
          String(both.length),
          signed(spreadOf(points).mean, 1),
          points.map((x) => signed(x, 1)).join(", "),
          signed(spreadOf(losses).mean, 3),
          losses.map((x) => signed(x, 3)).join(", "),
        ],
      ];
    }),
  );
  return markdownTable(["", "seeds", "points", "by seed", "test loss, nats", "by seed"], rows);
}

/** Test loss by epoch, mean and extremes over the seeds. */
export function lossCurves(runs: readonly FoundRun[]): Series[] {
  return byArm(runs).map(({ arm, title, runs: own }) => ({
    name: title,
    dashed: arm.endsWith("-uniform"),
    points: own[0].curve.map(({ epoch }, i) => {
      const { mean, min, max } = spreadOf(own.flatMap(({ curve }) => (curve[i] ? [curve[i].loss] : [])));
      return { x: epoch, mean, min, max };
    }),
  }));
}

export interface TaskSettings {
  readonly task: { readonly max: number };
  readonly samples: { readonly train: number; readonly test: number };
  readonly sizes: {
    readonly d: number;
    readonly layers: number;
    readonly heads: number;
    readonly ffn: number;
    readonly context: number;
    readonly kvRouting?: unknown;
  };
  readonly start: unknown;
  readonly epochs: number;
  readonly loss: "all" | "completion";
  readonly train: {
    readonly lr: number;
    readonly routerLr?: number;
    readonly batch: number;
    readonly seed: number;
  };
}

const settingsOf = ({ run }: FoundRun): TaskSettings => run.settings as unknown as TaskSettings;

/** What the runs of a page have in common; refuses runs that differ in more than group, arm and seed. */
export function sharedSettings(runs: readonly FoundRun[]): TaskSettings {
  const kinds = new Set(
    runs.map((found) => {
      const { task, sizes, start: _, train, ...rest } = settingsOf(found);
      const { routerLr: _lr, ...others } = train; // plain models have none
      const shared = Object.entries({ ...others, seed: 0, tokens: 0 }).filter(
        ([key]) => !key.endsWith("EverySteps"), // an epoch, which has fewer steps where samples are shorter
      );
      return JSON.stringify([{ ...task, operands: 0 }, { ...sizes, kvRouting: undefined }, shared, rest]);
    }),
  );
  if (kinds.size > 1) throw new Error(`runs of several kinds: ${[...kinds].join(" | ")}`);
  return settingsOf(runs.find(({ arm }) => arm.startsWith("lime")) ?? runs[0]);
}

/** `plain 54912, LIMe 55056`. */
export const parameterLine = (runs: readonly FoundRun[]): string =>
  ["plain", "lime"]
    .flatMap((arm) => {
      const found = runs.find((r) => r.arm.startsWith(arm));
      return found ? [`${ARMS[arm]} ${found.run.parameters.total}`] : [];
    })
    .join(", ");

/** Length of training, rates, batch and what is learnt, in words. */
export function trainingLine({ epochs, samples, train, sizes, loss }: TaskSettings): string {
  const { lr, routerLr = 10, batch } = train;
  const learnt = loss === "all" ? "the whole text" : "the completion";
  return (
    `${epochs} epochs of ${samples.train.toLocaleString("en-US")} samples, learning rate ${lr} (routers ` +
    `${Number((lr * routerLr).toPrecision(6))}) falling to 0 in a straight line, ${batch} windows of ${sizes.context} tokens a step, ` +
    `loss on ${learnt}; ${samples.test} held-out samples, the same for all.`
  );
}
