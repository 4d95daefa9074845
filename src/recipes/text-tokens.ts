/**
 * Text named by a user as a file of tokens: tokenised once, kept in the cache. The file's name is made of what was asked
 * for and of what the text was then; when the text changes, the new tokens take the old ones' place.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { type HubOptions, isDatasetPath } from "../hub/index.ts";
import {
  defaultCacheDir,
  isCorpus,
  openText,
  pinText,
  type Split,
  TokenFile,
  type Tokenizer,
  type TokenSource,
  textFingerprint,
  tokenizeDocuments,
} from "../text/index.ts";
import { SluiceError } from "../util/index.ts";

export interface TextTokensOptions {
  /** A corpus of the catalogue, a file, a folder or a dataset of the hub; several are read one after another. */
  readonly text: readonly string[];
  /** Which documents; held-out ones are never trained on. */
  readonly split: Split;
  readonly tokenizer: Tokenizer;
  /** JSON lines and Parquet: the field or column that holds the text. */
  readonly field?: string;
  /** Where corpora and tokens are kept; default the user's cache. */
  readonly cacheDir?: string;
  /** Datasets of the hub: progress, settings. */
  readonly hub?: HubOptions;
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
  readonly onProgress?: (progress: { tokens: number; tokensPerSecond: number }) => void;
}

/** Opens the tokens of a text, tokenising it first if that was never done. The caller closes the file. */
export async function openTextTokens(options: TextTokensOptions): Promise<TokenFile> {
  const { text, split, tokenizer, field, cacheDir = defaultCacheDir(), hub, signal, log } = options;
  const isName = (t: string) => isCorpus(t) || isDatasetPath(t);
  const asked = digest([tokenizer.hash, split, field, text.map((t) => (isName(t) ? t : resolve(t)))]);
  const pinned = await Promise.all(text.map((t) => pinText(t, { hub, signal, log })));
  const found = digest(
    await Promise.all(pinned.map((t) => textFingerprint(t, { cacheDir, hub, signal, log }))),
  );
  const path = join(cacheDir, "tokens", `${asked}-${found}.tokens`);
  if (existsSync(path)) {
    try {
      return TokenFile.open(path, { tokenizer: tokenizer.hash });
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== "input") throw error;
      log?.(`${error.message}; the text is tokenised again`);
    }
  }
  await tokenize(path, pinned, options);
  await removeOlder(path, asked);
  return TokenFile.open(path, { tokenizer: tokenizer.hash });
}

async function tokenize(path: string, pinned: readonly string[], options: TextTokensOptions): Promise<void> {
  const { text, split, field, tokenizer, cacheDir, hub, signal, log, onProgress } = options;
  const documents = await openText(pinned, { split, field, cacheDir, hub, signal, log });
  const source = `${text.join(", ").slice(0, 1000)} (${split})`;
  await tokenizeDocuments(documents, tokenizer, path, { source, signal, onProgress });
}

/** Tokens of the same text before it changed. */
async function removeOlder(path: string, asked: string): Promise<void> {
  for (const name of await readdir(dirname(path))) {
    const other = join(dirname(path), name);
    if (name.startsWith(`${asked}-`) && other !== path) await rm(other, { force: true }).catch(() => {});
  }
}

const digest = (value: unknown): string =>
  createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);

/** Fingerprint of all ids and document ends: what a run says it was made from. Reads the text once, 4 MB at a time. */
export function tokensHash(source: TokenSource): string {
  const hash = createHash("sha256").update(source.documentEnds);
  const step = 1 << 20;
  for (let at = 0; at < source.tokens; at += step) {
    hash.update(source.read(at, Math.min(step, source.tokens - at)));
  }
  return `sha256:${hash.digest("hex").slice(0, 32)}`;
}
