/**
 * Elementwise ops. Binary ones broadcast as NumPy does: the functions expand their inputs by views, so that the op
 * itself always sees equal shapes (with strides of 0) and the tape sums the gradient back.
 */
import { usageError } from "../../util/errors.ts";
import type { Device } from "../device.ts";
import { dispatch } from "../dispatch.ts";
import { type Layout, type OpCase, type PrimitiveOp, primitive } from "../op.ts";
import { Tensor } from "../tensor.ts";
import { describe, type Shape, type TensorType } from "../types.ts";
import { expand } from "../views.ts";
import { equalShapes, f32, sameShape } from "./check.ts";

type None = Record<string, never>;
type Unary = PrimitiveOp<None>;
const f32Only = (x: Layout): boolean => x.dtype === "f32";

function unary(
  name: string,
  f: (x: number) => number,
  gradient?: (g: Tensor, x: Tensor, y: Tensor) => Tensor,
  kind: "normal" | "positive" | "spread" = "normal",
): Unary {
  return primitive<None>({
    name,
    infer: ([x]) => [f32(x.shape)],
    ref: ([x], [y]) => {
      for (let i = 0; i < x.data.length; i++) y.data[i] = f(x.data[i]);
    },
    vjp: gradient && (({ inputs: [x], outputs: [y], grads: [g] }) => [g && gradient(g, x, y)]),
    cases: [
      { inputs: [{ shape: [2, 3], kind }], attrs: {} },
      { inputs: [{ shape: [37], kind }], attrs: {} },
      { inputs: [{ shape: [0, 4], kind }], attrs: {}, note: "empty" },
    ],
  });
}

function binary(
  name: string,
  f: (a: number, b: number) => number,
  gradient?: (g: Tensor, a: Tensor, b: Tensor, y: Tensor) => [Tensor | undefined, Tensor | undefined],
  kind: "normal" | "positive" = "normal",
): PrimitiveOp<None> {
  const pair = (shape: Shape, note?: string): OpCase<None> => ({
    inputs: [
      { shape, kind },
      { shape, kind },
    ],
    attrs: {},
    note,
  });
  return primitive<None>({
    name,
    infer: (xs) => [f32(sameShape(name, xs))],
    accepts: f32Only,
    ref: ([a, b], [y]) => {
      for (let i = 0; i < y.data.length; i++) y.data[i] = f(a.data[i], b.data[i]);
    },
    vjp:
      gradient &&
      (({ inputs: [a, b], outputs: [y], grads: [g] }) => (g ? gradient(g, a, b, y) : [undefined, undefined])),
    cases: [pair([2, 3]), pair([67]), pair([3, 0], "empty")],
  });
}

export const negOp = unary(
  "neg",
  (x) => -x,
  (g) => neg(g),
);
export const expOp = unary("exp", Math.exp, (g, _x, y) => mul(g, y));
export const logOp = unary("log", Math.log, (g, x) => div(g, x), "positive");
export const sqrtOp = unary("sqrt", Math.sqrt, (g, _x, y) => div(mul(g, 0.5), y), "positive");
/** d/dx x^(-1/2) = -1/2 x^(-3/2) */
export const rsqrtOp = unary(
  "rsqrt",
  (x) => 1 / Math.sqrt(x),
  (g, x, y) => mul(div(mul(g, y), x), -0.5),
  "positive",
);
/** d/dx tanh = 1 - tanh² */
export const tanhOp = unary("tanh", Math.tanh, (g, _x, y) => mul(g, sub(1, mul(y, y))));
/** d/dx σ = σ (1 - σ) */
export const sigmoidOp = unary(
  "sigmoid",
  (x) => 1 / (1 + Math.exp(-x)),
  (g, _x, y) => mul(g, mul(y, sub(1, y))),
);
/** NaN passes through; the gradient at 0 is 0. */
export const reluOp = unary(
  "relu",
  (x) => Math.max(x, 0),
  (g, _x, y) => mul(g, greater(y, 0)),
  "spread",
);
export const absOp = unary("abs", Math.abs, (g, x) => mul(g, sub(greater(x, 0), greater(0, x))), "spread");
export const squareOp = unary(
  "square",
  (x) => x * x,
  (g, x) => mul(mul(g, x), 2),
);
export const reciprocalOp = unary(
  "reciprocal",
  (x) => 1 / x,
  (g, _x, y) => neg(mul(g, mul(y, y))),
  "positive",
);
export const sinOp = unary("sin", Math.sin, (g, x) => mul(g, cos(x)));
export const cosOp = unary("cos", Math.cos, (g, x) => neg(mul(g, sin(x))));

export const addOp = binary(
  "add",
  (a, b) => a + b,
  (g) => [g, g],
);
export const subOp = binary(
  "sub",
  (a, b) => a - b,
  (g) => [g, neg(g)],
);
export const mulOp = binary(
  "mul",
  (a, b) => a * b,
  (g, a, b) => [mul(g, b), mul(g, a)],
);
export const divOp = binary(
  "div",
  (a, b) => a / b,
  (g, _a, b, y) => {
    const ga = div(g, b);
    return [ga, neg(mul(ga, y))];
  },
  "positive",
);
/** NaN in either input gives NaN; at equality the whole gradient goes to `a`. */
export const maximumOp = binary(
  "maximum",
  (a, b) => (a >= b || Number.isNaN(a) ? a : b),
  (g, a, b) => {
    const first = mul(g, greaterEqual(a, b));
    return [first, sub(g, first)];
  },
);
export const minimumOp = binary(
  "minimum",
  (a, b) => (a <= b || Number.isNaN(a) ? a : b),
  (g, a, b) => {
    const first = mul(g, greaterEqual(b, a));
    return [first, sub(g, first)];
  },
);
/** Comparisons give 1 or 0 in f32 and carry no gradient; anything compared with NaN is 0. */
export const greaterOp = binary("greater", (a, b) => (a > b ? 1 : 0));
export const greaterEqualOp = binary("greaterEqual", (a, b) => (a >= b ? 1 : 0));
export const equalOp = binary("equal", (a, b) => (a === b ? 1 : 0));

/** a where cond != 0, else b; equal shapes. */
export const whereOp: PrimitiveOp<None> = primitive<None>({
  name: "where",
  infer: (xs) => [f32(sameShape("where", xs))],
  ref: ([c, a, b], [y]) => {
    for (let i = 0; i < y.data.length; i++) y.data[i] = c.data[i] !== 0 ? a.data[i] : b.data[i];
  },
  vjp: ({ inputs: [c], grads: [g] }) => {
    if (!g) return [];
    const zero = expand(g.device.full([], 0), g.shape);
    return [undefined, dispatch(whereOp, [c, g, zero], {})[0], dispatch(whereOp, [c, zero, g], {})[0]];
  },
  cases: [
    {
      inputs: [{ shape: [3, 5], kind: "mask", constant: true }, { shape: [3, 5] }, { shape: [3, 5] }],
      attrs: {},
    },
    { inputs: [{ shape: [0], constant: true }, { shape: [0] }, { shape: [0] }], attrs: {}, note: "empty" },
  ],
});

export type Operand = Tensor | number;

function homeOf(name: string, a: Operand, b: Operand): Device {
  if (a instanceof Tensor) return a.device;
  if (b instanceof Tensor) return b.device;
  throw usageError(`${name}: two numbers and no tensor`);
}

/** Both operands as tensors of their common shape (NumPy's rule). */
function pair(name: string, a: Operand, b: Operand): [Tensor, Tensor] {
  const home = homeOf(name, a, b);
  const [x, y] = [a, b].map((t) => (t instanceof Tensor ? t : home.full([], t)));
  const shape = broadcast(name, x, y);
  return [repeat(x, shape), repeat(y, shape)];
}

function repeat(x: Tensor, shape: Shape): Tensor {
  return equalShapes(x.shape, shape) ? x : expand(x, shape);
}

/** The common shape of two tensors, or an error that shows both. */
export function broadcast(name: string, a: TensorType, b: TensorType): number[] {
  const rank = Math.max(a.shape.length, b.shape.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a.shape[a.shape.length - rank + i] ?? 1;
    const y = b.shape[b.shape.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw usageError(`${name}: ${describe(a)} and ${describe(b)} do not broadcast (${x} against ${y})`);
    }
    return x === 1 ? y : x;
  });
}

const one = (op: Unary) => (x: Tensor) => dispatch(op, [x], {})[0];
const two = (op: PrimitiveOp<None>) => (a: Operand, b: Operand) =>
  a instanceof Tensor && b instanceof Tensor && equalShapes(a.shape, b.shape)
    ? dispatch(op, [a, b], {})[0]
    : homeOf(op.name, a, b).scope(() => dispatch(op, pair(op.name, a, b), {})[0]);

export const neg = one(negOp);
export const exp = one(expOp);
export const log = one(logOp);
export const sqrt = one(sqrtOp);
export const rsqrt = one(rsqrtOp);
export const tanh = one(tanhOp);
export const sigmoid = one(sigmoidOp);
export const relu = one(reluOp);
export const abs = one(absOp);
export const square = one(squareOp);
export const reciprocal = one(reciprocalOp);
export const sin = one(sinOp);
export const cos = one(cosOp);
export const add = two(addOp);
export const sub = two(subOp);
export const mul = two(mulOp);
export const div = two(divOp);
export const maximum = two(maximumOp);
export const minimum = two(minimumOp);
export const greater = two(greaterOp);
export const greaterEqual = two(greaterEqualOp);
export const equal = two(equalOp);

/** `a` where `cond` is not 0, else `b`; all three broadcast. */
export function where(cond: Tensor, a: Operand, b: Operand): Tensor {
  return cond.device.scope(() => {
    const [x, y] = pair("where", a instanceof Tensor || b instanceof Tensor ? a : cond.device.full([], a), b);
    const shape = broadcast("where", cond, x);
    return dispatch(
      whereOp,
      [cond, x, y].map((t) => repeat(t, shape)),
      {},
    )[0];
  });
}
