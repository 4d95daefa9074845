import assert from "node:assert/strict";
import { test } from "node:test";
import { lossRecovered, MetricsAccumulator, type SaeMetrics } from "../../src/sae/index.ts";
import { Rng, SluiceError } from "../../src/util/index.ts";
import { golden, goldenJson } from "../golden.ts";

/** Names of the golden files and of the literature, and ours. */
const NAMES = {
  r2: "explained_variance",
  per_token: "explained_variance_per_token",
  variance_ratio: "explained_variance_variance_ratio",
  scalar_mean: "explained_variance_scalar_mean",
  mean_of_squares_form: "explained_variance_mean_of_squares",
  one_minus_nmse: "one_minus_nmse",
} as const satisfies Record<string, keyof SaeMetrics>;

type Case = { x: number[][]; recon: number[][] } & Record<keyof typeof NAMES, number>;

const flat = (rows: number[][]) => Float32Array.from(rows.flat());
const close = (actual: number, expected: number, what: string, tolerance = 1e-6) =>
  assert.ok(
    Math.abs(actual - expected) <= tolerance * Math.max(1, Math.abs(expected)),
    `${what}: ${actual}, ${expected}`,
  );

function measure(x: number[][], recon: number[][]): SaeMetrics {
  const metrics = new MetricsAccumulator(x[0].length, 4);
  metrics.addReconstruction(flat(x), flat(recon));
  return metrics.finish();
}

/** R2, legacy, #443 form, dictionary_learning, Overcomplete, 1 - nMSE of `training-defaults-and-metrics`, cases A to D. */
const TABLE: [string, number[][], number[][], number[]][] = [
  [
    "A",
    [
      [2, 0],
      [0, 4],
    ],
    [
      [2, 1],
      [0, 3],
    ],
    [0.8, 0.8, 1.066667, 0.8, 0.818182, 0.84375],
  ],
  [
    "B",
    [
      [12, 10],
      [10, 14],
    ],
    [
      [12, 11],
      [10, 13],
    ],
    [0.8, 0.8, 1.000056, 0.8, 0.818182, 0.996262],
  ],
  [
    "C",
    [
      [2, 0],
      [0, 4],
    ],
    [
      [1, 2],
      [1, 2],
    ],
    [0, 0, 1.333333, 0, 0.090909, 0.21875],
  ],
  [
    "D",
    [
      [2, 0],
      [0, 4],
    ],
    [
      [3, 1],
      [1, 5],
    ],
    [0.6, 0.6, 1.133333, 1, 0.636364, 0.6875],
  ],
];

for (const [name, x, recon, expected] of TABLE) {
  test(`the six explained variances of case ${name}`, () => {
    const m = measure(x, recon);
    const ours = [
      m.explained_variance,
      m.explained_variance_per_token,
      m.explained_variance_mean_of_squares,
      m.explained_variance_variance_ratio,
      m.explained_variance_scalar_mean,
      m.one_minus_nmse,
    ];
    for (const [i, value] of ours.entries()) close(value, expected[i], `column ${i}`);
  });
}

test("unequal distances from the mean tell R2 and the per-token form apart", () => {
  const m = measure(
    [
      [0, 0],
      [0, 0],
      [6, 0],
    ],
    [
      [1, 0],
      [0, 0],
      [6, 0],
    ],
  );
  close(m.explained_variance, 0.958333, "R2");
  close(m.explained_variance_per_token, 0.916667, "per token");
});

test("the explained variances equal the golden cases", () => {
  const cases = goldenJson<{ explained_variance: Record<string, Case> }>(
    "sae",
    "metrics.json",
  ).explained_variance;
  assert.ok(Object.keys(cases).length > 0);
  for (const [name, c] of Object.entries(cases)) {
    const m = measure(c.x, c.recon);
    for (const [theirs, ours] of Object.entries(NAMES))
      close(m[ours], c[theirs as keyof typeof NAMES], `${name} ${theirs}`);
  }
});

/** The golden tensors through an accumulator, in the given batch sizes. */
function goldenMetrics(sizes: number[]): MetricsAccumulator {
  const file = golden("sae", "metrics.safetensors");
  const [, D] = file.shape("x");
  const [, F] = file.shape("acts");
  const [x, recon, acts] = ["x", "recon", "acts"].map((name) => file.floats(name));
  const metrics = new MetricsAccumulator(D, F);
  let at = 0;
  for (const n of sizes) {
    metrics.addReconstruction(x.slice(at * D, (at + n) * D), recon.slice(at * D, (at + n) * D));
    const indices = Int32Array.from({ length: n * F }, (_, i) => i % F);
    metrics.addCodes({ values: acts.slice(at * F, (at + n) * F), indices });
    at += n;
  }
  return metrics;
}

test("pooled metrics equal the golden ones, whatever the batches", () => {
  const file = golden("sae", "metrics.safetensors");
  const meta = goldenJson<{ metrics: Record<string, number> & { batch_sizes: number[] } }>(
    "sae",
    "meta.json",
  ).metrics;
  const [n] = file.shape("x");
  for (const sizes of [meta.batch_sizes, [n], new Array(n).fill(1)]) {
    const metrics = goldenMetrics(sizes);
    const m = metrics.finish();
    for (const [theirs, ours] of Object.entries(NAMES)) close(m[ours], meta[`pooled.${theirs}`], theirs);
    close(1 - m.explained_variance, meta.fvu, "fvu");
    close(m.sse_per_token, meta.mse_per_token, "mse_per_token");
    close(m.mse, meta.mse_per_token / file.shape("x")[1], "mse");
    close(m.l2_error, meta.l2_error_norm, "l2_error_norm");
    close(m.cosine, meta.cosine, "cosine");
    close(m.l2_ratio, meta.l2_ratio, "l2_ratio");
    close(m.relative_reconstruction_bias, meta.relative_reconstruction_bias, "relative bias");
    close(m.l0, meta.l0, "l0");
    close(m.l1, meta.l1, "l1");
    close(1 - m.dead_fraction, meta.frac_alive, "frac_alive");
    assert.equal(Math.round(m.dead_fraction * metrics.features), meta.never_fired);
    const density = metrics.density();
    for (const [f, expected] of file.floats("density").entries())
      close(density[f], expected, `density[${f}]`);
  }
});

test("the mean of the batches differs from the pooled number, as the golden file says", () => {
  const file = golden("sae", "metrics.safetensors");
  const meta = goldenJson<{ metrics: Record<string, number> & { batch_sizes: number[] } }>(
    "sae",
    "meta.json",
  ).metrics;
  const [, D] = file.shape("x");
  let at = 0;
  let r2 = 0;
  for (const n of meta.batch_sizes) {
    const metrics = new MetricsAccumulator(D, 1);
    metrics.addReconstruction(
      file.floats("x").slice(at * D, (at + n) * D),
      file.floats("recon").slice(at * D, (at + n) * D),
    );
    r2 += metrics.finish().explained_variance / meta.batch_sizes.length;
    at += n;
  }
  close(r2, meta["mean_of_batches.r2"], "mean of batches");
});

test("a constant error does not hide from R2", () => {
  const file = golden("sae", "metrics.safetensors");
  const meta = goldenJson<{ metrics: Record<string, number> }>("sae", "meta.json").metrics;
  const x = file.floats("x");
  // The golden case does not hold its offset; a case of our own shows the same.
  const metrics = new MetricsAccumulator(file.shape("x")[1], 1);
  metrics.addReconstruction(
    x,
    x.map((v) => v + 1),
  );
  const m = metrics.finish();
  close(m.explained_variance_variance_ratio, meta["constant_error.variance_ratio"], "variance ratio");
  assert.ok(m.explained_variance < 1);
});

test("the per-token form measures from the mean of all tokens, however late it shows itself", () => {
  const rows = 70_000; // 0, 1, 0, 1 … in the first nine tenths, then around 100
  const x = Float32Array.from({ length: rows }, (_, i) => (i % 2) + (i < 0.9 * rows ? 0 : 100));
  const recon = x.map((v) => v + 0.5);
  const mean = x.reduce((a, b) => a + b, 0) / rows;
  const expected = x.reduce((a, v) => a + 1 - 0.25 / (v - mean) ** 2, 0) / rows;
  const kept = new MetricsAccumulator(1, 1);
  const told = new MetricsAccumulator(1, 1, { mean: Float64Array.of(mean) });
  for (let at = 0; at < rows; at += 3000) {
    for (const metrics of [kept, told])
      metrics.addReconstruction(x.slice(at, at + 3000), recon.slice(at, at + 3000));
  }
  close(kept.finish().explained_variance_per_token, expected, "inputs kept", 1e-9);
  close(told.finish().explained_variance_per_token, expected, "mean given", 1e-9);
  close(kept.finish().explained_variance_per_token, expected, "asked twice", 1e-9);
});

test("a mean of a million does not drown the variance", () => {
  const rng = new Rng(1);
  const x = rng.fillNormal(new Float32Array(2000), 1e6, 64);
  const recon = x.map((v, i) => v + (i % 2 ? 16 : -16));
  const shifted = new MetricsAccumulator(4, 1);
  shifted.addReconstruction(x, recon);
  const centred = new MetricsAccumulator(4, 1);
  centred.addReconstruction(
    x.map((v) => v - 1e6),
    recon.map((v) => v - 1e6),
  );
  close(shifted.finish().explained_variance, centred.finish().explained_variance, "R2", 1e-9);
});

test("the density histogram counts silent features apart", () => {
  const metrics = new MetricsAccumulator(1, 3);
  metrics.addReconstruction(Float32Array.of(1, 2, 3, 4), Float32Array.of(1, 2, 3, 4));
  metrics.addCodes({ values: Float32Array.of(1, 2, 0, 3), indices: Int32Array.of(0, 0, 2, 0) });
  const { counts, never, edges } = metrics.densityHistogram(2);
  assert.equal(never, 2);
  assert.deepEqual(edges, [-1, -0.5, 0]);
  assert.deepEqual(counts, [0, 1]);
});

test("loss recovered is the share of the damage of an ablation that the SAE avoids", () => {
  close(lossRecovered({ clean: 3, spliced: 3.5, ablated: 8 }), 0.9, "by head");
  const file = golden("sae", "ce_recovered.safetensors");
  for (const kind of ["zero", "mean"]) {
    const value = lossRecovered({
      clean: file.scalar("ce.original"),
      spliced: file.scalar("ce.sae"),
      ablated: file.scalar(`ce.${kind}`),
    });
    close(value, file.scalar(`recovered.${kind}`), `recovered.${kind}`, 1e-5);
  }
});

test("metrics refuse rows of another width and no rows at all", () => {
  const metrics = new MetricsAccumulator(3, 2);
  assert.throws(() => metrics.addReconstruction(new Float32Array(4), new Float32Array(4)), /width 3/);
  assert.throws(() => metrics.addReconstruction(new Float32Array(3), new Float32Array(6)), SluiceError);
  assert.throws(() => metrics.finish(), /no tokens/);
  assert.throws(() => new MetricsAccumulator(3, 2, { mean: new Float64Array(2) }), /a mean of 2 numbers/);
});

test("one token, or tokens that are all equal, have no variance to explain", () => {
  const same = (rows: number) => measure(new Array(rows).fill([3, 4]), new Array(rows).fill([3, 5]));
  assert.throws(() => same(1), /one token has no variance, so there is none to explain/);
  assert.throws(() => same(5), /all 5 activations are equal/);
});
