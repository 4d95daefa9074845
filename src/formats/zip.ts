/**
 * Zip archives: what numpy and torch put arrays in. The central directory is checked wholly when an archive is opened, and no
 * entry may claim more than it can hold: sizes, ratios, overlaps and check sums are looked at. Nothing is ever written to disk
 * under an entry's name. Stored and deflated entries, zip64; no encryption, no archives in several parts.
 */
import { constants } from "node:buffer";
import * as fs from "node:fs";
import * as zlib from "node:zlib";
import { brief, didYouMean, inputError, ioError, usageError, writeAtomic } from "../util/index.ts";
import { allocateBytes, checkArrayName } from "./named-array.ts";

export interface ZipEntry {
  readonly name: string;
  /** Bytes of the content. */
  readonly size: number;
  /** Bytes in the archive. */
  readonly compressedSize: number;
  readonly deflated: boolean;
  readonly crc: number;
  /** Where its local header begins. */
  readonly offset: number;
}

const MAX_ENTRIES = 10_000;
const MAX_DIRECTORY = 16 << 20;
/** Deflated entries above this may not grow by more than `MAX_RATIO`. */
const FREE_SIZE = 64 << 20;
const MAX_RATIO = 100;

const { MAX_LENGTH } = constants;

const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;

/** An open archive. Call `close()` when done. */
export class ZipFile {
  readonly path: string;
  readonly #size: number;
  readonly #entries: ReadonlyMap<string, ZipEntry>;
  #handle: number | undefined;

  /** Opens and checks; throws a SluiceError that says what is wrong. */
  constructor(path: string) {
    this.path = path;
    try {
      this.#handle = fs.openSync(path, "r");
      this.#size = fs.fstatSync(this.#handle).size;
    } catch (cause) {
      throw ioError(`open ${path}`, cause);
    }
    try {
      this.#entries = this.#directory();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** In the order of the directory; folders are left out. */
  names(): string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  entry(name: string): ZipEntry {
    const entry = this.#entries.get(name);
    if (!entry) throw inputError(`${this.path}: no entry "${name}"${didYouMean(name, this.names())}`);
    return entry;
  }

  /** The content, checked against its size and check sum. `limit` refuses larger ones. */
  read(name: string, limit = Number.MAX_SAFE_INTEGER): Uint8Array {
    const entry = this.entry(name);
    const where = `${this.path}: entry "${name}"`;
    if (entry.size > limit)
      throw inputError(`${where} is ${entry.size} bytes; at most ${limit} are expected there`);
    const packed = this.#bytes(this.#dataStart(entry), entry.compressedSize, name);
    const content = entry.deflated ? inflate(where, packed, entry.size) : packed;
    if (crc32(content) !== entry.crc)
      throw inputError(`${where} does not match its check sum; the file is damaged`);
    return content;
  }

  close(): void {
    if (this.#handle !== undefined) fs.closeSync(this.#handle);
    this.#handle = undefined;
  }

  #bytes(start: number, length: number, what: string): Buffer {
    if (this.#handle === undefined) throw usageError(`${this.path}: read after close()`);
    const out = allocateBytes(`${this.path}: ${what}`, length);
    for (let at = 0; at < length; ) {
      let got: number;
      try {
        got = fs.readSync(this.#handle, out, at, Math.min(length - at, 1 << 30), start + at);
      } catch (cause) {
        throw ioError(`read ${what} of ${this.path}`, cause);
      }
      if (got === 0) throw inputError(`${this.path}: ${what} ends early (truncated?)`);
      at += got;
    }
    return out;
  }

  /** The local header repeats name and method; what it says must be what the directory says. */
  #dataStart(entry: ZipEntry): number {
    const where = `${this.path}: entry "${entry.name}"`;
    const header = this.#bytes(entry.offset, 30, entry.name);
    if (header.readUInt32LE(0) !== LOCAL) throw inputError(`${where} has no local header where it should be`);
    const nameLength = header.readUInt16LE(26);
    const name = this.#bytes(entry.offset + 30, nameLength, entry.name).toString("utf8");
    if (name !== entry.name) throw inputError(`${where} is called ${brief(name)} by its own header`);
    if (header.readUInt16LE(8) !== (entry.deflated ? 8 : 0))
      throw inputError(`${where}: directory and local header name different methods`);
    const start = entry.offset + 30 + nameLength + header.readUInt16LE(28);
    if (start + entry.compressedSize > this.#size)
      throw inputError(`${where} ends beyond the file (truncated?)`);
    return start;
  }

  #directory(): ReadonlyMap<string, ZipEntry> {
    const { path } = this;
    const end = this.#findEnd();
    const { count, size, offset, endOffset } = end;
    if (count > MAX_ENTRIES) {
      throw inputError(
        `${path}: ${count} entries are announced; files of arrays have at most ${MAX_ENTRIES}`,
      );
    }
    if (size > MAX_DIRECTORY) throw inputError(`${path}: a directory of ${size} bytes is announced`);
    if (offset + size > endOffset) throw inputError(`${path}: the directory lies beyond its own end`);
    const bytes = this.#bytes(offset, size, "its directory");
    const entries = new Map<string, ZipEntry>();
    const all: ZipEntry[] = [];
    let at = 0;
    for (let i = 0; i < count; i++) {
      if (at + 46 > size || bytes.readUInt32LE(at) !== CENTRAL) {
        throw inputError(`${path}: the directory ends after ${i} of ${count} entries (damaged?)`);
      }
      const [nameLength, extraLength, commentLength] = [28, 30, 32].map((o) => bytes.readUInt16LE(at + o));
      const next = at + 46 + nameLength + extraLength + commentLength;
      if (next > size) throw inputError(`${path}: entry ${i} of the directory is cut off`);
      const entry = parseEntry(path, bytes.subarray(at, next), nameLength, extraLength);
      if (entries.has(entry.name)) throw inputError(`${path}: the entry "${entry.name}" is there twice`);
      all.push(entry);
      entries.set(entry.name, entry);
      at = next;
    }
    if (at !== size) throw inputError(`${path}: ${size - at} bytes follow the last entry of the directory`);
    checkSizes(path, all, offset);
    for (const { name } of all) if (name.endsWith("/")) entries.delete(name);
    return entries;
  }

  /** The end record, which a comment of up to 64 KiB may follow. */
  #findEnd(): { count: number; size: number; offset: number; endOffset: number } {
    const { path } = this;
    const tail = Math.min(this.#size, 22 + 0xffff);
    const bytes = this.#bytes(this.#size - tail, tail, "its end");
    let at = tail - 22;
    while (at >= 0 && !(bytes.readUInt32LE(at) === END && at + 22 + bytes.readUInt16LE(at + 20) === tail))
      at--;
    if (at < 0) throw inputError(`${path}: a zip archive without its directory (truncated download?)`);
    if (bytes.readUInt16LE(at + 4) !== 0 || bytes.readUInt16LE(at + 6) !== 0)
      throw inputError(`${path}: is one part of an archive in several parts; join them first`);
    const endOffset = this.#size - tail + at;
    const plain = {
      count: bytes.readUInt16LE(at + 10),
      size: bytes.readUInt32LE(at + 12),
      offset: bytes.readUInt32LE(at + 16),
      endOffset,
    };
    const large = plain.count === 0xffff || plain.size === 0xffffffff || plain.offset === 0xffffffff;
    return large ? this.#findEnd64(endOffset) : plain;
  }

  #findEnd64(endOffset: number): { count: number; size: number; offset: number; endOffset: number } {
    const { path } = this;
    if (endOffset < 20) throw inputError(`${path}: the zip64 record is missing`);
    const locator = this.#bytes(endOffset - 20, 20, "its zip64 locator");
    if (locator.readUInt32LE(0) !== LOCATOR64) throw inputError(`${path}: the zip64 record is missing`);
    const place = whole(path, locator, 8);
    if (place + 56 > endOffset - 20) throw inputError(`${path}: the zip64 record lies beyond the file`);
    const record = this.#bytes(place, 56, "its zip64 record");
    if (record.readUInt32LE(0) !== END64) throw inputError(`${path}: the zip64 record is damaged`);
    const [count, size, offset] = [32, 40, 48].map((o) => whole(path, record, o));
    return { count, size, offset, endOffset: place };
  }
}

/** A 64-bit number that JavaScript can count to. */
function whole(path: string, bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER))
    throw inputError(
      `${path}: a size or offset of ${value} bytes is announced; the file is damaged or hostile`,
    );
  return Number(value);
}

function parseEntry(path: string, bytes: Buffer, nameLength: number, extraLength: number): ZipEntry {
  const name = bytes.toString("utf8", 46, 46 + nameLength);
  const where = `${path}: entry ${brief(name)}`;
  if (nameLength === 0) throw inputError(`${path}: an entry has no name`);
  checkArrayName(path, name);
  if (name.startsWith("/") || name.includes("\\") || name.split("/").includes("..")) {
    throw inputError(`${where}: names must stay inside the archive`);
  }
  const flags = bytes.readUInt16LE(8);
  if (flags & 1) throw inputError(`${where} is encrypted; only plain archives are read`);
  const method = bytes.readUInt16LE(10);
  if (method !== 0 && method !== 8) {
    throw inputError(
      `${where} is compressed by method ${method}; only stored (0) and deflated (8) ones are read`,
    );
  }
  let compressedSize = bytes.readUInt32LE(20);
  let size = bytes.readUInt32LE(24);
  let offset = bytes.readUInt32LE(42);
  const extra = bytes.subarray(46 + nameLength, 46 + nameLength + extraLength);
  for (let at = 0; at + 4 <= extra.length; ) {
    const length = extra.readUInt16LE(at + 2);
    if (at + 4 + length > extra.length) break; // padding, as torch writes it
    if (extra.readUInt16LE(at) === 1) {
      let from = at + 4;
      const next = (): number => {
        if (from + 8 > at + 4 + length) throw inputError(`${where}: its zip64 sizes are cut off`);
        from += 8;
        return whole(path, extra, from - 8);
      };
      if (size === 0xffffffff) size = next();
      if (compressedSize === 0xffffffff) compressedSize = next();
      if (offset === 0xffffffff) offset = next();
    }
    at += 4 + length;
  }
  return { name, size, compressedSize, deflated: method === 8, crc: bytes.readUInt32LE(16), offset };
}

/** Entries lie before the directory, one after the other, and do not grow out of all proportion. */
function checkSizes(path: string, entries: readonly ZipEntry[], directory: number): void {
  const sorted = [...entries].sort((a, b) => a.offset - b.offset);
  sorted.forEach((entry, i) => {
    const { name, offset, size, compressedSize, deflated } = entry;
    const where = `${path}: entry "${name}"`;
    const least = offset + 30 + Buffer.byteLength(name) + compressedSize;
    if (least > directory)
      throw inputError(`${where} of ${compressedSize} bytes does not fit before the directory (truncated?)`);
    if (i + 1 < sorted.length && least > sorted[i + 1].offset)
      throw inputError(`${where} overlaps the entry "${sorted[i + 1].name}"`);
    if (!deflated && size !== compressedSize)
      throw inputError(`${where} is stored, but has two sizes: ${compressedSize} and ${size} bytes`);
    if (size > FREE_SIZE && size > MAX_RATIO * compressedSize) {
      throw inputError(
        `${where} would grow from ${compressedSize} to ${size} bytes; weights do not (a zip bomb?)`,
      );
    }
  });
  const total = entries.reduce((sum, { size }) => sum + size, 0);
  if (total > FREE_SIZE && total > MAX_RATIO * directory) {
    throw inputError(`${path}: ${total} bytes would come out of ${directory} (a zip bomb?)`);
  }
}

function inflate(where: string, packed: Uint8Array, size: number): Uint8Array {
  if (size > MAX_LENGTH) throw inputError(`${where} is ${size} bytes, more than can be held in one piece`);
  let content: Buffer;
  try {
    content = zlib.inflateRawSync(packed, { maxOutputLength: Math.max(size, 1) });
  } catch (cause) {
    const larger = (cause as { code?: unknown }).code === "ERR_BUFFER_TOO_LARGE";
    const why = larger ? `holds more than the ${size} bytes that it announces` : "cannot be decompressed";
    throw inputError(`${where} ${why}; the file is damaged or hostile`, cause);
  }
  if (content.length !== size)
    throw inputError(`${where} holds ${content.length} bytes, but ${size} are announced`);
  return content;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

/** Of bytes that follow others of check sum `before`. zlib's own where Node has it (20.15 and later). */
export function crc32(bytes: Uint8Array, before = 0): number {
  const native = (zlib as { crc32?: (data: Uint8Array, value: number) => number }).crc32;
  if (native) return native(bytes, before);
  let crc = before ^ 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

export interface WriteZipOptions {
  /** Content begins at a multiple of this (64, as torch does it). */
  readonly align?: number;
  /** Writes zip64 records even where they are not needed. */
  readonly zip64?: boolean;
}

/** What an entry holds: bytes, or several stretches of them. */
export type ZipContent = Uint8Array | readonly Uint8Array[];

/** Writes an archive of stored entries in one step. The same content gives the same bytes. */
export async function writeZip(
  path: string,
  entries: readonly (readonly [name: string, content: ZipContent])[],
  { align = 64, zip64 = false }: WriteZipOptions = {},
): Promise<void> {
  await writeAtomic(path, async (write) => {
    const directory: Buffer[] = [];
    let at = 0;
    for (const [name, content] of entries) {
      const stretches = content instanceof Uint8Array ? [content] : content;
      const size = stretches.reduce((sum, { length }) => sum + length, 0);
      const crc = stretches.reduce((sum, bytes) => crc32(bytes, sum), 0);
      const large = zip64 || size >= 0xffffffff || at >= 0xffffffff;
      const header = localHeader(name, size, crc, { at, align, large });
      directory.push(centralHeader(name, size, crc, { at, large }));
      await write(header);
      for (const bytes of stretches) await write(bytes);
      at += header.length + size;
    }
    const central = Buffer.concat(directory);
    await write(central);
    await write(endRecord(entries.length, central.length, at, zip64));
  });
}

/** 1 January 1980, the first day that zip knows. */
const DATE = 0x21;

function localHeader(
  name: string,
  size: number,
  crc: number,
  { at, align, large }: { at: number; align: number; large: boolean },
): Buffer {
  const bytes = Buffer.from(name);
  const sizes = large ? sizes64([size, size]) : Buffer.alloc(0);
  const padding = (align - ((at + 30 + bytes.length + sizes.length + 4) % align)) % align;
  const pad = Buffer.alloc(4 + padding, "Z");
  pad.write("FB", 0, "latin1"); // torch's padding field
  pad.writeUInt16LE(padding, 2);
  const header = Buffer.alloc(30);
  header.writeUInt32LE(LOCAL, 0);
  header.writeUInt16LE(large ? 45 : 20, 4);
  header.writeUInt16LE(DATE, 12);
  header.writeUInt32LE(crc, 14);
  header.writeUInt32LE(large ? 0xffffffff : size, 18);
  header.writeUInt32LE(large ? 0xffffffff : size, 22);
  header.writeUInt16LE(bytes.length, 26);
  header.writeUInt16LE(sizes.length + pad.length, 28);
  return Buffer.concat([header, bytes, sizes, pad]);
}

function centralHeader(
  name: string,
  size: number,
  crc: number,
  { at, large }: { at: number; large: boolean },
): Buffer {
  const bytes = Buffer.from(name);
  const sizes = large ? sizes64([size, size, at]) : Buffer.alloc(0);
  const header = Buffer.alloc(46);
  header.writeUInt32LE(CENTRAL, 0);
  header.writeUInt16LE(large ? 45 : 20, 4);
  header.writeUInt16LE(large ? 45 : 20, 6);
  header.writeUInt16LE(DATE, 14);
  header.writeUInt32LE(crc, 16);
  header.writeUInt32LE(large ? 0xffffffff : size, 20);
  header.writeUInt32LE(large ? 0xffffffff : size, 24);
  header.writeUInt16LE(bytes.length, 28);
  header.writeUInt16LE(sizes.length, 30);
  header.writeUInt32LE(large ? 0xffffffff : at, 42);
  return Buffer.concat([header, bytes, sizes]);
}

function sizes64(values: readonly number[]): Buffer {
  const out = Buffer.alloc(4 + 8 * values.length);
  out.writeUInt16LE(1, 0);
  out.writeUInt16LE(8 * values.length, 2);
  values.forEach((value, i) => {
    out.writeBigUInt64LE(BigInt(value), 4 + 8 * i);
  });
  return out;
}

function endRecord(count: number, size: number, offset: number, zip64: boolean): Buffer {
  const large = zip64 || offset >= 0xffffffff || size >= 0xffffffff || count >= 0xffff;
  const end = Buffer.alloc(22);
  end.writeUInt32LE(END, 0);
  end.writeUInt16LE(large ? 0xffff : count, 8);
  end.writeUInt16LE(large ? 0xffff : count, 10);
  end.writeUInt32LE(large ? 0xffffffff : size, 12);
  end.writeUInt32LE(large ? 0xffffffff : offset, 16);
  if (!large) return end;
  const record = Buffer.alloc(56);
  record.writeUInt32LE(END64, 0);
  record.writeBigUInt64LE(44n, 4);
  record.writeUInt16LE(45, 12);
  record.writeUInt16LE(45, 14);
  [count, count, size, offset].forEach((value, i) => {
    record.writeBigUInt64LE(BigInt(value), 24 + 8 * i);
  });
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(LOCATOR64, 0);
  locator.writeBigUInt64LE(BigInt(offset + size), 8);
  locator.writeUInt32LE(1, 16);
  return Buffer.concat([record, locator, end]);
}
