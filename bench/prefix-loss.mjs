#!/usr/bin/env node
/**
 * The decoder's part of a training step by losses over prefixes against that of plain TopK, in interleaved runs of one
 * process. Run `npm run build` and `npm run native` first.
 *   node bench/prefix-loss.mjs [--shapes 4096x32x512x8192,…] [--rounds 21] [--threads 2]
 * A shape is tokens x active x width x features. decoder: what gives the loss and the gradients of W_dec and of the values.
 * step: W_enc and the sums of squares as well. Times are medians in ms, ratios medians over the rounds.
 */
import { parseArgs } from "node:util";
import {
  createDevice,
  greater,
  mul,
  prefixLoss,
  sparseDecodeLoss,
  sparseDot,
  sparseOuter,
  sparseOuterPair,
  sparseSum,
  sumSquares,
} from "../dist/src/tensor/index.js";
import { Rng } from "../dist/src/util/index.js";

const { values: options } = parseArgs({
  options: {
    shapes: { type: "string", default: "4096x32x512x8192,4096x128x512x8192,2048x64x2304x16384" },
    rounds: { type: "string", default: "21" },
    threads: { type: "string", default: "2" },
  },
});

const device = await createDevice({ backend: "native", threads: Number(options.threads) });
const median = (xs) => xs.toSorted((a, b) => a - b)[xs.length >> 1];

/** Codes as TopK gives them: values descend, the indices of a token differ. */
function problem([B, K, D, F]) {
  const rng = new Rng(1);
  const normal = (...shape) =>
    device.tensor(rng.fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1))), shape);
  const values = new Float32Array(B * K);
  const indices = new Int32Array(B * K);
  for (let b = 0; b < B; b++) {
    const seen = new Set();
    while (seen.size < K) seen.add(rng.int(F));
    indices.set([...seen], b * K);
    const row = values.subarray(b * K, (b + 1) * K);
    rng.fillNormal(row);
    row.forEach((v, k) => {
      row[k] = Math.abs(v);
    });
    row.sort().reverse();
  }
  const weights = (f) => device.tensor(Float32Array.from({ length: K + 1 }, (_, t) => f(t)));
  return {
    codes: { values: device.tensor(values, [B, K]), indices: device.tensor(indices, [B, K], "i32") },
    w: mul(normal(F, D), 1 / Math.sqrt(D)),
    bias: normal(D),
    x: normal(B, D),
    even: weights((t) => Number(t > 0) / K),
    last: weights((t) => Number(t === K)),
  };
}

function paths({ codes, w, bias, x, even, last }) {
  const { values, indices } = codes;
  const F = w.shape[0];
  const topk = () => {
    const { error } = sparseDecodeLoss(codes, w, bias, x);
    return { error, dots: sparseDot(error, w, indices) };
  };
  const wholeStep = (weights) => {
    const { dValues, dW } = prefixLoss(codes, w, bias, x, weights);
    const dEnc = sparseOuter(dValues, indices, x, F);
    return [dW, dEnc, sparseSum(dValues, indices, F)].map(sumSquares);
  };
  return {
    decoder: {
      topk: () => sparseOuter(values, indices, topk().error, F),
      hierarchical: () => prefixLoss(codes, w, bias, x, even),
      "one prefix": () => prefixLoss(codes, w, bias, x, last),
    },
    step: {
      topk: () => {
        const { error, dots } = topk();
        const dPre = mul(dots, greater(values, 0));
        sparseOuterPair({ values, x: error }, { values: dPre, x }, indices, F);
      },
      hierarchical: () => wholeStep(even),
      "one prefix": () => wholeStep(last),
    },
  };
}

console.log("| tokens | K | D | F | part | TopK ms | hierarchical ms | ratio | one prefix ms | ratio |");
console.log("|---|---|---|---|---|---|---|---|---|---|");
for (const text of options.shapes.split(",")) {
  const shape = text.split("x").map(Number);
  device.scope(() => {
    for (const [part, runs] of Object.entries(paths(problem(shape)))) {
      const times = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
      for (let round = -2; round < Number(options.rounds); round++) {
        for (const [name, run] of Object.entries(runs)) {
          const began = performance.now();
          device.scope(() => void run());
          if (round >= 0) times[name].push(performance.now() - began);
        }
      }
      const cells = Object.entries(times).flatMap(([name, ms]) => [
        median(ms).toFixed(1),
        ...(name === "topk" ? [] : [median(ms.map((t, i) => t / times.topk[i])).toFixed(2)]),
      ]);
      console.log(`| ${[...shape, part, ...cells].join(" | ")} |`);
    }
  });
}
device.close();
