/**
 * The page of a sweep: `report.html`.
 */
import { join } from "node:path";
import { renderSweep, type SweepEntry, type SweepReportData, type TrainingCurves } from "../report/index.ts";
import type { TrainRecord } from "../sae/index.ts";
import { formatCount, writeAtomic } from "../util/index.ts";
import { recordsIn, type SweptSae } from "./sae-sweep.ts";
import type { Comparison } from "./sweep-compare.ts";

export interface SweepPageOptions {
  readonly out: string;
  readonly saes: readonly SweptSae[];
  readonly comparison: Comparison;
  /** Where the activations come from, as in `brook over sotu (train)`. */
  readonly source: string;
  readonly run: SweepReportData["run"];
  readonly version: string;
}

/** Points of a curve on the page; more are thinned out. */
const POINTS = 400;

/** Writes the page and returns its path. */
export async function writeSweepPage(options: SweepPageOptions): Promise<string> {
  const file = join(options.out, "report.html");
  await writeAtomic(file, renderSweep(pageOf(options)));
  return file;
}

function pageOf({ saes, comparison, source, run, version }: SweepPageOptions): SweepReportData {
  const { evaluation, settings } = comparison;
  const folders = new Map(saes.map(({ name, folder }) => [name, folder]));
  const entries = comparison.saes.map((sae): SweepEntry => {
    const { name, setting, metrics, budgets, failure } = sae;
    return {
      name,
      setting,
      shape: { ...sae.shape, "ms per step": sae.ms_per_step },
      metrics,
      budgets,
      failure,
      curves: curvesIn(folders.get(name)),
    };
  });
  const hooks = [...new Set(comparison.saes.map(({ shape }) => shape.hook))];
  const tokens = formatCount(Math.max(...saes.map((sae) => sae.tokens)));
  const failed = saes.filter(({ stopped }) => stopped === "failed").length;
  const { name, held_out, budgets } = evaluation;
  return {
    title: `${saes.length} autoencoders, one pass over the activations`,
    summary:
      `${saes.length} sparse autoencoders in ${settings.length} settings were trained beside each other on the same ${tokens} ` +
      `activations of ${source}${failed > 0 ? `; ${failed} could not be trained to the end` : ""}. They were measured on ` +
      `${formatCount(tokensOf(comparison))} tokens of ${name}${held_out ? ", which none of them was trained on" : ", which is not held out"}.`,
    createdAt: new Date().toISOString(),
    version,
    facts: [
      ["activations", source],
      [hooks.length > 1 ? "hook points" : "hook point", hooks.join(", ")],
      ["trained on", `${tokens} tokens`],
      ["measured on", name],
      ...(budgets.length > 0 ? [["budgets", budgets.join(", ")] as const] : []),
    ],
    saes: entries,
    settings,
    run,
  };
}

/** Tokens that were measured. */
const tokensOf = ({ saes, evaluation }: Comparison): number =>
  saes.find(({ metrics }) => metrics)?.metrics?.tokens ?? evaluation.tokens;

function curvesIn(folder: string | undefined): TrainingCurves | undefined {
  const all = folder === undefined ? [] : recordsIn(folder);
  if (all.length === 0) return undefined;
  const step = Math.ceil(all.length / POINTS);
  const records = all.filter((_, i) => (all.length - 1 - i) % step === 0); // the last one stays
  const of = (name: "tokens" | "loss" | "explained_variance" | "l0" | "dead_fraction") =>
    records.map((record: TrainRecord) => record[name]);
  return {
    tokens: of("tokens"),
    loss: of("loss"),
    explainedVariance: of("explained_variance"),
    l0: of("l0"),
    deadFraction: of("dead_fraction"),
  };
}
