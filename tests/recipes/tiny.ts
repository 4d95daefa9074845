/**
 * A language model small enough for every test: random weights, its own tokenizer, and a text that it can read.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createTransformer, type ModelSpec, saveTransformer } from "../../src/models/index.ts";
import { type LanguageModel, openLanguageModel } from "../../src/recipes/index.ts";
import { createDevice, type Device } from "../../src/tensor/index.ts";
import { MemoryTokens, saveBpe, trainBpe, WordCounter } from "../../src/text/index.ts";
import { Rng } from "../../src/util/index.ts";

const WORDS =
  "the a of and river water sluice gold gravel gate miner stream stone flows falls opens closes sinks washes keeps finds small heavy bright muddy old in through over from".split(
    " ",
  );

/** Nonsense in which words follow each other at random. */
export function sentences(count: number, seed = 1): string[] {
  const rng = new Rng(seed);
  const word = () => WORDS[rng.int(WORDS.length)];
  return Array.from({ length: count }, () => `${Array.from({ length: 6 + rng.int(8) }, word).join(" ")}.`);
}

export const TINY: ModelSpec = {
  vocabSize: 320,
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

/** Writes a model folder and returns it. Another seed gives another model. */
export async function saveTinyModel(
  folder: string,
  { seed = 3, spec = TINY, std = 0.4 }: { seed?: number; spec?: ModelSpec; std?: number } = {},
): Promise<string> {
  const counter = new WordCounter();
  for (const line of sentences(200)) counter.add(line);
  await saveBpe(trainBpe(counter.counts, { vocabSize: 300 }), folder, spec.contextLength);
  const device = await createDevice({ backend: "ref" });
  const model = createTransformer(device, spec, { rng: new Rng(seed), std });
  await saveTransformer(model, folder);
  model.dispose();
  device.close();
  return folder;
}

/** Writes `documents` short ones as JSON lines; about one in thirty is held out. */
export function saveText(file: string, documents = 300, seed = 1): string {
  const lines = sentences(documents * 3, seed);
  const texts = Array.from({ length: documents }, (_, i) => lines.slice(3 * i, 3 * i + 3).join(" "));
  writeFileSync(file, `${texts.map((text) => JSON.stringify({ text })).join("\n")}\n`);
  return file;
}

/** A model and a text in one temporary folder, and a cache beside them. */
export async function tinyWorld(folder: string): Promise<{ model: string; text: string; cache: string }> {
  const cache = join(folder, "cache");
  mkdirSync(cache);
  const model = await saveTinyModel(join(folder, "tiny"));
  return { model, text: saveText(join(folder, "text.jsonl")), cache };
}

/** Opens the model of a folder and tokens of some sentences. */
export async function openTiny(
  device: Device,
  folder: string,
  documents = 100,
): Promise<{ lm: LanguageModel; tokens: MemoryTokens }> {
  const lm = await openLanguageModel(device, folder);
  const tokens = new MemoryTokens(sentences(documents, 7).map((text) => lm.tokenizer.encode(text)));
  return { lm, tokens };
}
