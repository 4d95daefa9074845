/**
 * Windows of text in which features fired, waiting in memory to be written: flat arrays that grow, 31 tokens a row.
 * W tokens of a window.
 */
import type { Columns, Row } from "../store/index.ts";

/** A feature's peak in a context and the window around it. */
export interface ExampleRecord {
  readonly feature: number;
  /** Number of the context in the order of reading. */
  readonly context: number;
  /** Of the peak in its context. */
  readonly position: number;
  /** Of the peak in the window. */
  readonly peak: number;
  /** Decides who is in the sample: the smallest are. */
  readonly priority: number;
  /** At the peak. */
  readonly activation: number;
}

export const LOG_COLUMNS: Columns = {
  feature: "INTEGER",
  context: "INTEGER",
  position: "INTEGER",
  peak: "INTEGER",
  priority: "UINTEGER",
  activation: "FLOAT",
  tokens: "INTEGER[]",
  activations: "FLOAT[]",
};

export class ExampleLog {
  readonly #window: number;
  readonly #limit: number;
  #count = 0;
  /** Feature, context, position, peak and length of each row. */
  #places = new Int32Array(0);
  #priorities = new Uint32Array(0);
  #peaks = new Float32Array(0);
  #tokens = new Int32Array(0);
  #activations = new Float32Array(0);

  /** `limit`: rows from which on it is full. */
  constructor(window: number, limit: number) {
    this.#window = window;
    this.#limit = limit;
  }

  get size(): number {
    return this.#count;
  }

  /** It still takes more then, but grows. */
  get isFull(): boolean {
    return this.#count >= this.#limit;
  }

  /** Adds a row; its activations, [tokens], are zeros for the caller to fill in. */
  add(record: ExampleRecord, tokens: Int32Array): Float32Array {
    const row = this.#count++;
    if (row === this.#priorities.length) this.#grow();
    const { feature, context, position, peak } = record;
    this.#places.set([feature, context, position, peak, tokens.length], 5 * row);
    this.#priorities[row] = record.priority;
    this.#peaks[row] = record.activation;
    this.#tokens.set(tokens, row * this.#window);
    const from = row * this.#window;
    return this.#activations.subarray(from, from + tokens.length).fill(0);
  }

  *rows(): Generator<Row> {
    for (let row = 0; row < this.#count; row++) {
      const [feature, context, position, peak, length] = this.#places.subarray(5 * row, 5 * row + 5);
      const from = row * this.#window;
      yield [
        feature,
        context,
        position,
        peak,
        this.#priorities[row],
        this.#peaks[row],
        this.#tokens.subarray(from, from + length),
        this.#activations.subarray(from, from + length),
      ];
    }
  }

  clear(): void {
    this.#count = 0;
  }

  #grow(): void {
    const rows = Math.max(1024, 2 * this.#priorities.length);
    this.#places = grown(this.#places, 5 * rows);
    this.#priorities = grown(this.#priorities, rows);
    this.#peaks = grown(this.#peaks, rows);
    this.#tokens = grown(this.#tokens, rows * this.#window);
    this.#activations = grown(this.#activations, rows * this.#window);
  }
}

function grown<A extends Int32Array | Uint32Array | Float32Array>(array: A, length: number): A {
  const larger = new (array.constructor as new (length: number) => A)(length);
  larger.set(array);
  return larger;
}
