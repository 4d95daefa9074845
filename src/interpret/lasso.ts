/**
 * Logistic regression with an L1 penalty on sparse codes: which features tell a class. Accelerated proximal gradient (FISTA,
 * Beck & Teboulle 2009) with restarts (O'Donoghue & Candès 2015), all classes at once in float64.
 * Of each class it minimises ½ (mean loss where it holds + mean loss where it does not) + l1 ‖w‖₁; the bias is free.
 * n samples · F features · L classes.
 */
import type { CodeRows } from "./code-rows.ts";
import { type Labels, sidesOf, sigmoid } from "./probes.ts";

export interface LassoOptions {
  readonly l1: number;
  /** Stops when no weight moves by more than this share of its class's largest; default 1e-4. */
  readonly tolerance?: number;
  /** Default 1000. */
  readonly maxIterations?: number;
}

export interface LassoProbes {
  /** [F, L] */
  readonly weights: Float64Array;
  /** [L] */
  readonly bias: Float64Array;
  readonly iterations: number;
}

/** Fits all classes. */
export function lassoProbes(codes: CodeRows, labels: Labels, options: LassoOptions): LassoProbes {
  const { l1, tolerance = 1e-4, maxIterations = 1000 } = options;
  const { classes: L } = labels;
  const F = codes.width;
  const importance = importances(labels);
  const steps = curvatures(codes, importance, L).map((c) => 1 / c);
  // Row F holds the biases.
  let weights = new Float64Array((F + 1) * L);
  let previous = weights;
  const age = new Float64Array(L).fill(1);
  let iterations = 0;
  for (let moving = true; moving && iterations < maxIterations; iterations++) {
    const ahead = extrapolate(weights, previous, age, L);
    const gradient = gradientAt(codes, labels, importance, ahead);
    const next = new Float64Array(weights.length);
    for (let f = 0, at = 0; f <= F; f++) {
      for (let c = 0; c < L; c++, at++) {
        const v = ahead[at] - steps[c] * gradient[at];
        next[at] = f === F ? v : shrink(v, steps[c] * l1);
      }
    }
    moving = restartWhereUphill({ ahead, next, weights }, age, L) > tolerance;
    previous = weights;
    weights = next;
  }
  return { weights: weights.slice(0, F * L), bias: weights.slice(F * L), iterations };
}

/** v drawn towards 0 by `by`. */
const shrink = (v: number, by: number): number => (v > by ? v - by : v < -by ? v + by : 0);

/** Weight of each sample in each class's loss, [n, L]. */
function importances(labels: Labels): Float64Array {
  const sides = sidesOf(labels);
  return Float64Array.from(labels.is, (is, at) => {
    const { yes, no } = sides[at % labels.classes];
    return is ? yes : no;
  });
}

/** Nesterov's point, and each class's age one step on. */
function extrapolate(
  weights: Float64Array,
  previous: Float64Array,
  age: Float64Array,
  L: number,
): Float64Array {
  const momentum = age.map((t) => (t - 1) / ((1 + Math.sqrt(1 + 4 * t * t)) / 2));
  for (let c = 0; c < L; c++) age[c] = (1 + Math.sqrt(1 + 4 * age[c] * age[c])) / 2;
  return weights.map((w, at) => w + momentum[at % L] * (w - previous[at]));
}

/** Forgets the momentum of classes that would climb; returns the largest relative move. */
function restartWhereUphill(
  { ahead, next, weights }: Record<"ahead" | "next" | "weights", Float64Array>,
  age: Float64Array,
  L: number,
): number {
  const uphill = new Float64Array(L);
  const moved = new Float64Array(L);
  const size = new Float64Array(L).fill(1e-300);
  for (let at = 0, c = 0; at < next.length; at++, c = c + 1 === L ? 0 : c + 1) {
    const move = next[at] - weights[at];
    uphill[c] += (ahead[at] - next[at]) * move;
    moved[c] = Math.max(moved[c], Math.abs(move));
    size[c] = Math.max(size[c], Math.abs(next[at]));
  }
  for (let c = 0; c < L; c++) if (uphill[c] > 0) age[c] = 1;
  return moved.reduce((most, m, c) => Math.max(most, m / size[c]), 0);
}

function gradientAt(
  codes: CodeRows,
  { is }: Labels,
  importance: Float64Array,
  weights: Float64Array,
): Float64Array {
  const { rows, width: F, offsets, features, values } = codes;
  const L = weights.length / (F + 1);
  const out = new Float64Array(weights.length);
  const z = new Float64Array(L);
  for (let i = 0; i < rows; i++) {
    for (let c = 0; c < L; c++) z[c] = weights[F * L + c];
    for (let s = offsets[i]; s < offsets[i + 1]; s++) {
      const [base, value] = [features[s] * L, values[s]];
      for (let c = 0; c < L; c++) z[c] += value * weights[base + c];
    }
    for (let c = 0; c < L; c++) {
      z[c] = importance[i * L + c] * (sigmoid(z[c]) - is[i * L + c]);
      out[F * L + c] += z[c];
    }
    for (let s = offsets[i]; s < offsets[i + 1]; s++) {
      const [base, value] = [features[s] * L, values[s]];
      for (let c = 0; c < L; c++) out[base + c] += value * z[c];
    }
  }
  return out;
}

const POWER_STEPS = 30;

/** ¼ of the largest eigenvalue of each class's weighted Gram matrix, bias included, by power iteration and a margin: [L]. */
function curvatures(codes: CodeRows, importance: Float64Array, L: number): Float64Array {
  const { rows, width: F, offsets, features, values } = codes;
  let v = new Float64Array((F + 1) * L).fill(1 / Math.sqrt(F + 1));
  let lengths = new Float64Array(L);
  const z = new Float64Array(L);
  for (let step = 0; step < POWER_STEPS; step++) {
    const next = new Float64Array(v.length);
    for (let i = 0; i < rows; i++) {
      for (let c = 0; c < L; c++) z[c] = v[F * L + c];
      for (let s = offsets[i]; s < offsets[i + 1]; s++) {
        for (let c = 0; c < L; c++) z[c] += values[s] * v[features[s] * L + c];
      }
      for (let c = 0; c < L; c++) {
        z[c] *= importance[i * L + c];
        next[F * L + c] += z[c];
      }
      for (let s = offsets[i]; s < offsets[i + 1]; s++) {
        for (let c = 0; c < L; c++) next[features[s] * L + c] += values[s] * z[c];
      }
    }
    lengths = new Float64Array(L);
    next.forEach((x, at) => {
      lengths[at % L] += x * x;
    });
    lengths = lengths.map(Math.sqrt);
    v = next.map((x, at) => x / lengths[at % L]);
  }
  return lengths.map((length) => (1.1 * length) / 4);
}
