/**
 * Metamath databases: the comment `$( ... $)` before each theorem or definition, with the statement it describes.
 * The proofs, which are generated, are left out.
 */
import { join } from "node:path";
import type { Document, ReaderSpec } from "../types.ts";
import { listFiles, onlyRoot, type Roots, readText } from "./files.ts";

/** One document per commented `$a` or `$p` statement: the comment as one line, then the formula. */
export async function* readMetamath(
  spec: ReaderSpec & { kind: "metamath" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  for (const path of await listFiles(folder)) {
    if (!spec.match.test(path)) continue;
    for (const document of statements(await readText(join(folder, path), "replace"))) {
      yield { id: `${path.replace(/\.mm$/, "")}/${document.id}`, text: document.text };
    }
  }
}

const commented = /\$\(([^$]*(?:\$(?!\))[^$]*)*)\$\)\s*(\S+)\s+\$([ap])\s+([^$]*)\$/g;

/** The commented statements of a database's text. */
export function* statements(database: string): Generator<Document> {
  for (const [, comment, label, , formula] of database.matchAll(commented)) {
    const prose = comment
      .replace(/\s+/g, " ")
      .replace(
        /\((?:Contributed|Revised|Proof shortened|New usage|Proof modification)[^()]*(?:\([^()]*\)[^()]*)*\)/g,
        "",
      )
      .replace(/` ([^`]*) `/g, "$1")
      .replace(/~ (\S+)/g, "$1")
      .replace(/ ([.,;:])(?= |$)/g, "$1")
      .replace(/\s+/g, " ")
      .trim();
    if (prose.length >= 30) yield { id: label, text: `${prose}\n${formula.replace(/\s+/g, " ").trim()}` };
  }
}
