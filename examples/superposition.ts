/**
 * Forty features squeezed into sixteen dimensions, three of them active at a time: a TopK autoencoder finds them again.
 * D width · F features of the autoencoder · G true features
 */
import assert from "node:assert/strict";
import { type ActivationSource, disposeSae, trainSae } from "sluice/sae";
import { createDevice } from "sluice/tensor";
import { Rng } from "sluice/util";

const D = 16;
const F = 64;
const G = 40;
const ACTIVE = 3;
const rng = new Rng(3);

function unitRows(rows: number): Float32Array {
  const w = rng.fillNormal(new Float32Array(rows * D));
  for (let row = 0; row < rows; row++) {
    const direction = w.subarray(row * D, (row + 1) * D);
    const norm = Math.hypot(...direction);
    for (let d = 0; d < D; d++) direction[d] /= norm;
  }
  return w;
}

const truth = unitRows(G); // [G, D]

/** Sums of a few true features with strengths between 1 and 2, without end. */
async function* activations(rows = 1024): AsyncGenerator<{ x: Float32Array; rows: number }> {
  for (;;) {
    const x = new Float32Array(rows * D);
    for (let row = 0; row < rows; row++) {
      for (let a = 0; a < ACTIVE; a++) {
        const feature = rng.int(G);
        const strength = 1 + rng.uniform();
        for (let d = 0; d < D; d++) x[row * D + d] += strength * truth[feature * D + d];
      }
    }
    yield { x, rows };
  }
}

const device = await createDevice();
const { sae, record } = await trainSae(device, {
  config: { dIn: D, features: F, activation: { kind: "topk", k: ACTIVE } },
  train: { tokens: 1_500_000, batch: 1024, lr: 2e-3, deadAfter: 50_000, seed: 4 },
  openSource: (): ActivationSource => activations(),
});

const wDec = await sae.params.wDec.floats(); // [F, D], rows of unit norm
const cosines = Array.from({ length: G }, (_, g) => {
  const direction = truth.subarray(g * D, (g + 1) * D);
  const cosine = (f: number): number => direction.reduce((sum, v, d) => sum + v * wDec[f * D + d], 0);
  return Math.max(...Array.from({ length: F }, (_, f) => cosine(f)));
});
const found = cosines.filter((cosine) => cosine > 0.9).length;
console.log(`explained variance ${record.explained_variance.toFixed(3)}`);
console.log(`${found} of ${G} true features found with a cosine above 0.9`);
assert.ok(found >= 0.9 * G, `only ${found} of ${G} features were found`);
disposeSae(sae);
device.close();
