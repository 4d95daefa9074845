/**
 * Looking into the bundled model, and meddling with it: what each layer adds, and what the model says next when one
 * layer's contribution is taken out. Usage: node dist/examples/hooks.js [model folder]
 */
import assert from "node:assert/strict";
import { loadTransformer } from "sluice/models";
import { createDevice, mul, reshape, type Tensor, topk } from "sluice/tensor";
import { loadTokenizer } from "sluice/text";

const folder = process.argv[2] ?? "models/brook";
const device = await createDevice();
const model = await loadTransformer(device, folder);
const tokenizer = await loadTokenizer(folder);
const ids = tokenizer.encode("The Congress of the United");
const tokens = device.tensor(ids, [1, ids.length], "i32"); // [1, T]

const layers = Array.from({ length: model.spec.nLayers }, (_, l) => `blocks.${l}.hook_resid_post`);
const last = Math.floor(layers.length / 2);

/** The likeliest next tokens, and the streams asked for. */
function run(edit?: Record<string, (x: Tensor) => Tensor>) {
  return device.scope(() => {
    const { logits, captured } = model.forward(tokens, { capture: layers, edit, logits: "last" });
    assert.ok(logits);
    return { best: topk(reshape(logits, [1, -1]), { k: 5 }).indices, captured };
  });
}
const words = async (best: Tensor): Promise<string> =>
  [...(await best.ints())].map((id) => JSON.stringify(tokenizer.decode([id]))).join("  ");

const clean = run();
for (const name of layers) {
  const stream = await clean.captured[name].floats(); // [1, T, d]
  const state = stream.subarray(-model.spec.dModel);
  console.log(`${name.padEnd(26)} norm at the last token ${Math.hypot(...state).toFixed(2)}`);
}
console.log(`next, untouched:           ${await words(clean.best)}`);

const mlp = `blocks.${last}.hook_mlp_out`;
const cut = run({ [mlp]: (x) => mul(x, 0) });
console.log(`next, ${mlp} = 0: ${await words(cut.best)}`);

const before = await clean.captured[layers[last]].floats();
const after = await cut.captured[layers[last]].floats();
assert.ok(
  before.some((x, i) => x !== after[i]),
  "the edit changed nothing",
);
device.close();
