/** Reports: plain data in, one self-contained HTML page out. */
export * from "./data.ts";
export { METRICS, type MetricText } from "./metrics.ts";
export { renderReport } from "./render.ts";
export { renderSweep } from "./sweep.ts";
export type { Spread, SweepEntry, SweepReportData, SweepSetting } from "./sweep-data.ts";
