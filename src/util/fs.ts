/**
 * Files that are whole or absent: write to a temporary file beside the target, fsync, rename, fsync the folder.
 * When anything fails, the old file stays as it was and the temporary one is removed.
 */
import { randomInt } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { errnoOf, inputError, ioError } from "./errors.ts";

export type Bytes = Uint8Array | string;
/** Receives a function that appends bytes to the new file; returns when all is written. */
export type Writer = (write: (bytes: Bytes) => Promise<void>) => Promise<void>;
export type SyncWriter = (write: (bytes: Bytes) => void) => void;

const TEMP = /^\..+\.tmp-(\d+)-\d+$/;

/** A name beside `target` that nothing else uses, for a file that is renamed to it when it is whole. */
export function tempPath(target: string): string {
  return path.join(
    path.dirname(target),
    `.${path.basename(target)}.tmp-${process.pid}-${randomInt(2 ** 47)}`,
  );
}

const toBuffer = (bytes: Bytes): Uint8Array => (typeof bytes === "string" ? Buffer.from(bytes) : bytes);

/** Replaces `target` in one step. Folders on the way are made. */
export async function writeAtomic(target: string, data: Bytes | Writer): Promise<void> {
  const temp = tempPath(target);
  try {
    await fs.promises.mkdir(path.dirname(target), { recursive: true });
    const file = await fs.promises.open(temp, "wx");
    try {
      const write = async (bytes: Bytes): Promise<void> => {
        const buffer = toBuffer(bytes);
        for (let at = 0; at < buffer.length; ) {
          at += (await file.write(buffer, at, Math.min(buffer.length - at, 1 << 28))).bytesWritten;
        }
      };
      await (typeof data === "function" ? data(write) : write(data));
      await file.sync();
    } finally {
      await file.close();
    }
    await fs.promises.rename(temp, target);
    syncFolder(path.dirname(target));
  } catch (cause) {
    discard(temp);
    throw ioError(`write ${target}`, cause);
  }
}

/** The same, synchronously: for small files and for signal handlers. */
export function writeAtomicSync(target: string, data: Bytes | SyncWriter): void {
  const temp = tempPath(target);
  try {
    fs.mkdirSync(path.dirname(target), { recursive: true });
    const file = fs.openSync(temp, "wx");
    try {
      const write = (bytes: Bytes): void => writeAll(file, toBuffer(bytes));
      if (typeof data === "function") data(write);
      else write(data);
      fs.fsyncSync(file);
    } finally {
      fs.closeSync(file);
    }
    fs.renameSync(temp, target);
    syncFolder(path.dirname(target));
  } catch (cause) {
    discard(temp);
    throw ioError(`write ${target}`, cause);
  }
}

/** Lets `temp` (from `tempPath`), written whole by somebody else, appear as `target` in one step. */
export async function commitFile(temp: string, target: string): Promise<void> {
  try {
    const file = await fs.promises.open(temp, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await fs.promises.rename(temp, target);
    syncFolder(path.dirname(target));
  } catch (cause) {
    discard(temp);
    throw ioError(`write ${target}`, cause);
  }
}

/** Removes what was half written; the error that led here is the one to report. */
export function discard(temp: string): void {
  try {
    fs.rmSync(temp, { force: true });
  } catch {
    return;
  }
}

function writeAll(file: number, buffer: Uint8Array): void {
  for (let at = 0; at < buffer.length; ) {
    at += fs.writeSync(file, buffer, at, Math.min(buffer.length - at, 1 << 28));
  }
}

/** Makes a rename durable. Some systems cannot open folders: there the rename alone has to do. */
function syncFolder(folder: string): void {
  try {
    const handle = fs.openSync(folder, "r");
    try {
      fs.fsyncSync(handle);
    } finally {
      fs.closeSync(handle);
    }
  } catch {
    return;
  }
}

/** Removes temporary files that a killed process left in `folder`; returns their names. Those of living ones stay. */
export function removeStaleTemps(folder: string): string[] {
  if (!fs.existsSync(folder)) return [];
  const stale = fs.readdirSync(folder).filter((name) => {
    const writer = TEMP.exec(name)?.[1];
    return writer !== undefined && !isAlive(Number(writer));
  });
  for (const name of stale) fs.rmSync(path.join(folder, name), { force: true });
  return stale;
}

/** True for a process of this host, also one of another user. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === "EPERM";
  }
}

/** Indented JSON with a final newline, whole or absent. */
export const writeJson = (target: string, value: unknown): Promise<void> =>
  writeAtomic(target, `${JSON.stringify(value, null, 2)}\n`);

export const writeJsonSync = (target: string, value: unknown): void =>
  writeAtomicSync(target, `${JSON.stringify(value, null, 2)}\n`);

/** Reads and parses; a missing file is `io`, bad JSON is `input`, both with the path. */
export function readJson(file: string): unknown {
  let text: string;
  try {
    text = fs.readFileSync(file, "utf8");
  } catch (cause) {
    throw ioError(`read ${file}`, cause);
  }
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ""));
  } catch (cause) {
    throw inputError(`${file}: not valid JSON: ${(cause as Error).message}`, cause);
  }
}

export interface JsonLines {
  /** Writes one line at once. */
  append(record: unknown): void;
  close(): void;
}

/**
 * Opens a JSON-lines file to append to. A last line cut off by a crash is dropped. With `keep`, the file is first cut
 * before the first record that fails it: on resume from step s, `keep: (r) => r.step <= s` removes what will be redone.
 */
export function openJsonLines(file: string, { keep }: { keep?: (record: never) => boolean } = {}): JsonLines {
  let handle: number;
  try {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    if (fs.statSync(file, { throwIfNoEntry: false })?.isFile())
      fs.truncateSync(file, wholeLength(file, keep));
    handle = fs.openSync(file, "a");
  } catch (cause) {
    throw ioError(`open ${file}`, cause);
  }
  return {
    append(record) {
      try {
        writeAll(handle, Buffer.from(`${JSON.stringify(record)}\n`));
      } catch (cause) {
        throw ioError(`write ${file}`, cause);
      }
    },
    close: () => fs.closeSync(handle),
  };
}

/** Bytes of the leading lines that are whole and kept. */
function wholeLength(file: string, keep?: (record: never) => boolean): number {
  const bytes = fs.readFileSync(file);
  let end = 0;
  for (let next = bytes.indexOf(10); next >= 0; next = bytes.indexOf(10, end)) {
    let record: unknown;
    try {
      record = JSON.parse(bytes.toString("utf8", end, next));
    } catch {
      return end;
    }
    if (keep && !keep(record as never)) return end;
    end = next + 1;
  }
  return end;
}

/** All records. A last line cut off by a crash is left out; a bad line before it is an error with its number. */
export function readJsonLines(file: string): unknown[] {
  let text: string;
  try {
    text = fs.readFileSync(file, "utf8");
  } catch (cause) {
    throw ioError(`read ${file}`, cause);
  }
  const lines = text.split("\n");
  const records: unknown[] = [];
  lines.forEach((line, i) => {
    if (line.trim() === "") return;
    try {
      records.push(JSON.parse(line));
    } catch (cause) {
      if (i < lines.length - 1) {
        throw inputError(`${file}: line ${i + 1} is not valid JSON: ${(cause as Error).message}`, cause);
      }
    }
  });
  return records;
}
