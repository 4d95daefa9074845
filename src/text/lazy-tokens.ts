/**
 * Tokens of a text that may be too long to be read whole, such as a dataset of the hub: read on when more is needed, and kept as
 * token files in one folder, each a stretch of the text behind the one before. Another process finds the stretches and reads on
 * behind them. Where they are cut depends on who asked first; the documents and their order do not.
 */
import { join } from "node:path";
import { SluiceError, throwIfAborted } from "../util/errors.ts";
import { formatBytes } from "../util/format.ts";
import type { TextPart } from "./open-text.ts";
import type { LazyText, TokenSource } from "./packing.ts";
import {
  type Stretch,
  type TextPlace,
  TokenFile,
  type TokenFileHeader,
  TokenFileWriter,
} from "./token-file.ts";
import type { TokenizeProgress } from "./tokenize.ts";
import type { Tokenizer } from "./tokenizer.ts";
import type { Document } from "./types.ts";

export interface LazyTokensOptions {
  readonly tokenizer: Tokenizer;
  /** Where the stretches are kept; nothing else may be there. */
  readonly folder: string;
  /** See `LazyText`. */
  readonly identity: string;
  readonly shuffled: number;
  /** What the tokens are, for people. */
  readonly source: string;
  /** The error where the text ends without a token. */
  readonly empty: () => Error;
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
  /** Called about twice a second while a stretch is tokenised; the tokens are those of all stretches. */
  readonly onProgress?: (progress: TokenizeProgress) => void;
}

/** A stretch is at least this share of what is before it, so that they stay few; but nobody waits for more than so many tokens. */
const LEAST_SHARE = 0.25;
const LONGEST_WAIT = 1 << 22;

const WORTH_SAYING = 100e6;

export class LazyTokens implements TokenSource {
  readonly lazy: LazyText;
  readonly #parts: readonly TextPart[];
  readonly #options: LazyTokensOptions;
  readonly #files: TokenFile[] = [];
  /** Tokens before each file. */
  readonly #starts: number[] = [];
  #ends = new Float64Array(0);
  #tokens = 0;
  /** Where the next stretch begins; null at the end of the text. */
  #place: TextPlace | null = { part: 0, document: 0 };
  /** The documents behind `#place`, while they are being read. */
  #reading: { readonly documents: AsyncGenerator<Document>; place: TextPlace } | undefined;
  #growing: Promise<void> = Promise.resolve();

  constructor(parts: readonly TextPart[], options: LazyTokensOptions) {
    this.#parts = parts;
    this.#options = options;
    const isWhole = () => this.#place === null;
    const { identity, shuffled } = options;
    this.lazy = {
      identity,
      shuffled,
      get whole() {
        return isWhole();
      },
      grow: (tokens) => {
        const grown = this.#growing.then(() => this.#grow(tokens));
        this.#growing = grown.catch(() => {});
        return grown;
      },
    };
  }

  get tokens(): number {
    return this.#tokens;
  }

  get documentEnds(): Float64Array {
    return this.#ends;
  }

  /** Of what is there. */
  get header(): Pick<TokenFileHeader, "source" | "tokens" | "documents"> {
    return { source: this.#options.source, tokens: this.#tokens, documents: this.#ends.length };
  }

  read(start: number, count: number): Int32Array {
    const ids = new Int32Array(count);
    for (let done = 0; done < count; ) {
      const f = this.#fileAt(start + done);
      const from = start + done - this.#starts[f];
      const some = Math.min(count - done, this.#files[f].tokens - from);
      ids.set(this.#files[f].read(from, some), done);
      done += some;
    }
    return ids;
  }

  close(): void {
    for (const file of this.#files) file.close();
    this.#stopReading();
  }

  #fileAt(token: number): number {
    let f = this.#starts.length - 1;
    while (f > 0 && this.#starts[f] > token) f--;
    if (f < 0 || token < 0 || token >= this.#tokens)
      throw new Error(`${this.#options.folder}: token ${token} was asked for, but ${this.#tokens} are there`);
    return f;
  }

  async #grow(tokens: number): Promise<void> {
    if (tokens === Number.POSITIVE_INFINITY) this.#sayRest();
    while (this.#place !== null && this.#tokens < tokens) {
      const found = this.#found();
      if (found) this.#stopReading(); // it stands before what was found
      const least = Math.min(LEAST_SHARE * this.#tokens, LONGEST_WAIT);
      const missing = Math.max(Math.min(tokens - this.#tokens, LONGEST_WAIT), least);
      this.#append(found ?? (await this.#tokenise(missing)));
    }
    if (this.#place === null && this.#tokens === 0) throw this.#options.empty();
  }

  /** All of a text may be very much. */
  #sayRest(): void {
    const rest = this.#place === null ? [] : this.#parts.slice(this.#place.part);
    const bytes = rest.reduce((sum, part) => sum + (part.bytes ?? 0), 0);
    if (bytes < WORTH_SAYING) return;
    const { source, log } = this.#options;
    log?.(`${source} is read to its end: ${rest.length} files, ${formatBytes(bytes)}`);
  }

  #append(file: TokenFile): void {
    this.#files.push(file);
    this.#starts.push(this.#tokens);
    const ends = new Float64Array(this.#ends.length + file.documentEnds.length);
    ends.set(this.#ends);
    ends.set(
      file.documentEnds.map((end) => end + this.#tokens),
      this.#ends.length,
    );
    this.#ends = ends;
    this.#tokens += file.tokens;
    this.#place = (file.header.stretch as Stretch).to;
  }

  #path(): string {
    return join(this.#options.folder, `${String(this.#files.length).padStart(5, "0")}.tokens`);
  }

  /** The next stretch, if it was made before and continues those that are open. */
  #found(): TokenFile | undefined {
    const path = this.#path();
    const { tokenizer, log } = this.#options;
    try {
      const file = TokenFile.open(path, { tokenizer: tokenizer.hash });
      if (continues(file.header.stretch, this.#place)) return file;
      file.close(); // of a process that cut the text elsewhere
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error;
      if (error.code === "input") log?.(`${error.message}; this stretch of the text is tokenised again`);
    }
    return undefined;
  }

  async #tokenise(wanted: number): Promise<TokenFile> {
    const { tokenizer, source, signal, onProgress } = this.#options;
    const from = this.#place as TextPlace;
    const path = this.#path();
    const writer = new TokenFileWriter(path, {
      vocabSize: tokenizer.vocabSize,
      tokenizer: tokenizer.hash,
      source,
    });
    const began = performance.now();
    let reported = began;
    const report = (done: boolean) =>
      onProgress?.({
        tokens: this.#tokens + writer.tokens,
        before: this.#tokens,
        tokensPerSecond: (1000 * writer.tokens) / (performance.now() - began),
        done,
      });
    try {
      let ended = false;
      while (writer.tokens < wanted && !ended) {
        throwIfAborted(signal);
        const document = await this.#nextDocument();
        if (document === undefined) ended = true;
        else writer.add(tokenizer.encode(document.text, { plain: true }));
        if (performance.now() - reported < 500) continue;
        reported = performance.now();
        report(false);
      }
      report(true);
      writer.close({ stretch: { from, to: ended ? null : { ...(this.#reading?.place ?? from) } } });
      return TokenFile.open(path, { tokenizer: tokenizer.hash });
    } catch (error) {
      this.#stopReading();
      throw error;
    } finally {
      writer.discard();
    }
  }

  /** The document behind the last one; undefined at the end of the text. */
  async #nextDocument(): Promise<Document | undefined> {
    this.#reading ??= await this.#startReading(this.#place as TextPlace);
    for (;;) {
      const { done, value } = await this.#reading.documents.next();
      if (!done) {
        this.#reading.place.document++;
        return value;
      }
      const part: number = this.#reading.place.part + 1;
      if (part >= this.#parts.length) return undefined;
      this.#reading = { documents: this.#parts[part].documents(), place: { part, document: 0 } };
    }
  }

  async #startReading(place: TextPlace) {
    const documents = this.#parts[place.part].documents();
    for (let skipped = 0; skipped < place.document; skipped++) await documents.next();
    return { documents, place: { ...place } };
  }

  /** Files are closed behind the caller's back: nothing waits for them. */
  #stopReading(): void {
    this.#reading?.documents.return(undefined).catch(() => {});
    this.#reading = undefined;
  }
}

/** Whether a stretch begins at this place, and says where it ends. */
function continues(stretch: Stretch | undefined, place: TextPlace | null): boolean {
  const { from, to } = stretch ?? {};
  const isPlace = (p: TextPlace | null | undefined) =>
    Number.isSafeInteger(p?.part) && Number.isSafeInteger(p?.document);
  return from?.part === place?.part && from?.document === place?.document && (to === null || isPlace(to));
}
