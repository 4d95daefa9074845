/**
 * One run a folder: the file `.lock` in it names the thread that works there; a lock whose thread is gone is taken over.
 * Where threads cannot be looked up (no /proc, another host, another container), a lock holds while it is touched, which
 * its owner does twice a minute.
 */
import { randomInt } from "node:crypto";
import * as fs from "node:fs";
import { hostname } from "node:os";
import * as path from "node:path";
import { errnoOf, ioError, isAlive, tempPath, usageError } from "../util/index.ts";

const FILE = ".lock";
const TOUCH_MS = 30_000;
/** A lock that nobody touched for so long is abandoned. */
const ABANDONED_MS = 4 * TOUCH_MS;

interface Holder {
  readonly pid: number;
  /** Host and, on Linux, namespace of process ids: where `pid` means something. */
  readonly where: string;
  /** Thread and its start, on Linux: tells workers of one process apart, and a process from a later one of the same id. */
  readonly thread?: string;
  readonly since: string;
  readonly id: number;
}

function link(file: string): string | undefined {
  try {
    return fs.readlinkSync(file);
  } catch {
    return undefined;
  }
}

/** `<pid>/task/<tid> <start>` while that thread lives. */
function threadAt(task: string): string | undefined {
  try {
    const stat = fs.readFileSync(path.join("/proc", task, "stat"), "utf8");
    const start = stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]; // field 22; the name before may hold anything
    return `${task} ${start}`;
  } catch {
    return undefined;
  }
}

function thisThread(): Holder {
  const task = link("/proc/thread-self");
  return {
    pid: process.pid,
    where: [hostname(), link("/proc/self/ns/pid")].join(" ").trim(),
    thread: task === undefined ? undefined : threadAt(task),
    since: new Date().toISOString(),
    id: randomInt(2 ** 47),
  };
}

interface Found {
  readonly text: string;
  /** Undefined when the text is no whole lock. */
  readonly holder?: Holder;
  readonly touched: number;
}

function readLock(file: string): Found | undefined {
  try {
    const touched = fs.statSync(file).mtimeMs;
    const text = fs.readFileSync(file, "utf8");
    return { text, touched, holder: parseHolder(text) };
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return undefined;
    throw ioError(`read ${file}`, cause);
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Holder | null;
    return Number.isInteger(holder?.pid) && typeof holder?.where === "string" ? holder : undefined;
  } catch {
    return undefined;
  }
}

function isHeld({ holder, touched }: Found, me: Holder): boolean {
  const fresh = Date.now() - touched < ABANDONED_MS;
  if (!holder || holder.where !== me.where) return fresh;
  if (holder.thread !== undefined) return threadAt(holder.thread.split(" ")[0]) === holder.thread;
  return isAlive(holder.pid) && fresh;
}

/** Writes the lock; false when there is one. */
function create(file: string, text: string): boolean {
  let handle: number;
  try {
    handle = fs.openSync(file, "wx");
  } catch (cause) {
    if (errnoOf(cause) === "EEXIST") return false;
    throw ioError(`write ${file}`, cause);
  }
  try {
    fs.writeSync(handle, text);
    return true;
  } catch (cause) {
    fs.rmSync(file, { force: true });
    throw ioError(`write ${file}`, cause);
  } finally {
    fs.closeSync(handle);
  }
}

/** Takes an abandoned lock away, unless somebody was faster and put a new one there. */
function retire(file: string, { text }: Found): void {
  const aside = tempPath(file);
  try {
    fs.renameSync(file, aside);
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return;
    throw ioError(`remove ${file}`, cause);
  }
  if (fs.readFileSync(aside, "utf8") !== text && !fs.existsSync(file)) fs.renameSync(aside, file);
  else fs.rmSync(aside, { force: true });
}

/** Claims a folder, made if need be, for this thread; returns what gives it back. Refuses one that a living thread holds. */
export function lockFolder(folder: string): () => void {
  try {
    fs.mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw ioError(`make the folder ${folder}`, cause);
  }
  const file = path.join(folder, FILE);
  const me = thisThread();
  const text = JSON.stringify(me);
  while (!create(file, text)) {
    const found = readLock(file);
    if (!found) continue;
    if (isHeld(found, me)) throw usageError(inUse(folder, file, found.holder, me));
    retire(file, found);
  }
  const timer = setInterval(() => touch(file), TOUCH_MS);
  timer.unref();
  return () => {
    clearInterval(timer);
    if (readLock(file)?.text === text) fs.rmSync(file, { force: true });
  };
}

function touch(file: string): void {
  const now = new Date();
  try {
    fs.utimesSync(file, now, now);
  } catch {
    return; // the folder is gone: its own writes will say so
  }
}

function inUse(folder: string, file: string, holder: Holder | undefined, me: Holder): string {
  const who = !holder
    ? "another run"
    : holder.where !== me.where
      ? `process ${holder.pid} on ${holder.where}, since ${holder.since}`
      : holder.pid === me.pid
        ? `another job of this process (${me.pid}), since ${holder.since}`
        : `process ${holder.pid}, since ${holder.since}`;
  return `${folder} is in use by ${who}; wait for it, stop it, or choose another folder (if you are sure that nothing runs there, delete ${file})`;
}
