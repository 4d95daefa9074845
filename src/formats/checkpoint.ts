/**
 * Checkpoints as Hugging Face stores them: `model.safetensors`, or shards with `model.safetensors.index.json`.
 */
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { brief, didYouMean, inputError, ioError, readJson, writeJson } from "../util/index.ts";
import type { NamedArray } from "./named-array.ts";
import {
  byteSize,
  openSafetensors,
  type ReadPart,
  type SafetensorsFile,
  type TensorSource,
  tensorEntries,
  type WritableTensor,
  type WritableTensors,
  writeSafetensors,
} from "./safetensors.ts";
import type { TensorInfo } from "./safetensors-header.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** All tensors of a folder, whichever file they are in. Files are opened when first needed. */
export class Checkpoint implements TensorSource {
  readonly folder: string;
  readonly #files = new Map<string, SafetensorsFile>();
  /** Tensor name -> file name. */
  readonly #where = new Map<string, string>();

  constructor(folder: string) {
    this.folder = folder;
    if (!fs.existsSync(folder)) throw ioError(`open ${folder}`, { code: "ENOENT" });
    if (fs.existsSync(path.join(folder, SINGLE))) {
      for (const name of this.#file(SINGLE).names()) this.#where.set(name, SINGLE);
    } else if (fs.existsSync(path.join(folder, INDEX))) {
      this.#readIndex(path.join(folder, INDEX));
    } else {
      const others = fs.readdirSync(folder).filter((f) => /\.(bin|pth?|gguf)$/.test(f));
      const hint = others.length
        ? `; ${others[0]} is not readable here: convert it with save_pretrained(safe_serialization=True)`
        : "";
      throw inputError(`${folder}: neither ${SINGLE} nor ${INDEX} is there${hint}`);
    }
  }

  #readIndex(file: string): void {
    const map = (readJson(file) as { weight_map?: unknown } | null)?.weight_map;
    if (typeof map !== "object" || map === null) throw inputError(`${file}: weight_map is missing`);
    const shards = new Set<string>();
    for (const [name, shard] of Object.entries(map)) {
      if (typeof shard !== "string" || path.basename(shard) !== shard || !shard.endsWith(".safetensors")) {
        throw inputError(`${file}: "${name}" is said to be in ${brief(shard)}, which is not a shard name`);
      }
      if (!shards.has(shard) && !fs.existsSync(path.join(this.folder, shard))) {
        throw inputError(`${file}: the shard ${shard} is missing; download it again`);
      }
      shards.add(shard);
      this.#where.set(name, shard);
    }
  }

  #file(shard: string): SafetensorsFile {
    let file = this.#files.get(shard);
    if (!file) {
      file = openSafetensors(path.join(this.folder, shard));
      this.#files.set(shard, file);
    }
    return file;
  }

  #holder(name: string): SafetensorsFile {
    const shard = this.#where.get(name);
    if (!shard)
      throw inputError(`${this.folder}: no tensor "${name}"${didYouMean(name, this.#where.keys())}`);
    const file = this.#file(shard);
    if (!file.has(name)) throw inputError(`${INDEX} says that "${name}" is in ${file.path}, but it is not`);
    return file;
  }

  names(): string[] {
    return [...this.#where.keys()];
  }

  has(name: string): boolean {
    return this.#where.has(name);
  }

  info(name: string): TensorInfo {
    return this.#holder(name).info(name);
  }

  read(name: string): Promise<NamedArray> {
    return this.#holder(name).read(name);
  }

  readSync(name: string): NamedArray {
    return this.#holder(name).readSync(name);
  }

  readInto(name: string, at: number, target: Uint8Array): Promise<void> {
    return this.#holder(name).readInto(name, at, target);
  }

  readWith(name: string, part: { at: number; length: number }, read: ReadPart): void {
    this.#holder(name).readWith(name, part, read);
  }

  /** `sha256:…` over the bytes of all weight files in name order: which weights these are. */
  async contentHash(): Promise<string> {
    const hash = createHash("sha256");
    for (const shard of [...new Set(this.#where.values())].sort()) {
      for await (const chunk of fs.createReadStream(path.join(this.folder, shard), {
        highWaterMark: 1 << 20,
      })) {
        hash.update(chunk as Buffer);
      }
    }
    return `sha256:${hash.digest("hex")}`;
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }
}

export const openCheckpoint = (folder: string): Checkpoint => new Checkpoint(folder);

export interface WriteCheckpointOptions {
  /** Above this, the weights are split into shards. Default 5 GB, as Hugging Face does. */
  maxShardBytes?: number;
  metadata?: Readonly<Record<string, string>>;
}

/** Writes `model.safetensors`, or shards and their index; returns the file names. Older layouts are removed last. */
export async function writeCheckpoint(
  folder: string,
  tensors: WritableTensors,
  { maxShardBytes = 5e9, metadata = { format: "pt" } }: WriteCheckpointOptions = {},
): Promise<string[]> {
  const shards = splitShards(tensorEntries(tensors), maxShardBytes);
  const files = shards.map((_, i) => (shards.length === 1 ? SINGLE : shardName(i, shards.length)));
  for (let i = 0; i < shards.length; i++) {
    await writeSafetensors(path.join(folder, files[i]), new Map(shards[i]), metadata);
  }
  if (shards.length > 1) {
    const weightMap: Record<string, string> = {};
    shards.forEach((shard, i) => {
      for (const [name] of shard) weightMap[name] = files[i];
    });
    const total = shards.flat().reduce((sum, [, t]) => sum + byteSize(t), 0);
    await writeJson(path.join(folder, INDEX), { metadata: { total_size: total }, weight_map: weightMap });
    files.push(INDEX);
  }
  for (const old of fs.readdirSync(folder)) {
    const weights = old === SINGLE || old === INDEX || /^model-\d{5}-of-\d{5}\.safetensors$/.test(old);
    if (weights && !files.includes(old)) fs.rmSync(path.join(folder, old));
  }
  return files;
}

const shardName = (i: number, n: number): string =>
  `model-${String(i + 1).padStart(5, "0")}-of-${String(n).padStart(5, "0")}.safetensors`;

/** Greedy, in order; a tensor larger than the limit gets a shard of its own. */
function splitShards(entries: [string, WritableTensor][], limit: number): [string, WritableTensor][][] {
  const shards: [string, WritableTensor][][] = [[]];
  let size = 0;
  for (const entry of entries) {
    const bytes = byteSize(entry[1]);
    if (size > 0 && size + bytes > limit) {
      shards.push([]);
      size = 0;
    }
    shards[shards.length - 1].push(entry);
    size += bytes;
  }
  return shards;
}
