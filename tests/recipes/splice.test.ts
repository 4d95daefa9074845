/**
 * The SAE inside its model: the golden case, and positions that are left alone.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { loadTransformer, type Transformer } from "../../src/models/index.ts";
import { spliceMetrics } from "../../src/recipes/index.ts";
import { disposeSae, reconstruct } from "../../src/sae/index.ts";
import { type Device, reshape } from "../../src/tensor/index.ts";
import type { PackedBatch } from "../../src/text/index.ts";
import { type GoldenFile, golden, goldenJson, goldenPath } from "../golden.ts";
import { assertClose, BACKENDS, goldenSae, withDevice } from "../sae/helpers.ts";

const meta = goldenJson<{ ce_recovered: { k: number; model: string; site: string } }>("sae", "meta.json");
const { k, model: folder, site } = meta.ce_recovered;
const hook = site.replace(/^resid_post\.(\d+)$/, "blocks.$1.hook_resid_post");

/** The rows of the file as windows; the last position of each has no target. */
function windows(file: GoldenFile): { batch: PackedBatch; context: number } {
  const [rows, context] = file.shape("input_ids");
  const tokens = file.ints("input_ids");
  const targets = tokens.map((_, i) => ((i + 1) % context === 0 ? -1 : tokens[i + 1]));
  return { batch: { tokens: tokens.subarray(0, rows * context), targets }, context };
}

function near(actual: number, expected: number, what: string): void {
  const off = Math.abs(actual - expected);
  assert.ok(off <= 1e-5 * Math.abs(expected), `${what}: ${actual} instead of ${expected}`);
}

async function measure(device: Device, model: Transformer, file: GoldenFile, firstKept: boolean) {
  const sae = goldenSae(device, file, k, false);
  const { batch, context } = windows(file);
  const [metrics] = await spliceMetrics({
    model,
    sae,
    hook,
    batches: () => [batch],
    context,
    keep: (_, position) => firstKept && position === 0,
  });
  disposeSae(sae);
  return metrics;
}

for (const backend of BACKENDS) {
  test(`the golden cross-entropies, KLs and recovered shares are reproduced on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "ce_recovered.safetensors");
      const model = await loadTransformer(device, goldenPath(folder));
      const all = await measure(device, model, file, false);
      near(all.ce_clean, file.scalar("ce.original"), "ce_clean");
      near(all.ce_spliced, file.scalar("ce.sae"), "ce_spliced");
      near(all.ce_zero, file.scalar("ce.zero"), "ce_zero");
      near(all.ce_mean, file.scalar("ce.mean"), "ce_mean");
      near(all.kl, file.scalar("kl.sae"), "kl");
      near(all.kl_zero, file.scalar("kl.zero"), "kl_zero");
      near(all.kl_mean, file.scalar("kl.mean"), "kl_mean");
      near(all.loss_recovered, file.scalar("recovered.zero"), "loss_recovered");
      near(all.loss_recovered_mean, file.scalar("recovered.mean"), "loss_recovered_mean");
      const { context } = windows(file);
      assert.equal(all.ce_tokens, file.ints("input_ids").length * (1 - 1 / context));

      const kept = await measure(device, model, file, true);
      near(kept.ce_clean, file.scalar("ce.original"), "ce_clean with the first position kept");
      near(kept.ce_spliced, file.scalar("ce.sae_keep_first"), "ce_spliced with the first position kept");
      near(kept.kl, file.scalar("kl.sae_keep_first"), "kl with the first position kept");
      model.dispose();
    }));

  test(`the golden reconstruction at the site is reproduced on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "ce_recovered.safetensors");
      const model = await loadTransformer(device, goldenPath(folder));
      const sae = goldenSae(device, file, k, false);
      const { batch, context } = windows(file);
      const recon = device.scope(() => {
        const tokens = device.tensor(batch.tokens, [batch.tokens.length / context, context], "i32");
        const x = model.forward(tokens, { capture: [hook], stopEarly: true }).captured[hook];
        return reconstruct(sae, reshape(x, [batch.tokens.length, -1]));
      });
      assertClose(await recon.floats(), file.floats("recon"), "recon");
      recon.dispose();
      disposeSae(sae);
      model.dispose();
    }));
}
