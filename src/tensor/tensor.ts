/**
 * A tensor: a typed, strided window on a buffer of one device. Views share the buffer; the last one frees it.
 */
import { usageError } from "../util/errors.ts";
import type { Device } from "./device.ts";
import { type DType, describe, ITEM_SIZE, isContiguous, type Shape, sizeOf } from "./types.ts";

/** A buffer and the number of tensors that look at it. */
export class Storage {
  readonly handle: unknown;
  readonly bytes: number;
  refs = 0;

  constructor(handle: unknown, bytes: number) {
    this.handle = handle;
    this.bytes = bytes;
  }
}

export class Tensor {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Steps between neighbours along each axis, in elements. */
  readonly strides: readonly number[];
  /** Position of the first element in the buffer, in elements. */
  readonly offset: number;
  #storage: Storage | undefined;

  /** Made by the device and by views; see `device.tensor`, `device.zeros`. */
  constructor(
    device: Device,
    storage: Storage,
    dtype: DType,
    shape: Shape,
    strides: readonly number[],
    offset: number,
  ) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
    this.#storage = storage;
    storage.refs++;
    device.adopt(this);
  }

  get size(): number {
    return sizeOf(this.shape);
  }

  get rank(): number {
    return this.shape.length;
  }

  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  get disposed(): boolean {
    return this.#storage === undefined;
  }

  /** The shared buffer. Throws after `dispose`. */
  get storage(): Storage {
    if (!this.#storage) {
      throw usageError(
        `tensor: ${describe(this)} was disposed; keep() it, or return it from its scope, to use it later`,
      );
    }
    return this.#storage;
  }

  /** The backend's buffer, for kernels. */
  get handle(): unknown {
    return this.storage.handle;
  }

  /** Bytes of the elements, not of the buffer. */
  get bytes(): number {
    return this.size * ITEM_SIZE[this.dtype];
  }

  /** All elements, row-major, in a copy of their own; 16-bit floats are widened to f32. */
  data(): Promise<Float32Array | Int32Array> {
    return this.device.read(this);
  }

  /** All elements of a float tensor. */
  async floats(): Promise<Float32Array> {
    const data = await this.data();
    if (data instanceof Float32Array) return data;
    throw usageError(`floats: the tensor is ${describe(this)}; use ints()`);
  }

  /** All elements of an i32 tensor. */
  async ints(): Promise<Int32Array> {
    const data = await this.data();
    if (data instanceof Int32Array) return data;
    throw usageError(`ints: the tensor is ${describe(this)}; use floats()`);
  }

  /** The only element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw usageError(`item: ${describe(this)} has ${this.size} elements, expected 1`);
    return (await this.data())[0];
  }

  /** Takes the tensor out of its scope: it lives until `dispose`. Returns itself. */
  keep(): this {
    this.device.release(this);
    return this;
  }

  /** Lets go of the buffer. A second call does nothing. */
  dispose(): void {
    const storage = this.#storage;
    if (!storage) return;
    this.#storage = undefined;
    this.device.drop(this, storage);
  }

  toString(): string {
    return `Tensor(${describe(this)}${this.disposed ? ", disposed" : ""})`;
  }
}
