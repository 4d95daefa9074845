/**
 * numpy's files: .npy, one array behind a header that is a Python dict, and .npz, a zip of them. Only plain numbers are read;
 * object arrays, which hold pickles, and big-endian ones are refused by name.
 */
import { inputError, usageError } from "../util/index.ts";
import { elementCount, FILE_ITEM_SIZE, type FileDType, MAX_RANK, type NamedArray } from "./named-array.ts";
import { writeZip } from "./zip.ts";

const DESCR: Readonly<Record<string, FileDType>> = {
  "<f8": "f64",
  "<f4": "f32",
  "<f2": "f16",
  "<i8": "i64",
  "<i4": "i32",
  "<i2": "i16",
  "|i1": "i8",
  "<u4": "u32",
  "<u2": "u16",
  "|u1": "u8",
  "|b1": "bool",
};

/** Much more than numpy writes, and little enough that matching it takes no time. */
const MAX_HEADER = 4096;

const MAGIC = Buffer.from("\x93NUMPY", "latin1");

/** One .npy file. `where` begins the messages. */
export function parseNpy(where: string, given: Uint8Array): NamedArray {
  const bytes = Buffer.from(given.buffer, given.byteOffset, given.byteLength);
  if (bytes.length < 12 || !bytes.subarray(0, 6).equals(MAGIC))
    throw inputError(`${where} is not a .npy file`);
  const version = bytes[6];
  if (version < 1 || version > 3) throw inputError(`${where}: .npy version ${version}; 1 to 3 are read`);
  const begin = version === 1 ? 10 : 12;
  const length = version === 1 ? bytes.readUInt16LE(8) : bytes.readUInt32LE(8);
  if (begin + length > bytes.length)
    throw inputError(`${where}: its header ends beyond the file (truncated?)`);
  if (length > MAX_HEADER)
    throw inputError(`${where}: a header of ${length} bytes; numpy writes about 100 for a plain array`);
  const header = bytes.toString("latin1", begin, begin + length);
  const { descr, fortran, shape } = parseHeader(where, header);
  const dtype = Object.hasOwn(DESCR, descr) ? DESCR[descr] : undefined;
  if (!dtype) {
    const why = descr.includes("O") ? "; it holds Python objects, which are never loaded" : "";
    throw inputError(
      `${where}: dtype ${descr} is not supported${why}; supported: ${Object.keys(DESCR).join(", ")}`,
    );
  }
  const size = elementCount(shape) * FILE_ITEM_SIZE[dtype];
  const data = given.subarray(begin + length);
  if (size !== data.length) {
    throw inputError(
      `${where}: ${dtype} [${shape.join(", ")}] takes ${size} bytes, but ${data.length} follow`,
    );
  }
  if (!fortran || shape.length < 2) return { dtype, shape, data };
  if (shape.length > 2)
    throw inputError(`${where}: is in Fortran order with ${shape.length} axes; at most 2 are read`);
  return { dtype, shape, data: turned(data, shape[1], shape[0], FILE_ITEM_SIZE[dtype]) };
}

/** `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, and nothing else that Python would evaluate. */
function parseHeader(where: string, text: string) {
  const found =
    /^\s*\{\s*'descr':\s*'([^']{1,16})'\s*,\s*'fortran_order':\s*(True|False)\s*,\s*'shape':\s*\(([\d, ]*)\)\s*,?\s*\}\s*$/.exec(
      text,
    );
  if (!found) throw inputError(`${where}: its header is not one that numpy writes for a plain array`);
  const shape = found[3]
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(Number);
  if (
    shape.length > MAX_RANK ||
    !shape.every(Number.isSafeInteger) ||
    !Number.isSafeInteger(8 * elementCount(shape))
  )
    throw inputError(`${where}: shape (${found[3].slice(0, 80)}) is too large`);
  return { descr: found[1], fortran: found[2] === "True", shape };
}

/** [rows, columns] items of `size` bytes -> [columns, rows]. */
function turned(data: Uint8Array, rows: number, columns: number, size: number): Uint8Array {
  const out = new Uint8Array(data.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const from = (r * columns + c) * size;
      const to = (c * rows + r) * size;
      for (let b = 0; b < size; b++) out[to + b] = data[from + b];
    }
  }
  return out;
}

/** Header and content of a .npy file, version 1. */
export function npyParts({ dtype, shape, data }: NamedArray): [Uint8Array, Uint8Array] {
  const descr = Object.entries(DESCR).find(([, ours]) => ours === dtype)?.[0];
  if (!descr) throw usageError(`npy: numpy has no dtype ${dtype}; write f32 or f16`);
  const dims = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${dims}), }`;
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const header = Buffer.alloc(10 + length, " ");
  MAGIC.copy(header);
  header.writeUInt8(1, 6);
  header.writeUInt8(0, 7);
  header.writeUInt16LE(length, 8);
  header.write(text, 10, "latin1");
  header.write("\n", 10 + length - 1, "latin1");
  return [header, data];
}

/** Writes a .npz of stored arrays, as numpy.savez does. */
export function writeNpz(path: string, arrays: Readonly<Record<string, NamedArray>>): Promise<void> {
  return writeZip(
    path,
    Object.entries(arrays).map(([name, array]) => [`${name}.npy`, npyParts(array)]),
  );
}
