/**
 * How many directions a layer's states spread over: the matrix Rényi entropy of their Gram matrix (LIMe, arXiv 2502.09245,
 * section 5.2). T tokens of a sequence · D width.
 */
import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import { usageError } from "../util/index.ts";

/** The order that LIMe's driver takes. */
export const ENTROPY_ORDER = 0.5;

/**
 * S_α = log Σ (λ_i / Σ λ)^α / (1 - α) in nats, of the eigenvalues λ of Z Zᵀ; its limit -Σ p log p for α = 1. `states` is Z,
 * [T, D] row-major. Eigenvalues are those of the smaller of Z Zᵀ and Zᵀ Z, in float64, negative ones taken as 0.
 */
export function matrixEntropy(states: ArrayLike<number>, width: number, order = ENTROPY_ORDER): number {
  return entropyOf(gramEigenvalues(states, width), order);
}

/** Eigenvalues that Z Zᵀ and Zᵀ Z share, largest first. */
export function gramEigenvalues(states: ArrayLike<number>, width: number): number[] {
  const rows = states.length / width;
  if (!(Number.isInteger(rows) && rows >= 1)) {
    throw usageError(`matrixEntropy: ${states.length} numbers are no rows of ${width}`);
  }
  const bad = Array.prototype.findIndex.call(states, (v: number) => !Number.isFinite(v));
  if (bad >= 0) throw usageError(`matrixEntropy: the states hold ${states[bad]} at index ${bad}`);
  const side = Math.min(rows, width);
  const [along, across] = rows <= width ? [width, 1] : [1, width];
  const gram = new Matrix(side, side);
  for (let i = 0; i < side; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let n = 0; n < Math.max(rows, width); n++)
        sum += states[i * along + n * across] * states[j * along + n * across];
      gram.set(i, j, sum);
      gram.set(j, i, sum);
    }
  }
  const { realEigenvalues } = new EigenvalueDecomposition(gram, { assumeSymmetric: true });
  return realEigenvalues.map((value) => Math.max(0, value)).sort((a, b) => b - a);
}

function entropyOf(eigenvalues: readonly number[], order: number): number {
  if (!(order > 0)) throw usageError(`matrixEntropy: order=${order}, expected a positive number`);
  const trace = eigenvalues.reduce((a, b) => a + b, 0);
  if (trace === 0) return 0; // no states at all
  const shares = eigenvalues.map((value) => value / trace).filter((p) => p > 0);
  if (order === 1) return -shares.reduce((sum, p) => sum + p * Math.log(p), 0);
  return Math.log(shares.reduce((sum, p) => sum + p ** order, 0)) / (1 - order);
}

/**
 * (Z - mean) / (deviation + eps) for each feature over all sequences and tokens; deviation with n - 1. In float64.
 * `sequences` are [T, D] each, of any lengths.
 */
export function standardize(
  sequences: readonly ArrayLike<number>[],
  width: number,
  eps = 1e-5,
): Float64Array[] {
  const count = sequences.reduce((n, s) => n + s.length, 0) / width;
  if (!(Number.isInteger(count) && count >= 2)) {
    throw usageError(`standardize: ${count} rows of ${width}, expected a whole number of at least 2`);
  }
  const mean = new Float64Array(width);
  for (const s of sequences) for (let i = 0; i < s.length; i++) mean[i % width] += s[i] / count;
  const squares = new Float64Array(width);
  for (const s of sequences)
    for (let i = 0; i < s.length; i++) squares[i % width] += (s[i] - mean[i % width]) ** 2;
  const scale = squares.map((sum) => 1 / (Math.sqrt(sum / (count - 1)) + eps));
  return sequences.map((s) => Float64Array.from(s, (v, i) => (v - mean[i % width]) * scale[i % width]));
}
