/**
 * One file of the hub to one blob of the cache: goes on from what an earlier download left, checks size and hash, and lets the
 * blob appear only when it is right. Python's `<blob>.incomplete` is left to Python while it may be writing there.
 */
import { createHash, type Hash } from "node:crypto";
import * as fs from "node:fs";
import { dirname } from "node:path";
import {
  commitFile,
  formatBytes,
  inputError,
  interruptedError,
  ioError,
  SluiceError,
} from "../util/index.ts";
import type { RepoFile } from "./cache.ts";
import {
  type Answer,
  backoff,
  type HttpOptions,
  MOST_TRIES,
  type Purpose,
  pause,
  reasonOf,
  request,
} from "./http.ts";
import { showRepo } from "./repo-id.ts";

export type RemoteFile = RepoFile & { readonly etag: string };

export interface DownloadOptions extends HttpOptions {
  /** Bytes of the file that are there, from the beginning; may fall when it has to begin again. */
  readonly onBytes?: (done: number) => void;
}

/** Bytes of an interrupted download of this blob. */
export function partialBytes(blob: string): number {
  const own = fs.statSync(incompletePath(blob), { throwIfNoEntry: false });
  const left = own ? undefined : abandonedByPython(blob);
  return own?.size ?? (left === undefined ? 0 : (fs.statSync(left, { throwIfNoEntry: false })?.size ?? 0));
}

const incompletePath = (blob: string): string => `${blob}.sluice.incomplete`;

/** Untouched for so long, Python's partial file is nobody's. */
const ABANDONED_MS = 3_600_000;

/** What Python's huggingface_hub began and will not go on with: its lock cannot be asked here, so the time decides. */
function abandonedByPython(blob: string): string | undefined {
  const path = `${blob}.incomplete`;
  const found = fs.statSync(path, { throwIfNoEntry: false });
  return found && Date.now() - found.mtimeMs > ABANDONED_MS ? path : undefined;
}

/** Takes over what Python left, where there is nothing of our own. */
function adopt(blob: string): void {
  const left = fs.existsSync(incompletePath(blob)) ? undefined : abandonedByPython(blob);
  if (left === undefined) return;
  try {
    fs.renameSync(left, incompletePath(blob));
  } catch {
    return; // gone just now, or not ours to move: it is downloaded from the start
  }
}

/** Downloads `file` from `url` to `blob`. When it is interrupted or the network fails, the partial file stays. */
export async function downloadBlob(
  file: RemoteFile,
  url: string,
  blob: string,
  purpose: Purpose,
  options: DownloadOptions,
): Promise<void> {
  const incomplete = incompletePath(blob);
  const what = `${showRepo(purpose.repo)}: ${file.path}`;
  adopt(blob);
  for (let fresh = partialBytes(blob) === 0; ; fresh = true) {
    const got = await fetchAll(file, url, incomplete, what, purpose, options);
    if (got === file.etag) return commitFile(incomplete, blob);
    fs.rmSync(incomplete, { force: true });
    if (fresh) {
      throw inputError(
        `${what} arrived with another hash than the hub lists (${got.slice(0, 16)}…, listed ${file.etag.slice(0, 16)}…); it was removed. Try again; if it stays so, something on the way changes files`,
      );
    }
    options.log?.(`${what}: what an earlier download left does not fit; beginning again`);
    options.onBytes?.(0);
  }
}

/** What is on the disk so far, and its hash. */
class Partial {
  readonly path: string;
  readonly #file: RemoteFile;
  #handle: fs.promises.FileHandle;
  #hash: Hash;
  done = 0;

  private constructor(path: string, file: RemoteFile, handle: fs.promises.FileHandle) {
    this.path = path;
    this.#file = file;
    this.#handle = handle;
    this.#hash = hasher(file);
  }

  /** Takes up what is there; what is longer than the file begins anew. */
  static async open(path: string, file: RemoteFile): Promise<Partial> {
    try {
      fs.mkdirSync(dirname(path), { recursive: true });
      const partial = new Partial(
        path,
        file,
        await fs.promises.open(path, fs.constants.O_RDWR | fs.constants.O_CREAT),
      );
      const { size } = await partial.#handle.stat();
      if (size > file.size) await partial.#handle.truncate(0);
      else {
        for await (const chunk of fs.createReadStream(path, { highWaterMark: 1 << 20 })) {
          partial.#hash.update(chunk as Buffer);
          partial.done += (chunk as Buffer).length;
        }
      }
      return partial;
    } catch (cause) {
      throw ioError(`write ${path}`, cause);
    }
  }

  async append(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        at += (await this.#handle.write(bytes, at, bytes.length - at, this.done + at)).bytesWritten;
      }
    } catch (cause) {
      throw ioError(`write ${this.path}`, cause);
    }
    this.#hash.update(bytes);
    this.done += bytes.length;
  }

  async restart(): Promise<void> {
    await this.#handle.truncate(0);
    this.#hash = hasher(this.#file);
    this.done = 0;
  }

  digest(): string {
    return this.#hash.digest("hex");
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** SHA-256 of a file in LFS; of any other git's: SHA-1 over a header with the length, and the content. */
const hasher = ({ etag, size }: RemoteFile): Hash =>
  etag.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);

/** Brings the partial file to its full size, over as many connections as it takes; returns the hash. */
async function fetchAll(
  file: RemoteFile,
  url: string,
  path: string,
  what: string,
  purpose: Purpose,
  options: DownloadOptions,
): Promise<string> {
  const partial = await Partial.open(path, file);
  try {
    for (let tries = 1; partial.done < file.size; ) {
      const before = partial.done;
      options.onBytes?.(before);
      const lost = await fetchSome(partial, file, url, what, purpose, options);
      if (partial.done >= file.size) break;
      tries = partial.done > before ? 1 : tries + 1;
      if (tries > (options.mostTries ?? MOST_TRIES)) throw cut(partial, file, what, lost);
      options.log?.(`${what}: the connection was lost (${lost}) at ${sizes(partial, file)}; going on`);
      await pause(backoff(tries, options), options.signal).catch(() => {
        throw stopped(partial, file, what);
      });
    }
    return partial.digest();
  } catch (error) {
    if (options.signal?.aborted) throw stopped(partial, file, what);
    throw error;
  } finally {
    await partial.close();
  }
}

/** Reads one response as far as it goes; returns why it ended, if that was too early. */
async function fetchSome(
  partial: Partial,
  file: RemoteFile,
  url: string,
  what: string,
  purpose: Purpose,
  options: DownloadOptions,
): Promise<string> {
  const answer = await request(url, purpose, options, {
    headers: {
      "accept-encoding": "identity", // a compressed body has other bytes and another length
      ...(partial.done > 0 ? { range: `bytes=${partial.done}-` } : {}),
    },
  });
  const { response } = answer;
  try {
    if (response.status === 416 || !(await fits(response, partial, file, what))) {
      await partial.restart();
      options.onBytes?.(0);
      return "the server cannot go on where it was";
    }
    return await readBody(answer, partial, file, what, options);
  } finally {
    answer.done();
    await response.body?.cancel().catch(() => {});
  }
}

/** Whether the response continues the partial file (which is begun again for a whole one). Another size is refused. */
async function fits(response: Response, partial: Partial, file: RemoteFile, what: string): Promise<boolean> {
  if (response.status === 206) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
    if (range && range[2] !== "*" && Number(range[2]) !== file.size)
      throw wrongSize(partial, file, what, range[2]);
    return range !== null && Number(range[1]) === partial.done;
  }
  // Packed on the way although asked not to: then it is the length of the packed body.
  const length = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  if (length !== null && Number(length) !== file.size) throw wrongSize(partial, file, what, length);
  if (partial.done > 0) await partial.restart();
  return true;
}

async function readBody(
  { response, alive }: Answer,
  partial: Partial,
  file: RemoteFile,
  what: string,
  options: DownloadOptions,
): Promise<string> {
  const reader = response.body?.getReader();
  if (!reader) return "no body";
  for (;;) {
    let piece: Awaited<ReturnType<typeof reader.read>>;
    try {
      piece = await reader.read();
    } catch (cause) {
      return reasonOf(cause);
    }
    if (piece.done) return "it ended early";
    alive();
    if (partial.done + piece.value.length > file.size) {
      throw wrongSize(partial, file, what, `at least ${partial.done + piece.value.length}`);
    }
    await partial.append(piece.value);
    options.onBytes?.(partial.done);
  }
}

/** The partial file is removed: it belongs to something else. */
function wrongSize({ path }: Partial, file: RemoteFile, what: string, got: string): SluiceError {
  fs.rmSync(path, { force: true });
  return inputError(
    `${what} has ${got} bytes where it is served, the hub lists ${file.size}; it was removed. Try again; if it stays so, something on the way changes files`,
  );
}

const sizes = (partial: Partial, file: RemoteFile): string =>
  `${formatBytes(partial.done)} of ${formatBytes(file.size)}`;

const stopped = (partial: Partial, file: RemoteFile, what: string): SluiceError =>
  interruptedError(
    `interrupted; ${sizes(partial, file)} of ${what} are kept in ${partial.path}, the same command goes on from there`,
  );

const cut = (partial: Partial, file: RemoteFile, what: string, lost: string): SluiceError =>
  new SluiceError(
    "io",
    `${what}: the connection was lost again and again (${lost}); ${sizes(partial, file)} are kept in ${partial.path}, the same command goes on from there`,
  );
