/**
 * Text named by a user as a file of tokens: tokenised once, kept in the cache. The file's name is made of what was asked
 * for and of what the text was then; when the text changes, the new tokens take the old ones' place.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import {
  defaultCacheDir,
  isCorpus,
  openText,
  type Split,
  TokenFile,
  type Tokenizer,
  type TokenSource,
  textFingerprint,
  tokenizeDocuments,
} from "../text/index.ts";
import { SluiceError } from "../util/index.ts";

export interface TextTokensOptions {
  /** A corpus of the catalogue, a file or a folder; several are read one after another. */
  readonly text: readonly string[];
  /** Which documents; held-out ones are never trained on. */
  readonly split: Split;
  readonly tokenizer: Tokenizer;
  /** JSON lines: the field that holds the text. */
  readonly field?: string;
  /** Where corpora and tokens are kept; default the user's cache. */
  readonly cacheDir?: string;
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
  readonly onProgress?: (progress: { tokens: number; tokensPerSecond: number }) => void;
}

/** Opens the tokens of a text, tokenising it first if that was never done. The caller closes the file. */
export async function openTextTokens(options: TextTokensOptions): Promise<TokenFile> {
  const { text, split, tokenizer, field, cacheDir = defaultCacheDir(), log } = options;
  const asked = digest([tokenizer.hash, split, field, text.map((t) => (isCorpus(t) ? t : resolve(t)))]);
  const found = digest(await Promise.all(text.map((t) => textFingerprint(t, { cacheDir }))));
  const path = join(cacheDir, "tokens", `${asked}-${found}.tokens`);
  if (existsSync(path)) {
    try {
      return TokenFile.open(path, { tokenizer: tokenizer.hash });
    } catch (error) {
      if (!(error instanceof SluiceError) || error.code !== "input") throw error;
      log?.(`${error.message}; the text is tokenised again`);
    }
  }
  await tokenize(path, options);
  await removeOlder(path, asked);
  return TokenFile.open(path, { tokenizer: tokenizer.hash });
}

async function tokenize(path: string, options: TextTokensOptions): Promise<void> {
  const { text, split, field, tokenizer, cacheDir, signal, log, onProgress } = options;
  const documents = await openText(text, { split, field, cacheDir, signal, log });
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
