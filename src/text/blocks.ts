/**
 * Files read in pieces: blocks that end at a paragraph, and lines. Memory is bounded by the piece, not by the file.
 */
import { inputError, usageError } from "../util/errors.ts";
import { readChunks } from "./chunks.ts";

export interface Piece {
  bytes: Buffer;
  /** Of its first byte in the (unpacked) file. */
  offset: number;
}

/** Bytes of the longest UTF-8 sequence: a block holds at least one character. */
const longestCharacter = 4;
/** Longest line of a JSON-lines file. */
const longestLine = 1 << 28;

/** Pieces of at most `size` bytes (4 or more: a character) that end after an empty line, else after a line, else at a character. */
export async function* readBlocks(path: string, size: number): AsyncGenerator<Piece> {
  if (!(Number.isInteger(size) && size >= longestCharacter))
    throw usageError(`${path}: blockBytes=${size}, expected a whole number of at least ${longestCharacter}`);
  let held: Piece = { bytes: Buffer.alloc(0), offset: 0 };
  for await (const chunk of readChunks(path)) {
    held.bytes = held.bytes.length === 0 ? chunk : Buffer.concat([held.bytes, chunk]);
    for (; held.bytes.length >= size; held = after(held, size)) yield before(held, size);
  }
  if (held.bytes.length > 0) yield held;
}

/** The same of a piece in memory. */
export function* cutBlocks(piece: Piece, size: number): Generator<Piece> {
  let rest = piece;
  for (; rest.bytes.length > size; rest = after(rest, size)) yield before(rest, size);
  yield rest;
}

const before = ({ bytes, offset }: Piece, size: number): Piece => ({
  bytes: bytes.subarray(0, cutAt(bytes.subarray(0, size))),
  offset,
});

const after = ({ bytes, offset }: Piece, size: number): Piece => {
  const cut = cutAt(bytes.subarray(0, size));
  return { bytes: bytes.subarray(cut), offset: offset + cut };
};

/** Lines without their line ends; empty lines too. */
export async function* readLines(path: string): AsyncGenerator<Piece> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  let offset = 0;
  for await (const chunk of readChunks(path)) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      held.push(chunk.subarray(start, end));
      const bytes = held.length === 1 ? held[0] : Buffer.concat(held);
      yield { bytes, offset };
      offset += bytes.length + 1;
      held = [];
      heldBytes = 0;
      start = end + 1;
    }
    if (start < chunk.length) {
      held.push(chunk.subarray(start));
      heldBytes += chunk.length - start;
      if (heldBytes > longestLine)
        throw inputError(
          `${path}: the line at byte ${offset} is longer than ${longestLine} bytes; is this JSON lines?`,
        );
    }
  }
  if (heldBytes > 0) yield { bytes: Buffer.concat(held), offset };
}

/** Where to cut: never inside a UTF-8 sequence. */
function cutAt(bytes: Buffer): number {
  const half = bytes.length >> 1;
  const paragraph = bytes.lastIndexOf("\n\n");
  if (paragraph >= half) return paragraph + 2;
  const line = bytes.lastIndexOf(10);
  if (line >= half) return line + 1;
  let cut = bytes.length;
  for (let back = 0; back < 3 && (bytes[cut - 1] & 0xc0) === 0x80; back++) cut--;
  const lead = bytes[cut - 1];
  const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  return cut - 1 + length > bytes.length ? cut - 1 : bytes.length;
}
