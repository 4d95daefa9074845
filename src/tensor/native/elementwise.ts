/**
 * Bindings of native/src/elementwise.inl: unary and broadcasting binary maths, where, cast, fill, scale and
 * accumulate.
 */
import { type DType, type KernelTensor, type Shape, sizeOf } from "../types.ts";
import { type Addon, dtypeCode } from "./addon.ts";
import { addressOf, caller, loops } from "./call.ts";

type Tensors = readonly KernelTensor[];

/** The kernels of this family by op. */
export function elementwiseKernels(addon: Addon, pool: number, isa?: string) {
  const call = caller(addon, pool, isa);

  /** x contiguous -> y, same shape. */
  function unary(name: string) {
    const run = call(name);
    return ([x]: Tensors, [y]: Tensors): void => run(addressOf(x), addressOf(y), sizeOf(x.shape));
  }

  /** a and b of any strides, 0 included, broadcast to the shape of y, which is contiguous. */
  function binary(name: string) {
    const run = call(name);
    return ([a, b]: Tensors, [y]: Tensors): void => {
      const layout = loops(y.shape, spread(a, y.shape), spread(b, y.shape));
      run(addressOf(a), addressOf(b), addressOf(y), ...layout);
    };
  }

  const where = call("where");
  const cast = call("cast");
  const fill = call("fill");
  const scale = call("scale");
  const accumulate = call("accumulate");

  return {
    neg: unary("neg"),
    exp: unary("exp"),
    log: unary("log"),
    sqrt: unary("sqrt"),
    rsqrt: unary("rsqrt"),
    tanh: unary("tanh"),
    sigmoid: unary("sigmoid"),
    relu: unary("relu"),
    abs: unary("abs"),
    square: unary("square"),
    reciprocal: unary("reciprocal"),
    sin: unary("sin"),
    cos: unary("cos"),
    add: binary("add"),
    sub: binary("sub"),
    mul: binary("mul"),
    div: binary("div"),
    maximum: binary("maximum"),
    minimum: binary("minimum"),
    greater: binary("greater"),
    greaterEqual: binary("greaterEqual"),
    equal: binary("equal"),
    where: ([c, a, b]: Tensors, [y]: Tensors): void =>
      where(addressOf(c), addressOf(a), addressOf(b), addressOf(y), sizeOf(y.shape)),
    cast: ([x]: Tensors, [y]: Tensors): void =>
      cast(addressOf(x), addressOf(y), sizeOf(y.shape), dtypeCode[x.dtype], dtypeCode[y.dtype]),
    fill: (_: Tensors, [y]: Tensors, { value }: { shape: Shape; value: number; dtype: DType }): void =>
      fill(addressOf(y), sizeOf(y.shape), value, dtypeCode[y.dtype]),
    /** In place. */
    scale: ([x]: Tensors, _: Tensors, { factor }: { factor: number }): void =>
      scale(addressOf(x), sizeOf(x.shape), factor),
    /** x of any strides into y, in place. */
    accumulate: ([y, x]: Tensors): void =>
      accumulate(addressOf(y), addressOf(x), ...loops(y.shape, x.strides)),
  };
}

/** Strides of x when it is repeated to `shape`: 0 along new axes and along extents of 1. */
function spread(x: KernelTensor, shape: Shape): number[] {
  const lead = shape.length - x.shape.length;
  return shape.map((_, axis) => (axis < lead || x.shape[axis - lead] === 1 ? 0 : x.strides[axis - lead]));
}
