/**
 * Learning rates over a run: warm-up, a plateau, and a decay. Steps count from 0; no step has rate 0, first and last included.
 */
import { usageError } from "../util/index.ts";

/** How the rate falls. `share` is the part of the run that decays, at its end; `floor` the final rate as a share of the peak. */
export type Decay =
  | { readonly kind: "constant" }
  /** A straight line down over the last `share`: with a plateau before it, the trapezoid. */
  | { readonly kind: "linear"; readonly share: number; readonly floor?: number }
  /** Half a cosine from the end of the warm-up to the end of the run. */
  | { readonly kind: "cosine"; readonly floor?: number };

export interface Schedule {
  readonly peak: number;
  /** Optimiser steps of the whole run. */
  readonly steps: number;
  /** Steps of straight climb: step i < warmup has peak · (i + 1) / warmup. */
  readonly warmup: number;
  readonly decay: Decay;
}

/** A schedule whose numbers make sense; throws a usage error that names the one that does not. */
export function checkSchedule(schedule: Schedule): Schedule {
  const { peak, steps, warmup, decay } = schedule;
  if (!(peak > 0 && Number.isFinite(peak)))
    throw usageError(`schedule: peak=${peak} must be a positive number`);
  if (!(Number.isInteger(steps) && steps >= 1))
    throw usageError(`schedule: steps=${steps} must be at least 1`);
  if (!(Number.isInteger(warmup) && warmup >= 0 && warmup <= steps)) {
    throw usageError(`schedule: warmup=${warmup} must be a whole number between 0 and steps=${steps}`);
  }
  if (decay.kind === "linear" && !(decay.share >= 0 && decay.share <= 1)) {
    throw usageError(`schedule: the decaying share ${decay.share} must be between 0 and 1`);
  }
  if (decay.kind !== "constant" && !((decay.floor ?? 0) >= 0 && (decay.floor ?? 0) <= 1)) {
    throw usageError(`schedule: floor=${decay.floor} must be between 0 and 1`);
  }
  return schedule;
}

/** The rate of step `step` (0-based). Steps beyond the end keep the last rate. */
export function learningRate(schedule: Schedule, step: number): number {
  const { peak, steps, warmup } = schedule;
  const at = Math.min(step, steps - 1);
  const climb = at < warmup ? (at + 1) / warmup : 1;
  return peak * Math.min(climb, fall(schedule, at));
}

/** Share of the peak that the decay leaves at a step. */
function fall({ steps, warmup, decay }: Schedule, at: number): number {
  switch (decay.kind) {
    case "constant":
      return 1;
    case "linear": {
      const length = Math.round(decay.share * steps);
      if (length === 0 || steps - at > length) return 1;
      return lower((steps - at) / (length + 1), decay.floor);
    }
    case "cosine": {
      const progress = Math.max(at - warmup, 0) / Math.max(steps - warmup, 1);
      return lower((1 + Math.cos(Math.PI * progress)) / 2, decay.floor);
    }
    default:
      return decay satisfies never;
  }
}

const lower = (share: number, floor = 0): number => floor + (1 - floor) * share;
