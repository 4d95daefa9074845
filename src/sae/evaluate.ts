/**
 * Measures an SAE on a stream of activations, at one or several budgets of active features in one pass. Everything through
 * a language model lives in the recipes.
 */
import { setImmediate } from "node:timers/promises";
import { contiguous, type Device, slice, type Tensor } from "../tensor/index.ts";
import { ColumnMoments, inputError, throwIfAborted } from "../util/index.ts";
import { type AnySae, addParts, featuresOf, inParts } from "./boost.ts";
import { type HostCodes, MetricsAccumulator } from "./metrics.ts";
import { type Codes, decode, disposeCodes, encode, type Sae, type SparseCodes, sparseCodes } from "./sae.ts";
import { type ActivationBatch, type Columns, ownColumns } from "./source.ts";

export interface EvaluateOptions {
  /** Stop after this many tokens. */
  readonly maxTokens?: number;
  /** Tokens per pass. */
  readonly batch?: number;
  /** Active features per token of a topk SAE, instead of its own k. */
  readonly k?: number;
  /** Where in a row the SAE finds its numbers; default: the row is the input, then a transcoder's target. */
  readonly columns?: Columns;
  readonly signal?: AbortSignal;
  /** Told of both passes over a source that is opened twice: first the mean is taken. */
  readonly onProgress?: (tokens: number, pass: "mean" | "metrics") => void;
}

type Rows = AsyncIterable<ActivationBatch>;

/**
 * Feeds every batch through the SAE; the accumulator gives metrics, densities and the histogram. A function is called twice and
 * must open the same rows each time, in any order of batches; the rows of a mere iterable are kept in memory.
 */
export async function evaluateSae(
  device: Device,
  sae: AnySae,
  source: Rows | (() => Rows),
  options: EvaluateOptions = {},
): Promise<MetricsAccumulator> {
  const [metrics] = await evaluateBudgets(device, sae, source, [options.k], options);
  return metrics;
}

/** The same at every k of `budgets` (undefined: the SAE's own), with one encoding of each token. */
export async function evaluateBudgets(
  device: Device,
  sae: AnySae,
  source: Rows | (() => Rows),
  budgets: readonly (number | undefined)[],
  { columns, ...options }: Omit<EvaluateOptions, "k"> = {},
): Promise<MetricsAccumulator[]> {
  const [metrics] = await evaluateSaes(device, [{ sae, budgets, columns }], source, options);
  return metrics;
}

/** One of several SAEs that are measured on the same rows. */
export interface MeasuredSae extends Pick<EvaluateOptions, "columns"> {
  readonly sae: AnySae;
  readonly budgets: readonly (number | undefined)[];
}

/** The same of several SAEs that share the rows; each gets the numbers that it would get alone. */
export async function evaluateSaes(
  device: Device,
  saes: readonly MeasuredSae[],
  source: Rows | (() => Rows),
  options: Omit<EvaluateOptions, "k" | "columns"> = {},
): Promise<MetricsAccumulator[][]> {
  const parts = saes.map(({ sae, columns = ownColumns(inParts(sae).base.config) }) => ({
    columns,
    target: { width: inParts(sae).base.config.dOut, from: columns.target ?? columns.input },
  }));
  const [{ columns: rowsOf }] = parts;
  const twice = typeof source === "function";
  const moments = twice
    ? await momentsOf(
        source(),
        rowsOf.width,
        parts.map((p) => p.target),
        options,
      )
    : undefined;
  const all = saes.map(({ sae, budgets }, i) => {
    const mean = moments?.[i].mean;
    return budgets.map(() => new MetricsAccumulator(parts[i].target.width, featuresOf(sae), { mean }));
  });
  const [[first]] = all;
  for await (const rows of partsOf(twice ? source() : source, rowsOf.width, options)) {
    for (const [i, { sae, budgets }] of saes.entries()) {
      await addBatch(device, sae, all[i], budgets, { rows, ...parts[i] });
    }
    options.onProgress?.(first.tokens, "metrics");
  }
  if (first.tokens === 0) throw inputError("sae evaluation: the source has no activations");
  if (moments && moments[0].count !== first.tokens) {
    throw inputError(
      `sae evaluation: the source gave ${moments[0].count} rows, and ${first.tokens} when it was opened again`,
    );
  }
  return all;
}

/** Numbers of every row that something is made of. */
interface Part {
  readonly from: number;
  readonly width: number;
}

/** Those numbers of all rows, [rows, part width]. */
function partOf(rows: Float32Array, rowWidth: number, { from, width }: Part): Float32Array {
  if (width === rowWidth) return rows;
  const n = rows.length / rowWidth;
  const out = new Float32Array(n * width);
  for (let r = 0; r < n; r++) {
    const at = r * rowWidth + from;
    out.set(rows.subarray(at, at + width), r * width);
  }
  return out;
}

/** Of each target; the same columns are summed once. */
async function momentsOf(
  source: Rows,
  rowWidth: number,
  targets: readonly Part[],
  options: EvaluateOptions,
): Promise<ColumnMoments[]> {
  const name = ({ from, width }: Part): string => `${from}+${width}`;
  const distinct = new Map(targets.map((t) => [name(t), { target: t, moments: new ColumnMoments(t.width) }]));
  for await (const rows of partsOf(source, rowWidth, options)) {
    for (const { target, moments } of distinct.values()) moments.addRows(partOf(rows, rowWidth, target));
    const [{ moments }] = distinct.values();
    options.onProgress?.(moments.count, "mean");
  }
  return targets.map((t) => distinct.get(name(t))!.moments);
}

/** The rows that are measured, [at most `batch`, row width] at a time. */
async function* partsOf(
  source: Rows,
  width: number,
  { maxTokens = Number.POSITIVE_INFINITY, batch = 4096, signal }: EvaluateOptions,
): AsyncGenerator<Float32Array> {
  let left = maxTokens;
  for await (const { x, rows } of source) {
    if (x.length !== rows * width) {
      throw inputError(
        `sae evaluation: ${x.length} numbers as ${rows} rows, but the SAE's input width is ${width}`,
      );
    }
    const wanted = Math.min(rows, left);
    for (let at = 0; at < wanted; at += batch) {
      throwIfAborted(signal);
      yield x.subarray(at * width, Math.min(at + batch, wanted) * width);
      await setImmediate();
    }
    left -= wanted;
    if (left <= 0) return;
  }
}

interface EvalBatch {
  readonly rows: Float32Array;
  readonly columns: Columns;
  readonly target: Part;
}

async function addBatch(
  device: Device,
  sae: AnySae,
  all: readonly MetricsAccumulator[],
  budgets: readonly (number | undefined)[],
  { rows, columns, target }: EvalBatch,
): Promise<void> {
  const boosted = inParts(sae);
  const { base, parts } = boosted;
  const { dIn } = base.config;
  const input = partOf(rows, columns.width, { from: columns.input, width: dIn });
  const y = partOf(rows, columns.width, target);
  const { codes, more, recons } = device.scope(() => {
    const x = device.tensor(input, [input.length / dIn, dIn]);
    const full = encode(base, x, { k: widestOf(base, budgets) });
    const added = parts.map((part) => encode(part, x));
    const recon = (k: number | undefined): Tensor =>
      addParts(boosted, decode(base, strongestOf(full, k ?? ownK(base)), x), added);
    return { codes: full, more: added, recons: budgets.map(recon) };
  });
  const slots: SparseCodes[] = [];
  for (const part of [codes, ...more]) slots.push(await sparseCodes(part));
  try {
    const [ofBase, ...ofParts] = await onHost(slots, [base, ...parts]);
    const own = ownK(base);
    for (const [i, k] of budgets.entries()) {
      all[i].addReconstruction(y, await recons[i].floats());
      for (const codes of [firstSlots(ofBase, k ?? own), ...ofParts]) all[i].addCodes(codes);
    }
  } finally {
    for (const part of slots) disposeCodes(part);
    for (const t of recons) t.dispose();
  }
}

interface HostSlots extends HostCodes {
  /** Slots of a row. */
  readonly k: number;
}

/** Codes as arrays; the features of each SAE are counted on from those before it. */
async function onHost(slots: readonly SparseCodes[], saes: readonly Sae[]): Promise<HostSlots[]> {
  const out: HostSlots[] = [];
  let from = 0;
  for (const [i, { values, indices }] of slots.entries()) {
    const found = await indices.ints();
    const shifted = from > 0 ? found.map((f) => f + from) : found;
    out.push({ k: values.shape[1], values: await values.floats(), indices: shifted });
    from += saes[i].config.features;
  }
  return out;
}

const ownK = ({ config: { activation } }: Sae): number | undefined =>
  activation.kind === "topk" ? activation.k : undefined;

/** The largest k asked for; undefined where none is. */
function widestOf(sae: Sae, budgets: readonly (number | undefined)[]): number | undefined {
  if (budgets.every((k) => k === undefined)) return undefined;
  return Math.max(...budgets.map((k) => k ?? ownK(sae) ?? 0));
}

/** The first k slots of codes that are in descending order. */
function strongestOf(codes: Codes, k: number | undefined): Codes {
  if (codes.kind === "dense" || k === undefined || k === codes.values.shape[1]) return codes;
  const first = (t: Tensor): Tensor => contiguous(slice(t, [0, 0], [t.shape[0], k]));
  return { kind: "sparse", values: first(codes.values), indices: first(codes.indices) };
}

/** The first `wanted` slots of every row. */
function firstSlots(codes: HostSlots, wanted: number | undefined): HostCodes {
  const { k: K, values, indices } = codes;
  const k = Math.min(wanted ?? K, K);
  if (k === K) return codes;
  const rows = values.length / K;
  const out = { values: new Float32Array(rows * k), indices: new Int32Array(rows * k) };
  for (let r = 0; r < rows; r++) {
    out.values.set(values.subarray(r * K, r * K + k), r * k);
    out.indices.set(indices.subarray(r * K, r * K + k), r * k);
  }
  return out;
}
