import assert from "node:assert/strict";
import { link, mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  buildTokenMix,
  checkMix,
  corpusDocuments,
  type MixConfig,
  sampleWords,
  TokenFile,
  trainMixTokenizer,
} from "../../src/text/index.ts";

const config: MixConfig = {
  name: "small",
  seed: 1,
  tokens: 400_000,
  tokenizer: { vocabSize: 600, sampleCharacters: 300_000 },
  parts: [
    { corpus: "moby-dick", share: 3, maxEpochs: 4, maxTokens: 60_000 },
    { corpus: "brown", share: 1, maxEpochs: 1 },
  ],
};

test("a mix is deterministic, keeps its shares and caps, and holds documents out", async () => {
  const folder = await mkdtemp(join(tmpdir(), "sluice-mix-"));
  const cacheDir = join(folder, "cache");
  const words = await sampleWords(config, { cacheDir });
  assert.ok(words.characters > 250_000 && words.characters < 350_000, `${words.characters} characters`);
  const tokenizer = await trainMixTokenizer(config, join(folder, "tokenizer"), { cacheDir });
  assert.equal(tokenizer.vocabSize, 600);

  const one = await buildTokenMix(config, tokenizer, join(folder, "one"), { cacheDir });
  const report = join(folder, "two", "mix.json");
  await mkdir(join(folder, "two"));
  await writeFile(report, "old");
  await link(report, join(folder, "old.json"));
  const two = await buildTokenMix(config, tokenizer, join(folder, "two"), { cacheDir });
  assert.ok((await readFile(one.train.path)).equals(await readFile(two.train.path)));

  assert.equal(await readFile(join(folder, "old.json"), "utf8"), "old", "mix.json takes its place whole");
  assert.equal(JSON.parse(await readFile(report, "utf8")).tokenizer, tokenizer.hash);

  const [moby, brown] = one.parts;
  assert.ok(moby.distinctTokens <= 60_000 && moby.epochs > 3 && moby.epochs <= 4, `${moby.epochs} epochs`);
  assert.ok(Math.abs(brown.tokens - 100_000) < 5000, `${brown.tokens} tokens of brown`);
  assert.equal(one.train.tokens, moby.tokens + brown.tokens);

  const file = TokenFile.open(one.train.path, { tokenizer: tokenizer.hash });
  const heldOut = new Set<string>();
  for await (const { text } of corpusDocuments("brown", { split: "heldout" })) heldOut.add(text);
  for (let i = 0; i < file.header.documents; i++) assert.ok(!heldOut.has(tokenizer.decode(file.document(i))));
  file.close();
  assert.deepEqual(
    one.heldOut.map(({ domain }) => domain),
    ["general"],
  );
});

test("a mix that cannot be built names the field", () => {
  const broken = (part: object) => () => checkMix({ ...config, parts: [{ ...config.parts[0], ...part }] });
  assert.throws(broken({ share: 0 }), /moby-dick\.share=0 must be positive/);
  assert.throws(broken({ maxEpochs: -1 }), /moby-dick\.maxEpochs=-1/);
  assert.throws(broken({ corpus: "mobydick" }), /did you mean moby-dick/);
  assert.throws(() => checkMix({ ...config, parts: [] }), /parts is empty/);
  assert.throws(() => checkMix({ ...config, parts: [config.parts[0], config.parts[0]] }), /listed twice/);
});
