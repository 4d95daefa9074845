/**
 * Keys and values of the positions seen so far, for decoding one position at a time.
 */
import { assign, cast, type Device, type Tensor } from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import type { ModelSpec } from "./spec.ts";

export class KvCache {
  /** Positions that fit. */
  readonly capacity: number;
  /** First position of each row that counts: left padding before it is never seen. i32 [B]. */
  readonly starts: Tensor;
  readonly firsts: readonly number[];
  readonly #layers: { readonly k: Tensor; readonly v: Tensor }[];
  #length = 0;

  /** Preallocates [B, capacity, G, Dh] twice a layer, in f32 or f16. */
  constructor(
    device: Device,
    spec: ModelSpec,
    options: { batch: number; capacity: number; starts?: readonly number[]; dtype?: "f32" | "f16" },
  ) {
    const { batch, capacity, starts = new Array<number>(batch).fill(0), dtype = "f32" } = options;
    const shape = [batch, capacity, spec.nKvHeads, spec.headDim];
    this.capacity = capacity;
    this.firsts = starts;
    this.starts = device.tensor(starts, [batch], "i32").keep();
    this.#layers = Array.from({ length: spec.nLayers }, () => ({
      k: device.zeros(shape, dtype).keep(),
      v: device.zeros(shape, dtype).keep(),
    }));
  }

  /** Positions filled. */
  get length(): number {
    return this.#length;
  }

  /** Appends keys and values [B, T, G, Dh] of one layer and returns the whole caches. */
  append(layer: number, k: Tensor, v: Tensor): { k: Tensor; v: Tensor } {
    const T = k.shape[1];
    if (this.#length + T > this.capacity) {
      throw usageError(`cache: ${this.#length} + ${T} positions do not fit into ${this.capacity}`);
    }
    const own = this.#layers[layer];
    assign(own.k, cast(k, own.k.dtype), [0, this.#length, 0, 0]);
    assign(own.v, cast(v, own.v.dtype), [0, this.#length, 0, 0]);
    return own;
  }

  /** Counts `T` positions as filled, after every layer has appended them. */
  advance(T: number): void {
    this.#length += T;
  }

  dispose(): void {
    this.starts.dispose();
    for (const { k, v } of this.#layers) {
      k.dispose();
      v.dispose();
    }
  }
}
