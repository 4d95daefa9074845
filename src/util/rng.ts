/**
 * Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * A generator is three numbers (seed, stream, counter): saving them is an exact checkpoint, and every backend that
 * implements Philox gets the same words.
 */
import { usageError } from "./errors.ts";

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;
const M0_LO = M0 & 0xffff;
const M0_HI = M0 >>> 16;
const M1_LO = M1 & 0xffff;
const M1_HI = M1 >>> 16;
const TWO_32 = 4294967296;

/** Four random words for one 128-bit counter under a 64-bit key. Pure; all words are unsigned 32-bit. */
export function philox(
  key: readonly [number, number],
  counter: readonly [number, number, number, number],
): [number, number, number, number] {
  const out = new Int32Array(4);
  philoxInto(out, 0, key[0], key[1], counter[0], counter[1], counter[2], counter[3]);
  return [out[0] >>> 0, out[1] >>> 0, out[2] >>> 0, out[3] >>> 0];
}

/** The ten rounds on int32 words. The high half of a 32x32 product is assembled from 16-bit halves. */
function philoxInto(
  out: Int32Array,
  at: number,
  k0: number,
  k1: number,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
): void {
  k0 |= 0;
  k1 |= 0;
  c0 |= 0;
  c1 |= 0;
  c2 |= 0;
  c3 |= 0;
  for (let round = 0; round < 10; round++) {
    const a = c0 & 0xffff;
    const b = c0 >>> 16;
    const s = (Math.imul(b, M0_LO) + (Math.imul(a, M0_LO) >>> 16)) | 0;
    const t = (Math.imul(a, M0_HI) + (s & 0xffff)) | 0;
    const hi0 = (Math.imul(b, M0_HI) + (s >>> 16) + (t >>> 16)) | 0;
    const lo0 = Math.imul(c0, M0);
    const c = c2 & 0xffff;
    const d = c2 >>> 16;
    const u = (Math.imul(d, M1_LO) + (Math.imul(c, M1_LO) >>> 16)) | 0;
    const v = (Math.imul(c, M1_HI) + (u & 0xffff)) | 0;
    const hi1 = (Math.imul(d, M1_HI) + (u >>> 16) + (v >>> 16)) | 0;
    const lo1 = Math.imul(c2, M1);
    c0 = hi1 ^ c1 ^ k0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ k1;
    c3 = lo0;
    k0 = (k0 + W0) | 0;
    k1 = (k1 + W1) | 0;
  }
  out[at] = c0;
  out[at + 1] = c1;
  out[at + 2] = c2;
  out[at + 3] = c3;
}

/** A position in a random stream; plain JSON. `counter` counts the 32-bit words drawn so far. */
export interface RngState {
  readonly seed: number;
  readonly stream: number;
  readonly counter: number;
}

/** 53-bit hash of a name under a parent stream, so that `fork('a').fork('b')` differs from `fork('b').fork('a')`. */
function hashStream(parent: number, name: string | number): number {
  let h0 = (parent % TWO_32) >>> 0;
  let h1 = Math.floor(parent / TWO_32) >>> 0;
  const bytes = new TextEncoder().encode(`${typeof name}:${name}`);
  for (const byte of bytes) {
    [h0, h1] = philox([h0, byte], [h1, 0x736c7569, 0x63652121, bytes.length]);
  }
  return h0 + (h1 & 0x1fffff) * TWO_32;
}

function checkWhole(what: string, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw usageError(`rng: ${what}=${value} must be a whole number between 0 and 2^53`);
  }
  return value;
}

const BLOCKS = 256;

/**
 * A random stream. `new Rng(seed)` starts one; `fork(name)` gives an independent one that does not depend on how much
 * of the parent was used.
 */
export class Rng {
  readonly seed: number;
  readonly stream: number;
  #counter: number;
  /** Words of the blocks [#first, #first + #filled). */
  readonly #words = new Int32Array(4 * BLOCKS);
  #first = 0;
  #filled = 0;

  constructor(seed: number, stream = 0, counter = 0) {
    this.seed = checkWhole("seed", seed);
    this.stream = checkWhole("stream", stream);
    this.#counter = checkWhole("counter", counter);
  }

  static fromState(state: RngState): Rng {
    return new Rng(state.seed, state.stream, state.counter);
  }

  /** 32-bit words drawn so far. */
  get counter(): number {
    return this.#counter;
  }

  state(): RngState {
    return { seed: this.seed, stream: this.stream, counter: this.#counter };
  }

  fork(name: string | number): Rng {
    return new Rng(this.seed, hashStream(this.stream, name));
  }

  #fill(block: number, count: number): void {
    const k0 = (this.seed % TWO_32) | 0;
    const k1 = Math.floor(this.seed / TWO_32) | 0;
    const s0 = (this.stream % TWO_32) | 0;
    const s1 = Math.floor(this.stream / TWO_32) | 0;
    for (let i = 0; i < count; i++) {
      const b = block + i;
      philoxInto(this.#words, 4 * i, k0, k1, (b % TWO_32) | 0, Math.floor(b / TWO_32) | 0, s0, s1);
    }
    this.#first = block;
    this.#filled = count;
  }

  /** An unsigned 32-bit word. */
  uint32(): number {
    const block = Math.floor(this.#counter / 4);
    const ahead = block - this.#first;
    if (ahead < 0 || ahead >= this.#filled) this.#fill(block, this.#filled === 0 ? 4 : BLOCKS);
    const at = 4 * (block - this.#first) + (this.#counter % 4);
    this.#counter++;
    return this.#words[at] >>> 0;
  }

  /** Uniform in [0, 1) with 24 bits: exact as f32. Draws one word. */
  uniform(): number {
    return (this.uint32() >>> 8) / 16777216;
  }

  /** Standard normal by Box-Muller in float64, |z| < 6.7. Draws two words. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log((this.uint32() + 1) / TWO_32));
    return radius * Math.cos((2 * Math.PI * this.uint32()) / TWO_32);
  }

  /** Whole number in [0, n), n <= 2^32, without modulo bias (by rejection). */
  int(n: number): number {
    if (!Number.isInteger(n) || n < 1 || n > TWO_32) {
      throw usageError(`rng.int: n=${n} must be a whole number between 1 and 2^32`);
    }
    const limit = TWO_32 - (TWO_32 % n);
    let word = this.uint32();
    while (word >= limit) word = this.uint32();
    return word % n;
  }

  /** Fisher-Yates in place; returns the array. */
  shuffle<T extends Int32Array | Uint32Array | Float64Array | unknown[]>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const kept = items[i];
      items[i] = items[j];
      items[j] = kept;
    }
    return items;
  }

  /** A random order of 0 .. n-1. */
  permutation(n: number): Int32Array {
    const order = new Int32Array(n);
    for (let i = 0; i < n; i++) order[i] = i;
    return this.shuffle(order);
  }

  /** Fills with uniforms in [low, high). Draws one word per element, as `uniform()` would. */
  fillUniform(out: Float32Array, low = 0, high = 1): Float32Array {
    const scale = (high - low) / 16777216;
    for (let i = 0; i < out.length; i++) out[i] = low + (this.uint32() >>> 8) * scale;
    return out;
  }

  /** Fills with normals, two per pair of words (both Box-Muller branches, so it differs from repeated `normal()`). */
  fillNormal(out: Float32Array, mean = 0, std = 1): Float32Array {
    for (let i = 0; i < out.length; i += 2) {
      const radius = std * Math.sqrt(-2 * Math.log((this.uint32() + 1) / TWO_32));
      const angle = (2 * Math.PI * this.uint32()) / TWO_32;
      out[i] = mean + radius * Math.cos(angle);
      if (i + 1 < out.length) out[i + 1] = mean + radius * Math.sin(angle);
    }
    return out;
  }
}
