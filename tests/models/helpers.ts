/**
 * What the tests of models share: devices of both backends with a leak check, tiny models, closeness.
 */
import assert from "node:assert/strict";
import { createTransformer, generate, type ModelSpec, type Transformer } from "../../src/models/index.ts";
import { type BackendName, createDevice, type Device, type Tensor } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
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

/** 3 layers, 4 heads over 2 key-value heads, 31 tokens; 0 is BOS and 1 the end of text. */
export const tinySpec: ModelSpec = {
  vocabSize: 31,
  dModel: 16,
  nLayers: 3,
  nHeads: 4,
  nKvHeads: 2,
  headDim: 4,
  dMlp: 24,
  contextLength: 24,
  norm: { kind: "rms", eps: 1e-5, offset: 0 },
  positions: { kind: "rope", theta: 10000, fraction: 1 },
  mlp: { kind: "gated", activation: "silu" },
  attnScale: 0.5,
  attnSoftcap: 0,
  windowPattern: [0, 0, 0],
  qkvBias: false,
  tiedHead: true,
  bosToken: 0,
  eosTokens: [1],
};

/** A model whose logits are far enough apart that rounding does not change a greedy choice. */
export function tinyModel(device: Device, changes: Partial<ModelSpec> = {}, std = 0.4): Transformer {
  return createTransformer(device, { ...tinySpec, ...changes }, { rng: new Rng(3), std });
}

/** i32 [rows, length] of random text tokens (2 and above). */
export function someTokens(device: Device, rows: number, length: number, seed = 1): Tensor {
  return device.tensor(someIds(rows * length, seed), [rows, length], "i32");
}

export function someIds(count: number, seed = 1): Int32Array {
  const rng = new Rng(seed);
  return Int32Array.from({ length: count }, () => 2 + rng.int(tinySpec.vocabSize - 2));
}

/** The numbers of a tensor, which is then freed with all that it was made of. */
export async function take(device: Device, make: () => Tensor): Promise<Float32Array> {
  const tensor = device.scope(make);
  return await tensor.floats().finally(() => tensor.dispose());
}

/** Greedy decoding through a cache, batched and padded, writes what whole passes over each prompt write. */
export async function assertDecodes(model: Transformer, prompts: number[][], count: number): Promise<void> {
  const { device } = model;
  const found = await generate(model, prompts, { maxNewTokens: count, stopTokens: [] });
  for (const [row, prompt] of prompts.entries()) {
    const ids = [...prompt];
    for (let i = 0; i < count; i++) {
      const last = await take(device, () => {
        const tokens = device.tensor(ids, [1, ids.length], "i32");
        return model.forward(tokens, { logits: "last" }).logits!;
      });
      ids.push(last.indexOf(Math.max(...last)));
    }
    assert.deepEqual([...found[row].tokens], ids.slice(prompt.length), `prompt ${row}`);
  }
}

/** |a - b| <= absolute + relative |b| everywhere. */
export function assertNear(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  what: string,
  { absolute = 1e-4, relative = 1e-4 }: { absolute?: number; relative?: number } = {},
): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(actual[i] - expected[i]);
    const allowed = absolute + relative * Math.abs(expected[i]);
    assert.ok(off <= allowed, `${what}[${i}]: ${actual[i]} instead of ${expected[i]}`);
  }
}
