/**
 * What a backend is: memory, and a kernel for every primitive. The table's type comes from the list of ops.
 */
import { usageError } from "../util/errors.ts";
import type { Op } from "./op.ts";
import type { OpTable } from "./ops/index.ts";
import type { DType, Kernel } from "./types.ts";

type AttrsOf<O> = O extends Op<infer A> ? A : never;
type NamesOf<Kind> = {
  [K in keyof OpTable]: OpTable[K] extends { readonly kind: Kind } ? K : never;
}[keyof OpTable];

/** A kernel for every primitive; fused ops may be missing and are then decomposed. */
export type KernelTable = {
  readonly [K in NamesOf<"primitive">]: Kernel<AttrsOf<OpTable[K]>>;
} & {
  readonly [K in NamesOf<"fused">]?: Kernel<AttrsOf<OpTable[K]>>;
};

/** Bytes of an open file. */
export interface FilePart {
  /** File descriptor. */
  readonly fd: number;
  /** First byte. */
  readonly position: number;
  readonly length: number;
}

export interface Backend {
  readonly name: string;
  /** Threads that a kernel may use. */
  readonly threads: number;
  readonly kernels: KernelTable;
  /** A buffer of at least `bytes` bytes, content undefined. */
  alloc(bytes: number, dtype: DType): unknown;
  /** Gives the buffer back; it may be handed out again at once. */
  free(handle: unknown, bytes: number): void;
  /** Copies raw little-endian bytes into the buffer, from its byte `byteOffset` on. */
  write(handle: unknown, byteOffset: number, bytes: Uint8Array, dtype: DType): void;
  /** Reads a file straight into the buffer and gives how many bytes there were; of backends whose memory files can be read to. */
  readFile?(handle: unknown, byteOffset: number, part: FilePart): number;
  /** Copies `length` raw bytes out, starting at `byteOffset`. */
  read(handle: unknown, byteOffset: number, length: number, dtype: DType): Promise<Uint8Array>;
  /** Releases threads and pooled memory. Buffers still in use become invalid. */
  close(): void;
}

/** What a backend is after `close`: everything but freeing and closing throws. */
export function closedBackend({ name, threads, kernels }: Backend): Backend {
  const refuse = (what: string) => (): never => {
    throw usageError(`${what}: the ${name} device was closed; close() it only after its last use`);
  };
  const refused = Object.keys(kernels).map((op) => [op, refuse(op)]);
  return {
    name,
    threads,
    kernels: Object.fromEntries(refused) as KernelTable,
    alloc: refuse("device"),
    free: () => {},
    write: refuse("write"),
    read: async () => refuse("read")(),
    close: () => {},
  };
}
