/**
 * The vocabulary that ops, backends and the engine share. No behaviour lives here.
 */

/** Storage type. Arithmetic is always f32 (i32 for indices); f16 and bf16 only store. */
export type DType = "f32" | "f16" | "bf16" | "i32";
export type Shape = readonly number[];

/** Bytes per element. */
export const ITEM_SIZE = { f32: 4, f16: 2, bf16: 2, i32: 4 } as const satisfies Record<DType, number>;

/** What is known of a tensor before any number is computed. */
export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** A tensor as a kernel sees it: a buffer and a strided window on it. Strides and offset count elements. */
export interface KernelTensor extends TensorType {
  readonly handle: unknown;
  readonly strides: readonly number[];
  readonly offset: number;
}

/** Fills `outputs` (fresh, contiguous, uninitialised) from `inputs`. */
export type Kernel<A = never> = (
  inputs: readonly KernelTensor[],
  outputs: readonly KernelTensor[],
  attrs: A,
) => void;

/** Dense row-major numbers, the form in which a reference kernel sees every tensor. */
export interface Dense {
  readonly shape: Shape;
  readonly data: Float64Array | Int32Array;
}

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** Row-major strides, in elements. */
export function rowMajor(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

/** True when the window covers its elements in row-major order without gaps. Extents of 1 may have any stride. */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i];
  }
  return true;
}

/** `f32 [2, 3]`, as error messages show a tensor. */
export function describe(t: TensorType): string {
  return `${t.dtype} [${t.shape.join(", ")}]`;
}
