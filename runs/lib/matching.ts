/**
 * Comparing a learnt covariance with a true one when nobody knows which latent is which: FAQ graph matching (Vogelstein et al.
 * 2015) and the RV coefficient. Matrices are n × n, symmetric, row-major.
 */

/** RV(S, C) = tr(SC) / √(tr(S²) tr(C²)). */
export function rvCoefficient(s: Float64Array, c: Float64Array): number {
  return innerProduct(s, c) / Math.sqrt(innerProduct(s, s) * innerProduct(c, c));
}

/** Σ a_ij b_ij, which is tr(AB) of symmetric matrices. */
function innerProduct(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** exp of the entropy of the eigenvalues' shares, given the eigenvalues: how many directions a covariance really has. */
export function effectiveRank(eigenvalues: ArrayLike<number>): number {
  const positive = Array.from(eigenvalues).filter((v) => v > 0);
  const total = positive.reduce((a, b) => a + b, 0);
  return Math.exp(-positive.reduce((h, v) => h + (v / total) * Math.log(v / total), 0));
}

/** Eigenvalues of a symmetric matrix by Jacobi rotations, descending. */
export function eigenvalues(matrix: Float64Array, n: number): Float64Array {
  const a = matrix.slice();
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) off += a[i * n + j] ** 2;
    if (off < 1e-18 * innerProduct(a, a)) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) rotate(a, n, p, q);
    }
  }
  return Float64Array.from({ length: n }, (_, i) => a[i * n + i]).sort((x, y) => y - x);
}

/** Makes a_pq zero by a rotation of rows and columns p and q. */
function rotate(a: Float64Array, n: number, p: number, q: number): void {
  const apq = a[p * n + q];
  if (apq === 0) return;
  const theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
  const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const cos = 1 / Math.sqrt(t * t + 1);
  const sin = t * cos;
  for (let i = 0; i < n; i++) {
    const [x, y] = [a[i * n + p], a[i * n + q]];
    a[i * n + p] = cos * x - sin * y;
    a[i * n + q] = sin * x + cos * y;
  }
  for (let i = 0; i < n; i++) {
    const [x, y] = [a[p * n + i], a[q * n + i]];
    a[p * n + i] = cos * x - sin * y;
    a[q * n + i] = sin * x + cos * y;
  }
}

/** C with its latents in the order of a matching: entry (i, j) is that of order[i] and order[j]. */
export function reordered(c: Float64Array, order: ArrayLike<number>): Float64Array {
  const n = order.length;
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) out[i * n + j] = c[order[i] * n + order[j]];
  return out;
}

/**
 * An order of C's latents that makes tr(S P C Pᵀ) large: Frank-Wolfe over the doubly stochastic matrices from their barycentre with
 * exact line search, then the nearest permutation. A local optimum; the problem is NP-hard.
 */
export function matchLatents(s: Float64Array, c: Float64Array, n: number, iterations = 100): Int32Array {
  let p = new Float64Array(n * n).fill(1 / n);
  for (let iteration = 0; iteration < iterations; iteration++) {
    const sp = multiply(s, p, n);
    const gradient = multiply(sp, c, n); // half of it
    const corner = permutation(assignLargest(gradient, n));
    const direction = corner.map((v, i) => v - p[i]);
    // f(p + t d) = f(p) + 2 t ⟨gradient, d⟩ + t² ⟨S d C, d⟩, to be made large.
    const linear = 2 * innerProduct(gradient, direction);
    const square = innerProduct(multiply(multiply(s, direction, n), c, n), direction);
    if (linear < 1e-12 * Math.abs(innerProduct(gradient, p))) break;
    const best = square < 0 ? Math.min(1, -linear / (2 * square)) : 1;
    p = p.map((v, i) => v + best * direction[i]);
  }
  return assignLargest(p, n);
}

function permutation(order: Int32Array): Float64Array {
  const n = order.length;
  const p = new Float64Array(n * n);
  for (let i = 0; i < n; i++) p[i * n + order[i]] = 1;
  return p;
}

function multiply(a: Float64Array, b: Float64Array, n: number): Float64Array {
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++) {
      const v = a[i * n + k];
      if (v === 0) continue;
      for (let j = 0; j < n; j++) out[i * n + j] += v * b[k * n + j];
    }
  }
  return out;
}

/** The column for each row that makes the sum of the chosen entries largest, by shortest augmenting paths (O(n³)). */
export function assignLargest(gain: Float64Array, n: number): Int32Array {
  // Prices of rows and columns; index n of the columns is where each search starts.
  const rowPrice = new Float64Array(n);
  const columnPrice = new Float64Array(n + 1);
  const rowOf = new Int32Array(n + 1).fill(-1);
  for (let row = 0; row < n; row++) {
    const least = new Float64Array(n).fill(Number.POSITIVE_INFINITY);
    const cameFrom = new Int32Array(n).fill(n);
    const seen = new Uint8Array(n + 1);
    rowOf[n] = row;
    let column = n;
    while (rowOf[column] >= 0) {
      seen[column] = 1;
      const i = rowOf[column];
      let next = -1;
      for (let j = 0; j < n; j++) {
        if (seen[j]) continue;
        const reduced = -gain[i * n + j] - rowPrice[i] - columnPrice[j];
        if (reduced < least[j]) {
          least[j] = reduced;
          cameFrom[j] = column;
        }
        if (next < 0 || least[j] < least[next]) next = j;
      }
      const delta = least[next];
      for (let j = 0; j <= n; j++) {
        if (seen[j]) {
          rowPrice[rowOf[j]] += delta;
          columnPrice[j] -= delta;
        } else if (j < n) least[j] -= delta;
      }
      column = next;
    }
    while (column !== n) {
      rowOf[column] = rowOf[cameFrom[column]];
      column = cameFrom[column];
    }
  }
  const columnOf = new Int32Array(n);
  for (let j = 0; j < n; j++) columnOf[rowOf[j]] = j;
  return columnOf;
}
