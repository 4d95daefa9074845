/**
 * A weighted mixture of corpora as one token file. Each part gets a share of the tokens, repeated for at most `maxEpochs`;
 * documents of all parts are interleaved so that every stretch of the file has about the same mixture. Deterministic.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { throwIfAborted, usageError } from "../util/errors.ts";
import { writeJson } from "../util/fs.ts";
import { trainBpe, WordCounter } from "./bpe-trainer.ts";
import { corpusByName } from "./catalogue.ts";
import { corpusDocuments } from "./corpus.ts";
import { hashString, hashUnit, permutation } from "./hashing.ts";
import { ensureCorpus, type InstallOptions } from "./install.ts";
import { TokenFile, TokenFileWriter } from "./token-file.ts";
import { tokenizeDocuments } from "./tokenize.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";
import { saveBpe } from "./tokenizer-json.ts";
import type { Document } from "./types.ts";

export interface MixConfig {
  name: string;
  /** Order of the documents. */
  seed: number;
  /** Tokens of the training file; parts that would need more than `maxEpochs` stay smaller. */
  tokens: number;
  tokenizer: {
    vocabSize: number;
    /** Characters the vocabulary is trained on, shared out by the parts' shares. */
    sampleCharacters: number;
    /** Factor on a domain's share of that sample, for scripts that would get too few merges. */
    boost?: Record<string, number>;
  };
  parts: MixPart[];
}

export interface MixPart {
  /** A name of the catalogue. */
  corpus: string;
  /** Share of the training tokens; shares need not sum to one. */
  share: number;
  /** Passes over the corpus at most; 1 by default. */
  maxEpochs?: number;
  /** Reads only the first documents of the corpus's shuffled order, up to this many tokens. */
  maxTokens?: number;
}

export interface MixReport {
  train: { tokens: number; documents: number; path: string };
  parts: { corpus: string; domain: string; distinctTokens: number; tokens: number; epochs: number }[];
  heldOut: { domain: string; tokens: number; documents: number; path: string }[];
}

export interface MixOptions extends InstallOptions {
  /** Keep `parts/<corpus>.tokens`, the training documents of each corpus once; false by default. */
  keepParts?: boolean;
  onProgress?: (step: {
    corpus: string;
    split: "train" | "heldout";
    tokens: number;
    tokensPerSecond: number;
  }) => void;
}

/** Word counts of a balanced sample of the mix's training documents, to train a vocabulary on. */
export async function sampleWords(config: MixConfig, options: InstallOptions = {}): Promise<WordCounter> {
  checkMix(config);
  const weight = (part: MixPart) =>
    part.share * (config.tokenizer.boost?.[corpusByName(part.corpus).domain] ?? 1);
  const total = config.parts.reduce((sum, part) => sum + weight(part), 0);
  const counter = new WordCounter();
  for (const part of config.parts) {
    const wanted = (config.tokenizer.sampleCharacters * weight(part)) / total;
    await sampleCorpus(part.corpus, wanted, counter, options);
  }
  return counter;
}

/** Trains the mix's vocabulary and writes its tokenizer files into `folder`; `maxLength` is the model's context in tokens. */
export async function trainMixTokenizer(
  config: MixConfig,
  folder: string,
  options: InstallOptions & {
    maxLength?: number;
    onProgress?: (merges: number, wanted: number) => void;
  } = {},
): Promise<Tokenizer> {
  const { maxLength = 2048, onProgress } = options;
  const words = await sampleWords(config, options);
  const bpe = trainBpe(words.counts, { vocabSize: config.tokenizer.vocabSize, onProgress });
  await saveBpe(bpe, folder, maxLength);
  return loadTokenizer(folder);
}

/** Stretches of this many characters are taken or left by the hash of their place. */
const sampleStretch = 2000;

/** About `wanted` characters spread evenly over the corpus's training documents. */
async function sampleCorpus(
  corpus: string,
  wanted: number,
  counter: WordCounter,
  options: InstallOptions,
): Promise<void> {
  const { manifest } = await ensureCorpus(corpus, options);
  const share = wanted / manifest.characters;
  for await (const { id, text } of corpusDocuments(corpus, { ...options, split: "train" })) {
    for (let at = 0; at < text.length; at += sampleStretch) {
      if (hashUnit(`sample/${corpus}/${id}/${at}`) < share) counter.add(text.slice(at, at + sampleStretch));
    }
  }
}

/** Tokenises the mix into `outDir`: `train.tokens`, `heldout/<domain>.tokens`, `mix.json` (the report). */
export async function buildTokenMix(
  config: MixConfig,
  tokenizer: Tokenizer,
  outDir: string,
  options: MixOptions = {},
): Promise<MixReport> {
  checkMix(config);
  const parts = await tokenizeParts(config, tokenizer, join(outDir, "parts"), options);
  try {
    const train = interleave(config, parts, tokenizer, join(outDir, "train.tokens"), options.signal);
    const heldOut = await writeHeldOut(config, tokenizer, join(outDir, "heldout"), options);
    const report: MixReport = { train: train.written, parts: train.parts, heldOut };
    await writeJson(join(outDir, "mix.json"), { config, tokenizer: tokenizer.hash, ...report });
    return report;
  } finally {
    for (const { file } of parts) file.close();
    if (!options.keepParts) await rm(join(outDir, "parts"), { recursive: true, force: true });
  }
}

interface TokenizedPart {
  part: MixPart;
  file: TokenFile;
}

async function tokenizeParts(
  config: MixConfig,
  tokenizer: Tokenizer,
  folder: string,
  options: MixOptions,
): Promise<TokenizedPart[]> {
  await mkdir(folder, { recursive: true });
  const parts: TokenizedPart[] = [];
  for (const part of config.parts) {
    const path = join(folder, `${part.corpus}.tokens`);
    await tokenizeDocuments(corpusDocuments(part.corpus, { ...options, split: "train" }), tokenizer, path, {
      source: `${part.corpus}, train`,
      signal: options.signal,
      onProgress: (progress) => options.onProgress?.({ corpus: part.corpus, split: "train", ...progress }),
    });
    parts.push({ part, file: TokenFile.open(path, { tokenizer: tokenizer.hash }) });
  }
  return parts;
}

/** A document's place in the mix: which part, which document, and where between 0 and 1 it belongs. */
interface Placed {
  part: number;
  document: number;
  at: number;
}

function interleave(
  config: MixConfig,
  parts: readonly TokenizedPart[],
  tokenizer: Tokenizer,
  path: string,
  signal?: AbortSignal,
): { written: MixReport["train"]; parts: MixReport["parts"] } {
  const shares = config.parts.reduce((sum, part) => sum + part.share, 0);
  const placed: Placed[] = [];
  const reports: MixReport["parts"] = [];
  for (const [index, { part, file }] of parts.entries()) {
    const wanted = (config.tokens * part.share) / shares;
    const plan = placePart(part, file, wanted, config.seed, index);
    placed.push(...plan.placed);
    const { name, domain } = corpusByName(part.corpus);
    reports.push({
      corpus: name,
      domain,
      distinctTokens: plan.distinct,
      tokens: plan.tokens,
      epochs: plan.tokens / plan.distinct,
    });
  }
  placed.sort((a, b) => a.at - b.at || a.part - b.part || a.document - b.document);
  const writer = new TokenFileWriter(path, {
    vocabSize: tokenizer.vocabSize,
    tokenizer: tokenizer.hash,
    source: `mix ${config.name}, train`,
  });
  try {
    for (const { part, document } of placed) {
      throwIfAborted(signal);
      writer.add(parts[part].file.document(document));
    }
    const { tokens, documents } = writer.close();
    return { written: { tokens, documents, path }, parts: reports };
  } finally {
    writer.discard();
  }
}

/** Documents of one part in shuffled passes until `wanted` tokens, each at the middle of its stretch. */
function placePart(
  part: MixPart,
  file: TokenFile,
  wanted: number,
  seed: number,
  index: number,
): { placed: Placed[]; tokens: number; distinct: number } {
  const lengthOf = (document: number) =>
    file.documentEnds[document] - (document === 0 ? 0 : file.documentEnds[document - 1]);
  const corpusSeed = hashString(`${seed}/${part.corpus}`);
  const order = [...permutation(file.header.documents, corpusSeed)];
  const chosen: number[] = [];
  let distinct = 0;
  for (const document of order) {
    if (part.maxTokens !== undefined && distinct + lengthOf(document) > part.maxTokens && chosen.length > 0)
      continue;
    chosen.push(document);
    distinct += lengthOf(document);
  }
  const limit = Math.min(wanted, distinct * (part.maxEpochs ?? 1));
  const placed: Placed[] = [];
  let tokens = 0;
  for (let epoch = 0; tokens < limit; epoch++) {
    for (const i of permutation(chosen.length, corpusSeed + epoch)) {
      const length = lengthOf(chosen[i]);
      if (tokens + length > limit && tokens > 0) continue; // a shorter document may still fit
      placed.push({ part: index, document: chosen[i], at: tokens + length / 2 });
      tokens += length;
    }
    if (epoch + 1 >= (part.maxEpochs ?? 1)) break;
    if (placed.length === 0) break;
  }
  for (const one of placed) one.at /= tokens;
  return { placed, tokens, distinct };
}

async function writeHeldOut(
  config: MixConfig,
  tokenizer: Tokenizer,
  folder: string,
  options: MixOptions,
): Promise<MixReport["heldOut"]> {
  const byDomain = new Map<string, string[]>();
  for (const { corpus } of config.parts) {
    const { domain } = corpusByName(corpus);
    byDomain.set(domain, [...(byDomain.get(domain) ?? []), corpus]);
  }
  const written: MixReport["heldOut"] = [];
  for (const [domain, names] of byDomain) {
    const path = join(folder, `${domain}.tokens`);
    const { tokens, documents } = await tokenizeDocuments(heldOutDocuments(names, options), tokenizer, path, {
      source: `mix ${config.name}, held-out ${domain}: ${names.join(", ")}`,
      signal: options.signal,
      onProgress: (progress) => options.onProgress?.({ corpus: domain, split: "heldout", ...progress }),
    });
    written.push({ domain, tokens, documents, path });
  }
  return written;
}

async function* heldOutDocuments(
  names: readonly string[],
  options: InstallOptions,
): AsyncGenerator<Document> {
  for (const name of names) yield* corpusDocuments(name, { ...options, split: "heldout" });
}

/** Throws, naming the field, if the mix cannot be built. */
export function checkMix(config: MixConfig): void {
  const positive = (value: unknown): boolean =>
    typeof value === "number" && Number.isFinite(value) && value > 0;
  if (!Array.isArray(config.parts) || config.parts.length === 0)
    throw usageError(`mix ${config.name}: parts is empty`);
  if (!positive(config.tokens))
    throw usageError(`mix ${config.name}: tokens=${config.tokens} must be positive`);
  const seen = new Set<string>();
  for (const part of config.parts) {
    corpusByName(part.corpus);
    if (seen.has(part.corpus)) throw usageError(`mix ${config.name}: ${part.corpus} is listed twice`);
    seen.add(part.corpus);
    for (const field of ["share", "maxEpochs", "maxTokens"] as const) {
      const value = part[field];
      if ((field === "share" || value !== undefined) && !positive(value)) {
        throw usageError(`mix ${config.name}: ${part.corpus}.${field}=${value} must be positive`);
      }
    }
  }
}
