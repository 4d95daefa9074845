/**
 * Optimisers and learning-rate schedules.
 */
export { AdamW, type AdamWOptions, type AdamWParam, clipFactor, globalNorm } from "./adamw.ts";
export { checkSchedule, type Decay, learningRate, type Schedule } from "./schedules.ts";
