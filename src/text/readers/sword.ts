/**
 * SWORD modules (zText, zCom): `.bzs`/`.czs` holds 12-byte little-endian records (offset, size, uncompressed size) into the
 * zlib blocks of `.bzz`/`.czz`. One block is a book or a chapter, in OSIS markup.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { inflateSync } from "node:zlib";
import { inputError } from "../../util/errors.ts";
import { osisToText } from "../markup.ts";
import type { Document, ReaderSpec } from "../types.ts";
import { onlyRoot, type Roots } from "./files.ts";

/** One document per compressed block of the module's two testaments. */
export async function* readSword(
  spec: ReaderSpec & { kind: "sword" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  for (const testament of ["ot", "nt"]) {
    const index = await readFile(join(folder, `${testament}.${spec.extension}s`));
    const blocks = await readFile(join(folder, `${testament}.${spec.extension}z`));
    for (const [number, osis] of swordBlocks(index, blocks, join(folder, testament)).entries()) {
      const text = osisToText(osis);
      if (text.length >= 100) yield { id: `${testament}/${number}`, text };
    }
  }
}

/** The module's blocks, uncompressed; `file` is for messages only. */
export function swordBlocks(index: Buffer, blocks: Buffer, file: string): string[] {
  const texts: string[] = [];
  for (let at = 0; at + 12 <= index.length; at += 12) {
    const offset = index.readUInt32LE(at);
    const size = index.readUInt32LE(at + 4);
    if (size === 0) {
      texts.push("");
      continue;
    }
    if (offset + size > blocks.length) {
      throw inputError(
        `${file}: SWORD block ${at / 12} ends at byte ${offset + size}, but the data has ${blocks.length}`,
      );
    }
    texts.push(inflateSync(blocks.subarray(offset, offset + size)).toString("utf8"));
  }
  return texts;
}
