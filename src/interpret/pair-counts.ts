/**
 * How often each feature fired on each token: a hash table that its owner writes out and clears when it is full.
 */
export class PairCounts {
  readonly #vocabSize: number;
  readonly #limit: number;
  /** feature · V + token, or -1; exact in a float64. */
  #keys: Float64Array;
  #counts: Uint32Array;
  #size = 0;

  /** `limit`: pairs from which on it is full; 24 to 48 bytes each. */
  constructor(vocabSize: number, limit: number) {
    this.#vocabSize = vocabSize;
    this.#limit = limit;
    const slots = 2 ** Math.ceil(Math.log2(2 * limit));
    this.#keys = new Float64Array(slots).fill(-1);
    this.#counts = new Uint32Array(slots);
  }

  get size(): number {
    return this.#size;
  }

  /** It still takes more then, but grows. */
  get isFull(): boolean {
    return this.#size >= this.#limit;
  }

  add(feature: number, token: number, count = 1): void {
    const key = feature * this.#vocabSize + token;
    const at = this.#slot(key);
    this.#counts[at] += count;
    if (this.#keys[at] === key) return;
    this.#keys[at] = key;
    if (++this.#size > 0.75 * this.#keys.length) this.#grow();
  }

  /** Feature, token and count of every pair. */
  *rows(): Generator<[feature: number, token: number, count: number]> {
    for (let at = 0; at < this.#keys.length; at++) {
      const key = this.#keys[at];
      if (key < 0) continue;
      const token = key % this.#vocabSize;
      yield [(key - token) / this.#vocabSize, token, this.#counts[at]];
    }
  }

  clear(): void {
    this.#keys.fill(-1);
    this.#counts.fill(0);
    this.#size = 0;
  }

  /** Where the key stands, or may be put. */
  #slot(key: number): number {
    const mask = this.#keys.length - 1;
    const hash = Math.imul(Math.imul(key, 0x9e3779b1) ^ (key / 4294967296), 0x85ebca6b);
    let at = (hash ^ (hash >>> 15)) & mask;
    while (this.#keys[at] !== key && this.#keys[at] >= 0) at = (at + 1) & mask;
    return at;
  }

  #grow(): void {
    const all = [...this.rows()];
    this.#keys = new Float64Array(2 * this.#keys.length).fill(-1);
    this.#counts = new Uint32Array(this.#keys.length);
    this.#size = 0;
    for (const [feature, token, count] of all) this.add(feature, token, count);
  }
}
