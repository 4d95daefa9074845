/**
 * Parameters that a checkpoint keeps in another form: matrices [in, out], and several parameters in one tensor.
 * Nothing is computed, numbers change their place only. The outputs of the tensor are [groups, parts, rows].
 */
import { concat, contiguous, copy, permute, reshape, slice, type Tensor } from "../tensor/index.ts";
import type { ParamSlot, Stored } from "./params.ts";

export type StoredSlot = Pick<ParamSlot, "shape"> & { readonly stored: Stored };

/** A parameter, copied out of the tensor of the file that holds it. Call inside a scope. */
export function fromStored(slot: StoredSlot, whole: Tensor): Tensor {
  const { groups, parts, part, transposed } = slot.stored;
  const { rows, inputs } = extents(slot);
  const grid = transposed
    ? permute(reshape(whole, [inputs, groups, parts, rows]), [1, 2, 3, 0])
    : reshape(whole, [groups, parts, rows, inputs]);
  return reshape(copy(slice(grid, [0, part, 0, 0], [groups, 1, rows, inputs])), slot.shape);
}

/** The tensor of the file out of all parameters that it holds: the way back. Call inside a scope. */
export function toStored(params: readonly { readonly slot: StoredSlot; readonly tensor: Tensor }[]): Tensor {
  const inOrder = params.toSorted((a, b) => a.slot.stored.part - b.slot.stored.part);
  const { slot } = inOrder[0];
  const { groups, transposed, shape } = slot.stored;
  const { rows, inputs } = extents(slot);
  const grid = concat(
    inOrder.map(({ tensor }) => reshape(tensor, [groups, 1, rows, inputs])),
    1,
  );
  return reshape(transposed ? contiguous(permute(grid, [3, 0, 1, 2])) : grid, shape);
}

/** Outputs of one part in one group, and inputs. */
function extents({ shape, stored }: StoredSlot): { rows: number; inputs: number } {
  const [outputs, inputs = 1] = shape;
  return { rows: outputs / stored.groups, inputs };
}
