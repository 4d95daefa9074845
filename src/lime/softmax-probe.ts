/**
 * A linear softmax probe, trained by Adam for a set number of epochs, and its accuracy on folds that it has not seen.
 * It starts from zeros, so that chance enters through the folds and the order of samples only; sums are float64.
 * n samples · D inputs · C classes.
 */
import { numericError, Rng, throwIfAborted, usageError } from "../util/index.ts";

export interface ProbeSamples {
  /** [n, D] */
  readonly x: Float32Array;
  readonly width: number;
  /** Class of each sample, [n]. */
  readonly labels: Int32Array;
  readonly classes: number;
}

export interface ProbeTraining {
  /** Default 1. */
  readonly epochs?: number;
  /** Samples of a step; default 64. The last step of an epoch has what is left. */
  readonly batch?: number;
  /** Adam's, which has no decay and no schedule here; default 0.01. */
  readonly lr?: number;
  readonly signal?: AbortSignal;
}

const [BETA1, BETA2, EPS] = [0.9, 0.999, 1e-8];

/** Scores of a sample before the softmax, [C]; `weights` are [C, D + 1], the bias last. */
function scoresInto(scores: Float64Array, weights: Float64Array, { x, width }: ProbeSamples, row: number) {
  const at = row * width;
  for (let c = 0, base = 0; c < scores.length; c++, base += width + 1) {
    let sum = weights[base + width];
    for (let d = 0; d < width; d++) sum += weights[base + d] * x[at + d];
    scores[c] = sum;
  }
}

/** Mean cross-entropy of some samples in nats; writes its gradient by the weights, [C, D + 1]. */
export function probeLoss(
  weights: Float64Array,
  samples: ProbeSamples,
  rows: Int32Array,
  gradient: Float64Array,
): number {
  const { x, width, labels, classes } = samples;
  const scores = new Float64Array(classes);
  let loss = 0;
  gradient.fill(0);
  for (const row of rows) {
    scoresInto(scores, weights, samples, row);
    const highest = scores.reduce((a, b) => Math.max(a, b));
    const total = scores.reduce((sum, z) => sum + Math.exp(z - highest), 0);
    loss += (Math.log(total) + highest - scores[labels[row]]) / rows.length;
    const at = row * width;
    for (let c = 0, base = 0; c < classes; c++, base += width + 1) {
      const p = Math.exp(scores[c] - highest) / total;
      const slope = (p - (c === labels[row] ? 1 : 0)) / rows.length;
      for (let d = 0; d < width; d++) gradient[base + d] += slope * x[at + d];
      gradient[base + width] += slope;
    }
  }
  return loss;
}

/** Weights [C, D + 1], the bias last, of a probe trained on some of the samples. */
export async function fitSoftmaxProbe(
  samples: ProbeSamples,
  rows: Int32Array,
  { epochs = 1, batch = 64, lr = 0.01, signal, rng }: ProbeTraining & { readonly rng: Rng },
): Promise<Float64Array> {
  const size = samples.classes * (samples.width + 1);
  const weights = new Float64Array(size);
  const [gradient, m, v] = [new Float64Array(size), new Float64Array(size), new Float64Array(size)];
  let step = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    throwIfAborted(signal);
    const order = rng.permutation(rows.length).map((i) => rows[i]);
    for (let at = 0; at < order.length; at += batch) {
      probeLoss(weights, samples, order.subarray(at, at + batch), gradient);
      step++;
      const [scaleM, scaleV] = [1 / (1 - BETA1 ** step), 1 / (1 - BETA2 ** step)];
      for (let i = 0; i < size; i++) {
        m[i] = BETA1 * m[i] + (1 - BETA1) * gradient[i];
        v[i] = BETA2 * v[i] + (1 - BETA2) * gradient[i] ** 2;
        weights[i] -= (lr * m[i] * scaleM) / (Math.sqrt(v[i] * scaleV) + EPS);
      }
    }
    await new Promise(setImmediate); // the event loop gets its turn
  }
  return weights;
}

/** Share of some samples whose own class has the highest score; of equal scores the first class wins. */
export function probeAccuracy(weights: Float64Array, samples: ProbeSamples, rows: Int32Array): number {
  const scores = new Float64Array(samples.classes);
  let right = 0;
  for (const row of rows) {
    scoresInto(scores, weights, samples, row);
    const best = scores.reduce((b, z, c) => (z > scores[b] ? c : b), 0);
    if (best === samples.labels[row]) right++;
  }
  return right / rows.length;
}

/**
 * The fold of each sample, [n]: those of each class in random order, dealt out in turn, so that the folds have as many of every
 * class, give or take one.
 */
export function stratifiedFolds(
  labels: Int32Array,
  { folds, seed }: { readonly folds: number; readonly seed: number },
): Int32Array {
  if (!(Number.isInteger(folds) && folds >= 2))
    throw usageError(`probe: folds=${folds}, expected a whole number of at least 2`);
  const rng = new Rng(seed).fork("folds");
  const found = new Int32Array(labels.length);
  let dealt = 0;
  for (const label of [...new Set(labels)].sort((a, b) => a - b)) {
    const own = rng.shuffle(Array.from(labels.keys()).filter((i) => labels[i] === label));
    if (own.length < folds) {
      throw usageError(
        `probe: class ${label} has ${own.length} samples, too few for ${folds} folds; give more of it, or fewer folds`,
      );
    }
    for (const i of own) found[i] = dealt++ % folds;
  }
  return found;
}

export interface CrossValidation extends ProbeTraining {
  /** Default 5. */
  readonly folds?: number;
  /** Of the folds and of the order of samples; default 42. */
  readonly seed?: number;
}

/** Accuracy on each fold of a probe that was trained on the others. */
export async function crossValidate(samples: ProbeSamples, options: CrossValidation = {}): Promise<number[]> {
  const { folds = 5, seed = 42 } = options;
  const { x, width, labels } = samples;
  if (x.length !== labels.length * width)
    throw usageError(`probe: ${x.length} numbers are not ${labels.length} samples of ${width}`);
  const bad = x.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw numericError(`probe: sample ${Math.floor(bad / width)} holds ${x[bad]}`);
  const fold = stratifiedFolds(labels, { folds, seed });
  const rows = Int32Array.from(labels.keys());
  const accuracies: number[] = [];
  for (let f = 0; f < folds; f++) {
    const rng = new Rng(seed).fork(`fold ${f}`);
    const inside = rows.filter((i) => fold[i] !== f);
    const outside = rows.filter((i) => fold[i] === f);
    const weights = await fitSoftmaxProbe(samples, inside, { ...options, rng });
    accuracies.push(probeAccuracy(weights, samples, outside));
  }
  return accuracies;
}
