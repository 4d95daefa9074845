/**
 * Files of torch.save: a zip of `data.pkl`, which says what there is, and `data/N`, the numbers. Read without running anything
 * (see pickle.ts); written in the same form, which torch.load(weights_only=True) takes.
 */
import * as fs from "node:fs";
import { brief, inputError, ioError } from "../util/index.ts";
import { elementCount, FILE_ITEM_SIZE, type FileDType, type NamedArray } from "./named-array.ts";
import { type PickledTensor, type PickleValue, parsePickle } from "./pickle.ts";
import { writeZip, ZipFile } from "./zip.ts";

const MAX_PICKLE = 16 << 20;

/** An open file. Call `close()` when done. */
export class TorchFile {
  readonly path: string;
  /** What was saved; tensors are read by `tensor`. */
  readonly root: PickleValue;
  readonly #zip: ZipFile;
  /** Folder of the archive that all entries are in. */
  readonly #prefix: string;

  constructor(path: string) {
    this.path = path;
    this.#zip = new ZipFile(path);
    try {
      const names = this.#zip.names();
      const pickle = names.find((name) => /^[^/]+\/data\.pkl$/.test(name));
      if (pickle === undefined) {
        const script = names.some((name) => name.endsWith("/constants.pkl") || name.includes("/code/"));
        const why = script ? "it is a TorchScript archive" : "there is no data.pkl";
        throw inputError(`${path}: is no file of torch.save: ${why}; save the state dict with torch.save`);
      }
      this.#prefix = pickle.slice(0, -"data.pkl".length);
      this.#checkByteOrder();
      this.root = parsePickle(`${path}: ${pickle}`, this.#zip.read(pickle, MAX_PICKLE));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #checkByteOrder(): void {
    const name = `${this.#prefix}byteorder`;
    if (!this.#zip.has(name)) return; // torch before 2.1: that of the machine, in practice little
    const order = Buffer.from(this.#zip.read(name, 64)).toString("latin1");
    if (order !== "little")
      throw inputError(
        `${this.path}: its numbers are in ${brief(order)} byte order; only little-endian ones are read`,
      );
  }

  /** The numbers of a tensor, row-major. */
  tensor({ storage, offset, shape, strides }: PickledTensor): NamedArray {
    const { dtype, key, length } = storage;
    const size = FILE_ITEM_SIZE[dtype];
    const name = `${this.#prefix}data/${key}`;
    const { size: bytes } = this.#zip.entry(name);
    if (bytes !== length * size)
      throw inputError(
        `${this.path}: "${name}" has ${bytes} bytes, but ${length} numbers of ${dtype} are announced`,
      );
    const data = this.#zip.read(name);
    return { dtype, shape, data: gather(data, { size, offset, shape, strides }) };
  }

  close(): void {
    this.#zip.close();
  }
}

interface Layout {
  readonly size: number;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** Elements in row-major order; shares memory when they lie so already. */
function gather(data: Uint8Array, { size, offset, shape, strides }: Layout): Uint8Array {
  const count = elementCount(shape);
  let expected = 1;
  let dense = true;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== expected) dense = false;
    expected *= shape[axis];
  }
  if (dense || count === 0) return data.subarray(offset * size, (offset + count) * size);
  const out = new Uint8Array(count * size);
  const index = new Array<number>(shape.length).fill(0);
  let from = offset;
  for (let i = 0; i < count; i++) {
    for (let b = 0; b < size; b++) out[i * size + b] = data[from * size + b];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis];
      if (++index[axis] < shape[axis]) break;
      from -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return out;
}

/** True of files that torch wrote before version 1.6: pickles one after the other, without a zip around them. */
export function isLegacyTorch(first: Uint8Array): boolean {
  const magic = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
  return first[0] === 0x80 && magic.every((byte, i) => first[2 + i] === byte);
}

/** The first bytes of a file, fewer if it is shorter. */
export function firstBytes(path: string, length: number): Uint8Array {
  let handle: number;
  try {
    handle = fs.openSync(path, "r");
  } catch (cause) {
    throw ioError(`open ${path}`, cause);
  }
  try {
    const out = new Uint8Array(length);
    return out.subarray(0, fs.readSync(handle, out, 0, length, 0));
  } catch (cause) {
    throw ioError(`read ${path}`, cause);
  } finally {
    fs.closeSync(handle);
  }
}

const STORAGE_NAMES: Partial<Record<FileDType, string>> = {
  f32: "FloatStorage",
  f64: "DoubleStorage",
  f16: "HalfStorage",
  bf16: "BFloat16Storage",
  i32: "IntStorage",
  i64: "LongStorage",
  u8: "ByteStorage",
  bool: "BoolStorage",
};

/** Writes an ordered dict of tensors as torch.save does. */
export function writeTorch(path: string, tensors: Readonly<Record<string, NamedArray>>): Promise<void> {
  const entries = Object.entries(tensors);
  return writeZip(path, [
    ["archive/data.pkl", pickleStateDict(entries)],
    ["archive/byteorder", Buffer.from("little")],
    ...entries.map(([, array], i) => [`archive/data/${i}`, array.data] as const),
    ["archive/version", Buffer.from("3\n")],
  ]);
}

function pickleStateDict(entries: readonly (readonly [string, NamedArray])[]): Buffer {
  const parts: Buffer[] = [];
  const raw = (...bytes: number[]): void => void parts.push(Buffer.from(bytes));
  const global = (module: string, name: string): void =>
    void parts.push(Buffer.from(`c${module}\n${name}\n`, "latin1"));
  const text = (value: string): void => {
    const bytes = Buffer.from(value);
    const length = Buffer.alloc(5, 0x58);
    length.writeUInt32LE(bytes.length, 1);
    parts.push(length, bytes);
  };
  const int = (value: number): void => {
    if (value < 256) {
      raw(0x4b, value);
      return;
    }
    const bytes = Buffer.alloc(10);
    bytes.writeUInt8(0x8a, 0); // LONG1 of eight bytes
    bytes.writeUInt8(8, 1);
    bytes.writeBigInt64LE(BigInt(value), 2);
    parts.push(bytes);
  };
  const tuple = (values: readonly number[]): void => {
    raw(0x28);
    for (const value of values) int(value);
    raw(0x74);
  };
  const orderedDict = (): void => {
    global("collections", "OrderedDict");
    raw(0x29, 0x52);
  };
  raw(0x80, 2);
  orderedDict();
  raw(0x28);
  entries.forEach(([name, { dtype, shape }], i) => {
    const storage = STORAGE_NAMES[dtype];
    if (!storage) throw inputError(`torch: ${name} is ${dtype}, which has no storage type here`);
    text(name);
    global("torch._utils", "_rebuild_tensor_v2");
    raw(0x28, 0x28);
    text("storage");
    global("torch", storage);
    text(String(i));
    text("cpu");
    int(elementCount(shape));
    raw(0x74, 0x51);
    int(0);
    tuple(shape);
    tuple(shape.map((_, axis) => elementCount(shape.slice(axis + 1))));
    raw(0x89);
    orderedDict();
    raw(0x74, 0x52);
  });
  raw(0x75, STOP);
  return Buffer.concat(parts);
}

const STOP = 0x2e;
