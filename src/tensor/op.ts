/**
 * What an op is: one object with its shape rule, its meaning as plain loops, its gradient and its test cases.
 * A primitive must exist in every backend; a fused op may be missing there and is then decomposed into primitives.
 */
import type { Tensor } from "./tensor.ts";
import type { Dense, Shape, TensorType } from "./types.ts";

/** A strided input about to reach a kernel. */
export interface Layout extends TensorType {
  readonly strides: readonly number[];
}

/** What a gradient rule sees: the forward call and the gradients of its outputs (undefined where none arrived). */
export interface VjpContext<A> {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly grads: readonly (Tensor | undefined)[];
  readonly attrs: A;
  /** Which inputs want a gradient. A rule may skip the others. */
  readonly needs: readonly boolean[];
  /**
   * What other ops have given to the gradients of the inputs, where it may be written: contiguous f32. A rule
   * that adds to one in place returns that one; any other tensor is added by the tape.
   */
  readonly sums: readonly (Tensor | undefined)[];
}

/** One test case: input shapes (or literal inputs) and attributes. Conformance and gradient tests run them all. */
export interface OpCase<A> {
  readonly inputs: readonly CaseInput[];
  readonly attrs: A;
  /** No gradient is defined for it: left out of the gradient test. */
  readonly forwardOnly?: boolean;
  /** What is special about the case. */
  readonly note?: string;
}

/**
 * An input of a test case: normal numbers of that shape; `positive` ones in [0.5, 2); integers in [0, below);
 * `distinct` integers within each row; or literal values.
 */
export interface CaseInput {
  readonly shape: Shape;
  readonly kind?: "normal" | "positive" | "index" | "distinct" | "mask" | "spread";
  readonly below?: number;
  readonly values?: readonly number[];
  /** Central differences skip this input (integers, or a saved output of the forward op). */
  readonly constant?: boolean;
}

export interface Op<A> {
  readonly name: string;
  readonly kind: "primitive" | "fused";
  /** Output types, or an error that names the op and the offending shapes. */
  infer(inputs: readonly TensorType[], attrs: A): TensorType[];
  /** The meaning, in float64 over row-major arrays. Mutated inputs are written in place. */
  ref(inputs: readonly Dense[], outputs: readonly Dense[], attrs: A): void;
  /** Inputs written in place, maybe depending on their number. Such an op is never recorded on a tape. */
  readonly mutates?: readonly number[] | ((inputs: number, attrs: A) => readonly number[]);
  /** Positions of the inputs that must be i32. The others must be floats, unless `anyType`. */
  readonly ints?: readonly number[];
  /** Takes any number of inputs. The others take as many as one of their cases. */
  readonly variadic?: boolean;
  /** Moves elements without looking at them: every dtype goes. */
  readonly anyType?: boolean;
  /** Whether kernels take this input as it is; the default is contiguous f32 or i32. Others are copied first. */
  accepts?(input: Layout, index: number): boolean;
  /** Outputs that exist for the gradient only; no gradient flows back through them. */
  readonly saved?: readonly number[];
  /** Gradients of the inputs, in order; undefined for none. */
  vjp?(ctx: VjpContext<A>): readonly (Tensor | undefined)[];
  /** The same result by other ops. */
  decompose?(inputs: readonly Tensor[], attrs: A): Tensor[];
  readonly cases: readonly OpCase<A>[];
}

export interface PrimitiveOp<A> extends Op<A> {
  readonly kind: "primitive";
}
export interface FusedOp<A> extends Op<A> {
  readonly kind: "fused";
  decompose(inputs: readonly Tensor[], attrs: A): Tensor[];
}

/** The inputs that a call of `op` writes in place. */
export function mutated<A>(op: Op<A>, inputs: number, attrs: A): readonly number[] {
  return typeof op.mutates === "function" ? op.mutates(inputs, attrs) : (op.mutates ?? []);
}

export function primitive<A>(op: Omit<PrimitiveOp<A>, "kind">): PrimitiveOp<A> {
  return { ...op, kind: "primitive" };
}
export function fused<A>(op: Omit<FusedOp<A>, "kind">): FusedOp<A> {
  return { ...op, kind: "fused" };
}
