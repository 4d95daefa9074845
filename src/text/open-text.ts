/**
 * Any text a user can name: a corpus of the catalogue, a text file, JSON lines, a folder. Streamed, in a fixed order, with
 * UTF-8 errors by file and byte.
 */
import { stat } from "node:fs/promises";
import { basename, extname, join, resolve } from "node:path";
import { inputError, throwIfAborted, usageError } from "../util/errors.ts";
import { didYouMean } from "../util/names.ts";
import { cutBlocks, type Piece, readBlocks, readLines } from "./blocks.ts";
import { corpusByName, isCorpus, listCorpora } from "./catalogue.ts";
import { corpusDocuments } from "./corpus.ts";
import { hashUnit } from "./hashing.ts";
import { type InstallOptions, otherVersions } from "./install.ts";
import { listFiles } from "./readers/files.ts";
import type { Document, Split } from "./types.ts";
import { decodeUtf8, type InvalidUtf8 } from "./utf8.ts";

export interface OpenTextOptions extends InstallOptions {
  /** Which documents; "all" by default. What is held out of user files: see `userHeldOut`. */
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

/**
 * What is held out of the user's own files: `share` of the records of JSON lines, and of the units of other files, which are
 * stretches of at most `unitBytes` that end at a paragraph if they can. Chosen by the hash of the content, so that neither
 * names nor paths decide, and equal stretches are always on one side. Neighbouring units of one split are one document.
 * Of a block of at least 1 / share units something is always held out; of a smaller text it may be nothing.
 */
const userHeldOut = { share: 0.03, unitBytes: 2048 };

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
  return found.isDirectory()
    ? source(spec, "folder", () => folderDocuments(spec, options), options)
    : source(spec, "file", () => fileDocuments(spec, basename(spec), options), options);
}

/**
 * What the documents of a text depend on, found without reading them: a corpus's packages and reader (and the versions in the
 * cache, where they are not the catalogue's), or the rule of the split and the paths, sizes and times of change of the files.
 * Equal values mean equal documents. A text that does not exist throws.
 */
export async function textFingerprint(
  spec: string,
  options: Pick<InstallOptions, "cacheDir"> = {},
): Promise<unknown> {
  if (isCorpus(spec)) {
    const corpus = corpusByName(spec);
    const { source, reader, heldOut } = corpus;
    const installed = await otherVersions(corpus, options);
    const parts = { source, reader, heldOut, ...(Object.keys(installed).length > 0 ? { installed } : {}) };
    return JSON.parse(JSON.stringify(parts, (_, v) => (v instanceof RegExp ? String(v) : v)));
  }
  const found = await stat(spec).catch(() => undefined);
  if (!found) throw usageError(unknownText(spec));
  const files = found.isDirectory() ? (await folderFiles(spec)).map((file) => join(spec, file)) : [spec];
  const states = files.map(async (file) => {
    const { size, mtimeMs } = await stat(file);
    return [resolve(file), size, mtimeMs];
  });
  return [userHeldOut, ...(await Promise.all(states))];
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
  const { invalid, blockBytes = 1 << 20, split = "all" } = options;
  const document = ({ bytes, offset }: Piece): Document => ({
    id: offset === 0 ? id : `${id}@${offset}`,
    text: decodeUtf8(bytes, path, { invalid, offset }).replace(/\r\n?/g, "\n"),
  });
  for await (const block of readBlocks(path, blockBytes)) {
    if (split === "all") yield document(block);
    else yield* selectUnits([...cutBlocks(block, userHeldOut.unitBytes)].map(document), split);
  }
}

/** The units of one split, neighbours joined. */
function* selectUnits(units: readonly Document[], split: Split): Generator<Document> {
  const places = units.map(({ text }) => placeOf(text));
  const least = units.length >= 1 / userHeldOut.share ? places.reduce((a, b) => Math.min(a, b)) : -1;
  const isHeld = (place: number) => place < userHeldOut.share || place <= least;
  const wanted = places.map((place) => isHeld(place) === (split === "heldout"));
  for (let i = 0, end = 0; i < units.length; i = end + 1) {
    for (end = i; wanted[end]; end++);
    const text = units.slice(i, end).map((unit) => unit.text);
    if (end > i) yield { id: units[i].id, text: text.join("") };
  }
}

/** A text's place in [0, 1) by its content; those below the share are held out. Changing it moves documents. */
const placeOf = (text: string): number => hashUnit(`user/${text}`);

async function* jsonlDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const { invalid, field = "text", split = "all" } = options;
  let line = 0;
  for await (const { bytes, offset } of readLines(path)) {
    line++;
    const json = decodeUtf8(bytes, path, { invalid, offset });
    if (json.trim() === "") continue;
    const text = textField(json, field, `${path}: line ${line} (byte ${offset})`);
    if (split === "all" || placeOf(text) < userHeldOut.share === (split === "heldout"))
      yield { id: `${id}:${line}`, text };
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
