/**
 * A TopK autoencoder on the bundled model, out of the library's parts: windows of a text go through the model, one hook
 * point's rows through a shuffle buffer into the training; held-out text measures the result. About half a minute.
 * Usage: node dist/examples/train-sae.js [model folder] [text]
 */
import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import {
  evaluateOnModel,
  openLanguageModel,
  openLiveSource,
  openTextTokens,
  rowWidth,
  windowsOf,
} from "sluice/recipes";
import { disposeSae, trainSae } from "sluice/sae";
import { createDevice } from "sluice/tensor";

const [folder = "models/brook", text = "sotu"] = process.argv.slice(2);
const device = await createDevice({ threads: Math.min(2, availableParallelism()) });
const lm = await openLanguageModel(device, folder);
const { model, tokenizer } = lm;
const hook = `blocks.${Math.floor(model.spec.nLayers / 2)}.hook_resid_post`;
const open = (split: "train" | "heldout") => openTextTokens({ text: [text], split, tokenizer });
const [seen, heldOut] = [await open("train"), await open("heldout")];

const [batch, seed] = [1024, 1];
const { sae } = await trainSae(device, {
  config: { dIn: rowWidth(model, hook), features: 1024, activation: { kind: "topk", k: 16 } },
  train: { tokens: 64 * batch, batch, lr: 1e-3, seed },
  openSource: openLiveSource({
    model,
    packer: windowsOf(lm, seen, { shuffle: true, seed }),
    hooks: [hook],
    filter: { excludeTokens: tokenizer.specialIds },
    rows: 64 * batch,
    capacity: 16 * batch,
    batch,
    seed,
  }),
  logEvery: 16,
  onMetrics: (r) =>
    console.log(`step ${r.step}  explained variance of the batch ${r.explained_variance.toFixed(3)}`),
});

const source = { lm, hook, text: heldOut };
const [{ metrics, splice }] = await evaluateOnModel(device, sae, source, { tokens: 4000 });
console.log(`${hook}, ${metrics.tokens} held-out tokens:`);
console.log(`  explained variance  ${metrics.explained_variance.toFixed(3)}`);
console.log(`  features per token  ${metrics.l0.toFixed(1)}`);
console.log(`  loss recovered      ${splice?.loss_recovered.toFixed(3)}`);
assert.ok(metrics.explained_variance > 0, "no better than the mean");

for (const tokens of [seen, heldOut]) tokens.close();
disposeSae(sae);
model.dispose();
device.close();
