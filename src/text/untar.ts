/**
 * Unpacks the tar format as npm writes it: ustar with prefixes, pax and GNU long names. Links and devices are skipped.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname, join, normalize, sep } from "node:path";
import { gunzipSync } from "node:zlib";
import { inputError } from "../util/errors.ts";

const block = 512;

/** Regular files of a `.tgz`, in order; `archive` is for messages only. */
export function* tarEntries(tgz: Uint8Array, archive: string): Generator<{ path: string; data: Buffer }> {
  let tar: Buffer;
  try {
    tar = gunzipSync(tgz);
  } catch (cause) {
    throw inputError(`${archive}: not a gzip file, or truncated`, cause);
  }
  let longName = "";
  for (let at = 0; at + block <= tar.length; ) {
    const header = tar.subarray(at, at + block);
    if (header[0] === 0) break;
    const size = octal(header, 124, 12);
    const end = at + block + size;
    if (!(size >= 0) || end > tar.length) throw inputError(`${archive}: damaged tar header at byte ${at}`);
    const data = tar.subarray(at + block, end);
    const type = String.fromCharCode(header[156]);
    if (type === "x") longName = /\d+ path=([^\n]*)\n/.exec(data.toString("utf8"))?.[1] ?? longName;
    else if (type === "L") longName = field(data, 0, data.length);
    else {
      const prefix = field(header, 345, 155);
      const name = field(header, 0, 100);
      const path = longName !== "" ? longName : prefix === "" ? name : `${prefix}/${name}`;
      longName = "";
      if (type === "0" || type === "\0") yield { path, data };
    }
    at = at + block + Math.ceil(size / block) * block;
  }
}

/** Writes the archive's files under `folder`, without their first path part (npm's `package/`). */
export async function untar(tgz: Uint8Array, folder: string, archive: string): Promise<void> {
  for (const { path, data } of tarEntries(tgz, archive)) {
    const inside = normalize(path.split("/").slice(1).join("/"));
    if (inside.startsWith("..") || inside.startsWith(sep) || inside === ".") {
      throw inputError(`${archive}: the path "${path}" leaves the package`);
    }
    const target = join(folder, inside);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, data);
  }
}

function field(bytes: Buffer, start: number, length: number): string {
  const end = bytes.indexOf(0, start);
  return bytes.toString("utf8", start, end < 0 || end > start + length ? start + length : end);
}

function octal(bytes: Buffer, start: number, length: number): number {
  const digits = field(bytes, start, length).trim();
  return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
}
