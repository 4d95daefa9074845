/**
 * The table of readers: every kind of source has exactly one.
 */
import type { Document, ReaderSpec } from "../types.ts";
import { readBrown } from "./brown.ts";
import { readCode } from "./code.ts";
import type { Roots } from "./files.ts";
import { readFactbook, readQuran, readSpdx } from "./json.ts";
import { readDictd, readWordnet } from "./lexical.ts";
import { readMetamath } from "./metamath.ts";
import { readChapters, readFortunes, readHtml, readJargon, readPlain } from "./plain.ts";
import { readRdata } from "./rdata.ts";
import { readSqlite } from "./sqlite.ts";
import { readSword } from "./sword.ts";

type Readers = {
  [K in ReaderSpec["kind"]]: (spec: ReaderSpec & { kind: K }, roots: Roots) => AsyncGenerator<Document>;
};

const readers: Readers = {
  plain: readPlain,
  "chapters-json": readChapters,
  brown: (_, roots) => readBrown(roots),
  code: readCode,
  spdx: (_, roots) => readSpdx(roots),
  factbook: (_, roots) => readFactbook(roots),
  quran: readQuran,
  wordnet: readWordnet,
  sword: readSword,
  rdata: readRdata,
  html: readHtml,
  jargon: readJargon,
  dictd: readDictd,
  fortunes: readFortunes,
  sqlite: readSqlite,
  metamath: readMetamath,
};

/** The documents of a corpus whose packages lie in `roots`, in a fixed order. */
export function readDocuments<K extends ReaderSpec["kind"]>(
  spec: ReaderSpec & { kind: K },
  roots: Roots,
): AsyncGenerator<Document> {
  const read = readers[spec.kind] as (spec: ReaderSpec, roots: Roots) => AsyncGenerator<Document>;
  return read(spec, roots);
}
