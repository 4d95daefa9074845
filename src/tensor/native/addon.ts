/**
 * Loads the C++ addon: first the local build, then the optional package `@sluice/native-<platform>-<arch>`.
 * Addresses and pools are plain numbers; a kernel reads its arguments from the shared block `args`.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { SluiceError } from "../../util/errors.ts";

/** What the compiled addon exports. */
export interface Addon {
  /** Address of `bytes` fresh bytes, 64-byte aligned, uninitialised; throws a RangeError without memory. */
  alloc(bytes: number): number;
  free(address: number): void;
  /** A copy of the bytes. */
  read(address: number, bytes: number): ArrayBuffer;
  readInto(address: number, target: Uint8Array): void;
  write(address: number, source: Uint8Array): void;
  /** Bytes of an open file, read by the pool's threads; gives how many there were. Not on Windows. */
  readFile(pool: number, fd: number, position: number, address: number, bytes: number): number;
  zero(address: number, bytes: number): void;
  /** Like memmove: the ranges may overlap. */
  copy(dst: number, src: number, bytes: number): void;
  /** A pool of `threads` threads, the calling one included. */
  createPool(threads: number): number;
  destroyPool(pool: number): void;
  /** Kernel ids by name, of the best instruction set or of a given one. */
  kernels(isa?: string): Record<string, number>;
  /** The best instruction set of this machine. */
  isa(): string;
  /** All usable ones, the best last. */
  isas(): string[];
  /** The argument block, 64 numbers. */
  readonly args: Float64Array;
  /** Runs a kernel with the arguments in `args`. */
  call(pool: number, kernel: number): void;
}

/** Storage types as coded in the argument block. */
export const dtypeCode = { f32: 0, f16: 1, bf16: 2, i32: 3 } as const;

/** The nearest folder upwards that holds native/binding.gyp: the package root, for sources and for dist alike. */
function packageRoot(): string | undefined {
  for (let dir = dirname(fileURLToPath(import.meta.url)); ; dir = dirname(dir)) {
    if (existsSync(join(dir, "native", "binding.gyp"))) return dir;
    if (dir === dirname(dir)) return undefined;
  }
}

/** How to build the kernels: an installed package has none of the scripts of its repository. */
export function buildCommand(root = packageRoot()): string {
  return root?.split(sep).includes("node_modules") ? "npm rebuild sluice" : "npm run native";
}

let loaded: Addon | undefined;

/** The addon of this JavaScript thread; throws with the way out when it was never built. */
export function loadAddon(): Addon {
  if (loaded) return loaded;
  const require = createRequire(import.meta.url);
  const root = packageRoot();
  const candidates = [`@sluice/native-${process.platform}-${process.arch}`];
  if (root) candidates.unshift(join(root, "native", "build", "Release", "sluice_native.node"));
  const reasons: string[] = [];
  for (const candidate of candidates) {
    try {
      loaded = require(candidate) as Addon;
      return loaded;
    } catch (error) {
      reasons.push(String((error as Error).message).split("\n")[0]!);
    }
  }
  throw new SluiceError(
    "io",
    `native backend: no compiled kernels for ${process.platform}-${process.arch} (${reasons.join("; ")}). ` +
      `Build them with \`${buildCommand(root)}\` (needs a C++17 compiler, make and Python 3), or use the \`ref\` backend.`,
  );
}
