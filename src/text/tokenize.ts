/**
 * Documents to a token file, with progress.
 */

import { inputError, throwIfAborted } from "../util/errors.ts";
import { type TokenFileHeader, TokenFileWriter } from "./token-file.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { Document } from "./types.ts";

export interface TokenizeOptions {
  /** What the text is, for the header. */
  source: string;
  signal?: AbortSignal;
  /** Called about twice a second. */
  onProgress?: (progress: { tokens: number; tokensPerSecond: number }) => void;
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
    for await (const { text } of documents) {
      throwIfAborted(signal);
      writer.add(tokenizer.encode(text, { plain: true }));
      const now = performance.now();
      if (now - reported > 500) {
        reported = now;
        onProgress?.({ tokens: writer.tokens, tokensPerSecond: (1000 * writer.tokens) / (now - started) });
      }
    }
    if (writer.tokens === 0) throw inputError(`${source}: there is no text`);
    onProgress?.({
      tokens: writer.tokens,
      tokensPerSecond: (1000 * writer.tokens) / (performance.now() - started),
    });
    return writer.close();
  } finally {
    writer.discard();
  }
}
