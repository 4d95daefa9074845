/**
 * Sparse probing, by the definitions of SAEBench 0.6: how well a class of texts is told by the one, two or five features whose
 * means differ most, beside a probe on all of the activation and on as many of its dimensions.
 * Differs from SAEBench: every probe's L2 penalty is chosen by cross-validation (there: C = 1, and for the whole activation
 * none, with the epoch that is best on the test texts).
 * n texts · D width · F features.
 */
import { meanNormScale } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { Rng, throwIfAborted, usageError } from "../util/index.ts";
import { type CodeRows, featureColumns, pickRows } from "./code-rows.ts";
import { chooseL2, fitProbes, type Labels, probeQuality, probeScores } from "./probes.ts";

export interface LabelledTexts {
  /** Mean activation of each text's tokens, [n, D]. */
  readonly x: Float32Array;
  /** Mean codes of each text's tokens. */
  readonly codes: CodeRows;
  /** Class of each text, [n]. */
  readonly label: Int32Array;
  readonly classNames: readonly string[];
  /** Texts of one group are never on both sides of a split, [n]. */
  readonly groups: Int32Array;
  /** 1 where a text is not for training, [n]. */
  readonly test: Uint8Array;
}

export interface ClassProbing {
  readonly name: string;
  /** Texts to train on and to test on; half of each are of the class. */
  readonly train: number;
  readonly test: number;
  /** Accuracy on the test texts of a probe on the whole activation. */
  readonly dense: number;
  /** Of probes on the k dimensions of the activation whose means differ most, by k. */
  readonly dimensions: readonly number[];
  /** Of probes on the k such features, by k. */
  readonly sparse: readonly number[];
  /** The largest k's features, the most different first. */
  readonly features: readonly number[];
}

export interface SparseProbingOptions {
  /** Features of a probe; SAEBench's 1, 2 and 5. */
  readonly ks?: readonly number[];
  /** Of the texts that a class is compared with. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

const L2 = [0.1, 0.01, 0.001, 0.0001];

/** Each class against as many texts of the others. */
export async function measureSparseProbing(
  device: Device,
  texts: LabelledTexts,
  { ks = [1, 2, 5], seed = 0, signal }: SparseProbingOptions = {},
): Promise<ClassProbing[]> {
  const n = texts.label.length;
  const D = texts.x.length / n;
  const scale = meanNormScale({ x: texts.x, rows: n, width: D });
  const rng = new Rng(seed).fork("others");
  const found: ClassProbing[] = [];
  for (const [c, name] of texts.classNames.entries()) {
    throwIfAborted(signal);
    const [train, test] = [0, 1].map((side) => balanced(texts, c, side, rng.fork(`${c}/${side}`)));
    const accuracy = async (columns: (rows: readonly number[]) => Float32Array) =>
      probeAccuracy(device, texts, { c, train, test }, columns);
    const activations = (rows: readonly number[]) => pick(texts.x, D, rows, scale);
    const byDimension = ranked(columnMeans(activations(train), D, train, texts.label, c));
    const byFeature = ranked(featureMeans(pickRows(texts.codes, train), train, texts.label, c));
    const most = Math.max(...ks);
    const dimensions: number[] = [];
    const sparse: number[] = [];
    for (const k of ks) {
      const [dims, features] = [byDimension.slice(0, k), byFeature.slice(0, k)];
      dimensions.push(await accuracy((rows) => chosenColumns(activations(rows), D, dims)));
      sparse.push(
        await accuracy((rows) => featureColumns(pickRows(texts.codes, rows), features).map((v) => v * scale)),
      );
    }
    found.push({
      name,
      train: train.length,
      test: test.length,
      dense: await accuracy(activations),
      dimensions,
      sparse,
      features: byFeature.slice(0, most),
    });
  }
  return found;
}

/** Rows of a class on one side, and as many of the other classes, drawn evenly. */
function balanced({ label, test, classNames }: LabelledTexts, c: number, side: number, rng: Rng): number[] {
  const of = (which: number) =>
    Array.from(label.keys()).filter((i) => label[i] === which && test[i] === side);
  const own = of(c);
  const names = classNames.map((_, i) => i).filter((i) => i !== c);
  const share = Math.ceil(own.length / names.length);
  const drawn = names.flatMap((other) => rng.shuffle(of(other)).slice(0, share));
  const others = rng.shuffle(drawn).slice(0, own.length);
  if (own.length < 2 || others.length < 2) {
    throw usageError(
      `sparse probing: ${classNames[c]} has ${own.length} texts to ${side ? "test" : "train"} on beside ${others.length} others; it needs two of each`,
    );
  }
  return [...own.slice(0, others.length), ...others];
}

async function probeAccuracy(
  device: Device,
  { label, groups }: LabelledTexts,
  { c, train, test }: { c: number; train: readonly number[]; test: readonly number[] },
  columns: (rows: readonly number[]) => Float32Array,
): Promise<number> {
  const side = (rows: readonly number[]) => {
    const values = columns(rows);
    const is = Uint8Array.from(rows, (row) => (label[row] === c ? 1 : 0));
    const labels: Labels = { rows: rows.length, classes: 1, is };
    return { x: device.tensor(values, [rows.length, values.length / rows.length]), labels };
  };
  const [seen, unseen] = [side(train), side(test)];
  try {
    const l2 = await chooseL2(seen.x, seen.labels, {
      groups: Int32Array.from(train, (row) => groups[row]),
      candidates: L2,
    });
    const probe = await fitProbes(seen.x, seen.labels, { l2 });
    return probeQuality(await probeScores(unseen.x, probe), unseen.labels)[0].accuracy;
  } finally {
    seen.x.dispose();
    unseen.x.dispose();
  }
}

/** Mean of each column in the class minus that outside of it. x [rows, D] */
function columnMeans(
  x: Float32Array,
  D: number,
  rows: readonly number[],
  label: Int32Array,
  c: number,
): Float64Array {
  const out = new Float64Array(D);
  rows.forEach((row, i) => {
    for (let d = 0; d < D; d++) out[d] += label[row] === c ? x[i * D + d] : -x[i * D + d];
  });
  return out; // sums will do: both sides have the same number of rows
}

function featureMeans(codes: CodeRows, rows: readonly number[], label: Int32Array, c: number): Float64Array {
  const out = new Float64Array(codes.width);
  rows.forEach((row, i) => {
    const sign = label[row] === c ? 1 : -1;
    for (let s = codes.offsets[i]; s < codes.offsets[i + 1]; s++)
      out[codes.features[s]] += sign * codes.values[s];
  });
  return out;
}

/** Indices by size, largest first; of equal ones the lower. */
const ranked = (differences: Float64Array): number[] =>
  Array.from(differences.keys()).sort((a, b) => Math.abs(differences[b]) - Math.abs(differences[a]) || a - b);

function pick(x: Float32Array, D: number, rows: readonly number[], scale: number): Float32Array {
  const out = new Float32Array(rows.length * D);
  rows.forEach((row, i) => {
    for (let d = 0; d < D; d++) out[i * D + d] = scale * x[row * D + d];
  });
  return out;
}

function chosenColumns(x: Float32Array, D: number, columns: readonly number[]): Float32Array {
  const rows = x.length / D;
  const k = columns.length;
  return Float32Array.from({ length: rows * k }, (_, at) => x[Math.floor(at / k) * D + columns[at % k]]);
}
