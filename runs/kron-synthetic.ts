/**
 * KronSAE's synthetic experiment (arXiv 2505.22255, section 5 and table 7): do SAEs on the hidden states of a small autoencoder find
 * the covariance of what it compresses? Writes OUT/synthetic.json.
 *
 * x = L · TopK(ReLU(z)), z ~ N(0, 1)²⁵⁶, with L the Cholesky factor of a block covariance S. The autoencoder is
 * x̂ = ReLU(Wᵀ W x + b), 64 wide; SAEs with F = 256 and k = 8 read W x. RV(S, C) with C = W_dec W_decᵀ, after its latents are matched
 * to those of S. The paper does not say which eight covariances, how many of z survive, or how long anything is trained: our choice.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { AdamW } from "sluice/nn";
import { type ActivationSource, disposeSae, type Encoder, type TrainRun, trainSaes } from "sluice/sae";
import {
  add,
  createDevice,
  type Device,
  linear,
  matmul,
  mean,
  relu,
  square,
  sub,
  type Tensor,
  transpose,
} from "sluice/tensor";
import { Rng, writeJson } from "sluice/util";
import { effectiveRank, eigenvalues, matchLatents, reordered, rvCoefficient } from "./lib/matching.ts";

const [out = "out/kron"] = process.argv.slice(2);
const F = 256;
const WIDTH = 64;
const K = 8;
const BATCH = 1024;
/** Batches that are drawn, and gone through again and again. */
const POOL = 256;
const STEPS = { autoencoder: 2000, sae: 1200 };
const SEEDS = [0, 1, 2];

/** Blocks of so many features, with that correlation within. */
const COVARIANCES = [8, 16, 32, 64].flatMap((size) =>
  [0.5, 0.9].map((correlation) => ({ size, correlation })),
);

const kron = (m: number, n: number): Encoder => ({ kind: "kron", m, n, product: "mand" });
const SAES: Readonly<Record<string, Encoder>> = {
  topk: { kind: "dense" },
  "kron h2 m4 n32": kron(4, 32),
  "kron h4 m2 n32": kron(2, 32),
  "kron h4 m8 n8": kron(8, 8),
  "kron h8 m2 n16": kron(2, 16),
};

interface Covariance {
  readonly size: number;
  readonly correlation: number;
}

export interface Found extends Covariance {
  readonly seed: number;
  readonly name: string;
  readonly rv: number;
  readonly effectiveRank: number;
  /** Effective rank less that of S. */
  readonly rankDelta: number;
  /** Mean over pairs of latents of |C_ij| / √(C_ii C_jj). */
  readonly meanCorrelation: number;
  readonly explainedVariance: number;
}

function blockCovariance({ size, correlation }: Covariance): Float64Array {
  const block = (i: number): number => Math.floor(i / size);
  return Float64Array.from({ length: F * F }, (_, at) => {
    const [i, j] = [Math.floor(at / F), at % F];
    return i === j ? 1 : block(i) === block(j) ? correlation : 0;
  });
}

/** Lower triangular, L Lᵀ = S. */
function cholesky(s: Float64Array): Float64Array {
  const l = new Float64Array(F * F);
  for (let i = 0; i < F; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = s[i * F + j];
      for (let k = 0; k < j; k++) sum -= l[i * F + k] * l[j * F + k];
      l[i * F + j] = i === j ? Math.sqrt(sum) : sum / l[j * F + j];
    }
  }
  return l;
}

/** The K-th largest number, or 0 if fewer are positive. */
function kthLargest(row: Float32Array): number {
  const top = new Float64Array(K); // ascending
  for (const v of row) {
    if (v <= top[0]) continue;
    let at = 0;
    while (at + 1 < K && top[at + 1] < v) {
      top[at] = top[at + 1];
      at++;
    }
    top[at] = v;
  }
  return top[0];
}

/** Batches of x, [B, F]. */
function drawBatches(covariance: Covariance, rng: Rng): Float32Array[] {
  const l = cholesky(blockCovariance(covariance));
  const z = new Float32Array(BATCH * F);
  return Array.from({ length: POOL }, () => {
    rng.fillNormal(z);
    const x = new Float32Array(BATCH * F);
    for (let b = 0; b < BATCH; b++) {
      const row = z.subarray(b * F, (b + 1) * F);
      const least = kthLargest(row);
      for (let j = 0; j < F; j++) {
        if (row[j] < least || row[j] <= 0) continue;
        const end = (Math.floor(j / covariance.size) + 1) * covariance.size;
        for (let i = j; i < end; i++) x[b * F + i] += l[i * F + j] * row[j];
      }
    }
    return x;
  });
}

/** Trains x̂ = ReLU(Wᵀ W x + b); returns W, [64, 256], which the caller disposes. */
async function trainAutoencoder(
  device: Device,
  batches: readonly Float32Array[],
  rng: Rng,
): Promise<{ w: Tensor; explained: number }> {
  const w = device
    .tensor(rng.fillNormal(new Float32Array(WIDTH * F), 0, 1 / Math.sqrt(F)), [WIDTH, F])
    .keep();
  const b = device.zeros([F]).keep();
  const params = Object.entries({ w, b }).map(([name, tensor]) => ({ name, tensor, weightDecay: 0 }));
  const optimizer = new AdamW(device, params, { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
  let explained = 0;
  for (let step = 1; step <= STEPS.autoencoder; step++) {
    const x = batches[step % POOL];
    const lr =
      3e-3 * Math.min(1, step / 100) * Math.min(1, (2 * (STEPS.autoencoder - step) + 1) / STEPS.autoencoder);
    const loss = device.scope(() => {
      const data = device.tensor(x, [BATCH, F]);
      const { value, grads } = device.valueAndGrad(
        () => mean(square(sub(relu(add(matmul(linear(data, w), w), b)), data))),
        [w, b],
      );
      optimizer.step(grads as Tensor[], { lr });
      return value;
    });
    if (step === STEPS.autoencoder) explained = 1 - (await loss.item()) / varianceOf(x);
    loss.dispose();
  }
  optimizer.dispose();
  b.dispose();
  return { w, explained };
}

/** Mean over all entries of the square of x less its column's mean. */
function varianceOf(x: Float32Array): number {
  let total = 0;
  for (let j = 0; j < F; j++) {
    let [sum, squares] = [0, 0];
    for (let b = 0; b < BATCH; b++) {
      sum += x[b * F + j];
      squares += x[b * F + j] ** 2;
    }
    total += squares / BATCH - (sum / BATCH) ** 2;
  }
  return total / F;
}

/** W x of the batches, without end. */
async function* hiddenStates(device: Device, w: Tensor, batches: readonly Float32Array[]): ActivationSource {
  for (let at = 0; ; at = (at + 1) % POOL) {
    const h = device.scope(() => linear(device.tensor(batches[at], [BATCH, F]), w));
    const x = await h.floats();
    h.dispose();
    yield { x, rows: BATCH };
  }
}

/** Rows · rowsᵀ of [n, width]. */
function gram(rows: Float32Array, n: number): Float64Array {
  const width = rows.length / n;
  return Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let dot = 0;
    for (let d = 0; d < width; d++) dot += rows[i * width + d] * rows[j * width + d];
    return dot;
  });
}

function describe(
  s: Float64Array,
  c: Float64Array,
  rankOfS: number,
): Omit<Found, keyof Covariance | "seed" | "name" | "explainedVariance"> {
  let sum = 0;
  for (let i = 0; i < F; i++) {
    for (let j = 0; j < i; j++) sum += Math.abs(c[i * F + j]) / Math.sqrt(c[i * F + i] * c[j * F + j]);
  }
  const rank = effectiveRank(eigenvalues(c, F));
  return {
    rv: rvCoefficient(s, c),
    effectiveRank: rank,
    rankDelta: rank - rankOfS,
    meanCorrelation: sum / ((F * (F - 1)) / 2),
  };
}

async function run(device: Device, covariance: Covariance, seed: number): Promise<Found[]> {
  const rng = new Rng(seed).fork(`${covariance.size} ${covariance.correlation}`);
  const batches = drawBatches(covariance, rng.fork("data"));
  const s = blockCovariance(covariance);
  const rankOfS = effectiveRank(eigenvalues(s, F));
  const about = { ...covariance, seed };
  const { w, explained } = await trainAutoencoder(device, batches, rng.fork("autoencoder"));
  const columns = device.scope(() => add(transpose(w), 0));
  const own = gram(await columns.floats(), F); // Wᵀ W: its latents are those of S
  columns.dispose();
  const found: Found[] = [
    { ...about, name: "autoencoder", explainedVariance: explained, ...describe(s, own, rankOfS) },
  ];
  const runs = Object.values(SAES).map(
    (encoder): TrainRun => ({
      config: { dIn: WIDTH, features: F, encoder, activation: { kind: "topk", k: K } },
      train: { tokens: STEPS.sae * BATCH, batch: BATCH, lr: 2e-3, seed },
    }),
  );
  const results = await trainSaes(device, runs, { openSource: () => hiddenStates(device, w, batches) });
  for (const [i, { sae, record }] of results.entries()) {
    const c = gram(await sae.params.wDec.floats(), F);
    const matched = reordered(c, matchLatents(s, c, F));
    const name = Object.keys(SAES)[i];
    found.push({
      ...about,
      name,
      explainedVariance: record.explained_variance,
      ...describe(s, matched, rankOfS),
    });
    disposeSae(sae);
  }
  w.dispose();
  return found;
}

const file = join(out, "synthetic.json");
const all: Found[] = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : [];
const device = await createDevice();
for (const seed of SEEDS) {
  for (const covariance of COVARIANCES) {
    const { size, correlation } = covariance;
    if (all.some((one) => one.seed === seed && one.size === size && one.correlation === correlation))
      continue;
    const found = await run(device, covariance, seed);
    all.push(...found);
    await writeJson(file, all);
    const rvs = found.map(({ name, rv }) => `${name} ${rv.toFixed(3)}`).join(", ");
    console.error(`seed ${seed}, blocks of ${size}, correlation ${correlation}: ${rvs}`);
  }
}
device.close();
