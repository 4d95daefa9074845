/**
 * Bindings of native/src/shape.inl: copies, joins, gathers, reductions and top-k.
 * Copies take any strides; the others take contiguous inputs.
 */
import { ITEM_SIZE, type KernelTensor, type Shape, sizeOf } from "../types.ts";
import { type Addon, dtypeCode } from "./addon.ts";
import { addressOf, caller, loops } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** The kernels of this family by op. */
export function shapeKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);
  const copyStrided = call("copyStrided");
  const zero = call("zero");
  const gatherRows = call("gatherRows");
  const takeLast = call("takeLast");
  const scatterLast = call("scatterLast");
  const argmax = call("argmax");
  const topk = call("topk");

  /** Writes src over the window of dst that begins at `starts`. */
  function writeWindow(dst: KernelTensor, src: KernelTensor, starts: readonly number[]): void {
    const skipped = starts.reduce((at, start, axis) => at + start * dst.strides[axis], 0);
    const bytes = ITEM_SIZE[dst.dtype];
    const layout = loops(src.shape, dst.strides, src.strides);
    copyStrided(addressOf(dst) + skipped * bytes, addressOf(src), bytes, ...layout);
  }

  const origin = (t: KernelTensor): number[] => t.shape.map(() => 0);

  /** Over adjacent axes: x is [outer, n, inner]. */
  function reduce(name: string) {
    const run = call(name);
    return ([x]: Tensors, [y]: Tensors, { axes }: { axes: readonly number[]; keepDims: boolean }): void => {
      const first = axes[0] ?? 0;
      const outer = sizeOf(x.shape.slice(0, first));
      const n = sizeOf(axes.map((axis) => x.shape[axis]));
      const inner = sizeOf(x.shape.slice(first + axes.length));
      if (n === 1) copyStrided(addressOf(y), addressOf(x), 4, 1, outer * inner, 1, 1);
      else run(addressOf(x), addressOf(y), outer, n, inner);
    };
  }

  return {
    sum: reduce("sum"),
    max: reduce("max"),
    contiguous: ([x]: Tensors, [y]: Tensors): void => writeWindow(y, x, origin(x)),
    concat: (xs: Tensors, [y]: Tensors, { axis }: { axis: number }): void => {
      const starts = origin(y);
      for (const x of xs) {
        writeWindow(y, x, starts);
        starts[axis] += x.shape[axis];
      }
    },
    unslice: ([x]: Tensors, [y]: Tensors, { starts }: { shape: Shape; starts: readonly number[] }): void => {
      zero(addressOf(y), sizeOf(y.shape) * ITEM_SIZE[y.dtype]);
      writeWindow(y, x, starts);
    },
    /** In place on dst. */
    assign: ([dst, src]: Tensors, _: Tensors, { starts }: { starts: readonly number[] }): void =>
      writeWindow(dst, src, starts),
    /** table [N, ...] in f32, f16 or bf16, indices [M] -> f32 [M, ...] */
    gatherRows: ([table, indices]: Tensors, [y]: Tensors): void => {
      const m = sizeOf(indices.shape);
      const width = sizeOf(table.shape.slice(1));
      const size = [table.shape[0], m, width, dtypeCode[table.dtype]];
      gatherRows(addressOf(table), addressOf(indices), addressOf(y), ...size);
    },
    /** x [R, n], indices [R, k] -> [R, k] */
    takeLast: ([x, indices]: Tensors, [y]: Tensors): void => {
      const [rows, n] = matrixOf(x);
      takeLast(addressOf(x), addressOf(indices), addressOf(y), rows, n, indices.shape.at(-1)!);
    },
    /** values, indices [R, k] -> [R, n] */
    scatterLast: ([values, indices]: Tensors, [y]: Tensors): void => {
      const [rows, n] = matrixOf(y);
      scatterLast(addressOf(values), addressOf(indices), addressOf(y), rows, n, indices.shape.at(-1)!);
    },
    /** x [R, n] -> i32 [R] */
    argmax: ([x]: Tensors, [y]: Tensors): void => {
      const [rows, n] = matrixOf(x);
      argmax(addressOf(x), addressOf(y), rows, n);
    },
    /** x [R, n] -> values, indices [R, k] */
    topk: ([x]: Tensors, [values, indices]: Tensors, { k }: { k: number }): void => {
      const [rows, n] = matrixOf(x);
      topk(addressOf(x), addressOf(values), addressOf(indices), rows, n, k);
    },
  };
}

/** All leading axes as rows, and the extent of the last axis. */
function matrixOf({ shape }: KernelTensor): [rows: number, width: number] {
  return [sizeOf(shape.slice(0, -1)), shape[shape.length - 1]];
}
