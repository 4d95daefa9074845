/**
 * safetensors files, tensor by tensor. The header is checked wholly when a file is opened; no tensor is read before it is
 * asked for, and files are written in one step (whole or absent).
 */
import * as fs from "node:fs";
import { didYouMean, inputError, ioError, usageError, writeAtomic } from "../util/index.ts";
import {
  allocateBytes,
  bytesOf,
  elementCount,
  FILE_ITEM_SIZE,
  type FileDType,
  type NamedArray,
} from "./named-array.ts";
import {
  buildHeader,
  parseHeader,
  parseHeaderLength,
  type TensorInfo,
  type TensorShape,
} from "./safetensors-header.ts";

/** Reads bytes of an open file and gives how many there were. */
export type ReadPart = (part: { fd: number; position: number; length: number }) => number;

/** Anything that tensors can be read from by name: one file, or a checkpoint of several. */
export interface TensorSource {
  names(): string[];
  has(name: string): boolean;
  info(name: string): TensorInfo;
  read(name: string): Promise<NamedArray>;
  readSync(name: string): NamedArray;
  /** Fills `target` with bytes of the tensor, from its byte `at` on. */
  readInto(name: string, at: number, target: Uint8Array): Promise<void>;
  /** The same by a reader of the caller's, which gives how many bytes there were. */
  readWith(name: string, part: { at: number; length: number }, read: ReadPart): void;
  close(): void;
}

/** An open file. Call `close()` when done. */
export class SafetensorsFile implements TensorSource {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #tensors: ReadonlyMap<string, TensorInfo>;
  #handle: number | undefined;

  /** Opens and checks; throws a SluiceError that says what is wrong. */
  constructor(path: string) {
    this.path = path;
    try {
      this.#handle = fs.openSync(path, "r");
    } catch (cause) {
      throw ioError(`open ${path}`, cause);
    }
    try {
      const stat = fs.fstatSync(this.#handle);
      if (!stat.isFile()) throw inputError(`${path}: is not a file`);
      const first = this.#bytes(0, Math.min(8, stat.size), "its header");
      const length = parseHeaderLength(path, first, stat.size);
      const header = parseHeader(path, this.#bytes(8, length, "its header"), stat.size);
      this.#tensors = header.tensors;
      this.metadata = header.metadata;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** In the order of the header. */
  names(): string[] {
    return [...this.#tensors.keys()];
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  info(name: string): TensorInfo {
    const info = this.#tensors.get(name);
    if (!info) throw inputError(`${this.path}: no tensor "${name}"${didYouMean(name, this.#tensors.keys())}`);
    return info;
  }

  readSync(name: string): NamedArray {
    const info = this.info(name);
    return {
      dtype: info.dtype,
      shape: info.shape,
      data: this.#bytes(info.start, info.byteLength, `"${name}"`),
    };
  }

  async read(name: string): Promise<NamedArray> {
    const info = this.info(name);
    const data = await this.#bytesAsync(info.start, info.byteLength, `"${name}"`);
    return { dtype: info.dtype, shape: info.shape, data };
  }

  async readInto(name: string, at: number, target: Uint8Array): Promise<void> {
    await this.#fill(target, this.#position(name, at, target.length), `"${name}"`);
  }

  readWith(name: string, { at, length }: { at: number; length: number }, read: ReadPart): void {
    const part = { fd: this.#open(), position: this.#position(name, at, length), length };
    let got: number;
    try {
      got = read(part);
    } catch (cause) {
      throw ioError(`read "${name}" of ${this.path}`, cause);
    }
    if (got !== length) throw this.#shrunk(`"${name}"`);
  }

  /** Where bytes of a tensor begin in the file. */
  #position(name: string, at: number, length: number): number {
    const { start, byteLength } = this.info(name);
    if (at >= 0 && at + length <= byteLength) return start + at;
    throw usageError(`${this.path}: bytes ${at}..${at + length} are not in "${name}" of ${byteLength}`);
  }

  /** Rows [first, first + count) along the first axis. */
  readRowsSync(name: string, first: number, count: number): NamedArray {
    const { info, start, shape, size } = this.#rows(name, first, count);
    return { dtype: info.dtype, shape, data: this.#bytes(start, size, `"${name}"`) };
  }

  async readRows(name: string, first: number, count: number): Promise<NamedArray> {
    const { info, start, shape, size } = this.#rows(name, first, count);
    return { dtype: info.dtype, shape, data: await this.#bytesAsync(start, size, `"${name}"`) };
  }

  #rows(name: string, first: number, count: number) {
    const info = this.info(name);
    if (!(first >= 0 && count >= 0 && first + count <= (info.shape[0] ?? 0))) {
      throw usageError(`${this.path}: rows ${first}..${first + count} are not in "${name}" [${info.shape}]`);
    }
    const rowSize = elementCount(info.shape.slice(1)) * FILE_ITEM_SIZE[info.dtype];
    const shape = [count, ...info.shape.slice(1)];
    return { info, start: info.start + first * rowSize, shape, size: count * rowSize };
  }

  close(): void {
    if (this.#handle !== undefined) fs.closeSync(this.#handle);
    this.#handle = undefined;
  }

  #open(): number {
    if (this.#handle === undefined) throw usageError(`${this.path}: read after close()`);
    return this.#handle;
  }

  #bytes(start: number, length: number, what: string): Uint8Array {
    const handle = this.#open();
    const out = bytesOf(allocateBytes(`${this.path}: ${what}`, length));
    for (let at = 0; at < length; ) {
      let got: number;
      try {
        got = fs.readSync(handle, out, at, Math.min(length - at, 1 << 30), start + at);
      } catch (cause) {
        throw ioError(`read ${what} of ${this.path}`, cause);
      }
      if (got === 0) throw this.#shrunk(what);
      at += got;
    }
    return out;
  }

  async #bytesAsync(start: number, length: number, what: string): Promise<Uint8Array> {
    const out = bytesOf(allocateBytes(`${this.path}: ${what}`, length));
    await this.#fill(out, start, what);
    return out;
  }

  async #fill(out: Uint8Array, start: number, what: string): Promise<void> {
    const handle = this.#open();
    const { length } = out;
    for (let at = 0; at < length; ) {
      const got = await new Promise<number>((resolve, reject) => {
        fs.read(handle, out, at, Math.min(length - at, 1 << 30), start + at, (error, count) =>
          error ? reject(ioError(`read ${what} of ${this.path}`, error)) : resolve(count),
        );
      });
      if (got === 0) throw this.#shrunk(what);
      at += got;
    }
  }

  #shrunk(what: string): Error {
    return inputError(`${this.path}: ${what} ends early; the file was changed while it was open`);
  }
}

export const openSafetensors = (path: string): SafetensorsFile => new SafetensorsFile(path);

/** Reads every tensor of a file. */
export async function readSafetensors(path: string): Promise<Map<string, NamedArray>> {
  const file = openSafetensors(path);
  try {
    const out = new Map<string, NamedArray>();
    for (const name of file.names()) out.set(name, await file.read(name));
    return out;
  } finally {
    file.close();
  }
}

export function readSafetensorsSync(path: string): Map<string, NamedArray> {
  const file = openSafetensors(path);
  try {
    return new Map(file.names().map((name) => [name, file.readSync(name)]));
  } finally {
    file.close();
  }
}

/** A tensor that is produced only when its turn to be written comes. */
export interface LazyArray extends TensorShape {
  load(): NamedArray | Promise<NamedArray>;
}

export type WritableTensor = NamedArray | LazyArray;
export type WritableTensors = Readonly<Record<string, WritableTensor>> | ReadonlyMap<string, WritableTensor>;

export function tensorEntries(tensors: WritableTensors): [string, WritableTensor][] {
  return tensors instanceof Map ? [...tensors] : Object.entries(tensors);
}

/** Bytes of the data. */
export const byteSize = (t: TensorShape): number => elementCount(t.shape) * FILE_ITEM_SIZE[t.dtype];

/** Wide dtypes first, so that every tensor is aligned; within a width, the order of the reference implementation. */
const ORDER: readonly FileDType[] = "i64 f64 f32 u32 i32 bf16 f16 u16 i16 i8 u8 bool".split(
  " ",
) as FileDType[];

/**
 * Writes a file in one step. Lazy tensors are made one at a time, so memory stays at the largest one. Names are sorted
 * within a dtype, as Python's writer does: the same tensors give the same bytes.
 */
export async function writeSafetensors(
  path: string,
  tensors: WritableTensors,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const entries = tensorEntries(tensors).sort(
    ([a, x], [b, y]) => ORDER.indexOf(x.dtype) - ORDER.indexOf(y.dtype) || (a < b ? -1 : a > b ? 1 : 0),
  );
  for (const [name] of entries) {
    if (name === "__metadata__") throw usageError(`${path}: a tensor cannot be called __metadata__`);
  }
  await writeAtomic(path, async (write) => {
    await write(buildHeader(entries, metadata));
    for (const [name, tensor] of entries) {
      const array = "load" in tensor ? await tensor.load() : tensor;
      if (array.dtype !== tensor.dtype || array.data.byteLength !== byteSize(tensor)) {
        throw usageError(
          `${path}: tensor "${name}" was announced as ${tensor.dtype} [${tensor.shape}] (${byteSize(tensor)} bytes), ` +
            `but is ${array.dtype} with ${array.data.byteLength} bytes`,
        );
      }
      await write(array.data);
    }
  });
}
