/**
 * Any text a user can name: a corpus of the catalogue, a text file, JSON lines, a folder. Streamed, in a fixed order, with
 * UTF-8 errors by file and byte.
 */
import { stat } from "node:fs/promises";
import { basename, extname, join, resolve } from "node:path";
import { inputError, throwIfAborted, usageError } from "../util/errors.ts";
import { didYouMean } from "../util/names.ts";
import { readBlocks, readLines } from "./blocks.ts";
import { corpusByName, isCorpus, listCorpora } from "./catalogue.ts";
import { corpusDocuments, selectSplit } from "./corpus.ts";
import type { InstallOptions } from "./install.ts";
import { listFiles } from "./readers/files.ts";
import type { Document, HeldOutRule, Split } from "./types.ts";
import { decodeUtf8, type InvalidUtf8 } from "./utf8.ts";

export interface OpenTextOptions extends InstallOptions {
  /** Which documents; "all" by default. User files hold out 3% of their documents by the hash of their ids. */
  split?: Split;
  /** JSON lines: the field that holds the text, "text" by default. */
  field?: string;
  /** Invalid UTF-8: an error (default), or U+FFFD. */
  invalid?: InvalidUtf8;
  /** Text files longer than this many bytes become several documents, cut at paragraphs; 1 MiB by default. */
  blockBytes?: number;
}

/** Text that can be read any number of times. Reading it throws if there is no document at all. */
export interface TextSource extends AsyncIterable<Document> {
  name: string;
  kind: "corpus" | "file" | "folder" | "several";
}

/** Held-out documents of the user's own files. */
export const userHeldOut: HeldOutRule = { kind: "hash", share: 0.03 };

const textEndings = new Set([".txt", ".md", ".rst", ".text"]);
const codeEndings = new Set(
  ".c .h .cc .cpp .hpp .cs .go .java .js .jsx .mjs .cjs .ts .tsx .mts .py .rb .rs .sh .sql .swift .kt .scala .lua .pl .r .jl .hs .ml .tex".split(
    " ",
  ),
);
const skippedFolders = new Set(["node_modules", ".git", ".hg", ".svn", "__pycache__"]);

/** Opens a text, or several one after another. Unknown names and missing files throw at once. */
export async function openText(
  spec: string | readonly string[],
  options: OpenTextOptions = {},
): Promise<TextSource> {
  if (typeof spec !== "string") {
    const sources = await Promise.all(spec.map((one) => openText(one, options)));
    if (sources.length === 0) throw usageError("no text was named");
    return {
      name: sources.map(({ name }) => name).join(","),
      kind: "several",
      [Symbol.asyncIterator]: () => chain(sources),
    };
  }
  if (isCorpus(spec)) {
    corpusByName(spec);
    return source(spec, "corpus", () => corpusDocuments(spec, options), options);
  }
  const found = await stat(spec).catch(() => undefined);
  if (!found) throw usageError(unknownText(spec));
  const rule = (read: () => AsyncGenerator<Document>) => () =>
    selectSplit(read(), basename(spec), userHeldOut, options.split ?? "all");
  if (found.isDirectory())
    return source(
      spec,
      "folder",
      rule(() => folderDocuments(spec, options)),
      options,
    );
  return source(
    spec,
    "file",
    rule(() => fileDocuments(spec, basename(spec), options)),
    options,
  );
}

/**
 * What the documents of a text depend on, found without reading them: a corpus's packages and reader, or the paths, sizes and
 * times of change of the files. Equal values mean equal documents. A text that does not exist throws.
 */
export async function textFingerprint(spec: string): Promise<unknown> {
  if (isCorpus(spec)) {
    const { source, reader, heldOut } = corpusByName(spec);
    return JSON.parse(
      JSON.stringify({ source, reader, heldOut }, (_, v) => (v instanceof RegExp ? String(v) : v)),
    );
  }
  const found = await stat(spec).catch(() => undefined);
  if (!found) throw usageError(unknownText(spec));
  const files = found.isDirectory() ? (await folderFiles(spec)).map((file) => join(spec, file)) : [spec];
  return Promise.all(
    files.map(async (file) => {
      const { size, mtimeMs } = await stat(file);
      return [resolve(file), size, mtimeMs];
    }),
  );
}

function unknownText(spec: string): string {
  const names = listCorpora().map(({ name }) => name);
  return `no corpus is called "${spec}", and there is no such file or folder${didYouMean(spec, names)}`;
}

function source(
  name: string,
  kind: TextSource["kind"],
  read: () => AsyncGenerator<Document>,
  options: OpenTextOptions,
): TextSource {
  return { name, kind, [Symbol.asyncIterator]: () => notEmpty(name, read(), options) };
}

async function* notEmpty(
  name: string,
  documents: AsyncGenerator<Document>,
  options: OpenTextOptions,
): AsyncGenerator<Document> {
  let any = false;
  for await (const document of documents) {
    throwIfAborted(options.signal);
    if (document.text.trim() === "") continue;
    any = true;
    yield document;
  }
  const { split = "all" } = options;
  if (!any)
    throw inputError(
      `${name} has no text${split === "all" ? "" : ` in its ${split} documents; split "all" takes every document`}`,
    );
}

async function* chain(sources: readonly TextSource[]): AsyncGenerator<Document> {
  for (const one of sources) yield* one;
}

async function* folderDocuments(folder: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const files = await folderFiles(folder);
  if (files.length === 0) throw inputError(`${folder} has no text files (.txt, .md, .jsonl or source code)`);
  for (const file of files) yield* fileDocuments(join(folder, file), file, options);
}

/** Text files under a folder, relative, sorted. */
async function folderFiles(folder: string): Promise<string[]> {
  return (await listFiles(folder, skippedFolders)).filter(isTextFile);
}

function isTextFile(path: string): boolean {
  const ending = extname(path).toLowerCase();
  return textEndings.has(ending) || codeEndings.has(ending) || ending === ".jsonl";
}

function fileDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  return extname(path).toLowerCase() === ".jsonl"
    ? jsonlDocuments(path, id, options)
    : textDocuments(path, id, options);
}

async function* textDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const { invalid, blockBytes = 1 << 20 } = options;
  for await (const { bytes, offset } of readBlocks(path, blockBytes)) {
    const text = decodeUtf8(bytes, path, { invalid, offset }).replace(/\r\n?/g, "\n");
    yield { id: offset === 0 ? id : `${id}@${offset}`, text };
  }
}

async function* jsonlDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const { invalid, field = "text" } = options;
  let line = 0;
  for await (const { bytes, offset } of readLines(path)) {
    line++;
    const json = decodeUtf8(bytes, path, { invalid, offset });
    if (json.trim() === "") continue;
    yield { id: `${id}:${line}`, text: textField(json, field, `${path}: line ${line} (byte ${offset})`) };
  }
}

function textField(json: string, field: string, place: string): string {
  let record: unknown;
  try {
    record = JSON.parse(json);
  } catch (cause) {
    throw inputError(`${place} is not JSON: ${(cause as Error).message}`, cause);
  }
  const isRecord = typeof record === "object" && record !== null && !Array.isArray(record);
  const value = isRecord ? (record as Record<string, unknown>)[field] : undefined;
  if (typeof value === "string") return value;
  const there = isRecord
    ? `it has ${Object.keys(record as object).join(", ") || "no fields"}`
    : "it is no object";
  throw inputError(`${place} has no text field "${field}"; ${there}`);
}
