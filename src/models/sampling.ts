/**
 * From logits to tokens: greedy, or temperature, then top-k, then nucleus (Holtzman et al. 2020), in that order.
 * The device scales, ranks and normalises; the host draws from one row of probabilities. B rows · V vocabulary.
 */
import { mul, softmax, type Tensor, topk } from "../tensor/index.ts";
import { numericError, type Rng, usageError } from "../util/index.ts";

export interface SamplingOptions {
  /** Divides the logits; 0 takes the largest one. */
  readonly temperature: number;
  /** Only the k largest logits; 0 for all. */
  readonly topK: number;
  /** Only the fewest most likely tokens that together have this probability; 1 for all. */
  readonly topP: number;
}

export const GREEDY: SamplingOptions = { temperature: 0, topK: 0, topP: 1 };

/** Refuses settings that mean nothing; returns them. */
export function checkSampling(options: SamplingOptions): SamplingOptions {
  const { temperature, topK, topP } = options;
  if (!(temperature === 0 || (temperature >= 1e-3 && Number.isFinite(temperature)))) {
    throw usageError(`sampling: temperature=${temperature} must be 0 (greedy) or at least 0.001`);
  }
  if (!(Number.isInteger(topK) && topK >= 0))
    throw usageError(`sampling: topK=${topK} must be a whole number, 0 for all`);
  if (!(topP > 0 && topP <= 1)) throw usageError(`sampling: topP=${topP} must be above 0 and at most 1`);
  return options;
}

/**
 * One token a row of logits [B, V]; rows whose `rngs` entry is undefined are skipped (their token is -1).
 * Each row draws from its own stream, so that it does not matter which rows stand beside it.
 */
export async function sampleTokens(
  logits: Tensor,
  options: SamplingOptions,
  rngs: readonly (Rng | undefined)[],
): Promise<Int32Array> {
  const { temperature, topK, topP } = options;
  const { device } = logits;
  const V = logits.shape[1];
  if (temperature === 0) return greedy(logits);
  const out = new Int32Array(rngs.length).fill(-1);
  const scaled = () => (temperature === 1 ? logits : mul(logits, 1 / temperature));
  if (topK > 0 && topK < V) {
    const best = device.scope(() => {
      const { values, indices } = topk(scaled(), { k: topK });
      return { p: softmax(values), indices };
    });
    const [p, indices] = await readBoth(best.p, best.indices);
    rngs.forEach((rng, b) => {
      const row = p.subarray(b * topK, (b + 1) * topK);
      if (rng) out[b] = indices[b * topK + draw(row, topP, uniform53(rng))];
    });
    return out;
  }
  const all = device.scope(() => softmax(scaled()));
  const p = await all.floats().finally(() => all.dispose());
  rngs.forEach((rng, b) => {
    if (rng) out[b] = draw(p.subarray(b * V, (b + 1) * V), topP, uniform53(rng));
  });
  return out;
}

/** The largest of each row, the lower id on ties. `topk` rather than `argmax`: it ranks NaN first, so that one shows. */
async function greedy(logits: Tensor): Promise<Int32Array> {
  const best = topk(logits, { k: 1 });
  const [values, ids] = await readBoth(best.values, best.indices);
  if (values.some(Number.isNaN)) throw numericError("sampling: a logit is not a number");
  return ids;
}

/** Reads floats and indices back and frees them. */
async function readBoth(floats: Tensor, ints: Tensor): Promise<[Float32Array, Int32Array]> {
  try {
    return [await floats.floats(), await ints.ints()];
  } finally {
    floats.dispose();
    ints.dispose();
  }
}

/** Uniform in [0, 1) with 53 bits: 24 would never reach the rarest of many tokens. Draws two words. */
const uniform53 = (rng: Rng): number => (rng.uint32() * 2 ** 21 + (rng.uint32() >>> 11)) / 2 ** 53;

/** Index drawn from probabilities `p` [V] by inverting their running sum in index order, cut to the nucleus first. */
export function draw(p: Float32Array, topP: number, u: number): number {
  return topP < 1 ? drawNucleus(p, topP, u) : drawAny(p, u);
}

const BLOCK = 256;

/** From all of them: the block first, then the index within it. */
function drawAny(p: Float32Array, u: number): number {
  const blocks = new Float64Array(Math.ceil(p.length / BLOCK));
  for (let b = 0; b < blocks.length; b++) blocks[b] = sum(p, b * BLOCK, Math.min((b + 1) * BLOCK, p.length));
  let left = u * checkTotal(blocks.reduce((a, b) => a + b, 0));
  let block = 0;
  while (block < blocks.length - 1 && left >= blocks[block]) left -= blocks[block++];
  const end = Math.min((block + 1) * BLOCK, p.length);
  for (let i = block * BLOCK; i < end; i++) {
    left -= p[i];
    if (left < 0) return i;
  }
  for (let i = end - 1; ; i--) if (p[i] > 0) return i; // rounding took the last step away
}

function drawNucleus(p: Float32Array, topP: number, u: number): number {
  const { least, ties, total } = nucleus(p, topP);
  const target = u * checkTotal(total);
  let running = 0;
  let left = ties;
  let last = -1;
  for (let i = 0; i < p.length; i++) {
    if (p[i] < least || p[i] === 0 || (p[i] === least && left-- <= 0)) continue;
    running += p[i];
    last = i;
    if (running > target) return i;
  }
  return last;
}

function checkTotal(total: number): number {
  if (total > 0 && Number.isFinite(total)) return total;
  throw numericError(`sampling: probabilities sum to ${total}; a logit is not a number`);
}

/** Of p[from, to), in four sums side by side, as an addition waits for the one before. */
function sum(p: Float32Array, from = 0, to = p.length): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  let i = from;
  for (; i + 4 <= to; i += 4) {
    a += p[i];
    b += p[i + 1];
    c += p[i + 2];
    d += p[i + 3];
  }
  for (; i < to; i++) a += p[i];
  return a + b + (c + d);
}

/**
 * The smallest set of the largest probabilities that reaches `topP`: its least member, how many that equal it belong to it
 * (the first ones), and its total.
 */
function nucleus(p: Float32Array, topP: number): { least: number; ties: number; total: number } {
  const wanted = topP * sum(p);
  const floor = ((1 - topP) * wanted) / p.length; // all below this together cannot be missed
  const large = p.filter((x) => x >= floor).sort();
  let total = 0;
  for (let i = large.length - 1; i >= 0; i--) {
    total += large[i];
    if (total < wanted && i > 0) continue;
    const least = large[i];
    let ties = 1;
    while (large[i + ties] === least) ties++;
    return { least, ties, total };
  }
  return { least: 0, ties: 0, total: Number.NaN };
}
