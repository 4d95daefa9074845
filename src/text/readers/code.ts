/**
 * Source code of named npm packages: TypeScript and JavaScript as people wrote it. Minified, bundled and generated files are
 * recognised by their lines and left out.
 */
import { join } from "node:path";
import type { Document, ReaderSpec } from "../types.ts";
import { listFiles, type Roots, readText } from "./files.ts";

const source = /\.(?:ts|tsx|mts|js|jsx|mjs|cjs)$/;
const generated = /\.min\.|\.d\.[cm]?ts$|\.(?:umd|bundle)\.|(?:^|\/)(?:dist|node_modules|vendor)\//;

/** Longest source file taken, in characters: beyond it tables and bundles begin. */
const longestFile = 200_000;

/** One document per source file; ids are `package/path`. */
export async function* readCode(spec: ReaderSpec & { kind: "code" }, roots: Roots): AsyncGenerator<Document> {
  for (const [name, root] of roots) {
    for (const path of await listFiles(root)) {
      const folders = spec.folders[name] ?? [""];
      if (!folders.some((folder) => path.startsWith(folder)) || !source.test(path) || generated.test(path))
        continue;
      const text = stripLicenceHeader(
        (await readText(join(root, path), "replace")).replace(/\r\n?/g, "\n"),
      ).trim();
      if (text.length >= 100 && text.length <= longestFile && !looksGenerated(text))
        yield { id: `${name}/${path}`, text };
    }
  }
}

/** Whether the text is minified or generated: very long lines, or hardly any line breaks. */
export function looksGenerated(text: string): boolean {
  const lines = text.split("\n");
  const longest = lines.reduce((most, line) => Math.max(most, line.length), 0);
  return longest > 1000 || text.length / lines.length > 120;
}

/** A leading block comment that is a licence, which would repeat in every file of a package. */
export function stripLicenceHeader(text: string): string {
  const header = /^\s*\/\*[\s\S]*?\*\//.exec(text)?.[0];
  return header && /licen[sc]e|copyright/i.test(header) && header.length > 200
    ? text.slice(header.length)
    : text;
}
