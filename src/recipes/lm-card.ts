/**
 * The model card of a language model trained on a mixture of corpora: Markdown with Hugging Face's front matter, from plain data.
 */

/** One corpus of the training mixture. */
export interface CardCorpus {
  readonly name: string;
  readonly title: string;
  readonly domain: string;
  /** `package@version`, several joined by commas. */
  readonly packages: string;
  readonly licence: string;
  /** Tokens of the mixture that come from it, repetitions included. */
  readonly tokens: number;
  /** Passes over the corpus in the whole mixture. */
  readonly epochs: number;
}

/** Held-out results of one domain, all on the same tokens. */
export interface CardLoss {
  readonly domain: string;
  /** Tokens scored. */
  readonly tokens: number;
  /** Mean cross-entropy of the model, nats a token. */
  readonly loss: number;
  /** The same in bits for each UTF-8 byte of the text scored. */
  readonly bitsPerByte: number;
  /** Mean cross-entropy of the n-gram model, nats a token. */
  readonly ngram: number;
}

/** A continuation, sampled with a seed. */
export interface CardSample {
  readonly domain: string;
  readonly prompt: string;
  readonly text: string;
}
