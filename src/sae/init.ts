/**
 * What training estimates from its first batches: the scale of the inputs and where the decoder bias starts.
 * n tokens · D width. All sums in float64.
 */
import { inputError } from "../util/index.ts";
import type { SaeTrainConfig } from "./train-config.ts";

/** A sample of activations, row-major [n, D]. */
export interface Sample {
  readonly x: Float32Array;
  readonly rows: number;
  readonly width: number;
}

/** sqrt(D) / mean ‖x‖: the factor that brings the mean norm to sqrt(D) (SAELens' `expected_average_only_in`). */
export function meanNormScale({ x, rows, width }: Sample): number {
  let total = 0;
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let d = r * width; d < (r + 1) * width; d++) squares += x[d] * x[d];
    total += Math.sqrt(squares);
  }
  const scale = (Math.sqrt(width) * rows) / total;
  if (!(scale > 0 && Number.isFinite(scale))) {
    throw inputError(
      `sae: the first ${rows} inputs have mean norm ${total / rows}; they cannot be scaled to sqrt(D)`,
    );
  }
  return scale;
}

export function columnMean({ x, rows, width }: Sample): Float64Array {
  const mean = new Float64Array(width);
  for (let r = 0; r < rows; r++) for (let d = 0; d < width; d++) mean[d] += x[r * width + d];
  return mean.map((v) => v / rows);
}

export interface GeometricMedian {
  readonly point: Float64Array;
  readonly iterations: number;
  /** Distance of the last move as a share of the mean distance to the sample. */
  readonly moved: number;
}

/**
 * The point with the least summed distance to all rows, by Weiszfeld's iteration from the mean:
 * y ← Σ x_r / d_r over Σ 1 / d_r with d_r = ‖x_r − y‖. Stops when a move is below `tolerance` of the mean distance.
 */
export function geometricMedian(
  sample: Sample,
  { maxIterations = 100, tolerance = 1e-5 }: { maxIterations?: number; tolerance?: number } = {},
): GeometricMedian {
  const { x, rows, width } = sample;
  let point = columnMean(sample);
  let moved = Number.POSITIVE_INFINITY;
  let iterations = 0;
  while (iterations < maxIterations && moved > tolerance) {
    const next = new Float64Array(width);
    let weights = 0;
    let distances = 0;
    for (let r = 0; r < rows; r++) {
      const base = r * width;
      let squares = 0;
      for (let d = 0; d < width; d++) squares += (x[base + d] - point[d]) ** 2;
      const distance = Math.sqrt(squares);
      const weight = 1 / Math.max(distance, 1e-12); // a row on the point itself must not divide by zero
      distances += distance;
      weights += weight;
      for (let d = 0; d < width; d++) next[d] += weight * x[base + d];
    }
    let step = 0;
    for (let d = 0; d < width; d++) {
      next[d] /= weights;
      step += (next[d] - point[d]) ** 2;
    }
    moved = distances > 0 ? Math.sqrt(step) / (distances / rows) : 0;
    point = next;
    iterations++;
  }
  return { point, iterations, moved };
}

/** Rows that the geometric median is taken over; more change it little and cost time. */
const MEDIAN_ROWS = 8192;

export interface InitialBias {
  readonly bDec: Float32Array;
  /** Weiszfeld's iterations, for the geometric median. */
  readonly iterations?: number;
}

/** The decoder bias that training starts from, of `scale` times the sample. */
export function initialBias(kind: SaeTrainConfig["bDecInit"], sample: Sample, scale: number): InitialBias {
  const scaled = (point: Float64Array): Float32Array => Float32Array.from(point, (v) => v * scale);
  switch (kind) {
    case "zeros":
      return { bDec: new Float32Array(sample.width) };
    case "mean":
      return { bDec: scaled(columnMean(sample)) };
    case "geometric-median": {
      const rows = Math.min(sample.rows, MEDIAN_ROWS);
      const { point, iterations } = geometricMedian({ ...sample, rows });
      return { bDec: scaled(point), iterations };
    }
    default:
      return kind satisfies never;
  }
}
