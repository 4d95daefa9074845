/**
 * The routing of LIMe (arXiv 2502.09245, section 3): the keys and values of a head as weighted sums over the
 * heads of all sources, with one weight per pair of heads. Row h, column s G + h' of the router [G, S G] is
 * the weight of head h' of source s in head h.
 * B batch · T position · S sources · G heads of keys · Dh head width.
 */
import { usageError } from "../../util/errors.ts";
import { dispatch } from "../dispatch.ts";
import { fused } from "../op.ts";
import type { Tensor } from "../tensor.ts";
import { describe, type Shape, type TensorType } from "../types.ts";
import { expand, permute, reshape, slice, transpose } from "../views.ts";
import { f32, requireShape, sameShape } from "./check.ts";
import { add } from "./elementwise.ts";
import { matmul } from "./matmul.ts";
import { accumulateOp } from "./optim.ts";
import { concat } from "./shape.ts";

/** The common shape of `tensors`, and the number of sources that the router then has. */
function sizes(
  name: string,
  router: TensorType,
  tensors: readonly TensorType[],
): { shape: Shape; S: number } {
  const [first] = tensors;
  requireShape(name, "the first source", first, [undefined, undefined, undefined, undefined]);
  const G = first.shape[2];
  const S = router.shape[1] / G;
  if (router.shape.length === 2 && router.shape[0] === G && Number.isInteger(S) && S >= 1)
    return { shape: sameShape(name, tensors), S };
  throw usageError(
    `${name}: router is ${describe(router)}, but sources ${describe(first)} need ` +
      `[${G}, ${G} for each source]`,
  );
}

/** Runs `f` on each token's pairs of heads: the places of that of the result, that of source s, the weight. */
function eachPair(
  [B, T, G, Dh]: Shape,
  S: number,
  s: number,
  f: (into: number, from: number, weight: number) => void,
): void {
  for (let m = 0; m < B * T; m++)
    for (let h = 0; h < G; h++)
      for (let g = 0; g < G; g++) f((m * G + h) * Dh, (m * G + g) * Dh, (h * S + s) * G + g);
}

/** The block [G, G] of source s for every token: [B T, G, G]. No number is copied per token. */
function blockOf(router: Tensor, s: number, tokens: number, transposed = false): Tensor {
  const G = router.shape[0];
  const block = slice(router, [0, s * G], [G, G]);
  return expand(transposed ? transpose(block) : block, [tokens, G, G]);
}

function perToken(x: Tensor): Tensor {
  const [B, T, G, Dh] = x.shape;
  return reshape(x, [B * T, G, Dh]);
}

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

/**
 * router, S keys, S values [B, T, G, Dh] -> keys, values: out[h] = Σ_s Σ_h' router[h, s G + h'] source_s[h'].
 */
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
    for (const out of outputs) out.data.fill(0);
    sources.forEach((x, i) => {
      const out = outputs[Math.floor(i / S)];
      eachPair(x.shape, S, i % S, (into, from, weight) => {
        for (let d = 0; d < x.shape[3]; d++) out.data[into + d] += router.data[weight] * x.data[from + d];
      });
    });
  },
  vjp: ({ inputs: [router, ...sources], grads, needs, sums }) => {
    const S = sources.length / 2;
    const sides = [0, 1].filter((side) => grads[side]);
    const read = sides.flatMap((side) => Array.from({ length: S }, (_, s) => side * S + s));
    const inputs = [0, ...read.map((i) => 1 + i)];
    const wants = inputs.map((i): Want => (!needs[i] ? "none" : sums[i] ? "sum" : "new"));
    if (sides.length === 0 || wants.every((want) => want === "none")) return [];
    const upstream = sides.flatMap((side) => grads[side] ?? []);
    const added = inputs.flatMap((i) => (needs[i] && sums[i]) || []);
    const tensors = [router, ...upstream, ...read.map((i) => sources[i]), ...added];
    const found = targets(wants, added, dispatch(limeRouteGradOp, tensors, { wants }));
    const result: (Tensor | undefined)[] = [];
    inputs.forEach((i, n) => {
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

/** What becomes of a gradient: nobody wants it, it is a new tensor, or it is added to an input in place. */
export type Want = "none" | "new" | "sum";

export interface LimeGradAttrs {
  /** Of the router, then of each source in order. */
  readonly wants: readonly Want[];
}

/** Where each gradient goes: to the next one of `sums`, to the next one of `outputs`, or nowhere. */
export function targets<T>(
  wants: readonly Want[],
  sums: readonly T[],
  outputs: readonly T[],
): (T | undefined)[] {
  const lists = { none: [], new: [...outputs], sum: [...sums] };
  return wants.map((want) => lists[want].shift());
}

const sumsOf = ({ wants }: LimeGradAttrs): number => wants.filter((want) => want === "sum").length;

/** The tensors behind the router by what they are, and the number of sides. */
function parts<T>(tensors: readonly T[], S: number, attrs: LimeGradAttrs) {
  const read = tensors.length - sumsOf(attrs);
  const sides = read / (1 + S);
  return {
    sides,
    grads: tensors.slice(0, sides),
    sources: tensors.slice(sides, read),
    sums: tensors.slice(read),
  };
}

const backward = (sides: number, wants: readonly Want[], ...shape: [number, number, number, number]) => {
  const S = (wants.length - 1) / sides;
  const router = { shape: [shape[2], S * shape[2]] };
  const sums = wants.flatMap((want, i) => (want === "sum" ? [i === 0 ? router : source(...shape)] : []));
  return { inputs: [router, ...times(sides * (1 + S), source(...shape)), ...sums], attrs: { wants } };
};

/**
 * router, then the gradients g of the keys, of the values or of both, then the S sources behind each, then
 * what is added to -> those of dRouter[h, s G + h'] = Σ g[h] · source_s[h'] over tokens and sides, and of
 * dSource_s[h'] = Σ_h router[h, s G + h'] g[h] that are new tensors.
 */
export const limeRouteGradOp = fused<LimeGradAttrs>({
  name: "limeRouteGrad",
  variadic: true,
  mutates: (inputs, attrs) => {
    const sums = sumsOf(attrs);
    return Array.from({ length: sums }, (_, i) => inputs - sums + i);
  },
  infer: ([router, ...tensors], attrs) => {
    const { wants } = attrs;
    if (tensors.length === 0) throw usageError("limeRouteGrad: no gradient and no source");
    // The sum of the router comes first among the sums, and has its shape.
    const own = wants[0] === "sum" ? tensors.length - sumsOf(attrs) : -1;
    if (own >= 0) sameShape("limeRouteGrad", [router, tensors[own]]);
    const { shape, S } = sizes(
      "limeRouteGrad",
      router,
      tensors.filter((_, i) => i !== own),
    );
    const { sides } = parts(tensors, S, attrs);
    if (!(sides === 1 || sides === 2) || wants.length !== 1 + sides * S) {
      throw usageError(
        `limeRouteGrad: ${tensors.length} tensors and ${wants.length} wants; a router ${describe(router)} ` +
          `takes a gradient and ${S} sources once or twice, and a want for itself and each source`,
      );
    }
    return wants.flatMap((want, i) => (want === "new" ? [f32(i === 0 ? router.shape : shape)] : []));
  },
  ref: ([router, ...tensors], outputs, attrs) => {
    const S = router.shape[1] / router.shape[0];
    const { grads, sources, sums } = parts(tensors, S, attrs);
    for (const out of outputs) out.data.fill(0);
    const [dRouter, ...dSources] = targets(attrs.wants, sums, outputs);
    sources.forEach((x, i) => {
      const g = grads[Math.floor(i / S)];
      const dx = dSources[i];
      eachPair(x.shape, S, i % S, (into, from, weight) => {
        for (let d = 0; d < x.shape[3]; d++) {
          if (dRouter) dRouter.data[weight] += g.data[into + d] * x.data[from + d];
          if (dx) dx.data[from + d] += router.data[weight] * g.data[into + d];
        }
      });
    });
  },
  decompose: ([router, ...tensors], attrs) => {
    const S = router.shape[1] / router.shape[0];
    const { grads, sources, sums } = parts(tensors, S, attrs);
    const { shape } = grads[0];
    const dBlock = (s: number) => {
      const products = grads.map((g, side) => matmul(perHead(g), transpose(perHead(sources[side * S + s]))));
      return products.reduce(add); // [G, G]
    };
    const dSource = (i: number) => {
      const g = perToken(grads[Math.floor(i / S)]);
      return reshape(matmul(blockOf(router, i % S, g.shape[0], true), g), shape);
    };
    const dRouter = () =>
      concat(
        Array.from({ length: S }, (_, s) => dBlock(s)),
        1,
      );
    const into = targets<Tensor | undefined>(attrs.wants, sums, []);
    return attrs.wants.flatMap((want, i) => {
      if (want === "none") return [];
      const found = i === 0 ? dRouter() : dSource(i - 1);
      const sum = into[i];
      if (!sum) return [found];
      dispatch(accumulateOp, [sum, found], {});
      return [];
    });
  },
  cases: [
    backward(2, ["new", "new", "new"], 2, 3, 2, 4),
    backward(2, ["new", "new", "sum", "new", "sum", "sum", "new"], 1, 4, 4, 8),
    {
      ...backward(2, ["new", "none", "new", "sum", "none"], 2, 2, 5, 7),
      note: "odd heads and widths, not all sources",
    },
    { ...backward(1, ["sum", "new", "new"], 1, 3, 1, 33), note: "one head, one side" },
    { ...backward(1, ["none", "new", "none", "sum", "new"], 1, 1, 3, 20), note: "one token" },
    { ...backward(2, ["new", "none", "none"], 2, 3, 2, 4), note: "router only" },
    { ...backward(2, ["new", "new", "sum", "new", "new"], 0, 3, 2, 4), note: "empty" },
  ],
});

/**
 * Keys and values [B, T, G, Dh] routed from those of S sources by one router [G, S G]: column s G + h' of row
 * h is the weight of head h' of source s in head h. The sources are read where they lie, and nothing but the
 * inputs is saved for the gradient.
 */
export function limeRoute(
  router: Tensor,
  keys: readonly Tensor[],
  values: readonly Tensor[],
): { keys: Tensor; values: Tensor } {
  if (keys.length !== values.length || keys.length === 0)
    throw usageError(
      `limeRoute: ${keys.length} keys and ${values.length} values; ` +
        "expected one of each per source, at least one",
    );
  const [k, v] = dispatch(limeRouteOp, [router, ...keys, ...values], {});
  return { keys: k, values: v };
}
