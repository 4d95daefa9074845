/**
 * A repository of the hub at one commit: what it holds, and its files in the cache, downloaded where they are not there yet.
 */
import { rmSync, statfsSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { datasetInfo, listFiles, modelInfo } from "@huggingface/hub";
import { formatBytes, inputError, ioError, SluiceError } from "../util/index.ts";
import { isCommit, isEtag, RepoCache, type RepoFile } from "./cache.ts";
import { downloadBlob, partialBytes, type RemoteFile } from "./download.ts";
import { fixedFolder, isPattern, matchesPattern } from "./glob.ts";
import { type HttpOptions, hubFetch, isUnreachable } from "./http.ts";
import { isSafePath, type RepoId, showRepo } from "./repo-id.ts";
import { type HubSettings, hubSettings } from "./settings.ts";

export interface HubProgress {
  /** The repository as errors name it. */
  readonly repo: string;
  /** The file that is being downloaded. */
  readonly file: string;
  /** Bytes of all files asked for that were not in the cache: there now, there at the start (of interrupted downloads), in all. */
  readonly done: number;
  readonly start: number;
  readonly total: number;
}

export interface HubOptions extends Omit<HttpOptions, "settings"> {
  /** Other settings than those of the environment. */
  readonly settings?: Partial<HubSettings>;
  readonly onProgress?: (progress: HubProgress) => void;
}

/** Opens a repository: asks the hub which commit its revision is, or takes the one in the cache when offline. */
export async function openRepo(id: RepoId, options: HubOptions = {}): Promise<Repo> {
  const settings = hubSettings(options.settings);
  const http = { ...options, settings };
  const cache = new RepoCache(settings.cacheDir, id);
  return new Repo(id, await findCommit(id, cache, http), cache, http, options.onProgress);
}

async function findCommit(id: RepoId, cache: RepoCache, http: HttpOptions): Promise<string> {
  const { name, revision } = id;
  if (isCommit(revision)) return revision;
  const kept = cache.ref(revision);
  if (http.settings.offline) {
    if (kept !== undefined) return kept;
    throw inputError(
      `${showRepo(id)} is not in the cache, and HF_HUB_OFFLINE is set: there is no ${cache.refPath(revision)}; unset HF_HUB_OFFLINE to download it, or set HF_HOME to where it is`,
    );
  }
  const ask = {
    name,
    revision,
    hubUrl: http.settings.endpoint,
    // With a commit to fall back on, a network that is not there is found out at once.
    fetch: hubFetch({ repo: id }, kept === undefined ? http : { ...http, mostConnects: 1 }),
    additionalFields: ["sha"] as ["sha"],
  };
  try {
    const { sha } = await (id.type === "model" ? modelInfo(ask) : datasetInfo(ask));
    if (!isCommit(sha)) throw notTheHub(id, http.settings, "named no commit");
    await cache.setRef(revision, sha);
    return sha;
  } catch (error) {
    if (isUnreachable(error) && kept !== undefined) {
      http.log?.(
        `${(error as Error).message}\n${showRepo(id)}: using commit ${kept.slice(0, 12)} of the cache`,
      );
      return kept;
    }
    throw asHubError(error, id, http.settings);
  }
}

/** What @huggingface/hub throws when it reads something that is not the hub's. */
const asHubError = (error: unknown, id: RepoId, settings: HubSettings): Error =>
  error instanceof SluiceError
    ? error
    : notTheHub(id, settings, "gave an answer that is not the hub's", error);

const notTheHub = (id: RepoId, { endpoint }: HubSettings, why: string, cause?: unknown): SluiceError =>
  new SluiceError("io", `${endpoint} ${why} for ${showRepo(id)}; is HF_ENDPOINT right?`, { cause });

export class Repo {
  readonly id: RepoId;
  readonly commit: string;
  readonly #cache: RepoCache;
  readonly #http: HttpOptions;
  readonly #onProgress: HubOptions["onProgress"];

  /** See `openRepo`. */
  constructor(
    id: RepoId,
    commit: string,
    cache: RepoCache,
    http: HttpOptions,
    onProgress: HubOptions["onProgress"],
  ) {
    this.id = id;
    this.commit = commit;
    this.#cache = cache;
    this.#http = http;
    this.#onProgress = onProgress;
  }

  /** Where the commit's files are in the cache. */
  get folder(): string {
    return this.#cache.snapshot(this.commit);
  }

  get offline(): boolean {
    return this.#http.settings.offline;
  }

  /**
   * Files under a folder ("" for all), sorted. Offline and never listed before, those that are in the cache.
   */
  async list(folder = ""): Promise<RepoFile[]> {
    const known = this.#cache.listing(this.commit, folder);
    if (known) return known;
    const there = () =>
      this.#cache.files(this.commit).filter(({ path }) => folder === "" || path.startsWith(`${folder}/`));
    if (this.offline) return there();
    try {
      const files = await this.#askFor(folder);
      await this.#cache.setListing(this.commit, folder, files).catch((error: Error) => {
        this.#http.log?.(`${error.message}; what ${showRepo(this.id)} holds is asked for again next time`);
      });
      return files;
    } catch (error) {
      const kept = there();
      if (!isUnreachable(error) || kept.length === 0) throw asHubError(error, this.id, this.#http.settings);
      this.#http.log?.(`${(error as Error).message}\n${showRepo(this.id)}: using the files in the cache`);
      return kept;
    }
  }

  async #askFor(folder: string): Promise<RepoFile[]> {
    const files: RepoFile[] = [];
    const entries = listFiles({
      repo: this.id,
      revision: this.commit,
      path: folder.split("/").map(encodeURIComponent).join("/"),
      recursive: true,
      hubUrl: this.#http.settings.endpoint,
      fetch: hubFetch({ repo: this.id }, this.#http),
    });
    for await (const { type, path, size, oid, lfs } of entries) {
      if (type !== "file") continue;
      const file = { path, size: lfs?.size ?? size, etag: lfs?.oid ?? oid };
      if (!isSafePath(path) || !isEtag(file.etag) || !Number.isSafeInteger(file.size)) {
        throw inputError(`${showRepo(this.id)} lists a file that cannot be had: ${JSON.stringify(file)}`);
      }
      files.push(file);
    }
    return files.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** Files that a path means: itself, everything in a folder, or what fits a pattern. May be none. */
  async find(path: string): Promise<RepoFile[]> {
    if (isPattern(path)) {
      return (await this.list(fixedFolder(path))).filter((file) => matchesPattern(path, file.path));
    }
    const parent = path.includes("/") ? fixedFolder(path) : "";
    const all = await this.list(parent);
    const itself = all.filter((file) => file.path === path);
    return itself.length > 0 ? itself : all.filter((file) => path === "" || file.path.startsWith(`${path}/`));
  }

  /** Brings files into the cache; returns the folder of the commit, where each is under its path. */
  async fetch(files: readonly RepoFile[]): Promise<string> {
    const wanted = files.filter((file) => !this.#isThere(file));
    if (wanted.length === 0) return this.folder;
    if (this.offline) throw this.missing(wanted.map(({ path }) => path));
    const remote = wanted.map((file): RemoteFile => {
      if (file.etag === undefined) throw this.missing([file.path]);
      return { ...file, etag: file.etag };
    });
    await this.#checkSpace(remote);
    await this.#download(remote);
    return this.folder;
  }

  #isThere(file: RepoFile): boolean {
    const size = this.#cache.sizeOf(this.commit, file.path);
    if (size === file.size) return true;
    if (size === undefined || this.offline) return false;
    const pointer = join(this.folder, file.path);
    this.#http.log?.(`${pointer} has ${size} bytes, the hub lists ${file.size}; it is downloaded again`);
    rmSync(pointer, { force: true });
    if (file.etag !== undefined) rmSync(this.#cache.blob(file.etag), { force: true });
    return false;
  }

  async #checkSpace(files: readonly RemoteFile[]): Promise<void> {
    const { cacheDir } = this.#http.settings;
    await mkdir(cacheDir, { recursive: true }).catch((cause: Error) => {
      throw ioError(`write the cache ${cacheDir} (HF_HOME chooses another)`, cause);
    });
    const needed = files.reduce(
      (sum, { size, etag }) => sum + size - partialBytes(this.#cache.blob(etag)),
      0,
    );
    const { bavail, bsize } = statfsSync(cacheDir);
    if (needed > bavail * bsize) {
      throw new SluiceError(
        "io",
        `${showRepo(this.id)} needs ${formatBytes(needed)}, but ${cacheDir} has ${formatBytes(bavail * bsize)} left; free some space, or choose another folder with HF_HOME`,
      );
    }
  }

  async #download(files: readonly RemoteFile[]): Promise<void> {
    const repo = showRepo(this.id);
    const total = files.reduce((sum, { size }) => sum + size, 0);
    const start = files.reduce(
      (sum, { size, etag }) => sum + Math.min(size, partialBytes(this.#cache.blob(etag))),
      0,
    );
    let before = start;
    for (const file of files) {
      const blob = this.#cache.blob(file.etag);
      const partly = Math.min(file.size, partialBytes(blob));
      let shown = -1;
      const onBytes = (bytes: number) => {
        if (bytes === shown) return;
        shown = bytes;
        this.#onProgress?.({ repo, file: file.path, done: before - partly + bytes, start, total });
      };
      await this.#cache.withLock(file.etag, this.#http, async () => {
        if (!this.#blobIsThere(blob, file)) {
          await downloadBlob(
            file,
            this.#url(file),
            blob,
            { repo: this.id, file: file.path },
            { ...this.#http, onBytes },
          );
        }
      });
      onBytes(file.size);
      before += file.size - partly;
      this.#cache.link(this.commit, file);
    }
  }

  /** Another commit, or another program, may have brought it. */
  #blobIsThere(blob: string, file: RemoteFile): boolean {
    const size = fileSize(blob);
    if (size !== undefined && size !== file.size) rmSync(blob, { force: true });
    return size === file.size;
  }

  #url({ path }: RemoteFile): string {
    const kind = this.id.type === "dataset" ? "datasets/" : "";
    const inside = path.split("/").map(encodeURIComponent).join("/");
    return `${this.#http.settings.endpoint}/${kind}${this.id.name}/resolve/${this.commit}/${inside}`;
  }

  /** The error of files that are not to be had, with where they were looked for. */
  missing(names: readonly string[]): SluiceError {
    const shown =
      names.length > 6 ? `${names.slice(0, 6).join(", ")} and ${names.length - 6} more` : names.join(", ");
    return inputError(
      this.offline
        ? `${showRepo(this.id)}: ${shown} not in the cache, and HF_HUB_OFFLINE is set; looked in ${this.folder}. Unset HF_HUB_OFFLINE to download, or set HF_HOME to where the files are`
        : `${showRepo(this.id)} has no ${shown}`,
    );
  }
}

function fileSize(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.size;
}
