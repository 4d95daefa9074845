/**
 * Documents to a token file, with progress.
 */

import { inputError, throwIfAborted } from "../util/errors.ts";
import { MemoryTokens } from "./packing.ts";
import { type TokenFileHeader, TokenFileWriter } from "./token-file.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { Document } from "./types.ts";

/** How far the tokenising of a text is. */
export interface TokenizeProgress {
  readonly tokens: number;
  /** Of `tokens`, those that were there when it began. */
  readonly before: number;
  readonly tokensPerSecond: number;
  /** The last of these calls: the text, or as much of it as is needed now, is tokenised. */
  readonly done: boolean;
}

export interface TokenizeOptions {
  /** What the text is, for the header. */
  source: string;
  signal?: AbortSignal;
  /** Called about twice a second. */
  onProgress?: (progress: TokenizeProgress) => void;
}

/**
 * Tokenises documents into memory, up to `maxTokens` (4 bytes each); the last document is cut there. Throws if there is no
 * text.
 */
export async function collectTokens(
  documents: AsyncIterable<Document>,
  tokenizer: Tokenizer,
  options: { maxTokens?: number; signal?: AbortSignal } = {},
): Promise<MemoryTokens> {
  const { maxTokens = Number.POSITIVE_INFINITY, signal } = options;
  const collected: Int32Array[] = [];
  let tokens = 0;
  for await (const { text } of documents) {
    throwIfAborted(signal);
    const ids = tokenizer.encode(text, { plain: true });
    collected.push(tokens + ids.length > maxTokens ? ids.slice(0, maxTokens - tokens) : ids);
    tokens += collected[collected.length - 1].length;
    if (tokens >= maxTokens) break;
  }
  if (tokens === 0) throw inputError("there is no text to tokenise");
  return new MemoryTokens(collected);
}

/** Tokenises documents into `path`, which appears only when it is complete. Names of special tokens in the text stay text. */
export async function tokenizeDocuments(
  documents: AsyncIterable<Document>,
  tokenizer: Tokenizer,
  path: string,
  options: TokenizeOptions,
): Promise<TokenFileHeader> {
  const { source, signal, onProgress } = options;
  const writer = new TokenFileWriter(path, {
    vocabSize: tokenizer.vocabSize,
    tokenizer: tokenizer.hash,
    source,
  });
  try {
    const started = performance.now();
    let reported = started;
    const report = (done: boolean) => {
      const tokensPerSecond = (1000 * writer.tokens) / (performance.now() - started);
      onProgress?.({ tokens: writer.tokens, before: 0, tokensPerSecond, done });
    };
    for await (const { text } of documents) {
      throwIfAborted(signal);
      writer.add(tokenizer.encode(text, { plain: true }));
      const now = performance.now();
      if (now - reported > 500) {
        reported = now;
        report(false);
      }
    }
    if (writer.tokens === 0) throw inputError(`${source}: there is no text`);
    report(true);
    return writer.close();
  } finally {
    writer.discard();
  }
}
