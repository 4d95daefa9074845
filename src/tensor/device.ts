/**
 * A device: a backend, its memory accounting, the stack of scopes and the tape of the gradient being taken.
 * Everything that a computation depends on travels with the tensors through it; there is no global state.
 */
import { usageError } from "../util/errors.ts";
import { decodeBf16, decodeF16, encodeBf16, encodeF16 } from "../util/half.ts";
import { type Backend, closedBackend, type FilePart } from "./backend.ts";
import { requireExtents } from "./ops/check.ts";
import { Tape } from "./tape.ts";
import { Storage, Tensor } from "./tensor.ts";
import { type DType, describe, ITEM_SIZE, rowMajor, type Shape, sizeOf } from "./types.ts";
import { alias, contiguous } from "./views.ts";

/** Live tensors and buffers, and the most bytes that were ever live at once. */
export interface MemoryStats {
  readonly tensors: number;
  readonly buffers: number;
  readonly bytes: number;
  readonly peakBytes: number;
}

/** Tensors anywhere inside plain objects, arrays and maps. */
export type Tree = Tensor | number | string | boolean | null | undefined | bigint | object;

export class Device {
  #backend: Backend;
  #scopes: Set<Tensor>[] = [];
  readonly #storages = new Set<Storage>();
  #tape: Tape | undefined;
  #tensors = 0;
  #buffers = 0;
  #bytes = 0;
  #peak = 0;

  constructor(backend: Backend) {
    this.#backend = backend;
  }

  /** After `close` one whose every function throws. */
  get backend(): Backend {
    return this.#backend;
  }

  get name(): string {
    return this.backend.name;
  }

  /** The tape that records now, if any. */
  get tape(): Tape | undefined {
    return this.#tape;
  }

  memory(): MemoryStats {
    return { tensors: this.#tensors, buffers: this.#buffers, bytes: this.#bytes, peakBytes: this.#peak };
  }

  /** Starts `peakBytes` again from what is live now. */
  resetPeak(): void {
    this.#peak = this.#bytes;
  }

  /** A tensor with undefined content. */
  empty(shape: Shape, dtype: DType = "f32"): Tensor {
    requireExtents("tensor", shape);
    const bytes = Math.max(sizeOf(shape) * ITEM_SIZE[dtype], 1);
    const storage = new Storage(this.backend.alloc(bytes, dtype), bytes);
    this.#storages.add(storage);
    this.#buffers++;
    this.#bytes += bytes;
    this.#peak = Math.max(this.#peak, this.#bytes);
    return new Tensor(this, storage, dtype, [...shape], rowMajor(shape), 0);
  }

  /**
   * A tensor with the given row-major numbers; f16 and bf16 round to nearest even.
   * `Uint16Array` data is taken as raw bits of a 16-bit type.
   */
  tensor(data: ArrayLike<number>, shape: Shape = [data.length], dtype: DType = "f32"): Tensor {
    if (data.length !== sizeOf(shape)) {
      throw usageError(`tensor: ${data.length} numbers do not fill [${shape}], which has ${sizeOf(shape)}`);
    }
    const t = this.empty(shape, dtype);
    this.write(t, data);
    return t;
  }

  zeros(shape: Shape, dtype: DType = "f32"): Tensor {
    return this.full(shape, 0, dtype);
  }

  full(shape: Shape, value: number, dtype: DType = "f32"): Tensor {
    const t = this.empty(shape, dtype);
    this.backend.kernels.fill([], [t], { shape, value, dtype });
    return t;
  }

  /** Overwrites a contiguous tensor with row-major numbers of the same count. */
  write(t: Tensor, data: ArrayLike<number>): void {
    if (data.length !== t.size) throw usageError(`write: ${data.length} numbers into ${describe(t)}`);
    const encoded = encode(data, t.dtype);
    this.writeBytes(t, 0, new Uint8Array(encoded.buffer, encoded.byteOffset, encoded.byteLength));
  }

  /**
   * Overwrites elements of a contiguous tensor, from the row-major index `first` on, with raw little-endian bytes of its
   * own type: for filling it piece by piece.
   */
  writeBytes(t: Tensor, first: number, bytes: Uint8Array): void {
    this.#checkSpan(t, first, bytes.length);
    this.backend.write(t.handle, first * ITEM_SIZE[t.dtype], bytes, t.dtype);
  }

  /** Whether `readFile` works here. */
  get readsFiles(): boolean {
    return this.backend.readFile !== undefined;
  }

  /** `writeBytes` from an open file, without a copy in between. Gives how many bytes the file had. */
  readFile(t: Tensor, first: number, part: FilePart): number {
    if (!this.backend.readFile) throw usageError(`readFile: the ${this.name} backend does not read files`);
    this.#checkSpan(t, first, part.length);
    return this.backend.readFile(t.handle, first * ITEM_SIZE[t.dtype], part);
  }

  /** Refuses bytes that are not whole elements within a tensor of its own. */
  #checkSpan(t: Tensor, first: number, bytes: number): void {
    const item = ITEM_SIZE[t.dtype];
    if (!t.isContiguous || t.offset !== 0) throw usageError(`write: ${describe(t)} is a view`);
    if (bytes % item !== 0 || !(first >= 0 && first + bytes / item <= t.size))
      throw usageError(`write: ${bytes} bytes at element ${first} do not fit into ${describe(t)}`);
  }

  /** See `Tensor.data`. */
  async read(t: Tensor): Promise<Float32Array | Int32Array> {
    const dense = t.isContiguous ? t : this.untracked(() => contiguous(t));
    try {
      const item = ITEM_SIZE[t.dtype];
      const bytes = await this.backend.read(dense.handle, dense.offset * item, dense.size * item, t.dtype);
      return decode(bytes, t.dtype);
    } finally {
      if (dense !== t) dense.dispose();
    }
  }

  /**
   * Runs `fn` and frees every tensor it made, except those that it returns (inside objects, arrays or maps too).
   * While a gradient is being taken they are handed to the scope around instead, as the way back may need them.
   */
  scope<T>(fn: () => T): T {
    const scope = new Set<Tensor>();
    this.#scopes.push(scope);
    let survivors: ReadonlySet<Tensor> = new Set();
    try {
      const result = fn();
      if (result instanceof Promise) {
        throw usageError("scope: the function is async; tensors made after an await would escape the scope");
      }
      survivors = tensorsIn(result);
      return result;
    } finally {
      this.#scopes.pop();
      const parent = this.#scopes.at(-1);
      for (const t of scope) {
        if (survivors.has(t) || (this.#tape && parent)) parent?.add(t);
        else t.dispose();
      }
    }
  }

  /** Runs `fn` without recording it on the tape. */
  untracked<T>(fn: () => T): T {
    const tape = this.#tape;
    this.#tape = undefined;
    try {
      return fn();
    } finally {
      this.#tape = tape;
    }
  }

  /**
   * Value and gradients of `fn` with respect to `params`. `fn` returns the scalar loss, or an object with `loss` and
   * whatever else should outlive the call. A parameter that the loss does not reach gets `undefined`.
   */
  valueAndGrad<T extends Tensor | { readonly loss: Tensor }>(
    fn: () => T,
    params: readonly Tensor[],
  ): { value: T; grads: (Tensor | undefined)[] } {
    if (this.#tape) throw usageError("valueAndGrad: a gradient is being taken already; it cannot be nested");
    return this.scope(() => {
      const tape = new Tape(params);
      this.#tape = tape;
      let value: T;
      try {
        value = fn();
      } finally {
        this.#tape = undefined;
      }
      if (value instanceof Promise) {
        throw usageError("valueAndGrad: the function is async; what it does after an await is not recorded");
      }
      const loss = value instanceof Tensor ? value : value.loss;
      if (loss.size !== 1) {
        throw usageError(`valueAndGrad: the loss is ${describe(loss)}, expected a single number`);
      }
      const returned = tensorsIn(value);
      const scope = this.#scopes.at(-1);
      const add = (a: Tensor, b: Tensor): Tensor => {
        const sum = this.empty(a.shape);
        this.backend.kernels.add([a, b], [sum], {});
        return sum;
      };
      const seed = this.full(loss.shape, 1);
      const grads = tape.gradients(
        loss,
        seed,
        add,
        (sum, g) => this.backend.kernels.accumulate([sum, g], [], {}),
        alias,
        (run) => this.scope(run),
        (t) => returned.has(t) || !scope?.has(t),
      );
      return { value, grads: params.map((p) => grads.get(p)) };
    });
  }

  /** Registers a new tensor with the innermost scope. */
  adopt(t: Tensor): void {
    this.#tensors++;
    this.#scopes.at(-1)?.add(t);
  }

  /** Forgets a tensor in every scope, so that none frees it. */
  release(t: Tensor): void {
    for (const scope of this.#scopes) scope.delete(t);
  }

  /** Accounts for a disposed tensor and frees its buffer when nothing else looks at it. */
  drop(t: Tensor, storage: Storage): void {
    this.#tensors--;
    this.release(t);
    if (--storage.refs === 0) this.#free(storage);
  }

  #free(storage: Storage): void {
    if (!this.#storages.delete(storage)) return; // freed by `close`
    this.#buffers--;
    this.#bytes -= storage.bytes;
    this.#backend.free(storage.handle, storage.bytes);
  }

  /** Frees all buffers and releases the backend: whatever still uses a tensor throws. A second call does nothing. */
  close(): void {
    for (const storage of this.#storages) this.#free(storage);
    const open = this.#backend;
    this.#backend = closedBackend(open);
    open.close();
  }
}

/** Every tensor inside a value made of plain objects, arrays, maps and sets. */
function tensorsIn(value: unknown, found: Set<Tensor> = new Set()): Set<Tensor> {
  if (value instanceof Tensor) found.add(value);
  else if (Array.isArray(value) || value instanceof Set) for (const item of value) tensorsIn(item, found);
  else if (value instanceof Map) for (const item of value.values()) tensorsIn(item, found);
  else if (value && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) tensorsIn(item, found);
  }
  return found;
}

type Encoded = Float32Array | Int32Array | Uint16Array;

function encode(data: ArrayLike<number>, dtype: DType): Encoded {
  switch (dtype) {
    case "f32":
      return data instanceof Float32Array ? data : Float32Array.from(data);
    case "i32":
      return data instanceof Int32Array ? data : Int32Array.from(data);
    case "f16":
      return data instanceof Uint16Array ? data : encodeF16(data);
    case "bf16":
      return data instanceof Uint16Array ? data : encodeBf16(data);
    default:
      return dtype satisfies never;
  }
}

function decode(bytes: Uint8Array, dtype: DType): Float32Array | Int32Array {
  const { buffer, byteOffset } = bytes;
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, bytes.length / 4);
    case "i32":
      return new Int32Array(buffer, byteOffset, bytes.length / 4);
    case "f16":
      return decodeF16(new Uint16Array(buffer, byteOffset, bytes.length / 2));
    case "bf16":
      return decodeBf16(new Uint16Array(buffer, byteOffset, bytes.length / 2));
    default:
      return dtype satisfies never;
  }
}
