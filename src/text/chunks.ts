/**
 * The bytes of a file in pieces, unpacked if its name ends in .gz or .zst. Memory is bounded by the piece (and, for zstd, by the
 * window that the file was packed with).
 */
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { Decompress } from "fzstd";
import { errnoOf, inputError, ioError } from "../util/errors.ts";
import { formatBytes } from "../util/format.ts";

const readBytes = 1 << 18;
const packed = /\.(gz|zst)$/i;

/** A file's name without the ending of its packing. */
export const unpackedName = (path: string): string => path.replace(packed, "");

/** Whether a file is packed, by its name. */
export const isPacked = (path: string): boolean => packed.test(path);

/** The bytes of a file, unpacked. Damaged and cut off files throw with their name. */
export async function* readChunks(path: string): AsyncGenerator<Buffer> {
  const kind = packed.exec(path)?.[1].toLowerCase();
  if (kind === undefined) return yield* plainChunks(path);
  let bytes = 0;
  try {
    for await (const chunk of kind === "gz" ? gunzip(path) : unzstd(path)) {
      bytes += chunk.length;
      yield chunk;
    }
  } catch (cause) {
    if (errnoOf(cause) || (cause as Error).name === "SluiceError") throw ioError(`read ${path}`, cause);
    throw inputError(
      `${path}: no ${kind === "gz" ? "gzip" : "zstd"} file, damaged or cut off, after ${formatBytes(bytes)} of content: ${(cause as Error).message}`,
      cause,
    );
  }
}

async function* plainChunks(path: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: readBytes })) yield chunk as Buffer;
  } catch (cause) {
    throw errnoOf(cause) ? ioError(`read ${path}`, cause) : cause;
  }
}

async function* gunzip(path: string): AsyncGenerator<Buffer> {
  const unpacked = pipeline(
    createReadStream(path, { highWaterMark: readBytes }),
    createGunzip({ chunkSize: readBytes }),
    () => {},
  );
  for await (const chunk of unpacked) yield chunk as Buffer;
}

async function* unzstd(path: string): AsyncGenerator<Buffer> {
  const ready: Buffer[] = [];
  const decoder = new Decompress((data) => {
    if (data.length > 0) ready.push(Buffer.from(data.buffer, data.byteOffset, data.length));
  });
  for await (const chunk of plainChunks(path)) {
    // A little at a time: a small piece may hold very much.
    for (let at = 0; at < chunk.length; at += 1 << 14) {
      decoder.push(chunk.subarray(at, at + (1 << 14)));
      yield* ready.splice(0);
    }
  }
  decoder.push(new Uint8Array(0), true);
  yield* ready.splice(0);
}
