/**
 * Parameters that a checkpoint keeps in another form: matrices [in, out], and several parameters in one tensor.
 * Nothing is computed, numbers change their place only. The outputs of the tensor are [groups, parts, n].
 */
import { sizeOf } from "../tensor/index.ts";
import type { ParamSlot, Stored } from "./params.ts";

type Numbers = Float32Array | Uint16Array;
type StoredSlot = Pick<ParamSlot, "shape"> & { readonly stored: Stored };

/** A matrix within an array: row r begins at `at + r · stride`. */
interface Grid {
  readonly data: Numbers;
  readonly at: number;
  readonly stride: number;
}

/** A parameter out of the tensor of the file that holds it. */
export function fromStored<T extends Numbers>(slot: StoredSlot, data: T): T {
  const out = new (data.constructor as new (n: number) => T)(sizeOf(slot.shape));
  for (const { own, there, rows, inputs } of runs(slot, out, data)) {
    if (slot.stored.transposed) turn(there, own, rows, inputs);
    else out.set(data.subarray(there.at, there.at + rows * inputs), own.at);
  }
  return out;
}

/** Writes a parameter to its place in the tensor of the file: the way back. */
export function toStored(slot: StoredSlot, data: Numbers, into: Numbers): void {
  for (const { own, there, rows, inputs } of runs(slot, data, into)) {
    if (slot.stored.transposed) turn(own, there, inputs, rows);
    else into.set(data.subarray(own.at, own.at + rows * inputs), there.at);
  }
}

/** Outputs that lie together, group by group: where here, and where in the file. */
function* runs({ shape, stored }: StoredSlot, here: Numbers, file: Numbers) {
  const [outputs, inputs = 1] = shape;
  const { groups, parts, part, transposed } = stored;
  const rows = outputs / groups;
  for (let g = 0; g < groups; g++) {
    const first = (g * parts + part) * rows;
    const own: Grid = { data: here, at: g * rows * inputs, stride: inputs };
    const there: Grid = transposed
      ? { data: file, at: first, stride: outputs * parts }
      : { data: file, at: first * inputs, stride: inputs };
    yield { own, there, rows, inputs };
  }
}

/** Side of the squares that are turned at a time: both sides stay in the cache. */
const TILE = 32;

/** to[r][c] = from[c][r] for `rows` × `cols` numbers of `to`. */
function turn(from: Grid, to: Grid, rows: number, cols: number): void {
  for (let r0 = 0; r0 < rows; r0 += TILE) {
    for (let c0 = 0; c0 < cols; c0 += TILE) {
      for (let r = r0; r < Math.min(r0 + TILE, rows); r++) {
        for (let c = c0; c < Math.min(c0 + TILE, cols); c++)
          to.data[to.at + r * to.stride + c] = from.data[from.at + c * from.stride + r];
      }
    }
  }
}
