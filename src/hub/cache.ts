/**
 * The cache as Python's huggingface_hub lays it out, so that both find each other's files:
 * models--org--name/{blobs/<etag>, refs/<revision>, snapshots/<commit>/<path> -> ../../blobs/<etag>}.
 * Our own addition is `.listing/<commit>/`, what a commit holds by folder, which Python does not look at.
 */
import * as fs from "node:fs";
import { hostname } from "node:os";
import { dirname, join, relative } from "node:path";
import { getRepoFolderName, REGEX_COMMIT_HASH } from "@huggingface/hub";
import { errnoOf, ioError, isAlive, writeAtomic } from "../util/index.ts";
import { pause } from "./http.ts";
import { isSafePath, type RepoId } from "./repo-id.ts";

/** A file of a commit. */
export interface RepoFile {
  /** With `/`, relative to the repository. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Its name among the blobs: SHA-256 of a file in LFS, else the SHA-1 that git gives it. Unknown for what Python downloaded. */
  readonly etag?: string;
}

export const isCommit = (revision: string): boolean => REGEX_COMMIT_HASH.test(revision);

const LISTING_FORMAT = 1;

/** The folder of one repository in the cache. */
export class RepoCache {
  readonly folder: string;
  readonly #locks: string;

  constructor(cacheDir: string, repo: RepoId) {
    const name = getRepoFolderName(repo);
    this.folder = join(cacheDir, name);
    this.#locks = join(cacheDir, ".locks", name);
  }

  refPath(revision: string): string {
    return join(this.folder, "refs", ...revision.split("/"));
  }

  /** The commit that a branch or tag was when it was last asked for. */
  ref(revision: string): string | undefined {
    try {
      const commit = fs.readFileSync(this.refPath(revision), "utf8").trim();
      return isCommit(commit) ? commit : undefined;
    } catch {
      return undefined;
    }
  }

  async setRef(revision: string, commit: string): Promise<void> {
    if (this.ref(revision) !== commit) await writeAtomic(this.refPath(revision), commit);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  /** Size of a file that is there, through its link; undefined if it is not. */
  sizeOf(commit: string, path: string): number | undefined {
    const found = fs.statSync(join(this.snapshot(commit), path), { throwIfNoEntry: false });
    return found?.isFile() ? found.size : undefined;
  }

  /** Files of a snapshot that are there, sorted. */
  files(commit: string): RepoFile[] {
    const found: RepoFile[] = [];
    const visit = (folder: string): void => {
      for (const name of fs.readdirSync(join(this.snapshot(commit), folder))) {
        const path = folder === "" ? name : `${folder}/${name}`;
        const entry = fs.statSync(join(this.snapshot(commit), path), { throwIfNoEntry: false });
        if (entry?.isDirectory()) visit(path);
        else if (entry?.isFile()) found.push({ path, size: entry.size });
      }
    };
    if (fs.existsSync(this.snapshot(commit))) visit("");
    return found.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  #listingPath(commit: string, folder: string): string {
    return join(this.folder, ".listing", commit, `${encodeURIComponent(folder) || "_"}.json`);
  }

  /** What a folder of a commit holds, with all below it, if it was asked for before. */
  listing(commit: string, folder: string): RepoFile[] | undefined {
    try {
      const text = fs.readFileSync(this.#listingPath(commit, folder), "utf8");
      const { format, files } = JSON.parse(text) as { format: number; files: RepoFile[] };
      return format === LISTING_FORMAT && files.every(isSoundFile) ? files : undefined;
    } catch {
      return undefined; // absent or damaged: the hub is asked again
    }
  }

  setListing(commit: string, folder: string, files: readonly RepoFile[]): Promise<void> {
    return writeAtomic(
      this.#listingPath(commit, folder),
      `${JSON.stringify({ format: LISTING_FORMAT, files })}\n`,
    );
  }

  /** Makes a blob appear under its path in a snapshot: a relative link, or a copy where there are no links. */
  link(commit: string, { path, etag }: RepoFile & { readonly etag: string }): void {
    const pointer = join(this.snapshot(commit), path);
    const blob = this.blob(etag);
    try {
      fs.mkdirSync(dirname(pointer), { recursive: true });
      if (fs.existsSync(pointer)) return;
      fs.rmSync(pointer, { force: true }); // a link to a blob that is gone
      fs.symlinkSync(relative(fs.realpathSync(dirname(pointer)), fs.realpathSync(blob)), pointer);
    } catch (cause) {
      const code = errnoOf(cause);
      if (code === "EEXIST") return; // another process was faster
      if (code !== "EPERM" && code !== "ENOSYS" && code !== "ENOTSUP")
        throw ioError(`write ${pointer}`, cause);
      fs.copyFileSync(blob, pointer);
    }
  }

  /**
   * Runs `work` while no other process of sluice does so for this blob. A lock whose process is gone, or which was not touched
   * for two minutes by one of another host, is taken over. Python's own locks cannot be taken here; its partial files have other
   * names than ours, and both end with the same blob.
   */
  async withLock<T>(
    etag: string,
    { signal, log }: { signal?: AbortSignal; log?: (line: string) => void },
    work: () => Promise<T>,
  ): Promise<T> {
    const file = join(this.#locks, `${etag}.sluice`);
    for (let waits = 0; !createLock(file); waits++) {
      if (isAbandoned(file)) fs.rmSync(file, { force: true });
      else {
        if (waits === 1)
          log?.(`another process downloads into ${this.folder}; waiting for it (lock ${file})`);
        await pause(LOOK_MS, signal);
      }
    }
    const timer = setInterval(() => touch(file), TOUCH_MS);
    timer.unref();
    try {
      return await work();
    } finally {
      clearInterval(timer);
      fs.rmSync(file, { force: true });
    }
  }
}

const isSoundFile = ({ path, size, etag }: RepoFile): boolean =>
  typeof path === "string" && isSafePath(path) && Number.isSafeInteger(size) && size >= 0 && isEtag(etag);

/** Hashes become file names: nothing else may. */
export const isEtag = (etag: string | undefined): boolean =>
  /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(etag ?? "");

const LOOK_MS = 250;
const TOUCH_MS = 30_000;
const ABANDONED_MS = 4 * TOUCH_MS;

function createLock(file: string): boolean {
  try {
    fs.mkdirSync(dirname(file), { recursive: true });
    fs.writeFileSync(file, `${process.pid} ${hostname()}`, { flag: "wx" });
    return true;
  } catch (cause) {
    if (errnoOf(cause) === "EEXIST") return false;
    throw ioError(`write ${file}`, cause);
  }
}

function isAbandoned(file: string): boolean {
  try {
    const { mtimeMs } = fs.statSync(file);
    const [pid, host] = fs.readFileSync(file, "utf8").split(" ");
    if (Date.now() - mtimeMs > ABANDONED_MS) return true;
    return host === hostname() && !isAlive(Number(pid));
  } catch {
    return false; // given back just now
  }
}

function touch(file: string): void {
  const now = new Date();
  try {
    fs.utimesSync(file, now, now);
  } catch {
    return; // the cache was deleted: the download itself will say so
  }
}
