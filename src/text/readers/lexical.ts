/**
 * Readers of dictionaries: WordNet's data files and dictd databases (`.index` beside a dictzip `.dict.dz`).
 */
import { join } from "node:path";
import { unwrap } from "../markup.ts";
import type { Document, ReaderSpec } from "../types.ts";
import { onlyRoot, type Roots, readText } from "./files.ts";

/** Neighbouring synsets (which are related in meaning) as one document of `words: gloss` lines. */
export async function* readWordnet(
  spec: ReaderSpec & { kind: "wordnet" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), "dict");
  for (const part of ["noun", "verb", "adj", "adv"]) {
    const lines = (await readText(join(folder, `data.${part}`)))
      .split("\n")
      .filter((line) => /^\d{8} /.test(line));
    for (let i = 0; i < lines.length; i += spec.perDocument) {
      const entries = lines.slice(i, i + spec.perDocument).map(synsetLine);
      yield { id: `${part}/${i}`, text: entries.join("\n"), meta: { part } };
    }
  }
}

/** `dwarf, midget: a plant or animal that is atypically small` of a line of wndb(5). */
export function synsetLine(line: string): string {
  const [fields, gloss = ""] = line.split(" | ", 2);
  const parts = fields.split(" ");
  const count = Number.parseInt(parts[3], 16);
  const words: string[] = [];
  for (let w = 0; w < count; w++) words.push(parts[4 + 2 * w].replace(/\(\w+\)$/, "").replaceAll("_", " "));
  return `${words.join(", ")}: ${gloss.trim()}`;
}

const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/** A number of a dictd index: base 64, most significant digit first. */
export function dictdNumber(digits: string): number {
  let value = 0;
  for (const digit of digits) {
    const index = base64.indexOf(digit);
    if (index < 0) return Number.NaN;
    value = value * 64 + index;
  }
  return value;
}

/** One document per entry (several index words may point at one); database information (`00-...`) is left out. */
export async function* readDictd(
  spec: ReaderSpec & { kind: "dictd" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  const body = Buffer.from(await readText(join(folder, `${spec.name}.dict.dz`), "replace"), "utf8");
  const index = (await readText(join(folder, `${spec.name}.index`), "replace")).split("\n");
  const entries = new Map<number, { word: string; size: number }>();
  for (const line of index) {
    const [word, start, size] = line.split("\t");
    if (!size || word.startsWith("00")) continue;
    const at = dictdNumber(start);
    if (!entries.has(at)) entries.set(at, { word, size: dictdNumber(size) });
  }
  for (const [start, { word, size }] of [...entries].sort((a, b) => a[0] - b[0])) {
    const text = unwrap(body.toString("utf8", start, start + size)).replace(/\{([^{}]*)\}/g, "$1");
    if (text.length >= 40) yield { id: `${start}-${word.replace(/\s+/g, "_")}`, text };
  }
}
