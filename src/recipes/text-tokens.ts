/**
 * Text named by a user as a file of tokens: tokenised once, kept in the cache under a name made from all it depends on.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import {
  defaultCacheDir,
  isCorpus,
  openText,
  type Split,
  TokenFile,
  type Tokenizer,
  tokenizeDocuments,
} from "../text/index.ts";

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
  const { text, split, tokenizer, cacheDir = defaultCacheDir(), field, signal, log, onProgress } = options;
  const key = createHash("sha256").update(
    JSON.stringify([tokenizer.hash, split, field, await Promise.all(text.map(identity))]),
  );
  const path = join(cacheDir, "tokens", `${key.digest("hex").slice(0, 24)}.tokens`);
  if (!existsSync(path)) {
    const documents = await openText(text, { split, field, cacheDir, signal, log });
    await tokenizeDocuments(documents, tokenizer, path, {
      source: `${text.join(",")}, ${split}`,
      signal,
      onProgress,
    });
  }
  return TokenFile.open(path, { tokenizer: tokenizer.hash });
}

/** What a text's tokens depend on: a corpus's pinned name, or a path with size and time of change. */
async function identity(spec: string): Promise<unknown> {
  if (isCorpus(spec)) return spec;
  const found = await stat(spec).catch(() => undefined);
  if (!found) return spec; // openText says what is wrong with it
  if (found.isDirectory()) return [spec, Date.now()]; // files inside may have changed: never taken from the cache
  return [spec, found.size, found.mtimeMs];
}
