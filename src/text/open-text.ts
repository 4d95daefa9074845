/**
 * Any text a user can name: a corpus of the catalogue, a text file, JSON lines, Parquet, a folder, files of a dataset on the hub;
 * packed by gzip or zstd or not. Streamed, in a fixed order, with errors by file and byte, line or row group.
 */
import { stat } from "node:fs/promises";
import { basename, extname, join, resolve } from "node:path";
import {
  type HubOptions,
  isDatasetPath,
  isPattern,
  openRepo,
  parseDatasetPath,
  type Repo,
  type RepoFile,
} from "../hub/index.ts";
import { inputError, throwIfAborted, usageError } from "../util/errors.ts";
import { didYouMean } from "../util/names.ts";
import { cutBlocks, type Piece, readBlocks, readLines } from "./blocks.ts";
import { corpusByName, isCorpus, listCorpora } from "./catalogue.ts";
import { isPacked, unpackedName } from "./chunks.ts";
import { corpusDocuments } from "./corpus.ts";
import { hashUnit } from "./hashing.ts";
import { type InstallOptions, otherVersions } from "./install.ts";
import { parquetTexts } from "./parquet.ts";
import { listFiles } from "./readers/files.ts";
import type { Document, Split } from "./types.ts";
import { decodeUtf8, type InvalidUtf8 } from "./utf8.ts";

export interface OpenTextOptions extends InstallOptions {
  /** Which documents; "all" by default. What is held out of user files: see `userHeldOut`. */
  split?: Split;
  /** JSON lines and Parquet: the field or column that holds the text, "text" by default. */
  field?: string;
  /** Invalid UTF-8: an error (default), or U+FFFD. */
  invalid?: InvalidUtf8;
  /** Text files longer than this many bytes become several documents, cut at paragraphs; 1 MiB by default. */
  blockBytes?: number;
  /** Datasets of the hub: progress, settings. */
  hub?: HubOptions;
}

/** A stretch of a text that is read on its own, and where it comes from the hub downloaded when its turn comes. */
export interface TextPart {
  readonly name: string;
  /** As it is stored, where that is known. */
  readonly bytes?: number;
  /** In their fixed order; those without text are left out. */
  documents(): AsyncGenerator<Document>;
}

/** Text that can be read any number of times. Reading it throws if there is no document at all. */
export interface TextSource extends AsyncIterable<Document> {
  name: string;
  kind: "corpus" | "file" | "folder" | "hub" | "several";
}

/**
 * What is held out of the user's own files: `share` of the records of JSON lines and Parquet, and of the units of other files, which are
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
/** JSON lines. */
const lineEndings = new Set([".jsonl", ".ndjson", ".json"]);
const skippedFolders = new Set(["node_modules", ".git", ".hg", ".svn", "__pycache__"]);

/** A folder is no text by these: they describe it. */
const cards = new Set(["readme.md", "license.md", "license.txt"]);

/**
 * Opens a text, or several one after another. Unknown names and missing files throw at once; files of the hub are downloaded
 * when their turn comes.
 */
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
  const { kind, parts } = await openParts(spec, options);
  return { name: spec, kind, [Symbol.asyncIterator]: () => notEmpty(spec, chain(parts), options) };
}

/** The parts of a text in their order: each file of a dataset of the hub; any other text is one. */
export async function textParts(spec: string, options: OpenTextOptions = {}): Promise<readonly TextPart[]> {
  return (await openParts(spec, options)).parts;
}

async function openParts(
  spec: string,
  options: OpenTextOptions,
): Promise<{ kind: TextSource["kind"]; parts: readonly TextPart[] }> {
  const part = (name: string, documents: () => AsyncGenerator<Document>, bytes?: number): TextPart => ({
    name,
    bytes,
    documents: () => withText(documents(), options),
  });
  if (isCorpus(spec)) {
    corpusByName(spec);
    return { kind: "corpus", parts: [part(spec, () => corpusDocuments(spec, options))] };
  }
  if (isDatasetPath(spec)) {
    const { repo, files } = await openDataset(spec, options);
    const parts = files.map((file) =>
      part(file.path, () => datasetDocuments(repo, file, options), file.size),
    );
    return { kind: "hub", parts };
  }
  const found = await stat(spec).catch(() => undefined);
  if (!found) throw usageError(unknownText(spec));
  return found.isDirectory()
    ? { kind: "folder", parts: [part(spec, () => folderDocuments(spec, options))] }
    : { kind: "file", parts: [part(spec, () => fileDocuments(spec, basename(spec), options))] };
}

/**
 * What the documents of a text depend on, found without reading them: a corpus's packages and reader (and the versions in the
 * cache, where they are not the catalogue's), or the rule of the split and the paths, sizes and times of change of the files, or
 * a dataset's commit and files. Equal values mean equal documents. A text that does not exist throws.
 */
export async function textFingerprint(
  spec: string,
  options: Pick<OpenTextOptions, "cacheDir" | "hub" | "signal" | "log"> = {},
): Promise<unknown> {
  if (isCorpus(spec)) {
    const corpus = corpusByName(spec);
    const { source, reader, heldOut } = corpus;
    const installed = await otherVersions(corpus, options);
    const parts = { source, reader, heldOut, ...(Object.keys(installed).length > 0 ? { installed } : {}) };
    return JSON.parse(JSON.stringify(parts, (_, v) => (v instanceof RegExp ? String(v) : v)));
  }
  if (isDatasetPath(spec)) {
    const { repo, files } = await openDataset(spec, options);
    return [userHeldOut, repo.commit, files.map(({ path, size }) => [path, size])];
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

/** The text at the commit that its revision is now, so that reading it twice reads the same; other texts as they are. */
export async function pinText(
  spec: string,
  options: Pick<OpenTextOptions, "hub" | "signal" | "log"> = {},
): Promise<string> {
  if (isCorpus(spec) || !isDatasetPath(spec)) return spec;
  const { repo: id, path } = parseDatasetPath(spec);
  const { commit } = await openRepo(id, hubOptions(options));
  return `hf://datasets/${id.name}@${commit}${path === "" ? "" : `/${path}`}`;
}

const hubOptions = ({ hub, signal, log }: Pick<OpenTextOptions, "hub" | "signal" | "log">): HubOptions => ({
  signal,
  log,
  ...hub,
});

interface Dataset {
  repo: Repo;
  files: RepoFile[];
}

/** The files that a path or pattern in a dataset means. A folder's are those that hold text; its card and its loading script are not. */
async function openDataset(
  spec: string,
  options: Pick<OpenTextOptions, "hub" | "signal" | "log">,
): Promise<Dataset> {
  const { repo: id, path } = parseDatasetPath(spec);
  const repo = await openRepo(id, hubOptions(options));
  const found = await repo.find(path);
  const named = isPattern(path) || found.some((file) => file.path === path);
  const script = `${id.name.split("/")[1]}.py`; // by which Python once loaded a dataset
  const isText = (file: string) => isTextFile(file) && !isCard(file) && file !== script;
  const files = named ? found : found.filter((file) => isText(file.path));
  if (files.length === 0) {
    const near = found.length > 0 ? found : await repo.list();
    const where = repo.offline ? ` of those in the cache (${repo.folder}; HF_HUB_OFFLINE is set)` : "";
    throw usageError(
      `${spec}: no file of text${where}${didYouMean(
        path,
        near.map((file) => file.path),
      )}`,
    );
  }
  return { repo, files };
}

const isCard = (path: string): boolean =>
  cards.has(path.toLowerCase()) || path.split("/").some((part) => part.startsWith("."));

async function* datasetDocuments(
  repo: Repo,
  file: RepoFile,
  options: OpenTextOptions,
): AsyncGenerator<Document> {
  const folder = await repo.fetch([file]);
  yield* fileDocuments(join(folder, file.path), file.path, options);
}

function unknownText(spec: string): string {
  const names = listCorpora().map(({ name }) => name);
  return `no corpus is called "${spec}", and there is no such file or folder${didYouMean(spec, names)}`;
}

/** Documents that are more than blanks. */
async function* withText(
  documents: AsyncGenerator<Document>,
  { signal }: OpenTextOptions,
): AsyncGenerator<Document> {
  for await (const document of documents) {
    throwIfAborted(signal);
    if (document.text.trim() !== "") yield document;
  }
}

async function* notEmpty(
  name: string,
  documents: AsyncGenerator<Document>,
  { split }: OpenTextOptions,
): AsyncGenerator<Document> {
  let any = false;
  for await (const document of documents) {
    any = true;
    yield document;
  }
  if (!any) throw noText(name, split);
}

/** The error of a text that has no document in a split. */
export const noText = (name: string, split: Split = "all"): Error =>
  inputError(
    `${name} has no text${split === "all" ? "" : ` in its ${split} documents; split "all" takes every document`}`,
  );

async function* chain(sources: readonly (TextSource | TextPart)[]): AsyncGenerator<Document> {
  for (const one of sources) yield* "documents" in one ? one.documents() : one;
}

async function* folderDocuments(folder: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const files = await folderFiles(folder);
  if (files.length === 0)
    throw inputError(
      `${folder} has no text files (.txt, .md, .jsonl, .parquet or source code, packed or not)`,
    );
  for (const file of files) yield* fileDocuments(join(folder, file), file, options);
}

/** Text files under a folder, relative, sorted. */
async function folderFiles(folder: string): Promise<string[]> {
  return (await listFiles(folder, skippedFolders)).filter(isTextFile);
}

/** Whether a file in a folder is read. A plain .json is not: it is as likely a setting as a text. */
function isTextFile(path: string): boolean {
  const ending = endingOf(path);
  if (ending === ".parquet" || lineEndings.has(ending)) return ending !== ".json" || isPacked(path);
  return textEndings.has(ending) || codeEndings.has(ending);
}

/** Of the name without .gz or .zst. */
const endingOf = (path: string): string => extname(unpackedName(path)).toLowerCase();

function fileDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const ending = endingOf(path);
  if (ending === ".parquet") return parquetDocuments(path, id, options);
  return lineEndings.has(ending) ? jsonlDocuments(path, id, options) : textDocuments(path, id, options);
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

/** Records whose field is null are left out, as rows without a value are. */
async function* jsonlDocuments(path: string, id: string, options: OpenTextOptions): AsyncGenerator<Document> {
  const { invalid, field = "text", split = "all" } = options;
  let line = 0;
  for await (const { bytes, offset } of readLines(path)) {
    line++;
    const json = decodeUtf8(bytes, path, { invalid, offset });
    if (json.trim() === "") continue;
    const text = textField(json, field, `${path}: line ${line} (byte ${offset})`);
    if (text !== null && isIn(split, text)) yield { id: `${id}:${line}`, text };
  }
}

/** Rows without a value are left out. */
async function* parquetDocuments(
  path: string,
  id: string,
  options: OpenTextOptions,
): AsyncGenerator<Document> {
  const { invalid, field = "text", split = "all" } = options;
  for await (const { row, text } of parquetTexts(path, field, { invalid })) {
    if (text !== undefined && isIn(split, text)) yield { id: `${id}:${row + 1}`, text };
  }
}

/** Whether a record belongs to a split. */
const isIn = (split: Split, text: string): boolean =>
  split === "all" || placeOf(text) < userHeldOut.share === (split === "heldout");

function textField(json: string, field: string, place: string): string | null {
  let record: unknown;
  try {
    record = JSON.parse(json);
  } catch (cause) {
    throw inputError(`${place} is not JSON, a record a line: ${(cause as Error).message}`, cause);
  }
  const isRecord = typeof record === "object" && record !== null && !Array.isArray(record);
  const value = isRecord ? (record as Record<string, unknown>)[field] : undefined;
  if (typeof value === "string" || value === null) return value;
  const there = isRecord
    ? `it has ${Object.keys(record as object).join(", ") || "no fields"}`
    : "it is no object";
  throw inputError(`${place} has no text field "${field}"; ${there}`);
}
