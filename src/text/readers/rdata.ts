/**
 * R lazy-load databases (`.rdb`): objects one after another, each a 4-byte big-endian length and a zlib stream of R's XDR
 * serialisation (version 3). Only character vectors at the top are read; that is all a text needs.
 */
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { inflateSync } from "node:zlib";
import { inputError } from "../../util/errors.ts";
import { unwrap } from "../markup.ts";
import type { Document, ReaderSpec } from "../types.ts";
import { onlyRoot, type Roots } from "./files.ts";

const stringVector = 16;
const string = 9;

/** One document per character vector: its lines joined to paragraphs. The id is the first line in lower case. */
export async function* readRdata(
  spec: ReaderSpec & { kind: "rdata" },
  roots: Roots,
): AsyncGenerator<Document> {
  const file = join(onlyRoot(roots), spec.file);
  for (const object of rdbObjects(await readFile(file), basename(file))) {
    const lines = characterVector(object);
    if (lines.length < 10) continue;
    yield { id: lines[0].trim().toLowerCase().replace(/\W+/g, "-"), text: unwrap(lines.join("\n")) };
  }
}

/** The objects of an `.rdb` file, uncompressed. */
export function* rdbObjects(bytes: Buffer, file: string): Generator<Buffer> {
  let at = 0;
  while (at + 6 < bytes.length) {
    let result: { buffer: Buffer; engine: { bytesWritten: number } };
    try {
      // `info` makes zlib report how much of its input it used.
      result = inflateSync(bytes.subarray(at + 4), { info: true }) as unknown as typeof result;
    } catch (cause) {
      throw inputError(`${file}: no zlib stream at byte ${at + 4}`, cause);
    }
    yield result.buffer;
    at += 4 + result.engine.bytesWritten;
  }
}

/** Strings of a serialised character vector (NA as an empty string); an empty list if the object is something else. */
export function characterVector(object: Buffer): string[] {
  if (object.length < 14 || object.toString("latin1", 0, 2) !== "X\n") return [];
  let at = object.readInt32BE(2) >= 3 ? 18 + object.readInt32BE(14) : 14;
  if (at + 8 > object.length || object[at + 3] !== stringVector) return [];
  const count = object.readInt32BE(at + 4);
  at += 8;
  const lines: string[] = [];
  while (lines.length < count && at + 8 <= object.length && object[at + 3] === string) {
    const length = object.readInt32BE(at + 4);
    lines.push(length > 0 ? object.toString("utf8", at + 8, at + 8 + length) : "");
    at += 8 + Math.max(0, length);
  }
  return lines;
}
