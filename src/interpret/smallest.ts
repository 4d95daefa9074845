/**
 * For each of F owners the N smallest numbers of a stream, in one array of F · N: a heap each, its largest number on top.
 */
export class SmallestOf<A extends Float32Array | Uint32Array> {
  readonly size: number;
  /** [F · N]; of owner f the first `filled[f]` after f · N. */
  readonly data: A;
  /** [F] */
  readonly filled: Int32Array;

  /** `data` decides the type of the numbers and may hold those of an earlier run, with their count in `filled`. */
  constructor(size: number, data: A, filled: Int32Array) {
    this.size = size;
    this.data = data;
    this.filled = filled;
  }

  /** Keeps the number if it is among the owner's N smallest so far; of equal ones the earlier stay. Tells whether it was kept. */
  offer(owner: number, value: number): boolean {
    const { data, filled, size } = this;
    const base = owner * size;
    const n = filled[owner];
    if (n < size) {
      data[base + n] = value;
      filled[owner] = n + 1;
      this.#rise(base, n);
      return true;
    }
    if (size === 0 || value >= data[base]) return false;
    data[base] = value;
    this.#sink(base);
    return true;
  }

  #rise(base: number, from: number): void {
    const { data } = this;
    const value = data[base + from];
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (data[base + parent] >= value) break;
      data[base + at] = data[base + parent];
      at = parent;
    }
    data[base + at] = value;
  }

  #sink(base: number): void {
    const { data, size } = this;
    const value = data[base];
    let at = 0;
    for (let child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && data[base + child + 1] > data[base + child]) child++;
      if (data[base + child] <= value) break;
      data[base + at] = data[base + child];
      at = child;
    }
    data[base + at] = value;
  }
}
