/**
 * File access shared by the readers: sorted recursive listing, strict UTF-8, gzip.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { decodeUtf8, type InvalidUtf8 } from "../utf8.ts";

/** Folders of the corpus's packages by package name. */
export type Roots = ReadonlyMap<string, string>;

/** The only package's folder, for corpora of one package. */
export function onlyRoot(roots: Roots): string {
  const [root] = roots.values();
  return root;
}

/** Paths of the regular files under `folder`, relative with `/`, sorted by code unit; links are left out. */
export async function listFiles(folder: string, skip: ReadonlySet<string> = new Set()): Promise<string[]> {
  const found: string[] = [];
  const visit = async (relative: string): Promise<void> => {
    const entries = await readdir(join(folder, relative), { withFileTypes: true });
    for (const entry of entries) {
      if (skip.has(entry.name)) continue;
      const path = relative === "" ? entry.name : `${relative}/${entry.name}`;
      if (entry.isDirectory()) await visit(path);
      else if (entry.isFile()) found.push(path);
    }
  };
  await visit("");
  return found.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** Text of a file; gzip (also dictzip) is recognised by its first bytes. */
export async function readText(path: string, invalid: InvalidUtf8 = "error"): Promise<string> {
  const raw = await readFile(path);
  const bytes = raw.length > 2 && raw[0] === 0x1f && raw[1] === 0x8b ? gunzipSync(raw) : raw;
  return decodeUtf8(bytes, path, { invalid });
}
