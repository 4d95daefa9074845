/** Reports: plain data in, one self-contained HTML page out. */
export * from "./data.ts";
export { METRICS, type MetricText } from "./metrics.ts";
export { renderReport } from "./render.ts";
