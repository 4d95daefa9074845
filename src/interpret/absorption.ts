/**
 * Feature absorption (Chanin et al. 2024, "A is for absorption"), by the definitions of SAEBench 0.6: of the tokens on which a
 * linear probe sees a class, how much of the probe's direction is written by other features than those that stand for it.
 * Differs from SAEBench: probes and the L1 selection are minimised to convergence; activations are of tokens in running text,
 * not in a spelling prompt; features count with the norm of their decoder row, which SAEBench takes to be 1.
 * n samples · D width · F features · L classes.
 */
import { type AnySae, meanNormScale } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import {
  type CodeRows,
  type DecoderAlong,
  decoderAlong,
  encodeRows,
  featureColumns,
  pickRows,
  scaleCodes,
} from "./code-rows.ts";
import { lassoProbes } from "./lasso.ts";
import {
  chooseL2,
  classCounts,
  fitProbes,
  type Labels,
  labelsOf,
  onlyClasses,
  type ProbeQuality,
  type Probes,
  probeQuality,
  probeScores,
} from "./probes.ts";

/** Thresholds of SAEBench. */
export interface AbsorptionRules {
  /** A further feature belongs to a class if it raises the F1 score of the best k − 1 by more than this; 0.03. */
  readonly f1Jump: number;
  /** Features that may belong to a class; 10. */
  readonly maxSplits: number;
  /** Share of the probe's projection that absorbing features must write; 0.4. */
  readonly share: number;
  /** Cosine to the probe that a feature needs to count towards the absorption fraction; 0.1. */
  readonly fractionCosine: number;
  /** Cosine to the probe that the one absorbing feature of full absorption needs; 0.025. */
  readonly fullCosine: number;
  /** Features that may absorb together; 3. */
  readonly maxAbsorbing: number;
  /** L1 penalty of the probe that ranks features; 0.005, half of SAEBench's, whose loss weighs twice as much. */
  readonly l1: number;
}

export const SAEBENCH_RULES: AbsorptionRules = {
  f1Jump: 0.03,
  maxSplits: 10,
  share: 0.4,
  fractionCosine: 0.1,
  fullCosine: 0.025,
  maxAbsorbing: 3,
  l1: 0.005,
};

export interface AbsorptionSamples {
  /** Activations at the SAEs' point, [n, D]. */
  readonly x: Float32Array;
  readonly labels: Labels;
  readonly classNames: readonly string[];
  /** The token that each sample is of, [n]: folds of the probes never part one. */
  readonly groups: Int32Array;
  /** 1 where a sample is not for training, [n]. */
  readonly test: Uint8Array;
}

export interface ClassAbsorption {
  readonly name: string;
  /** Samples of the class to train on and to test on. */
  readonly train: number;
  readonly test: number;
  /** The ground truth's quality on the test samples. */
  readonly probe: ProbeQuality;
  /** F1 score of the best 1, 2 … features on the test samples, to the first that adds too little. */
  readonly sparseF1: readonly number[];
  /** The features that stand for the class; more than one: it is split. */
  readonly features: readonly number[];
  /** Test samples of the class that the probe finds. */
  readonly truePositives: number;
  /** Mean absorption fraction of these. */
  readonly fraction: number;
  /** Share of these that one other feature absorbs wholly. */
  readonly full: number;
}

export interface Absorption {
  readonly l2: number;
  readonly classes: readonly ClassAbsorption[];
}

/** Penalties that the ground truth's is chosen from, by cross-validation. */
const L2 = [0.1, 0.01, 0.001];

/**
 * Measures every class in each of the SAEs, which `codesOf` encodes the samples with; they share the probes on the activations.
 * Throws where a class has no sample, or nothing else, on either side.
 */
export async function measureAbsorption(
  device: Device,
  saes: readonly AnySae[],
  samples: AbsorptionSamples,
  { rules = SAEBENCH_RULES, codesOf = encodeAll, onSae }: AbsorptionOptions = {},
): Promise<Absorption[]> {
  const { x, labels, test, groups } = samples;
  const D = x.length / labels.rows;
  // Inputs of mean norm √D, so that penalties mean the same at every point.
  const scale = meanNormScale({ x, rows: labels.rows, width: D });
  const rowsOf = (which: number): number[] => Array.from(test.keys()).filter((i) => test[i] === which);
  const [trainRows, heldRows] = [rowsOf(0), rowsOf(1)];
  const side = (rows: readonly number[]): Side => ({
    x: gather(x, D, rows),
    labels: labelsOf(labels, rows),
    groups: Int32Array.from(rows, (row) => groups[row]),
  });
  const [train, held] = [side(trainRows), side(heldRows)];
  const truth = await groundTruth(device, { train, held, D, scale });
  const all: Absorption[] = [];
  for (const sae of saes) {
    const codes = await codesOf(device, sae, x);
    const sides = {
      train: { ...train, codes: pickRows(codes, trainRows) },
      held: { ...held, codes: pickRows(codes, heldRows) },
    };
    all.push(await ofSae(device, sae, { samples, truth, scale, ...sides }, rules));
    onSae?.(all.length);
  }
  return all;
}

export interface AbsorptionOptions {
  readonly rules?: AbsorptionRules;
  /** Codes of activations [n, D]; default the SAE's own. */
  readonly codesOf?: (device: Device, sae: AnySae, x: Float32Array) => Promise<CodeRows>;
  /** Called after each SAE with how many are done. */
  readonly onSae?: (done: number) => void;
}

const encodeAll = (device: Device, sae: AnySae, x: Float32Array): Promise<CodeRows> =>
  encodeRows(device, sae, x);

interface Measured {
  readonly samples: AbsorptionSamples;
  readonly truth: Truth;
  readonly scale: number;
  readonly train: EncodedSide;
  readonly held: EncodedSide;
}

async function ofSae(
  device: Device,
  sae: AnySae,
  { samples, truth, scale, train, held }: Measured,
  rules: AbsorptionRules,
): Promise<Absorption> {
  const standing = await standIns(device, { train, held, scale }, rules);
  const decoder = await decoderAlong(device, sae, truth.directions);
  const counts = { train: classCounts(train.labels), test: classCounts(held.labels) };
  const classes = samples.classNames.map((name, c) => {
    const tokens = truth.found[c].map((row) => probedToken(held, row, { c, decoder, truth }));
    const { features, sparseF1 } = standing[c];
    return {
      name,
      train: counts.train[c],
      test: counts.test[c],
      probe: truth.quality[c],
      sparseF1,
      features,
      truePositives: tokens.length,
      fraction: average(tokens.map((token) => absorptionFraction(token, features, rules))),
      full: average(tokens.map((token) => (isFullyAbsorbed(token, features, rules) ? 1 : 0))),
    };
  });
  return { l2: truth.l2, classes };
}

/** Samples to train on, or those to test on. */
interface Side {
  /** [n, D] */
  readonly x: Float32Array;
  readonly labels: Labels;
  readonly groups: Int32Array;
}

interface EncodedSide extends Side {
  readonly codes: CodeRows;
}

interface Truth {
  readonly l2: number;
  readonly quality: readonly ProbeQuality[];
  /** Unit vectors, [L, D]. */
  readonly directions: Float32Array;
  /** Of each class, its test samples that the probe finds. */
  readonly found: readonly number[][];
}

/** A probe of every class on the activations. */
async function groundTruth(
  device: Device,
  { train, held, D, scale }: { train: Side; held: Side; D: number; scale: number },
): Promise<Truth> {
  const scaled = ({ x }: Side) =>
    device.tensor(
      x.map((v) => v * scale),
      [x.length / D, D],
    );
  const [xTrain, xHeld] = [scaled(train), scaled(held)];
  try {
    const l2 = await chooseL2(xTrain, train.labels, { groups: train.groups, candidates: L2 });
    const probes = await fitProbes(xTrain, train.labels, { l2 });
    const scores = await probeScores(xHeld, probes);
    const { rows, classes, is } = held.labels;
    const found = Array.from({ length: classes }, (_, c) =>
      Array.from({ length: rows }, (_, i) => i).filter(
        (i) => is[i * classes + c] && scores[i * classes + c] > 0,
      ),
    );
    return { l2, quality: probeQuality(scores, held.labels), directions: unitRows(probes), found };
  } finally {
    xTrain.dispose();
    xHeld.dispose();
  }
}

function unitRows({ weights, width }: Probes): Float32Array {
  const out = new Float32Array(weights.length);
  for (let at = 0; at < weights.length; at += width) {
    const row = weights.subarray(at, at + width);
    const norm = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0));
    row.forEach((v, d) => {
      out[at + d] = v / norm;
    });
  }
  return out;
}

/**
 * The features that stand for each class: the best by an L1 probe over all features, then as many of them as each raise the F1
 * score of a probe on nothing else.
 */
async function standIns(
  device: Device,
  { train, held, scale }: { train: EncodedSide; held: EncodedSide; scale: number },
  { l1, maxSplits, f1Jump }: AbsorptionRules,
): Promise<{ features: number[]; sparseF1: number[] }[]> {
  const { classes } = train.labels;
  const { weights } = lassoProbes(scaleCodes(train.codes, scale), train.labels, { l1 });
  const standing = [];
  for (let c = 0; c < classes; c++) {
    const ranked = strongest(weights, c, { classes, count: maxSplits });
    const sparseF1: number[] = [];
    let features: number[] = [];
    for (let k = 1; k <= ranked.length; k++) {
      const best = Math.max(0, ...sparseF1);
      sparseF1.push(await sparseProbeF1(device, { train, held, scale }, c, ranked.slice(0, k)));
      if (k > 1 && sparseF1[k - 1] <= best + f1Jump) break;
      features = ranked.slice(0, k);
    }
    standing.push({ features, sparseF1 });
  }
  return standing;
}

/** Features with the largest positive weights for a class, [F, L] given. */
function strongest(
  weights: Float64Array,
  c: number,
  { classes, count }: { classes: number; count: number },
): number[] {
  const of = (f: number) => weights[f * classes + c];
  return Array.from({ length: weights.length / classes }, (_, f) => f)
    .filter((f) => of(f) > 0)
    .sort((a, b) => of(b) - of(a) || a - b)
    .slice(0, count);
}

/** F1 score on the test samples of a probe that sees some features only; its penalty is scikit-learn's C = 1. */
async function sparseProbeF1(
  device: Device,
  { train, held, scale }: { train: EncodedSide; held: EncodedSide; scale: number },
  c: number,
  features: readonly number[],
): Promise<number> {
  const columns = ({ codes }: EncodedSide) => {
    const values = featureColumns(codes, features).map((v) => v * scale);
    return device.tensor(values, [codes.rows, features.length]);
  };
  const [xTrain, xHeld] = [columns(train), columns(held)];
  try {
    const probes = await fitProbes(xTrain, onlyClasses(train.labels, [c]), { l2: 1 / train.labels.rows });
    const [{ f1 }] = probeQuality(await probeScores(xHeld, probes), onlyClasses(held.labels, [c]));
    return f1;
  } finally {
    xTrain.dispose();
    xHeld.dispose();
  }
}

/** A token of a class, as it looks along the class's probe. */
export interface ProbedToken {
  /** Activation times the probe's unit vector. */
  readonly projection: number;
  /** What fires on it. */
  readonly features: ArrayLike<number>;
  /** What each of these adds to the projection of the reconstruction. */
  readonly writes: ArrayLike<number>;
  /** Cosine of each one's decoder row with the probe. */
  readonly cosines: ArrayLike<number>;
}

function probedToken(
  { x, codes, labels }: EncodedSide,
  row: number,
  { c, decoder, truth }: { c: number; decoder: DecoderAlong; truth: Truth },
): ProbedToken {
  const L = labels.classes;
  const D = x.length / labels.rows;
  const [from, to] = [codes.offsets[row], codes.offsets[row + 1]];
  const features = codes.features.subarray(from, to);
  let projection = 0;
  for (let d = 0; d < D; d++) projection += x[row * D + d] * truth.directions[c * D + d];
  return {
    projection,
    features,
    writes: Float64Array.from(features, (f, i) => codes.values[from + i] * decoder.dots[f * L + c]),
    cosines: Float64Array.from(features, (f) => decoder.dots[f * L + c] / Math.max(decoder.norms[f], 1e-30)),
  };
}

/**
 * With m what the class's own features write along the probe, a what the strongest others do (at most three, with cosine ≥ 0.1)
 * and p the projection of the activation: 0 where m ≥ p or a < 0.4 p, 1 where m ≤ 0, else a' / (a' + m) with
 * a' = min(a, p − m).
 */
export function absorptionFraction(
  { projection, features, writes, cosines }: ProbedToken,
  own: readonly number[],
  { share, fractionCosine, maxAbsorbing }: AbsorptionRules = SAEBENCH_RULES,
): number {
  let main = 0;
  const others: number[] = [];
  for (let i = 0; i < features.length; i++) {
    if (own.includes(features[i])) main += writes[i];
    else if (cosines[i] >= fractionCosine && writes[i] > 0) others.push(writes[i]);
  }
  const absorbing = sumOf(others.sort((a, b) => b - a).slice(0, maxAbsorbing));
  if (projection <= 0 || main >= projection || absorbing < share * projection) return 0;
  if (main <= 0) return 1;
  const taken = Math.min(absorbing, projection - main);
  return taken / (taken + main);
}

/**
 * Whether none of the class's own features fires and the one feature that writes most along the probe writes at least 0.4 of
 * the activation's projection, with cosine ≥ 0.025.
 */
export function isFullyAbsorbed(
  { projection, features, writes, cosines }: ProbedToken,
  own: readonly number[],
  { share, fullCosine }: AbsorptionRules = SAEBENCH_RULES,
): boolean {
  let top = -1;
  for (let i = 0; i < features.length; i++) {
    if (own.includes(features[i])) return false;
    if (top < 0 || writes[i] > writes[top]) top = i;
  }
  return top >= 0 && projection > 0 && cosines[top] >= fullCosine && writes[top] >= share * projection;
}

function gather(x: Float32Array, D: number, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * D);
  rows.forEach((row, i) => {
    out.set(x.subarray(row * D, (row + 1) * D), i * D);
  });
  return out;
}

const sumOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const average = (values: readonly number[]): number => sumOf(values) / values.length;
