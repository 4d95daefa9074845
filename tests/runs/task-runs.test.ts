/**
 * Tables from the runs of synthetic tasks.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  differenceTable,
  gradeTable,
  lossCurves,
  parameterLine,
  readTaskRuns,
  sharedSettings,
  trainingLine,
} from "../../runs/lib/task-runs.ts";
import { temporaryFolder } from "../temporary.ts";

interface Written {
  readonly correct: number;
  readonly losses: readonly number[];
  readonly lr?: number;
  readonly routerLr?: number;
}

/** A run folder as `task train` leaves it, with what the tables read. */
function write(folder: string, name: string, { correct, losses, lr = 0.01, routerLr }: Written): void {
  mkdirSync(join(folder, name), { recursive: true });
  const run = {
    settings: {
      task: { kind: "arithmetic", max: 127, operands: 6 },
      samples: { train: 50_000, test: 200 },
      sizes: {
        d: 32,
        layers: 4,
        heads: 4,
        ffn: 88,
        context: 192,
        kvRouting: routerLr && { kind: "learned" },
      },
      start: {},
      epochs: 4,
      loss: "all",
      train: {
        lr,
        ...(routerLr && { routerLr }),
        batch: 64,
        seed: 0,
        logEverySteps: losses.length,
      },
    },
    parameters: { total: routerLr ? 110 : 100, blocks: 50 },
    steps: 8,
    loss: losses.at(-1),
    grades: { count: 200, correct, stepsValid: correct / 2, accuracy: correct / 200 },
  };
  writeFileSync(join(folder, name, "run.json"), JSON.stringify(run));
  const lines = losses.map((test, i) =>
    JSON.stringify({ step: (8 / losses.length) * (i + 1), validation: { test } }),
  );
  writeFileSync(join(folder, name, "metrics.jsonl"), `${lines.join("\n")}\n`);
}

test("runs are told apart by their folders; tables pool the seeds and show each", () => {
  using temp = temporaryFolder();
  write(temp.path, "plain-size6-seed0", { correct: 50, losses: [2, 1] });
  write(temp.path, "plain-size6-seed1", { correct: 70, losses: [2.5, 1.5] });
  write(temp.path, "lime-size6-seed0", { correct: 100, losses: [1.8, 0.5], routerLr: 1 });
  write(temp.path, "lime-uniform-size4-seed2", { correct: 20, losses: [3, 2], routerLr: 1 });
  mkdirSync(join(temp.path, "lime-size6-seed9")); // begun, not done
  const runs = readTaskRuns(temp.path);
  assert.deepEqual(
    runs.map(({ arm, group, seed }) => [arm, group, seed]),
    [
      ["lime-uniform", "size4", 2],
      ["lime", "size6", 0],
      ["plain", "size6", 0],
      ["plain", "size6", 1],
    ],
  );
  const rows = gradeTable(runs, (group) => `${group}: `)
    .split("\n")
    .slice(2);
  assert.equal(rows.length, 3);
  assert.match(
    rows[1],
    /^\| size6: plain \| 2 \| 30\.0 \(25\.7 to 34\.7\) \| 25\.0, 35\.0 \| 15\.0 \| 1\.25/,
  );
  assert.match(rows[2], /^\| size6: LIMe \| 1 \| 50\.0 /);
  const name = (group: string) => `${group}: `;
  const [pair, ...others] = differenceTable(
    runs,
    [
      ["lime", "plain"],
      ["lime-uniform", "plain-uniform"],
    ],
    name,
  )
    .split("\n")
    .slice(2);
  assert.equal(pair, "| size6: LIMe − plain | 1 | +25.0 | +25.0 | -0.500 | -0.500 |");
  assert.deepEqual(others, [], "arms without the other of the pair at a seed are left out");
  const curves = lossCurves(runs.filter(({ group }) => group === "size6"));
  assert.deepEqual(
    curves.map(({ name, points }) => [name, points.map(({ x, mean }) => [x, mean])]),
    [
      [
        "plain",
        [
          [2, 2.25],
          [4, 1.25],
        ],
      ],
      [
        "LIMe",
        [
          [2, 1.8],
          [4, 0.5],
        ],
      ],
    ],
  );
  assert.equal(parameterLine(runs), "plain 100, LIMe 110");
  assert.match(
    trainingLine(sharedSettings(runs)),
    /^4 epochs of 50,000 samples, learning rate 0\.01 \(routers 0\.01\)/,
  );
});

test("runs that differ in more than arm, size and seed do not stand in one table", () => {
  using temp = temporaryFolder();
  write(temp.path, "plain-size6-seed0", { correct: 50, losses: [1] });
  write(temp.path, "plain-size6-seed1", { correct: 50, losses: [1], lr: 0.02 });
  assert.throws(() => sharedSettings(readTaskRuns(temp.path)), /several kinds/);
  assert.throws(() => readTaskRuns(join(temp.path, "none")), /no run is done/);
});
