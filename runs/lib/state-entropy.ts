/**
 * Matrix entropy of the states of models that a script trained on arithmetic, layer by layer, over the seeds of each arm.
 */
import { layerEntropies, STATE_KINDS, type StateKind } from "../../src/lime/index.ts";
import { loadTransformer } from "../../src/models/index.ts";
import type { Series } from "../../src/report/chart.ts";
import { type ArithmeticOptions, arithmeticVocabulary, makeArithmeticSplits } from "../../src/tasks/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { markdownTable, type Spread, showSpread, spreadOf } from "./page.ts";
import { ARMS, type FoundRun } from "./task-runs.ts";

/** States of one kind in the models of one group and arm. */
export interface StateEntropy {
  readonly group: string;
  readonly arm: string;
  readonly kind: StateKind;
  /** By layer, over seeds; of each the mean over samples, nats. */
  readonly layers: readonly Spread[];
}

/** Over the first so many held-out samples, each with its solution a sequence. What a plain model reads is what it makes, and left out. */
export async function arithmeticEntropies(
  device: Device,
  runs: readonly FoundRun[],
  samples: number,
): Promise<StateEntropy[]> {
  const found: StateEntropy[] = [];
  for (const group of new Set(runs.map((r) => r.group))) {
    const own = runs.filter((r) => r.group === group);
    const sequences = heldOut(own[0], samples);
    for (const arm of Object.keys(ARMS)) {
      const bySeed: Record<StateKind, number[]>[] = [];
      for (const { dir } of own.filter((r) => r.arm === arm))
        bySeed.push(await measure(device, dir, sequences));
      if (bySeed.length === 0) continue;
      for (const kind of STATE_KINDS) {
        if (kind === "read" && !arm.startsWith("lime")) continue;
        const layers = bySeed[0][kind].map((_, layer) => spreadOf(bySeed.map((seed) => seed[kind][layer])));
        found.push({ group, arm, kind, layers });
      }
    }
  }
  return found;
}

/** What the models of a group are all examined on. */
function heldOut({ run }: FoundRun, samples: number): Int32Array[] {
  const {
    task,
    samples: sizes,
    dataSeed,
  } = run.settings as unknown as {
    task: ArithmeticOptions & { numbers: "whole" | "digits" };
    samples: { train: number; test: number };
    dataSeed: number;
  };
  const vocabulary = arithmeticVocabulary(task);
  const { test } = makeArithmeticSplits({ ...task, ...sizes, seed: dataSeed });
  return test.slice(0, samples).map((sample) => vocabulary.encodeSample(sample).ids.slice(0, -1));
}

async function measure(
  device: Device,
  dir: string,
  sequences: readonly Int32Array[],
): Promise<Record<StateKind, number[]>> {
  const model = await loadTransformer(device, dir);
  try {
    const of: Partial<Record<StateKind, number[]>> = {};
    for (const kind of STATE_KINDS)
      of[kind] = (await layerEntropies(model, sequences, { kind })).map(({ mean }) => mean);
    return of as Record<StateKind, number[]>;
  } finally {
    model.dispose();
  }
}

/** A row for each group, arm and kind of states. */
export function entropyTable(found: readonly StateEntropy[], nameOf: (group: string) => string): string {
  const layers = found[0].layers.map((_, layer) => `layer ${layer}`);
  const rows = found.map(({ group, arm, kind, layers: spreads }) => [
    `${nameOf(group)}${ARMS[arm]}: ${kind}`,
    ...spreads.map((spread) => showSpread(spread, 2)),
  ]);
  return markdownTable(["", ...layers], rows);
}

export const entropyCurves = (found: readonly StateEntropy[]): Series[] =>
  found.map(({ arm, kind, layers }) => ({
    name: `${ARMS[arm]}: ${kind}`,
    dashed: kind === "hidden",
    points: layers.map((spread, x) => ({ x, ...spread })),
  }));
