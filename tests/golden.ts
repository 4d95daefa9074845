/**
 * The golden fixtures: numbers computed elsewhere that this package must reproduce. GOLDEN_DIR points at another set.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { fileURLToPath } from "node:url";
import { readSafetensorsSync, toFloat32, toInt32 } from "../src/formats/index.ts";

/** Folder of package.json, found upwards from this file (which runs from dist/tests). */
export function packageRoot(): string {
  let folder = path.dirname(fileURLToPath(import.meta.url));
  while (!fs.existsSync(path.join(folder, "package.json"))) {
    const parent = path.dirname(folder);
    if (parent === folder) throw new Error("no package.json above the tests");
    folder = parent;
  }
  return folder;
}

/** GOLDEN_DIR, or tests/golden of the package. */
export function goldenDir(): string {
  return process.env.GOLDEN_DIR ?? path.join(packageRoot(), "tests", "golden");
}

export function goldenPath(...parts: string[]): string {
  return path.join(goldenDir(), ...parts);
}

export function goldenJson<T = Record<string, unknown>>(...parts: string[]): T {
  return JSON.parse(fs.readFileSync(goldenPath(...parts), "utf8")) as T;
}

/** A fixture file: tensors by name. Integer tensors come as Int32Array through `ints`, all else as f32 through `floats`. */
export interface GoldenFile {
  names(): string[];
  has(name: string): boolean;
  shape(name: string): number[];
  floats(name: string): Float32Array;
  ints(name: string): Int32Array;
  /** The single element of a tensor of shape [1] or []. */
  scalar(name: string): number;
}

export function golden(...parts: string[]): GoldenFile {
  const tensors = readSafetensorsSync(goldenPath(...parts));
  const get = (name: string) => {
    const tensor = tensors.get(name);
    if (!tensor)
      throw new Error(`${parts.join("/")} has no tensor ${name}: ${[...tensors.keys()].join(", ")}`);
    return tensor;
  };
  return {
    names: () => [...tensors.keys()],
    has: (name) => tensors.has(name),
    shape: (name) => [...get(name).shape],
    floats: (name) => toFloat32(get(name)),
    ints: (name) => toInt32(get(name)),
    scalar: (name) => toFloat32(get(name))[0],
  };
}
