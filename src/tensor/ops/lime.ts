/**
 * The routing of LIMe (arXiv 2502.09245, section 3): the keys and values of a head as weighted sums over the heads of all
 * sources, with one weight per pair of heads. B batch · T position · S sources · G heads of keys · Dh head width.
 * Row h, column s G + h' of the router [G, S G] is the weight of head h' of source s in head h.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { type Dense, describe, type Shape, type TensorType } from "../types.ts";
import { expand, permute, reshape, slice, transpose } from "../views.ts";
import { f32, requireShape, sameShape } from "./check.ts";
import { add } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { concat } from "./shape.ts";

/** The common shape of `tensors`, and the number of sources that the router then has. */
function sizes(name: string, router: TensorType, tensors: readonly TensorType[]): { shape: Shape; S: number } {
  const [first] = tensors;
  requireShape(name, "the first source", first, [undefined, undefined, undefined, undefined]);
  const G = first.shape[2];
  const S = router.shape[1] / G;
  if (router.shape.length === 2 && router.shape[0] === G && Number.isInteger(S) && S >= 1)
    return { shape: sameShape(name, tensors), S };
  throw usageError(
    `${name}: router is ${describe(router)}, but sources ${describe(first)} need [${G}, ${G} for each source]`,
  );
}

/** Runs `f` on every pair of heads: at `into` of an output row and at `from` of a row of source s, with the weight's place. */
function eachPair(
  shape: Shape,
  S: number,
  f: (s: number, into: number, from: number, weight: number) => void,
): void {
  const [B, T, G, Dh] = shape;
  for (let m = 0; m < B * T; m++)
    for (let h = 0; h < G; h++)
      for (let s = 0; s < S; s++)
        for (let g = 0; g < G; g++) f(s, (m * G + h) * Dh, (m * G + g) * Dh, (h * S + s) * G + g);
}

/** The block [G, G] of source s for every token: [B T, G, G]. No number is copied per token. */
function blockOf(router: Tensor, s: number, tokens: number, transposed = false): Tensor {
  const G = router.shape[0];
  const block = slice(router, [0, s * G], [G, G]);
  return expand(transposed ? transpose(block) : block, [tokens, G, G]);
}

const perToken = (x: Tensor): Tensor =>
  reshape(x, [x.shape[0] * x.shape[1], x.shape[2], x.shape[3]]); // [B T, G, Dh]

/** x [B, T, G, Dh] with a row for each head: [G, B T Dh]. */
function perHead(x: Tensor): Tensor {
  const [B, T, G, Dh] = x.shape;
  return reshape(permute(x, [2, 0, 1, 3]), [G, B * T * Dh]);
}

const source = (B: number, T: number, G: number, Dh: number) => ({ shape: [B, T, G, Dh] });
const times = <T>(n: number, x: T): T[] => Array.from({ length: n }, () => x);
const forward = (S: number, ...shape: [number, number, number, number]) => [
  { shape: [shape[2], S * shape[2]] },
  ...times(2 * S, source(...shape)),
];

/** router, S keys, S values, each [B, T, G, Dh] -> keys, values: out[h] = Σ_s Σ_h' router[h, s G + h'] source_s[h']. */
export const limeRouteOp = fused<Record<string, never>>({
  name: "limeRoute",
  variadic: true,
  infer: ([router, ...sources]) => {
    if (sources.length < 2 || sources.length % 2 !== 0)
      throw usageError(`limeRoute: ${sources.length} sources; expected as many keys as values, at least one`);
    const { shape } = sizes("limeRoute", router, sources);
    const G = shape[2];
    requireShape("limeRoute", "router", router, [G, (sources.length / 2) * G]);
    return [f32(shape), f32(shape)];
  },
  ref: ([router, ...sources], outputs) => {
    const S = sources.length / 2;
    outputs.forEach((out, side) => {
      out.data.fill(0);
      const Dh = out.shape[3];
      eachPair(out.shape, S, (s, into, from, weight) => {
        const x = sources[side * S + s].data;
        for (let d = 0; d < Dh; d++) out.data[into + d] += router.data[weight] * x[from + d];
      });
    });
  },
  vjp: ({ inputs: [router, ...sources], grads, needs }) => {
    const S = sources.length / 2;
    const sides = [0, 1].filter((side) => grads[side]);
    const read = sides.flatMap((side) => Array.from({ length: S }, (_, s) => side * S + s));
    const inputs = [0, ...read.map((i) => 1 + i)];
    const wanted = inputs.map((i) => needs[i]);
    if (sides.length === 0 || !wanted.includes(true)) return [];
    const upstream = sides.flatMap((side) => grads[side] ?? []);
    const tensors = [router, ...upstream, ...read.map((i) => sources[i])];
    const found = dispatch(limeRouteGradOp, tensors, { needs: wanted });
    const result: (Tensor | undefined)[] = [];
    inputs
      .filter((i) => needs[i])
      .forEach((i, n) => {
        result[i] = found[n];
      });
    return result;
  },
  decompose: ([router, ...sources]) => {
    const S = sources.length / 2;
    const [B, T] = sources[0].shape;
    return [sources.slice(0, S), sources.slice(S)].map((side) => {
      const parts = side.map((x, s) => matmul(blockOf(router, s, B * T), perToken(x)));
      return reshape(parts.reduce(add), sources[0].shape);
    });
  },
  cases: [
    { inputs: forward(1, 2, 3, 2, 4), attrs: {} },
    { inputs: forward(3, 1, 4, 4, 8), attrs: {} },
    { inputs: forward(2, 2, 2, 5, 7), attrs: {}, note: "odd heads and widths" },
    { inputs: forward(2, 1, 3, 1, 33), attrs: {}, note: "one head" },
    { inputs: forward(4, 1, 1, 3, 20), attrs: {}, note: "one token" },
    { inputs: forward(2, 0, 3, 2, 4), attrs: {}, note: "empty" },
  ],
});

export interface LimeGradAttrs {
  /** Which gradients are wanted: of the router, then of each source in order. */
  readonly needs: readonly boolean[];
}

const backward = (sides: number, S: number, ...shape: [number, number, number, number]) => [
  { shape: [shape[2], S * shape[2]] },
  ...times(sides * (1 + S), source(...shape)),
];

/**
 * router, then the gradients g of the keys, of the values or of both, then the S sources behind each -> what `needs` names of
 * dRouter[h, s G + h'] = Σ g[h] · source_s[h'] over tokens and sides, and dSource_s[h'] = Σ_h router[h, s G + h'] g[h].
 */
export const limeRouteGradOp = fused<LimeGradAttrs>({
  name: "limeRouteGrad",
  variadic: true,
  infer: ([router, ...tensors], { needs }) => {
    if (tensors.length === 0) throw usageError("limeRouteGrad: no gradient and no source");
    const { shape, S } = sizes("limeRouteGrad", router, tensors);
    const sides = tensors.length / (1 + S);
    if (!(sides === 1 || sides === 2) || needs.length !== 1 + sides * S) {
      throw usageError(
        `limeRouteGrad: ${tensors.length} tensors and ${needs.length} needs; a router ${describe(router)} takes a ` +
          `gradient and ${S} sources once or twice, and a need for itself and each source`,
      );
    }
    return needs.flatMap((want, i) => (want ? [f32(i === 0 ? router.shape : shape)] : []));
  },
  ref: ([router, ...tensors], outputs, { needs }) => {
    const { shape, S } = sizes("limeRouteGrad", asType(router), tensors.map(asType));
    const sides = tensors.length / (1 + S);
    const Dh = shape[3];
    for (const out of outputs) out.data.fill(0);
    const left = [...outputs];
    const [dRouter, ...dSources] = needs.map((want) => (want ? left.shift() : undefined));
    for (let side = 0; side < sides; side++) {
      const g = tensors[side].data;
      eachPair(shape, S, (s, into, from, weight) => {
        const x = tensors[sides + side * S + s].data;
        const dx = dSources[side * S + s];
        for (let d = 0; d < Dh; d++) {
          if (dRouter) dRouter.data[weight] += g[into + d] * x[from + d];
          if (dx) dx.data[from + d] += router.data[weight] * g[into + d];
        }
      });
    }
  },
  decompose: ([router, ...tensors], { needs }) => {
    const { shape, S } = sizes("limeRouteGrad", router, tensors);
    const tokens = shape[0] * shape[1];
    const sides = tensors.length / (1 + S);
    const grads = tensors.slice(0, sides);
    const sources = tensors.slice(sides);
    const dBlock = (s: number) =>
      grads
        .map((g, side) => matmul(perHead(g), transpose(perHead(sources[side * S + s]))))
        .reduce(add);
    const dSources = sources.map((_, i) => {
      if (!needs[1 + i]) return [];
      const g = perToken(grads[Math.floor(i / S)]);
      return [reshape(matmul(blockOf(router, i % S, tokens, true), g), shape)];
    });
    const dRouter = needs[0] ? [concat(Array.from({ length: S }, (_, s) => dBlock(s)), 1)] : [];
    return [...dRouter, ...dSources.flat()];
  },
  cases: [
    { inputs: backward(2, 1, 2, 3, 2, 4), attrs: { needs: [true, true, true] } },
    { inputs: backward(2, 3, 1, 4, 4, 8), attrs: { needs: times(7, true) } },
    {
      inputs: backward(2, 2, 2, 2, 5, 7),
      attrs: { needs: [true, false, true, true, false] },
      note: "odd heads and widths, not all sources",
    },
    { inputs: backward(1, 2, 1, 3, 1, 33), attrs: { needs: [true, true, true] }, note: "one head, one side" },
    { inputs: backward(1, 4, 1, 1, 3, 20), attrs: { needs: [false, true, false, true, true] }, note: "one token" },
    { inputs: backward(2, 1, 2, 3, 2, 4), attrs: { needs: [true, false, false] }, note: "router only" },
    { inputs: backward(2, 2, 0, 3, 2, 4), attrs: { needs: times(5, true) }, note: "empty" },
  ],
});

const asType = (x: Dense): TensorType => ({ dtype: "f32", shape: x.shape });

/**
 * Keys and values [B, T, G, Dh] routed from those of S sources by one router [G, S G]: column s G + h' of row h is the weight
 * of head h' of source s in head h. The sources are read where they lie, and nothing but the inputs is saved for the gradient.
 */
export function limeRoute(
  router: Tensor,
  keys: readonly Tensor[],
  values: readonly Tensor[],
): { keys: Tensor; values: Tensor } {
  if (keys.length !== values.length || keys.length === 0)
    throw usageError(
      `limeRoute: ${keys.length} keys and ${values.length} values; expected one of each per source, at least one`,
    );
  const [k, v] = dispatch(limeRouteOp, [router, ...keys, ...values], {});
  return { keys: k, values: v };
}
