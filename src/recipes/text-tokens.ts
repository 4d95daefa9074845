/**
 * Text named by a user as a file of tokens: tokenised once, kept in the cache. The file's name is made of what was asked
 * for and of what the text was then; when the text changes, the new tokens take the old ones' place. Texts of the hub are
 * downloaded and tokenised only as far as they are read, into a folder of that name.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { type HubOptions, isDatasetPath } from "../hub/index.ts";
import {
  defaultCacheDir,
  isCorpus,
  LazyTokens,
  noText,
  openText,
  pinText,
  type Split,
  TokenFile,
  type TokenFileHeader,
  type TokenizeProgress,
  type Tokenizer,
  type TokenSource,
  textFingerprint,
  textParts,
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
  readonly onProgress?: (progress: TokenizeProgress) => void;
}

/** Tokens of a text, open. */
export interface TextTokens extends TokenSource {
  /** Of a lazy text: of what is there. */
  readonly header: Pick<TokenFileHeader, "source" | "tokens" | "documents">;
  close(): void;
}

/**
 * Opens the tokens of a text, tokenising it first if that was never done; where some of it is on the hub, they are lazy (see
 * `TokenSource`). The caller closes them.
 */
export async function openTextTokens(options: TextTokensOptions): Promise<TextTokens> {
  const { text, split, tokenizer, field, cacheDir = defaultCacheDir(), hub, signal, log } = options;
  const isName = (t: string) => isCorpus(t) || isDatasetPath(t);
  const asked = digest([tokenizer.hash, split, field, text.map((t) => (isName(t) ? t : resolve(t)))]);
  const pinned = await Promise.all(text.map((t) => pinText(t, { hub, signal, log })));
  const found = digest(
    await Promise.all(pinned.map((t) => textFingerprint(t, { cacheDir, hub, signal, log }))),
  );
  if (text.some(isDatasetPath)) {
    const folder = join(cacheDir, "tokens", `${asked}-${found}.lazy`);
    await removeOlder(folder, asked);
    return openLazy(folder, pinned, `${asked}-${found}`, options);
  }
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

/**
 * Tokens of the text among which windows are shuffled: a few thousand windows of any usual context. Of held-out documents so many
 * that about as much text is read for them.
 */
const SHUFFLED = { train: 1 << 20, all: 1 << 20, heldout: 1 << 15 } as const;

async function openLazy(
  folder: string,
  pinned: readonly string[],
  digests: string,
  options: TextTokensOptions,
): Promise<LazyTokens> {
  const { text, split, field, tokenizer, cacheDir, hub, signal, log, onProgress } = options;
  const name = text.join(", ").slice(0, 1000);
  const ask = { split, field, cacheDir, hub, signal, log };
  const parts = await Promise.all(pinned.map((one) => textParts(one, ask)));
  return new LazyTokens(parts.flat(), {
    tokenizer,
    folder,
    identity: `${pinned.join(", ").slice(0, 1000)} (${split}) ${digests}`,
    shuffled: SHUFFLED[split],
    source: `${name} (${split})`,
    empty: () => noText(name, split),
    signal,
    log,
    onProgress,
  });
}

async function tokenize(path: string, pinned: readonly string[], options: TextTokensOptions): Promise<void> {
  const { text, split, field, tokenizer, cacheDir, hub, signal, log, onProgress } = options;
  const documents = await openText(pinned, { split, field, cacheDir, hub, signal, log });
  const source = `${text.join(", ").slice(0, 1000)} (${split})`;
  await tokenizeDocuments(documents, tokenizer, path, { source, signal, onProgress });
}

/** Tokens of the same text before it changed. */
async function removeOlder(path: string, asked: string): Promise<void> {
  for (const name of await readdir(dirname(path)).catch(() => [])) {
    const other = join(dirname(path), name);
    if (name.startsWith(`${asked}-`) && other !== path)
      await rm(other, { recursive: true, force: true }).catch(() => {});
  }
}

const digest = (value: unknown): string =>
  createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);

/**
 * Fingerprint of all ids and document ends: what a run says it was made from. Reads the text once, 4 MB at a time. Of a lazy text
 * that of its name, commit and files.
 */
export function tokensHash(source: TokenSource): string {
  if (source.lazy) return `lazy:${source.lazy.identity}`;
  const hash = createHash("sha256").update(source.documentEnds);
  const step = 1 << 20;
  for (let at = 0; at < source.tokens; at += step) {
    hash.update(source.read(at, Math.min(step, source.tokens - at)));
  }
  return `sha256:${hash.digest("hex").slice(0, 32)}`;
}
