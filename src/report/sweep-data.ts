/**
 * What a sweep's page shows: plain data, filled by the recipes, rendered by `renderSweep`.
 */
import type { ReportData, TrainingCurves } from "./data.ts";

type Metrics = Readonly<Record<string, number>>;

/** What a setting's seeds have in common and how far they lie apart. */
export interface Spread {
  readonly mean: number;
  readonly min: number;
  readonly max: number;
}

export interface SweepEntry {
  readonly name: string;
  /** Of the settings. */
  readonly setting: string;
  /** What tells it apart, as in `{ arch: "topk", k: 32 }`; what is the same for all is left out of the table. */
  readonly shape: Readonly<Record<string, string | number | null>>;
  /** Absent of one that failed. */
  readonly metrics?: Metrics;
  /** Of one that was measured at several k, ascending. */
  readonly budgets?: readonly ({ readonly k: number } & Metrics)[];
  readonly failure?: string;
  readonly curves?: TrainingCurves;
}

/** SAEs that differ in their seed alone. */
export interface SweepSetting {
  readonly name: string;
  readonly saes: readonly string[];
  readonly metrics: Readonly<Record<string, Spread>>;
  readonly budgets?: readonly { readonly k: number; readonly metrics: Readonly<Record<string, Spread>> }[];
}

export interface SweepReportData
  extends Pick<ReportData, "title" | "summary" | "createdAt" | "version" | "facts" | "run"> {
  readonly saes: readonly SweepEntry[];
  readonly settings: readonly SweepSetting[];
}

/** How a setting is drawn. */
export interface Ink {
  /** CSS colour. */
  readonly color: string;
  readonly dash?: string;
}

/** What the page's script reads. */
export interface SweepPageData {
  readonly saes: readonly (Pick<SweepEntry, "name" | "setting" | "metrics" | "budgets" | "curves"> & {
    /** What its setting's others do not share. */
    readonly seed: string;
  })[];
  readonly settings: readonly (SweepSetting & Ink)[];
}
