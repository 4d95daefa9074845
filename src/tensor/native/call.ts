/**
 * What the bindings share: addresses, calls through the argument block, and the loop order of strided kernels.
 */
import { SluiceError, usageError } from "../../util/errors.ts";
import { ITEM_SIZE, type KernelTensor, type Shape } from "../types.ts";
import { type Addon, buildCommand } from "./addon.ts";

/** Where the first element lies; 0 for an absent tensor. */
export function addressOf(t: KernelTensor | undefined): number {
  return t === undefined ? 0 : (t.handle as number) + t.offset * ITEM_SIZE[t.dtype];
}

/** Writes its numbers to the argument block and runs one kernel. */
export type Call = (...values: number[]) => void;

/** Two slots in which a kernel reports an index out of range: whether, and which. */
const STATUS = 62;

/** Calls by kernel name, for one pool; `isa` picks an instruction set other than the best. */
export function caller(addon: Addon, pool: number, isa?: string): (name: string) => Call {
  const ids = addon.kernels(isa);
  return (name) => {
    const id = ids[name];
    if (id === undefined) {
      throw new SluiceError(
        "io",
        `native: the addon has no kernel "${name}"; rebuild it with \`${buildCommand()}\``,
      );
    }
    return (...values) => {
      addon.args[STATUS] = 0;
      addon.args.set(values);
      addon.call(pool, id);
      if (addon.args[STATUS] !== 0)
        throw usageError(`${name}: index ${addon.args[STATUS + 1]} is out of range`);
    };
  };
}

/**
 * Runs `fn` with the address of a table of pointers to the tensors, null where one is absent: for kernels that
 * take more tensors than the argument block has room for.
 */
export function withTable(
  addon: Addon,
  tensors: readonly (KernelTensor | undefined)[],
  fn: (table: number) => void,
): void {
  const addresses = BigUint64Array.from(tensors, (t) => BigInt(addressOf(t)));
  const table = addon.alloc(addresses.byteLength);
  try {
    addon.write(table, new Uint8Array(addresses.buffer));
    fn(table);
  } finally {
    addon.free(table);
  }
}

/**
 * Loops over `shape` with one list of strides per operand, as few and as long as possible: drops extents of 1 and
 * merges neighbours that step evenly. Result: nd, dims, then the strides of each operand, as kernels read them.
 */
export function loops(shape: Shape, ...operands: (readonly number[])[]): number[] {
  const dims: number[] = [];
  const strides: number[][] = operands.map(() => []);
  shape.forEach((extent, axis) => {
    if (extent === 1) return;
    const last = dims.length - 1;
    const merges = last >= 0 && operands.every((s, i) => strides[i][last] === s[axis] * extent);
    if (merges) dims[last] *= extent;
    else dims.push(extent);
    operands.forEach((s, i) => {
      strides[i][dims.length - 1] = s[axis];
    });
  });
  if (dims.length === 0) return [1, 1, ...operands.map(() => 1)];
  if (dims.length > 16)
    throw usageError(`native: [${shape}] needs ${dims.length} nested loops, at most 16 are possible`);
  return [dims.length, ...dims, ...strides.flat()];
}
