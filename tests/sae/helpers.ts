/**
 * What the SAE tests share: devices of both backends, sources made of arrays, SAEs from golden files.
 */
import assert from "node:assert/strict";
import { fromInt32, transpose2d } from "../../src/formats/index.ts";
import {
  type ActivationBatch,
  type Codes,
  type OpenSource,
  type Sae,
  type SparseCodes,
  saeConfig,
} from "../../src/sae/index.ts";
import { type BackendName, createDevice, type Device } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import type { GoldenFile } from "../golden.ts";
import { usable } from "../native.ts";

export { BACKENDS } from "../native.ts";

/** Runs `body` on a device and checks that it leaves no tensor behind. */
export async function withDevice(
  backend: BackendName,
  body: (device: Device) => Promise<void>,
): Promise<void> {
  const device = await createDevice({ backend: usable(backend), threads: 2 });
  try {
    await body(device);
    assert.equal(device.memory().tensors, 0, "tensors were leaked");
  } finally {
    device.close();
  }
}

/** Every element within `tolerance` of the largest expected magnitude, the rule of the golden files. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  what: string,
  tolerance = 1e-5,
) {
  assert.equal(actual.length, expected.length, `${what}: length`);
  let largest = 0;
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(expected[i]));
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(actual[i] - expected[i]);
    assert.ok(
      off <= tolerance * largest,
      `${what}[${i}]: ${actual[i]} instead of ${expected[i]} (of ${largest})`,
    );
  }
}

/** The SAE of a golden file; W_enc [D, F] is turned. */
export function goldenSae(device: Device, file: GoldenFile, k: number, applyBDecToInput: boolean): Sae {
  const [D, F] = file.shape("W_enc");
  const config = saeConfig({ dIn: D, features: F, activation: { kind: "topk", k }, applyBDecToInput });
  const params = {
    wEnc: device.tensor(transpose2d(file.floats("W_enc"), D, F), [F, D]).keep(),
    bEnc: device.tensor(file.floats("b_enc")).keep(),
    wDec: device.tensor(file.floats("W_dec"), [F, D]).keep(),
    bDec: device.tensor(file.floats("b_dec")).keep(),
  };
  return { config, params, metadata: {} };
}

/** Codes that are known to be slots. */
export function slots(codes: Codes): SparseCodes {
  assert.ok(codes.kind === "sparse", `codes are ${codes.kind}`);
  return codes;
}

/** `n` rows of width D that a sparse code explains well: each is a sum of few of `atoms` random directions, plus a mean. */
export function syntheticRows(
  n: number,
  D: number,
  { seed = 1, atoms = 4 * D, active = 3 } = {},
): Float32Array {
  const rng = new Rng(seed);
  const directions = rng.fillNormal(new Float32Array(atoms * D));
  const mean = rng.fillNormal(new Float32Array(D), 0, 2);
  const x = new Float32Array(n * D);
  for (let r = 0; r < n; r++) {
    x.set(mean, r * D);
    for (let j = 0; j < active; j++) {
      const atom = rng.int(atoms);
      const size = 1 + rng.uniform();
      for (let d = 0; d < D; d++) x[r * D + d] += size * directions[atom * D + d];
    }
  }
  return x;
}

/** An array as a source: batches of uneven sizes, endless if `repeat`, resumable unless `forgetful`. */
export function arraySource(
  x: Float32Array,
  D: number,
  { sizes = [37, 64, 5], repeat = false, forgetful = false } = {},
): OpenSource {
  const rows = x.length / D;
  return (state) => {
    const position = (state?.json as { row: number; turn: number } | undefined) ?? { row: 0, turn: 0 };
    let { row, turn } = position;
    async function* batches(): AsyncGenerator<ActivationBatch> {
      while (row < rows) {
        const n = Math.min(sizes[turn % sizes.length], rows - row);
        const batch = { x: x.slice(row * D, (row + n) * D), rows: n };
        row += n;
        turn++;
        if (repeat && row === rows) row = 0;
        yield batch;
      }
    }
    const source = batches();
    if (forgetful) return source;
    return Object.assign(source, {
      state: () => ({ json: { row, turn }, arrays: { check: fromInt32(Int32Array.of(row)) } }),
    });
  };
}
