/**
 * What an SAE is measured by, accumulated in float64 over any number of batches and divided once at the end.
 * Six things are called "explained variance" in the literature; each has its own name here. B tokens · D width · F features.
 */
import { type DensityHistogram, densityHistogram, inputError, usageError } from "../util/index.ts";

/** e = x̂ − x; E is the mean over all tokens; x̄ the mean of each dimension over all tokens. */
export interface SaeMetrics {
  readonly tokens: number;
  /** R²: 1 − Σ ‖e‖² / Σ ‖x − x̄‖², pooled. The one to report. */
  readonly explained_variance: number;
  /** E[1 − ‖e‖² / ‖x − x̄‖²], the ratio inside the mean, x̄ that of all tokens: "legacy" of SAELens and SAEBench. */
  readonly explained_variance_per_token: number;
  /** 1 − Σ_d Var(e_d) / Σ_d Var(x_d): dictionary_learning. Blind to a constant error. */
  readonly explained_variance_variance_ratio: number;
  /** As R², but around one mean of all entries: Overcomplete. */
  readonly explained_variance_scalar_mean: number;
  /** 1 − E‖e‖² / (E‖x‖² − (mean of all x²)²): a published mistake (SAELens#443), to compare with old numbers. */
  readonly explained_variance_mean_of_squares: number;
  /** 1 − E[‖e‖² / ‖x‖²]: OpenAI's normalised MSE. */
  readonly one_minus_nmse: number;
  /** Mean over tokens and dims of e². */
  readonly mse: number;
  /** E‖e‖², summed over dims. */
  readonly sse_per_token: number;
  /** E‖e‖. */
  readonly l2_error: number;
  /** E[x · x̂ / (‖x‖ ‖x̂‖)]. */
  readonly cosine: number;
  /** E[‖x̂‖ / ‖x‖]. */
  readonly l2_ratio: number;
  /** E‖x̂‖² / E[x · x̂]; 1 without shrinkage. */
  readonly relative_reconstruction_bias: number;
  /** Features that are not 0, per token. */
  readonly l0: number;
  /** Sum of |value|, per token. */
  readonly l1: number;
  /** Share of features that never fired in these tokens. */
  readonly dead_fraction: number;
}

/** Sparse codes [B, K] row-major: indices of features and their values; a value 0 is an unused slot. */
export interface HostCodes {
  readonly values: Float32Array;
  readonly indices: Int32Array;
}

export class MetricsAccumulator {
  readonly width: number;
  readonly features: number;
  /** Tokens in which each feature was active, [F]. */
  readonly firing: Float64Array;
  #rows = 0;
  /** Sums are taken around the first token, so that large means cost no precision. */
  #origin: Float64Array | undefined;
  readonly #sumX: Float64Array;
  readonly #sumE: Float64Array;
  #squaresX = 0; // Σ ‖x − origin‖²
  #rawX = 0; // Σ ‖x‖²
  #squaresE = 0;
  #squaresY = 0;
  #xy = 0;
  #normE = 0;
  #cosine = 0;
  #ratio = 0;
  #nmse = 0;
  #l0 = 0;
  #l1 = 0;
  #perToken = 0;
  /** Tokens whose distance from the mean is not yet known: all, unless the mean was given. */
  readonly #waiting: { x: Float32Array; errors: Float64Array }[] = [];
  readonly #mean: Float64Array | undefined;

  /**
   * `mean`: of all inputs that will be added, [D], from a first pass over them; `explained_variance_per_token` needs it before
   * the first one. Without it a copy of every input is kept in memory.
   */
  constructor(width: number, features: number, { mean }: { readonly mean?: Float64Array } = {}) {
    if (mean && mean.length !== width) {
      throw usageError(`metrics: a mean of ${mean.length} numbers for inputs of width ${width}`);
    }
    this.#mean = mean;
    this.width = width;
    this.features = features;
    this.firing = new Float64Array(features);
    this.#sumX = new Float64Array(width);
    this.#sumE = new Float64Array(width);
  }

  get tokens(): number {
    return this.#rows;
  }

  /** Adds inputs and reconstructions, both row-major [rows, D]. */
  addReconstruction(x: Float32Array, recon: Float32Array): void {
    const D = this.width;
    const rows = x.length / D;
    if (!Number.isInteger(rows) || recon.length !== x.length) {
      throw usageError(`metrics: ${x.length} inputs and ${recon.length} outputs are not rows of width ${D}`);
    }
    if (rows === 0) return;
    this.#origin ??= Float64Array.from(x.subarray(0, D));
    const errors = new Float64Array(rows);
    for (let r = 0; r < rows; r++) errors[r] = this.#addRow(x, recon, r * D, this.#origin);
    this.#rows += rows;
    if (this.#mean) this.#perToken += perToken(x, errors, this.#mean);
    else this.#waiting.push({ x: x.slice(), errors });
  }

  /** Adds one token; returns ‖e‖². */
  #addRow(x: Float32Array, recon: Float32Array, base: number, origin: Float64Array): number {
    let shifted = 0;
    let xx = 0;
    let yy = 0;
    let xy = 0;
    let ee = 0;
    for (let d = 0; d < this.width; d++) {
      const a = x[base + d];
      const b = recon[base + d];
      const c = a - origin[d];
      const e = b - a;
      this.#sumX[d] += c;
      this.#sumE[d] += e;
      shifted += c * c;
      xx += a * a;
      yy += b * b;
      xy += a * b;
      ee += e * e;
    }
    this.#squaresX += shifted;
    this.#rawX += xx;
    this.#squaresE += ee;
    this.#squaresY += yy;
    this.#xy += xy;
    this.#normE += Math.sqrt(ee);
    this.#cosine += xy / Math.max(Math.sqrt(xx * yy), 1e-30);
    this.#ratio += Math.sqrt(yy / Math.max(xx, 1e-30));
    this.#nmse += ee / Math.max(xx, 1e-30);
    return ee;
  }

  /** Adds the codes of tokens, in any grouping. A feature named twice in a token counts twice. */
  addCodes({ values, indices }: HostCodes): void {
    for (let i = 0; i < values.length; i++) {
      if (values[i] === 0) continue;
      this.firing[indices[i]]++;
      this.#l0++;
      this.#l1 += Math.abs(values[i]);
    }
  }

  /** Mean input so far, [D]. */
  mean(): Float64Array {
    return this.#sumX.map((s, d) => (this.#origin?.[d] ?? 0) + s / this.#rows);
  }

  /** Share of tokens in which each feature was active, [F]. */
  density(): Float64Array {
    return this.firing.map((n) => n / this.#rows);
  }

  /** Features by log10 of their density. */
  densityHistogram(binsPerDecade?: number): DensityHistogram {
    return densityHistogram(this.density(), binsPerDecade);
  }

  /** The metrics of all tokens so far; refuses tokens without any variance, of which there is nothing to explain. */
  finish(): SaeMetrics {
    const n = this.#rows;
    if (n === 0) throw usageError("metrics: no tokens were added");
    const D = this.width;
    const aroundMean = this.#squaresX - sumOfSquares(this.#sumX) / n;
    if (!(aroundMean > 0)) {
      const why = n === 1 ? "one token has no variance" : `all ${n} activations are equal`;
      throw inputError(`metrics: ${why}, so there is none to explain; measure on more tokens`);
    }
    const mean = this.mean();
    const waiting = this.#waiting.reduce((a, { x, errors }) => a + perToken(x, errors, mean), 0);
    const errorVariance = this.#squaresE - sumOfSquares(this.#sumE) / n;
    const scalarMean = mean.reduce((a, b) => a + b, 0) / D;
    const aroundScalar = mean.reduce((a, m) => a + n * (m - scalarMean) ** 2, aroundMean);
    const meanSquare = this.#rawX / (n * D);
    let dead = 0;
    for (const count of this.firing) if (count === 0) dead++;
    return {
      tokens: n,
      explained_variance: 1 - this.#squaresE / aroundMean,
      explained_variance_per_token: (this.#perToken + waiting) / n,
      explained_variance_variance_ratio: 1 - errorVariance / aroundMean,
      explained_variance_scalar_mean: 1 - this.#squaresE / aroundScalar,
      explained_variance_mean_of_squares: 1 - this.#squaresE / n / (this.#rawX / n - meanSquare ** 2),
      one_minus_nmse: 1 - this.#nmse / n,
      mse: this.#squaresE / (n * D),
      sse_per_token: this.#squaresE / n,
      l2_error: this.#normE / n,
      cosine: this.#cosine / n,
      l2_ratio: this.#ratio / n,
      relative_reconstruction_bias: this.#squaresY / this.#xy,
      l0: this.#l0 / n,
      l1: this.#l1 / n,
      dead_fraction: dead / this.features,
    };
  }
}

/** Σ over tokens of 1 − ‖e‖² / ‖x − mean‖². */
function perToken(x: Float32Array, errors: Float64Array, mean: Float64Array): number {
  const D = mean.length;
  let total = 0;
  for (let r = 0; r < errors.length; r++) {
    let squares = 0;
    for (let d = 0; d < D; d++) squares += (x[r * D + d] - mean[d]) ** 2;
    total += 1 - errors[r] / Math.max(squares, 1e-30);
  }
  return total;
}

function sumOfSquares(values: Float64Array): number {
  let total = 0;
  for (const v of values) total += v * v;
  return total;
}

/**
 * Share of a language model's cross-entropy that the SAE keeps: (ablated − spliced) / (ablated − clean). `ablated` is the
 * loss with the site set to zero (`loss_recovered`) or to its mean (`loss_recovered_mean`). All in nats, pooled over tokens.
 */
export function lossRecovered(ce: {
  readonly clean: number;
  readonly spliced: number;
  readonly ablated: number;
}): number {
  return (ce.ablated - ce.spliced) / (ce.ablated - ce.clean);
}
