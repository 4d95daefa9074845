/**
 * The native backend: C++ kernels on a thread pool of their own, and a pool of aligned buffers.
 */
import type { Backend } from "../backend.ts";
import { type Addon, loadAddon } from "./addon.ts";
import { attentionKernels } from "./attention.ts";
import { elementwiseKernels } from "./elementwise.ts";
import { gemmKernels } from "./gemm.ts";
import { kronKernels } from "./kron.ts";
import { limeKernels } from "./lime.ts";
import { lmKernels } from "./lm.ts";
import { optimKernels } from "./optim.ts";
import { prefixKernels } from "./prefix.ts";
import { shapeKernels } from "./shape.ts";
import { sparseKernels } from "./sparse.ts";

export interface NativeOptions {
  /** Threads of the pool, the calling one included. Default: all cores. */
  readonly threads: number;
}

/** Fails with the way out when the addon was never built. */
export function nativeBackend({ threads }: NativeOptions): Backend {
  const addon = loadAddon();
  const pool = addon.createPool(threads);
  const buffers = new BufferPool(addon);
  return {
    name: "native",
    threads,
    kernels: {
      ...elementwiseKernels(addon, pool),
      ...shapeKernels(addon, pool),
      ...gemmKernels(addon, pool),
      ...lmKernels(addon, pool),
      ...attentionKernels(addon, pool),
      ...sparseKernels(addon, pool),
      ...prefixKernels(addon, pool),
      ...kronKernels(addon, pool),
      ...limeKernels(addon, pool),
      ...optimKernels(addon, pool),
    },
    alloc: (bytes) => buffers.take(bytes),
    free: (handle, bytes) => buffers.give(handle as number, bytes),
    write: (handle, byteOffset, bytes) => addon.write((handle as number) + byteOffset, bytes),
    read: async (handle, byteOffset, length) =>
      new Uint8Array(addon.read((handle as number) + byteOffset, length)),
    readFile:
      process.platform === "win32"
        ? undefined
        : (handle, byteOffset, { fd, position, length }) =>
            addon.readFile(pool, fd, position, (handle as number) + byteOffset, length),
    close: () => {
      buffers.clear(); // a second call finds nothing to free, and the addon no such pool
      addon.destroyPool(pool);
    },
  };
}

/** Freed buffers by size class, so that a training step allocates nothing after the first. */
class BufferPool {
  readonly #addon: Addon;
  readonly #free = new Map<number, number[]>();

  constructor(addon: Addon) {
    this.#addon = addon;
  }

  take(bytes: number): number {
    const size = sizeClass(bytes);
    const reused = this.#free.get(size)?.pop();
    if (reused !== undefined) return reused;
    try {
      return this.#addon.alloc(size);
    } catch {
      this.clear(); // give the hoard back and try once more
      return this.#addon.alloc(size);
    }
  }

  give(address: number, bytes: number): void {
    const size = sizeClass(bytes);
    const list = this.#free.get(size);
    if (list) list.push(address);
    else this.#free.set(size, [address]);
  }

  clear(): void {
    for (const list of this.#free.values()) for (const address of list) this.#addon.free(address);
    this.#free.clear();
  }
}

/** Rounded up to an eighth of the next power of two: at most 12.5 % is wasted, and few classes exist. */
function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const step = 2 ** Math.max(Math.ceil(Math.log2(bytes)) - 3, 6);
  return Math.ceil(bytes / step) * step;
}
