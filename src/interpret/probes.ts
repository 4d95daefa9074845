/**
 * Linear probes: logistic regression, one against the rest, with an L2 penalty and both sides of a class weighing the same.
 * Of each class it minimises ½ (mean loss where it holds + mean loss where it does not) + l2/2 ‖w‖²; the bias is free.
 * n samples · D inputs · L classes.
 */
import { gatherRows, linear, matmul, type Tensor, transpose } from "../tensor/index.ts";
import { Rng, usageError } from "../util/index.ts";
import { Descent, type DescentOptions } from "./lbfgs.ts";

/** Which classes each sample belongs to; none or several are allowed. */
export interface Labels {
  readonly rows: number;
  readonly classes: number;
  /** 1 where sample i belongs to class c, [n, L]. */
  readonly is: Uint8Array;
}

export interface ProbeOptions extends DescentOptions {
  /** Weight of the L2 penalty; scikit-learn's C is 1 / (n · l2). */
  readonly l2: number;
}

/** A sample belongs to a class where weights · x + bias > 0. */
export interface Probes {
  readonly classes: number;
  readonly width: number;
  /** [L, D] */
  readonly weights: Float64Array;
  /** [L] */
  readonly bias: Float64Array;
  /** Minimised values, [L]. */
  readonly losses: Float64Array;
}

/** Samples of each class, [L]. */
export function classCounts({ rows, classes, is }: Labels): Int32Array {
  const counts = new Int32Array(classes);
  for (let i = 0; i < rows; i++) for (let c = 0; c < classes; c++) counts[c] += is[i * classes + c];
  return counts;
}

/** The labels of some samples. */
export function labelsOf({ classes, is }: Labels, rows: readonly number[] | Int32Array): Labels {
  const out = new Uint8Array(rows.length * classes);
  rows.forEach((row, i) => {
    out.set(is.subarray(row * classes, (row + 1) * classes), i * classes);
  });
  return { rows: rows.length, classes, is: out };
}

/** The same samples with some of the classes only. */
export function onlyClasses({ rows, classes, is }: Labels, chosen: readonly number[]): Labels {
  const n = chosen.length;
  const out = Uint8Array.from({ length: rows * n }, (_, at) => {
    return is[Math.floor(at / n) * classes + chosen[at % n]];
  });
  return { rows, classes: n, is: out };
}

/** Refuses classes that hold everywhere or nowhere. */
export function sidesOf(labels: Labels): { readonly yes: number; readonly no: number }[] {
  return Array.from(classCounts(labels), (count, c) => {
    if (count > 0 && count < labels.rows)
      return { yes: 1 / (2 * count), no: 1 / (2 * (labels.rows - count)) };
    throw usageError(
      `probes: class ${c} holds for ${count} of ${labels.rows} samples; a probe needs both sides`,
    );
  });
}

/** Fits a probe of every class on x [n, D]. The classes do not influence each other. */
export async function fitProbes(x: Tensor, labels: Labels, options: ProbeOptions): Promise<Probes> {
  const [rows, width] = x.shape;
  const { classes } = labels;
  if (labels.rows !== rows) throw usageError(`probes: ${rows} samples, but labels of ${labels.rows}`);
  const sides = sidesOf(labels);
  const problems = sides.map(() => new Descent(new Float64Array(width + 1), options));
  const weights = new Float32Array(classes * width);
  const residuals = new Float32Array(rows * classes);
  const gradient = new Float64Array(width + 1);
  while (problems.some((p) => !p.done)) {
    problems.forEach((p, c) => {
      weights.set(p.trial.subarray(0, width), c * width);
    });
    const bias = problems.map((p) => p.trial[width]);
    const scores = await timesRows(x, weights, classes);
    const losses = new Float64Array(classes);
    const slopes = new Float64Array(classes);
    for (let i = 0, at = 0; i < rows; i++) {
      for (let c = 0; c < classes; c++, at++) {
        const is = labels.is[at];
        const weight = is ? sides[c].yes : sides[c].no;
        const z = scores[at] + bias[c];
        losses[c] += weight * softplus(is ? -z : z);
        const residual = weight * (sigmoid(z) - is);
        residuals[at] = residual;
        slopes[c] += residual;
      }
    }
    const pulls = await timesColumns(x, residuals, classes);
    problems.forEach((p, c) => {
      if (p.done) return;
      let squares = 0;
      for (let d = 0; d < width; d++) {
        gradient[d] = pulls[c * width + d] + options.l2 * p.trial[d];
        squares += p.trial[d] * p.trial[d];
      }
      gradient[width] = slopes[c];
      p.tell(losses[c] + (options.l2 / 2) * squares, gradient);
    });
  }
  const found = new Float64Array(classes * width);
  problems.forEach((p, c) => {
    found.set(p.x.subarray(0, width), c * width);
  });
  return {
    classes,
    width,
    weights: found,
    bias: Float64Array.from(problems, (p) => p.x[width]),
    losses: Float64Array.from(problems, (p) => p.value),
  };
}

/** x [n, D] · weightsᵀ, [n, L]. */
async function timesRows(x: Tensor, weights: Float32Array, classes: number): Promise<Float32Array> {
  const { device } = x;
  const z = device.scope(() => linear(x, device.tensor(weights, [classes, x.shape[1]])));
  const host = await z.floats();
  z.dispose();
  return host;
}

/** residualsᵀ [L, n] · x, [L, D]. */
async function timesColumns(x: Tensor, residuals: Float32Array, classes: number): Promise<Float32Array> {
  const { device } = x;
  const g = device.scope(() => matmul(transpose(device.tensor(residuals, [x.shape[0], classes])), x));
  const host = await g.floats();
  g.dispose();
  return host;
}

/** log(1 + eᶻ) */
export const softplus = (z: number): number => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

export const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));

/** weights · x + bias, [n, L]. */
export async function probeScores(x: Tensor, { weights, bias, classes }: Probes): Promise<Float32Array> {
  const scores = await timesRows(x, Float32Array.from(weights), classes);
  for (let i = 0; i < scores.length; i++) scores[i] += bias[i % classes];
  return scores;
}

/** How well scores tell a class; NaN for what has no value. */
export interface ProbeQuality {
  readonly accuracy: number;
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  /** Chance that a sample of the class has a higher score than one outside of it; ties count half. */
  readonly auc: number;
}

/** Quality of scores [n, L], of every class; a sample is taken to belong where its score is above 0. */
export function probeQuality(scores: Float32Array, { rows, classes, is }: Labels): ProbeQuality[] {
  return Array.from({ length: classes }, (_, c) => {
    const z = Float32Array.from({ length: rows }, (_, i) => scores[i * classes + c]);
    const yes = Uint8Array.from({ length: rows }, (_, i) => is[i * classes + c]);
    let [hits, said, holds, right] = [0, 0, 0, 0];
    z.forEach((v, i) => {
      const says = v > 0 ? 1 : 0;
      hits += says & yes[i];
      said += says;
      holds += yes[i];
      right += says === yes[i] ? 1 : 0;
    });
    return {
      accuracy: right / rows,
      precision: hits / said,
      recall: hits / holds,
      f1: (2 * hits) / (said + holds),
      auc: areaUnder(z, yes),
    };
  });
}

/** Area under the ROC curve, from ranks; equal scores share theirs. */
function areaUnder(scores: Float32Array, yes: Uint8Array): number {
  const order = Array.from(scores, (_, i) => i).sort((a, b) => scores[a] - scores[b]);
  let ranks = 0;
  let holds = 0;
  for (let from = 0; from < order.length; ) {
    let to = from;
    while (to < order.length && scores[order[to]] === scores[order[from]]) to++;
    for (let at = from; at < to; at++) {
      if (!yes[order[at]]) continue;
      holds++;
      ranks += (from + to + 1) / 2; // ranks from 1 on, averaged over the tie
    }
    from = to;
  }
  return (ranks - (holds * (holds + 1)) / 2) / (holds * (order.length - holds));
}

export interface CrossValidationOptions extends DescentOptions {
  /** Samples of one group are never on both sides, [n]; default: each sample is its own group. */
  readonly groups?: Int32Array;
  /** Penalties to choose from. */
  readonly candidates: readonly number[];
  /** Default 5. */
  readonly folds?: number;
  readonly seed?: number;
}

/** The penalty with the least loss on samples left out (both sides of a class weighing the same, mean over classes and folds). */
export async function chooseL2(x: Tensor, labels: Labels, options: CrossValidationOptions): Promise<number> {
  const { candidates, folds = 5, seed = 0, groups } = options;
  const fold = foldsOf(groups ?? Int32Array.from({ length: labels.rows }, (_, i) => i), folds, seed);
  const totals = new Float64Array(candidates.length);
  for (let f = 0; f < folds; f++) {
    const inside: number[] = [];
    const outside: number[] = [];
    fold.forEach((of, i) => {
      (of === f ? outside : inside).push(i);
    });
    const [trained, tested] = bothSided(labelsOf(labels, inside), labelsOf(labels, outside));
    const [xTrain, xTest] = x.device.scope(() => [rowsOf(x, inside), rowsOf(x, outside)]);
    try {
      for (const [n, l2] of candidates.entries()) {
        const probes = await fitProbes(xTrain, trained, { ...options, l2 });
        totals[n] += meanLoss(await probeScores(xTest, probes), tested);
      }
    } finally {
      xTrain.dispose();
      xTest.dispose();
    }
  }
  return candidates[totals.indexOf(Math.min(...totals))];
}

/** Without the classes that hold nowhere or everywhere in one of the two. */
function bothSided(a: Labels, b: Labels): [Labels, Labels] {
  const mixed = (labels: Labels) =>
    Array.from(classCounts(labels), (count) => count > 0 && count < labels.rows);
  const [inA, inB] = [mixed(a), mixed(b)];
  const chosen = inA.flatMap((is, c) => (is && inB[c] ? [c] : []));
  return [onlyClasses(a, chosen), onlyClasses(b, chosen)];
}

const rowsOf = (x: Tensor, rows: readonly number[]): Tensor =>
  gatherRows(x, x.device.tensor(rows, [rows.length], "i32"));

/** A fold for each sample: groups in random order, dealt out in turn. */
function foldsOf(groups: Int32Array, folds: number, seed: number): Int32Array {
  const names = new Rng(seed).fork("folds").shuffle([...new Set(groups)]);
  if (names.length < folds) {
    throw usageError(`probes: ${names.length} groups of samples cannot make ${folds} folds`);
  }
  const place = new Map(names.map((name, i) => [name, i % folds]));
  return groups.map((group) => place.get(group) as number);
}

function meanLoss(scores: Float32Array, labels: Labels): number {
  const sides = sidesOf(labels);
  let total = 0;
  for (let i = 0, at = 0; i < labels.rows; i++) {
    for (let c = 0; c < labels.classes; c++, at++) {
      const is = labels.is[at];
      total += (is ? sides[c].yes : sides[c].no) * softplus(is ? -scores[at] : scores[at]);
    }
  }
  return total / Math.max(1, labels.classes);
}
