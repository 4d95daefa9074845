/**
 * Two small transformers learn sums step by step, one of them with keys and values routed over the layers (LIMe, arXiv 2502.09245):
 * what each answers after a minute, and which layers the routed one reads. Usage: node dist/examples/routing.js
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { routerShares } from "sluice/lime";
import { createFromConfig, generate, LM_TRAIN_DEFAULTS, trainLm } from "sluice/models";
import {
  arithmeticVocabulary,
  evaluateByGeneration,
  gradeArithmetic,
  makeArithmeticSplits,
} from "sluice/tasks";
import { createDevice } from "sluice/tensor";
import { SamplePacker } from "sluice/text";
import { Rng } from "sluice/util";

const options = { operands: 2, count: "operators", max: 30 } as const;
const vocabulary = arithmeticVocabulary(options);
const { train, test } = makeArithmeticSplits({ ...options, train: 4000, test: 100, seed: 0 });
const encode = (sample: (typeof train)[number]) => {
  const { ids, promptLength } = vocabulary.encodeSample(sample);
  return { ids, given: promptLength };
};
const context = 64;
const device = await createDevice();
const dir = mkdtempSync(join(tmpdir(), "sluice-routing-"));

for (const kv_routing of [undefined, { kind: "learned" }]) {
  const config = {
    model_type: kv_routing ? "lime" : "llama",
    ...(kv_routing && { kv_routing }),
    vocab_size: vocabulary.size,
    hidden_size: 32,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    intermediate_size: 64,
    max_position_embeddings: context + 1,
    eos_token_id: vocabulary.eos,
    tie_word_embeddings: true,
  };
  const model = createFromConfig(device, config, { rng: new Rng(0) });
  const packer = new SamplePacker(train.map(encode), { context, pad: vocabulary.pad, seed: 0 });
  const [batch, steps] = [16, 400];
  const records = await trainLm(model, {
    config: { ...LM_TRAIN_DEFAULTS, tokens: steps * batch * context, batch, lr: 1e-2, warmup: 20 },
    packer,
    dir: join(dir, config.model_type),
  });
  const { summary } = await evaluateByGeneration(test, {
    vocabulary,
    grade: gradeArithmetic,
    generate: async (prompts) =>
      (await generate(model, prompts, { maxNewTokens: 32, temperature: 0 })).map(({ tokens }) => tokens),
  });
  const loss = records.at(-1)?.loss ?? Number.NaN;
  console.log(
    `${config.model_type}: loss ${loss.toFixed(3)}, ${summary.correct} of ${summary.count} answers right`,
  );
  assert.ok(loss < 1.5 && summary.count === test.length);
  if (kv_routing) {
    for (const { layer, shares } of await routerShares(model)) {
      const read = shares.map((share, l) => `${(100 * share).toFixed(0)} % from layer ${l}`);
      console.log(`layer ${layer} reads ${read.join(", ")}`);
    }
  }
  model.dispose();
}
rmSync(dir, { recursive: true });
device.close();
