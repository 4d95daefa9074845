/**
 * Samples of a task to windows of fixed length: whole ones only, several in a window, each a segment of its own.
 */
import { usageError } from "../util/errors.ts";
import {
  checkWindows,
  type PackedBatch,
  type PackerState,
  type TrainingWindows,
  WindowOrder,
  type WindowSource,
} from "./packing.ts";

/** Token ids, and how many of them at the front are given: those are no targets. */
export interface PackedSample {
  readonly ids: ArrayLike<number>;
  readonly given: number;
}

export interface SamplePackOptions {
  /** Tokens of a window. */
  readonly context: number;
  /** Fills what samples leave. */
  readonly pad: number;
  /** Seed of the order of the windows, a new one each epoch; without one they come as packed. */
  readonly seed?: number;
}

export class SamplePacker implements WindowSource, TrainingWindows {
  readonly context: number;
  readonly windows: number;
  readonly lazy = false;
  /** Samples of each window. */
  readonly #layout: readonly (readonly PackedSample[])[];
  readonly #pad: number;
  readonly #order: WindowOrder;

  constructor(samples: readonly PackedSample[], { context, pad, seed }: SamplePackOptions) {
    const long = samples.find(({ ids }) => ids.length - 1 > context);
    if (long) {
      throw usageError(
        `packing: a sample has ${long.ids.length} tokens, but a window predicts ${context}; give windows of at least ${long.ids.length - 1} tokens`,
      );
    }
    if (samples.some(({ ids }) => ids.length < 2))
      throw usageError("packing: a sample of fewer than two tokens predicts nothing; leave it out");
    if (samples.length === 0) throw usageError("packing: there are no samples; give at least one");
    this.context = context;
    this.#pad = pad;
    this.#layout = packed(samples, context);
    this.windows = this.#layout.length;
    this.#order = new WindowOrder({ windows: () => this.windows, seed });
  }

  get state(): PackerState {
    return this.#order.state;
  }

  restore(state: PackerState): void {
    this.#order.restore(state);
  }

  /** All windows are there from the start. */
  async reach(): Promise<void> {}

  next(batch: number): PackedBatch {
    return this.#batch(Array.from({ length: batch }, () => this.#order.next()));
  }

  at(first: number, batch = 1): PackedBatch {
    checkWindows(first, batch, this.windows);
    return this.#batch(Array.from({ length: batch }, (_, i) => first + i));
  }

  #batch(windows: readonly number[]): PackedBatch {
    const size = windows.length * this.context;
    const tokens = new Int32Array(size).fill(this.#pad);
    const targets = new Int32Array(size).fill(-1);
    const segments = new Int32Array(size);
    windows.forEach((window, row) => {
      let at = row * this.context;
      const samples = this.#layout[window];
      for (const [segment, { ids, given }] of samples.entries()) {
        for (let t = 0; t + 1 < ids.length; t++, at++) {
          tokens[at] = ids[t];
          if (t + 1 >= given) targets[at] = ids[t + 1];
          segments[at] = segment;
        }
      }
      segments.fill(samples.length, at, (row + 1) * this.context); // padding reads padding only
    });
    return { tokens, targets, segments };
  }
}

/** Longest first, each into a window that it fills best: windows are nearly full. A sample's last token is a target only. */
function packed(samples: readonly PackedSample[], context: number): PackedSample[][] {
  const byLength = [...samples].sort((a, b) => b.ids.length - a.ids.length);
  const windows: PackedSample[][] = [];
  /** Windows by the room that they have left. */
  const open: PackedSample[][][] = Array.from({ length: context + 1 }, () => []);
  for (const sample of byLength) {
    const length = sample.ids.length - 1;
    let room = length;
    while (room < context && open[room].length === 0) room++;
    let window = open[room].pop();
    if (!window) {
      window = [];
      room = context;
      windows.push(window);
    }
    window.push(sample);
    open[room - length].push(window);
  }
  return windows;
}
