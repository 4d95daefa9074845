/**
 * Leaves rows out of a stream of activations: special tokens (BOS), and optionally rows of extreme norm.
 */
import { inputError, median, usageError } from "../util/index.ts";

export interface RowFilterOptions {
  /** Token ids whose rows are left out. */
  excludeTokens?: Iterable<number>;
  /**
   * Leaves out rows whose norm is above `multiple` times the median (or mean) norm of the same block, taken over the rows
   * that the token rule keeps. Off by default; dictionary_learning uses 10 times the median.
   */
  maxNorm?: { multiple: number; of?: "median" | "mean" };
}

export interface FilterCounts {
  seen: number;
  kept: number;
  /** Left out for their token. */
  token: number;
  /** Left out for their norm. */
  norm: number;
}

export interface RowFilter {
  /** Totals so far; set them to continue an earlier run. */
  counts: FilterCounts;
  /**
   * Numbers of the rows of `x` [n, D] that stay, ascending. `tokens` [n] may be absent when no token is excluded. Norms need
   * numbers: NaN or infinity in a row that the token rule keeps is the error that `refuse` makes of it.
   */
  select(x: Float32Array, width: number, tokens?: Int32Array, refuse?: RefuseRow): Int32Array;
}

/** NaN or an infinity among rows [n, D]. */
export interface NonFinite {
  readonly row: number;
  readonly dim: number;
  readonly value: number;
}

/** Makes the error that names a row in the terms of its source. */
export type RefuseRow = (bad: NonFinite) => Error;

/** The first number of `x` [n, D] that is NaN or infinite. */
export function firstNonFinite(x: Float32Array, width: number): NonFinite | undefined {
  for (let i = 0; i < x.length; i++) {
    if (!Number.isFinite(x[i])) return { row: Math.floor(i / width), dim: i % width, value: x[i] };
  }
  return undefined;
}

export function createRowFilter({ excludeTokens = [], maxNorm }: RowFilterOptions = {}): RowFilter {
  const excluded = new Set(excludeTokens);
  if (maxNorm && !(maxNorm.multiple > 0)) {
    throw usageError(`row filter: maxNorm.multiple=${maxNorm.multiple} must be positive`);
  }
  const counts: FilterCounts = { seen: 0, kept: 0, token: 0, norm: 0 };
  return {
    counts,
    select(x, width, tokens, refuse = refuseRow) {
      const n = x.length / width;
      if (excluded.size > 0 && tokens?.length !== n) {
        throw usageError(`row filter: ${n} rows need ${n} token ids, ${tokens?.length ?? 0} were given`);
      }
      let rows = Int32Array.from({ length: n }, (_, i) => i);
      if (excluded.size > 0) rows = rows.filter((i) => !excluded.has(tokens![i]));
      this.counts.seen += n;
      this.counts.token += n - rows.length;
      if (maxNorm && rows.length > 0) {
        const before = rows.length;
        rows = belowNorm(x, width, rows, maxNorm, refuse);
        this.counts.norm += before - rows.length;
      }
      this.counts.kept += rows.length;
      return rows;
    },
  };
}

const refuseRow: RefuseRow = ({ row, dim, value }) =>
  inputError(`row filter: row ${row} holds ${value} at dimension ${dim}; its norm cannot be judged`);

function belowNorm(
  x: Float32Array,
  width: number,
  rows: Int32Array<ArrayBuffer>,
  { multiple, of = "median" }: NonNullable<RowFilterOptions["maxNorm"]>,
  refuse: RefuseRow,
): Int32Array<ArrayBuffer> {
  const norms = Float64Array.from(rows, (r) => {
    let sum = 0;
    for (let j = r * width; j < (r + 1) * width; j++) sum += x[j] * x[j];
    if (Number.isFinite(sum)) return Math.sqrt(sum); // no square of an f32 overflows a double
    const bad = firstNonFinite(x.subarray(r * width, (r + 1) * width), width);
    throw refuse({ row: r, dim: bad?.dim ?? 0, value: bad?.value ?? sum });
  });
  const middle = of === "median" ? median(norms) : norms.reduce((a, b) => a + b, 0) / norms.length;
  return rows.filter((_, i) => norms[i] <= multiple * middle);
}

/** Rows `rows` of `x` [n, D], copied into a new [rows, D]. */
export function takeRows(x: Float32Array, width: number, rows: Int32Array): Float32Array {
  const out = new Float32Array(rows.length * width);
  rows.forEach((r, i) => {
    out.set(x.subarray(r * width, (r + 1) * width), i * width);
  });
  return out;
}
