/**
 * A Hugging Face model folder: config.json, weights (one file or shards), tokenizer.json. Nothing is read before it is
 * asked for.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { inputError, ioError, readJson } from "../util/index.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import type { NamedArray } from "./named-array.ts";
import type { TensorInfo } from "./safetensors-header.ts";

export interface ModelFolder {
  readonly folder: string;
  /** config.json as it stands. */
  readonly config: Readonly<Record<string, unknown>>;
  /** generation_config.json, or an empty object. */
  readonly generationConfig: Readonly<Record<string, unknown>>;
  /** Path of tokenizer.json if there is one. */
  readonly tokenizerPath: string | undefined;
  readonly weights: Checkpoint;
  tensorNames(): string[];
  info(name: string): TensorInfo;
  read(name: string): Promise<NamedArray>;
  readSync(name: string): NamedArray;
  /** `sha256:…` over the weight files. */
  contentHash(): Promise<string>;
  close(): void;
}

/** Opens a folder and checks config.json and the weights' headers (of shards: when first used). */
export function openModelFolder(folder: string): ModelFolder {
  if (!fs.existsSync(folder)) throw ioError(`open the model ${folder}`, { code: "ENOENT" });
  const configPath = path.join(folder, "config.json");
  if (!fs.existsSync(configPath)) {
    throw inputError(`${folder}: no config.json; a model folder has config.json and model.safetensors`);
  }
  const weights = openCheckpoint(folder);
  const tokenizer = path.join(folder, "tokenizer.json");
  const generation = path.join(folder, "generation_config.json");
  return {
    folder,
    config: readObject(configPath),
    generationConfig: fs.existsSync(generation) ? readObject(generation) : {},
    tokenizerPath: fs.existsSync(tokenizer) ? tokenizer : undefined,
    weights,
    tensorNames: () => weights.names(),
    info: (name) => weights.info(name),
    read: (name) => weights.read(name),
    readSync: (name) => weights.readSync(name),
    contentHash: () => weights.contentHash(),
    close: () => weights.close(),
  };
}

function readObject(file: string): Record<string, unknown> {
  const value = readJson(file);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw inputError(`${file}: must be a JSON object`);
  }
  return value as Record<string, unknown>;
}
