import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { heldOutLoss } from "../../src/models/index.ts";
import { openLanguageModel, windowsOf } from "../../src/recipes/index.ts";
import { type ModelCard, renderModelCard } from "../../src/recipes/lm-card.ts";
import { compareOn, ngramOf, sampleDomains } from "../../src/recipes/lm-results.ts";
import { createDevice } from "../../src/tensor/index.ts";
import { TokenFile, TokenFileWriter } from "../../src/text/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { saveTinyModel, sentences, TINY } from "./tiny.ts";

const CARD: ModelCard = {
  name: "pond",
  license: "mit",
  languages: ["en", "ru"],
  parameters: { total: 1_234_567, blocks: 1_000_000 },
  architecture: [["Blocks", "2"]],
  inTransformers: true,
  context: 64,
  vocabSize: 512,
  training: {
    recipe: "bash runs/pond.sh",
    tokens: 500_000,
    steps: 100,
    seconds: 50,
    loss: 3.25,
    settings: [["Seed", "1"]],
  },
  mixture: {
    tokens: 1_000_000,
    corpora: [
      {
        name: "songs",
        title: "Songs | tunes",
        domain: "general",
        packages: "songs@1.0.0 (npm)",
        licence: "GPL-2",
        tokens: 600_000,
        epochs: 2,
      },
      {
        name: "laws",
        title: "Laws",
        domain: "legal",
        packages: "laws@2.0.0 (npm)",
        licence: "MIT",
        tokens: 400_000,
        epochs: 1,
      },
    ],
  },
  losses: [
    { domain: "legal", tokens: 4096, loss: Math.log(20), standardError: 0.05, bitsPerByte: 1.5, ngram: 3.5 },
  ],
  windows: 64,
  ngram: { order: 5, tokens: 500_000, ngrams: 400_000 },
  sampling: { temperature: 0.8, topP: 0.95, seed: 1 },
  samples: [{ domain: "legal", prompt: "Whereas ", text: "```\nthe```` end" }],
  command: "sluice lm card",
};

test("a card begins with front matter and has a row for each text and each domain", () => {
  const lines = renderModelCard(CARD).split("\n");
  assert.deepEqual(lines.slice(0, 5), ["---", "license: mit", "language:", "  - en", "  - ru"]);
  assert.ok(
    lines.includes("| songs | Songs \\| tunes | general | songs@1.0.0 (npm) | GPL-2 | 300k | 1.00 |"),
    "half of the mixture was seen",
  );
  assert.ok(lines.includes("| legal | 4,096 | 2.996 ± 0.050 | 20.0 | 1.500 | 3.500 | -0.504 |"));
  assert.ok(!lines.some((line) => /undefined|NaN|\[object/.test(line)));
});

test("a twin's losses stand beside the model's, with the difference and what it is due to", () => {
  const [loss] = CARD.losses;
  const twin = { name: "puddle", differences: [["Width", "64", "32"]] } as const;
  const text = renderModelCard({
    ...CARD,
    twin,
    losses: [
      { ...loss, loss: 2, twin: { loss: 2.1, standardError: 0.01 } },
      { ...loss, domain: "general", loss: 3, twin: { loss: 2.8, standardError: 0.02 } },
    ],
  });
  const lines = text.split("\n");
  assert.ok(lines.includes("## Beside puddle"));
  assert.ok(lines.includes("| Width | 64 | 32 |"));
  assert.ok(lines.includes("| legal | 4,096 | 2.000 | 2.100 | -0.1000 ± 0.0100 | -9.5 % |"));
  assert.ok(lines.includes("| general | 4,096 | 3.000 | 2.800 | +0.2000 ± 0.0200 | +22.1 % |"));
  assert.match(text, /Mean over the domains: \+0\.0500 nats, \+5\.1 % perplexity\./);
  assert.ok(!renderModelCard(CARD).includes("## Beside"));
});

test("a card names the texts under copyleft licences, and no others", () => {
  const sentence = /one choice of several: ([^.]*)\./.exec(renderModelCard(CARD));
  assert.equal(sentence?.[1], "songs");
});

test("a sample with backticks stays inside its fence", () => {
  assert.match(renderModelCard(CARD), /\n`{5}text\nWhereas ⟦```\nthe```` end⟧\n`{5}\n/);
});

test("a domain's loss is heldOutLoss's, the n-gram model is scored on as many tokens, samples repeat", async () => {
  using temp = temporaryFolder();
  const folder = temp.path;
  const device = await createDevice({ backend: "ref" });
  const lm = await openLanguageModel(
    device,
    await saveTinyModel(join(folder, "tiny"), { spec: { ...TINY, vocabSize: 300 } }),
  );
  const write = (name: string, seed: number) => {
    const { vocabSize, hash } = lm.tokenizer;
    const writer = new TokenFileWriter(join(folder, name), { vocabSize, tokenizer: hash, source: name });
    for (const text of sentences(60, seed)) writer.add(lm.tokenizer.encode(text));
    writer.close();
    return TokenFile.open(join(folder, name));
  };
  const [train, file] = [write("train.tokens", 1), write("heldout.tokens", 2)];
  const { ngram, tokens } = ngramOf(lm, train, { order: 3, tokens: 500 });
  assert.equal(tokens, 480, "twenty windows of 24");
  const found = await compareOn(lm, ngram, { domain: "river", file, windows: 5 });
  const wanted = await heldOutLoss(lm.model, windowsOf(lm, file, { shuffle: false }), { windows: 5 });
  assert.equal(found.tokens, wanted.tokens);
  assert.ok(Math.abs(found.loss - wanted.loss) < 1e-9, `${found.loss}, ${wanted.loss}`);
  assert.ok(found.ngram > 0 && found.ngram < Math.log(lm.model.spec.vocabSize));
  assert.ok(found.bitsPerByte > 0 && found.bitsPerByte < found.loss / Math.LN2);
  assert.equal(found.twin, undefined);
  const same = await compareOn(lm, ngram, { domain: "river", file, windows: 5, twin: lm });
  assert.deepEqual(same.twin, { loss: found.loss, standardError: 0 });

  const options = { promptTokens: 4, newTokens: 6, seed: 1, temperature: 0.8, topP: 0.95 };
  const [first] = await sampleDomains(lm, [{ domain: "river", file }], options);
  const [again] = await sampleDomains(lm, [{ domain: "river", file }], options);
  assert.equal(first.prompt, lm.tokenizer.decode(file.read(0, 4)));
  assert.deepEqual(again, first);
  train.close();
  file.close();
  lm.model.dispose();
  device.close();
});

test("only a model that Python's transformers knows is said to be one of its", () => {
  const [known, other] = [true, false].map((inTransformers) => renderModelCard({ ...CARD, inTransformers }));
  for (const said of [/^library_name: transformers$/m, /AutoModelForCausalLM/, /^ {2}- llama$/m]) {
    assert.match(known, said);
    assert.doesNotMatch(other, said);
  }
  assert.match(other, /transformers does not know this architecture/);
  for (const text of [known, other]) assert.match(text, /^ {2}- interpretability$/m);
});
