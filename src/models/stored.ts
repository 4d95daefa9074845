/**
 * Parameters that a checkpoint keeps in another form: matrices [in, out], and several parameters in one tensor.
 * Nothing is computed, numbers change their place only. The outputs of the tensor are [groups, parts, n].
 */
import { sizeOf } from "../tensor/index.ts";
import type { ParamSlot, Stored } from "./params.ts";

type Numbers = Float32Array | Uint16Array;
type StoredSlot = Pick<ParamSlot, "shape"> & { readonly stored: Stored };

/** Calls `row(own, stored, stride)` for each output: where it begins here and in the file, and the step of its inputs there. */
function eachRow(
  { shape, stored }: StoredSlot,
  row: (own: number, there: number, stride: number) => void,
): void {
  const [outputs, inputs = 1] = shape;
  const { groups, parts, part, transposed } = stored;
  const n = outputs / groups;
  for (let r = 0; r < outputs; r++) {
    const there = (Math.floor(r / n) * parts + part) * n + (r % n);
    row(r * inputs, transposed ? there : there * inputs, transposed ? outputs * parts : 1);
  }
}

/** A parameter out of the tensor of the file that holds it. */
export function fromStored<T extends Numbers>(slot: StoredSlot, data: T): T {
  const out = new (data.constructor as new (n: number) => T)(sizeOf(slot.shape));
  const inputs = slot.shape[1] ?? 1;
  eachRow(slot, (own, there, stride) => {
    for (let i = 0; i < inputs; i++) out[own + i] = data[there + i * stride];
  });
  return out;
}

/** Writes a parameter to its place in the tensor of the file: the way back. */
export function toStored(slot: StoredSlot, data: Numbers, into: Numbers): void {
  const inputs = slot.shape[1] ?? 1;
  eachRow(slot, (own, there, stride) => {
    for (let i = 0; i < inputs; i++) into[there + i * stride] = data[own + i];
  });
}
