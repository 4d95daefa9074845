/**
 * The records of a training run and the clock behind them.
 */
import { type JsonLines, openJsonLines } from "../util/index.ts";
import type { StepPart } from "./step.ts";

/** Milliseconds per step, by part. */
export type PartTimes = Record<StepPart | "data" | "optimizer" | "other", number>;

/** One line of the live metrics. Losses are of the scaled inputs. */
export interface TrainRecord {
  readonly step: number;
  readonly steps: number;
  /** Activation vectors trained on. */
  readonly tokens: number;
  /**
   * Mean over tokens of the squared error summed over dims; its mean over budgets (hierarchical) or sum over levels
   * (matryoshka). Mean over the steps since the last record.
   */
  readonly loss: number;
  /** AuxK loss before its coefficient, mean since the last record; 0 while no feature is dead. */
  readonly aux_loss: number;
  /** L1 or L0 penalty with its weight, and a gated SAE's auxiliary reconstruction, mean since the last record. */
  readonly penalty?: number;
  /** batchtopk: running mean of the smallest kept values. */
  readonly threshold?: number;
  /** R² of this step's batch, all codes. */
  readonly explained_variance: number;
  /** Features above 0 per token, of this step's batch. */
  readonly l0: number;
  /** Share of features that have not fired for `deadAfter` tokens. */
  readonly dead_fraction: number;
  /** kron: share of pre-latents none of whose products has fired for `deadAfter` tokens. */
  readonly dead_prelatents?: number;
  readonly lr: number;
  /** Of this step, before clipping. */
  readonly grad_norm: number;
  /** Since the last record. */
  readonly tokens_per_second: number;
  /** Since this process began to train. */
  readonly seconds: number;
  /** Per step, mean since the last record. */
  readonly ms: PartTimes;
}

const noTimes = (): PartTimes => ({
  data: 0,
  encode: 0,
  decode: 0,
  backward: 0,
  aux: 0,
  optimizer: 0,
  other: 0,
});

/** Splits the time of a loop between its parts: `lap(part)` charges what passed since the last lap. */
export class Laps {
  #times = noTimes();
  #steps = 0;
  readonly #began = performance.now();
  #windowBegan = performance.now();
  #last = performance.now();

  lap(part: keyof PartTimes): void {
    const now = performance.now();
    this.#times[part] += now - this.#last;
    this.#last = now;
  }

  endStep(): void {
    this.#steps++;
  }

  /** Means per step since the last call, steps per second, and seconds since the beginning. */
  take(): { ms: PartTimes; stepsPerSecond: number; seconds: number } {
    const now = performance.now();
    const steps = Math.max(this.#steps, 1);
    const ms = noTimes();
    for (const part of Object.keys(ms) as (keyof PartTimes)[]) {
      ms[part] = Math.round((this.#times[part] / steps) * 1000) / 1000;
    }
    const stepsPerSecond = (steps / Math.max(now - this.#windowBegan, 1e-3)) * 1000;
    this.#times = noTimes();
    this.#steps = 0;
    this.#windowBegan = now;
    return { ms, stepsPerSecond, seconds: (now - this.#began) / 1000 };
  }
}

export interface RecordSink {
  write(record: TrainRecord): void;
  close(): void;
}

/** Sends records to a callback and to a JSON-lines file, which is first cut back to the steps that are done. */
export function recordSink(
  { metricsFile, onMetrics }: { metricsFile?: string; onMetrics?: (record: TrainRecord) => void },
  doneSteps: number,
): RecordSink {
  const file: JsonLines | undefined =
    metricsFile === undefined
      ? undefined
      : openJsonLines(metricsFile, { keep: (record: TrainRecord) => record.step <= doneSteps });
  return {
    write(record) {
      file?.append(record);
      onMetrics?.(record);
    },
    close: () => file?.close(),
  };
}
