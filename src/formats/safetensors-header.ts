/**
 * The safetensors header: 8 bytes of little-endian length, then JSON { name: { dtype, shape, data_offsets } }.
 * Parsing trusts nothing: whatever a damaged or hostile file holds ends in an error that names the file and the tensor.
 */
import { brief, inputError, SluiceError } from "../util/index.ts";
import {
  checkArrayName,
  describeArray,
  elementCount,
  FILE_ITEM_SIZE,
  type FileDType,
  MAX_RANK,
} from "./named-array.ts";

const DTYPES: Readonly<Record<string, FileDType>> = {
  F64: "f64",
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
  I64: "i64",
  I32: "i32",
  I16: "i16",
  I8: "i8",
  U8: "u8",
  U16: "u16",
  U32: "u32",
  BOOL: "bool",
};
const NAMES = Object.fromEntries(Object.entries(DTYPES).map(([name, dtype]) => [dtype, name])) as Record<
  FileDType,
  string
>;

/** The limit of the reference implementation. */
const MAX_HEADER = 100_000_000;

export interface TensorInfo {
  readonly dtype: FileDType;
  readonly shape: readonly number[];
  /** Position of the first byte in the file. */
  readonly start: number;
  readonly byteLength: number;
}

export interface Header {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Length of the JSON from the first eight bytes. */
export function parseHeaderLength(file: string, first: Uint8Array, fileSize: number): number {
  if (first.length < 8) {
    throw inputError(
      `${file}: only ${fileSize} bytes, too short for a safetensors file (truncated download?)`,
    );
  }
  const view = new DataView(first.buffer, first.byteOffset, 8);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > MAX_HEADER) {
    throw inputError(`${file}: a header of ${length} bytes is announced; this is not a safetensors file`);
  }
  if (length > fileSize - 8) {
    throw inputError(
      `${file}: a header of ${length} bytes is announced, but only ${fileSize - 8} follow (truncated?)`,
    );
  }
  if (length < 2)
    throw inputError(`${file}: a header of ${length} bytes is announced, at least 2 are needed`);
  return length;
}

/** `bytes` is the JSON part; every tensor must lie within `fileSize`, without gap or overlap. */
export function parseHeader(file: string, bytes: Uint8Array, fileSize: number): Header {
  const root = parseJson(file, bytes);
  const dataStart = 8 + bytes.length;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === "__metadata__") metadata = parseMetadata(file, value);
    else tensors.set(name, parseEntry(file, name, value, dataStart));
  }
  checkLayout(file, tensors, dataStart, fileSize);
  return { tensors, metadata };
}

function parseJson(file: string, bytes: Uint8Array): Record<string, unknown> {
  let root: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    root = JSON.parse(text);
    refuseDuplicateKeys(file, text);
  } catch (cause) {
    if (cause instanceof SluiceError) throw cause;
    throw inputError(`${file}: the safetensors header is not valid JSON: ${(cause as Error).message}`, cause);
  }
  if (!isObject(root)) throw inputError(`${file}: the safetensors header is not a JSON object`);
  return root;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** JSON.parse keeps the last of two equal keys; a reader that keeps the first would see another file. */
function refuseDuplicateKeys(file: string, text: string): void {
  const open: (Set<string> | null)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "{") open.push(new Set());
    else if (c === "[") open.push(null);
    else if (c === "}" || c === "]") open.pop();
    else if (c === '"') {
      const begin = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === "\\") i++;
      const keys = open[open.length - 1];
      if (!keys || !isKey(text, i + 1)) continue;
      const key = JSON.parse(text.slice(begin, i + 1)) as string;
      if (keys.has(key)) throw inputError(`${file}: the safetensors header has the key ${brief(key)} twice`);
      keys.add(key);
    }
  }
}

/** Whether a colon follows, after any space. */
function isKey(text: string, at: number): boolean {
  while (/\s/.test(text[at])) at++;
  return text[at] === ":";
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  if (!isObject(value)) throw inputError(`${file}: __metadata__ of the safetensors header is not an object`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") throw inputError(`${file}: __metadata__ ${brief(key)} is not a string`);
  }
  return value as Record<string, string>;
}

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;

function parseEntry(file: string, name: string, value: unknown, dataStart: number): TensorInfo {
  checkArrayName(file, name);
  const where = `${file}: tensor "${name}"`;
  if (!isObject(value)) throw inputError(`${where}: its entry is not an object`);
  const { dtype: code, shape, data_offsets: offsets } = value;
  if (typeof code !== "string") throw inputError(`${where}: dtype is missing`);
  const dtype = Object.hasOwn(DTYPES, code) ? DTYPES[code] : undefined;
  if (!dtype) {
    throw inputError(
      `${where}: unknown dtype ${code.slice(0, 20)}; supported are ${Object.keys(DTYPES).join(", ")}`,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw inputError(`${where}: shape must be a list of whole numbers, not ${brief(shape)}`);
  }
  if (shape.length > MAX_RANK)
    throw inputError(`${where}: has ${shape.length} axes; at most ${MAX_RANK} are read`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw inputError(`${where}: data_offsets must be two whole numbers, not ${brief(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const byteLength = elementCount(shape) * FILE_ITEM_SIZE[dtype];
  if (!Number.isSafeInteger(byteLength)) throw inputError(`${where}: shape [${shape}] is too large`);
  if (end - begin !== byteLength) {
    throw inputError(
      `${where}: ${describeArray({ dtype, shape })} takes ${byteLength} bytes, but data_offsets ` +
        `[${begin}, ${end}] hold ${end - begin}`,
    );
  }
  return { dtype, shape, start: dataStart + begin, byteLength };
}

/** Tensors must cover the data part exactly: no gap (hidden data), no overlap, no end beyond the file. */
function checkLayout(
  file: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  fileSize: number,
): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.byteLength - b.byteLength);
  let at = dataStart;
  for (const [name, info] of sorted) {
    if (info.start + info.byteLength > fileSize) {
      throw inputError(
        `${file}: tensor "${name}" ends at byte ${info.start + info.byteLength}, but the file has only ` +
          `${fileSize} bytes (truncated?)`,
      );
    }
    if (info.start !== at) {
      const what = info.start < at ? "overlaps the tensor before it" : "leaves a gap before it";
      throw inputError(
        `${file}: tensor "${name}" ${what} (begins at ${info.start - dataStart}, expected ${at - dataStart})`,
      );
    }
    at = info.start + info.byteLength;
  }
  if (at !== fileSize) {
    throw inputError(
      `${file}: ${fileSize - at} bytes follow the last tensor; the file does not match its header`,
    );
  }
}

export interface TensorShape {
  readonly dtype: FileDType;
  readonly shape: readonly number[];
}

/** Length and JSON, padded with spaces so that the data begins at a multiple of 8. Offsets follow the given order. */
export function buildHeader(
  tensors: readonly (readonly [string, TensorShape])[],
  metadata: Readonly<Record<string, string>> | undefined,
): Uint8Array {
  const entries: [string, unknown][] = [];
  if (metadata && Object.keys(metadata).length > 0) entries.push(["__metadata__", metadata]);
  let at = 0;
  for (const [name, { dtype, shape }] of tensors) {
    const end = at + elementCount(shape) * FILE_ITEM_SIZE[dtype];
    entries.push([name, { dtype: NAMES[dtype], shape, data_offsets: [at, end] }]);
    at = end;
  }
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const padded = Math.ceil(json.length / 8) * 8;
  const out = Buffer.alloc(8 + padded, 0x20);
  out.writeUInt32LE(padded, 0);
  out.writeUInt32LE(0, 4);
  json.copy(out, 8);
  return out;
}
