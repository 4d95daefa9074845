/**
 * Statistics that accumulate: moments by Welford's update (mergeable), quantiles, histograms, intervals.
 */
import { usageError } from "./errors.ts";

type Numbers = ArrayLike<number>;

export function mean(values: Numbers): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total / values.length;
}

/** Sample standard deviation (n - 1); 0 for fewer than two values. */
export function std(values: Numbers): number {
  const m = new Moments();
  for (let i = 0; i < values.length; i++) m.add(values[i]);
  return Math.sqrt(m.variance(1));
}

/** Linear interpolation between order statistics (numpy's default); NaN for no values. */
export function quantile(values: Numbers, q: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = Float64Array.from(values).sort();
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

export const median = (values: Numbers): number => quantile(values, 0.5);

/**
 * Wilson's score interval of a share, `successes` of `count`: stays in [0, 1] and is right near its ends too.
 * `z` is the normal quantile; default 1.96, for 95 %. [0, 1] for a count of 0.
 */
export function wilsonInterval(successes: number, count: number, z = 1.96): [low: number, high: number] {
  if (!(successes >= 0 && successes <= count && Number.isFinite(count)))
    throw usageError(
      `wilsonInterval: ${successes} of ${count} is no share; successes lie between 0 and count`,
    );
  if (count === 0) return [0, 1];
  const share = successes / count;
  const centre = share + (z * z) / (2 * count);
  const half = z * Math.sqrt((share * (1 - share)) / count + ((z / count) * z) / (4 * count));
  const scale = 1 + (z * z) / count;
  return [successes === 0 ? 0 : (centre - half) / scale, successes === count ? 1 : (centre + half) / scale];
}

/** Median and the spread a benchmark reports: quartiles and extremes. */
export function summarize(values: Numbers): {
  count: number;
  median: number;
  q25: number;
  q75: number;
  min: number;
  max: number;
} {
  return {
    count: values.length,
    median: median(values),
    q25: quantile(values, 0.25),
    q75: quantile(values, 0.75),
    min: quantile(values, 0),
    max: quantile(values, 1),
  };
}

/** Count, mean and variance of a stream of numbers. */
export class Moments {
  count = 0;
  mean = 0;
  /** Sum of squared distances from the mean. */
  m2 = 0;

  add(value: number): void {
    this.count++;
    const delta = value - this.mean;
    this.mean += delta / this.count;
    this.m2 += delta * (value - this.mean);
  }

  /** Adds another stream (Chan's formula). */
  merge(other: Moments): void {
    if (other.count === 0) return;
    const count = this.count + other.count;
    const delta = other.mean - this.mean;
    this.mean += (delta * other.count) / count;
    this.m2 += other.m2 + (delta * delta * this.count * other.count) / count;
    this.count = count;
  }

  /** `ddof` 0: population variance, 1: sample variance. 0 for too few values. */
  variance(ddof: 0 | 1 = 0): number {
    return this.count > ddof ? this.m2 / (this.count - ddof) : 0;
  }
}

/** Mean and summed squared deviations per column over a stream of rows, in float64; `sum(m2)` is the total variance. */
export class ColumnMoments {
  readonly width: number;
  count = 0;
  readonly mean: Float64Array;
  readonly m2: Float64Array;

  constructor(width: number) {
    this.width = width;
    this.mean = new Float64Array(width);
    this.m2 = new Float64Array(width);
  }

  /** `x` is [rows, width]. */
  addRows(x: Numbers, rows = x.length / this.width): void {
    for (let r = 0; r < rows; r++) {
      this.count++;
      const base = r * this.width;
      for (let j = 0; j < this.width; j++) {
        const delta = x[base + j] - this.mean[j];
        this.mean[j] += delta / this.count;
        this.m2[j] += delta * (x[base + j] - this.mean[j]);
      }
    }
  }

  merge(other: ColumnMoments): void {
    if (other.count === 0) return;
    const count = this.count + other.count;
    for (let j = 0; j < this.width; j++) {
      const delta = other.mean[j] - this.mean[j];
      this.mean[j] += (delta * other.count) / count;
      this.m2[j] += other.m2[j] + (delta * delta * this.count * other.count) / count;
    }
    this.count = count;
  }

  /** Sum over rows and columns of the squared distance from the column mean. */
  totalSquares(): number {
    let total = 0;
    for (const v of this.m2) total += v;
    return total;
  }
}

export interface Histogram {
  /** Bin edges, ascending, one more than counts. */
  readonly edges: number[];
  readonly counts: number[];
  /** Values below the first edge and above the last. */
  readonly below: number;
  readonly above: number;
}

/** Equal bins on [low, high]; the last bin includes its upper edge. */
export function histogram(
  values: Numbers,
  { low, high, bins }: { low: number; high: number; bins: number },
): Histogram {
  const edges = Array.from({ length: bins + 1 }, (_, i) => low + ((high - low) * i) / bins);
  const counts = new Array<number>(bins).fill(0);
  let below = 0;
  let above = 0;
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (!(v >= low)) below++;
    else if (v > high) above++;
    else counts[Math.min(bins - 1, Math.floor(((v - low) / (high - low)) * bins))]++;
  }
  return { edges, counts, below, above };
}

/** Densities by decade: `edges` are log10 of the share of tokens, one more than `counts`, whose bins include their lower edge. */
export interface DensityHistogram {
  readonly edges: readonly number[];
  readonly counts: readonly number[];
  /** Features that never fired; they have no place on a logarithmic axis. */
  readonly never: number;
}

/** Histogram of log10 of the densities [F] (shares of tokens), over whole decades cut into `binsPerDecade`. */
export function densityHistogram(densities: Numbers, binsPerDecade = 8): DensityHistogram {
  const logs = Array.from(densities, (d) => Math.log10(d)).filter(Number.isFinite);
  const low = logs.length === 0 ? -4 : Math.floor(logs.reduce((a, b) => Math.min(a, b)));
  const high = Math.max(low + 1, logs.length === 0 ? 0 : Math.ceil(logs.reduce((a, b) => Math.max(a, b))));
  const bins = (high - low) * binsPerDecade;
  const counts = new Array<number>(bins).fill(0);
  for (const log of logs) counts[Math.min(bins - 1, Math.floor((log - low) * binsPerDecade))]++;
  const edges = Array.from({ length: bins + 1 }, (_, i) => low + i / binsPerDecade);
  return { edges, counts, never: densities.length - logs.length };
}
