/**
 * A tokenised corpus on disk. Layout: a 4096-byte header (`sluice-tokens 1` and one JSON line, padded with blanks), the tokens
 * as little-endian uint16 or uint32, then the length of each document in tokens as uint32. The header is written last, so a
 * file whose writing was interrupted cannot be opened. Documents hold text tokens only; BOS and EOS are put in when packing.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { inputError, ioError } from "../util/errors.ts";
import { removeStaleTemps, tempPath } from "../util/fs.ts";

const headerBytes = 4096;
const magic = "sluice-tokens 1\n";
/** Bytes written at a time. */
const writeChunk = 1 << 20;

export interface TokenFileHeader {
  dtype: "uint16" | "uint32";
  tokens: number;
  documents: number;
  vocabSize: number;
  /** `Tokenizer.hash` of the tokenizer that made the tokens. */
  tokenizer: string;
  /** What the tokens are, for people: mix, corpus, split. */
  source: string;
  /** Of a file that is only a stretch of a text: where it begins and ends. */
  stretch?: Stretch;
}

/** A place in a text: so many documents of this part are before it. */
export interface TextPlace {
  part: number;
  document: number;
}

/** From one place up to another; null is the end of the text. */
export interface Stretch {
  from: TextPlace;
  to: TextPlace | null;
}

/** What is known before the first token. */
export type TokenFileInfo = Pick<TokenFileHeader, "vocabSize" | "tokenizer" | "source">;

/** Writes documents one after another; `close` makes the file appear under its name. */
export class TokenFileWriter {
  readonly path: string;
  /** Where the tokens are until `close`; two writers of one path do not meet. */
  readonly partial: string;
  readonly #info: TokenFileInfo;
  readonly #dtype: TokenFileHeader["dtype"];
  readonly #fd: number;
  #lengths = new Uint32Array(1024);
  #documents = 0;
  #tokens = 0;
  #chunk = new Uint8Array(writeChunk);
  #filled = 0;
  #open = true;

  constructor(path: string, info: TokenFileInfo) {
    this.path = path;
    this.partial = tempPath(path);
    this.#info = info;
    this.#dtype = info.vocabSize <= 1 << 16 ? "uint16" : "uint32";
    try {
      mkdirSync(dirname(path), { recursive: true });
      removeStaleTemps(dirname(path));
      this.#fd = openSync(this.partial, "wx");
    } catch (cause) {
      throw ioError(`write ${path}`, cause);
    }
    try {
      writeAll(this.path, this.#fd, new Uint8Array(headerBytes));
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  get tokens(): number {
    return this.#tokens;
  }

  add(ids: ArrayLike<number>): void {
    if (ids.length === 0) return;
    if (this.#documents === this.#lengths.length) {
      const grown = new Uint32Array(2 * this.#documents);
      grown.set(this.#lengths);
      this.#lengths = grown;
    }
    this.#lengths[this.#documents++] = ids.length;
    this.#tokens += ids.length;
    const { vocabSize } = this.#info;
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i];
      if (!(id >= 0 && id < vocabSize))
        throw inputError(`${this.path}: token id ${id} is outside the vocabulary of ${vocabSize}`);
      this.#put(id);
    }
  }

  /** Finishes the file. */
  close({ stretch }: Pick<TokenFileHeader, "stretch"> = {}): TokenFileHeader {
    this.#flush();
    writeAll(this.path, this.#fd, new Uint8Array(this.#lengths.buffer, 0, 4 * this.#documents));
    const header: TokenFileHeader = {
      dtype: this.#dtype,
      tokens: this.#tokens,
      documents: this.#documents,
      ...this.#info,
      ...(stretch && { stretch }),
    };
    const text = Buffer.from(magic + JSON.stringify(header));
    if (text.length > headerBytes)
      throw inputError(`${this.path}: the header is longer than ${headerBytes} bytes`);
    writeAll(this.path, this.#fd, Buffer.concat([text, Buffer.alloc(headerBytes - text.length, " ")]), 0);
    try {
      fsyncSync(this.#fd);
      this.#open = false;
      closeSync(this.#fd);
      renameSync(this.partial, this.path);
    } catch (cause) {
      throw ioError(`write ${this.path}`, cause);
    }
    return header;
  }

  /** Gives up: removes what was written. Does nothing after `close`. */
  discard(): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#fd);
    rmSync(this.partial, { force: true });
  }

  #put(id: number): void {
    const chunk = this.#chunk;
    if (this.#filled + 4 > chunk.length) this.#flush();
    chunk[this.#filled++] = id & 0xff;
    chunk[this.#filled++] = (id >>> 8) & 0xff;
    if (this.#dtype === "uint32") {
      chunk[this.#filled++] = (id >>> 16) & 0xff;
      chunk[this.#filled++] = id >>> 24;
    }
  }

  #flush(): void {
    writeAll(this.path, this.#fd, this.#chunk.subarray(0, this.#filled));
    this.#filled = 0;
  }
}

/** An open token file; reads what is asked for and keeps only document ends in memory. */
export class TokenFile {
  readonly path: string;
  readonly header: TokenFileHeader;
  /** End of each document in tokens from the file's start, [documents]. */
  readonly documentEnds: Float64Array;
  readonly #fd: number;
  #closed = false;

  private constructor(path: string, header: TokenFileHeader, documentEnds: Float64Array, fd: number) {
    this.path = path;
    this.header = header;
    this.documentEnds = documentEnds;
    this.#fd = fd;
  }

  /** Opens and checks a file. `tokenizer` is the hash it must have been made with. */
  static open(path: string, options: { tokenizer?: string } = {}): TokenFile {
    const fd = openForReading(path);
    try {
      const header = readHeader(path, fd);
      if (options.tokenizer !== undefined && header.tokenizer !== options.tokenizer) {
        throw inputError(
          `${path} was made with another tokenizer (${header.tokenizer.slice(0, 12)}, wanted ${options.tokenizer.slice(0, 12)}); tokenise the text again`,
        );
      }
      return new TokenFile(path, header, readEnds(path, fd, header), fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  get tokens(): number {
    return this.header.tokens;
  }

  /** `count` ids from `start`, [count]. */
  read(start: number, count: number): Int32Array {
    if (start < 0 || count < 0 || start + count > this.tokens) {
      throw inputError(
        `${this.path}: tokens ${start} to ${start + count} asked for, but there are ${this.tokens}`,
      );
    }
    const itemSize = itemBytes(this.header);
    const bytes = new Uint8Array(count * itemSize);
    readAll(this.path, this.#fd, bytes, headerBytes + start * itemSize);
    const items = itemSize === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
    const ids = Int32Array.from(items);
    const { vocabSize } = this.header;
    for (const id of ids) {
      if (id >= vocabSize)
        throw inputError(
          `${this.path}: damaged: token id ${id} near token ${start}, but the vocabulary has ${vocabSize}`,
        );
    }
    return ids;
  }

  /** Ids of document `index`. */
  document(index: number): Int32Array {
    const start = index === 0 ? 0 : this.documentEnds[index - 1];
    return this.read(start, this.documentEnds[index] - start);
  }

  /** A second call does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }
}

function openForReading(path: string): number {
  try {
    return openSync(path, "r");
  } catch (cause) {
    throw ioError(`open the token file ${path}`, cause);
  }
}

function readHeader(path: string, fd: number): TokenFileHeader {
  const { size } = fstatSync(fd);
  const block = Buffer.alloc(headerBytes);
  if (size >= headerBytes) readAll(path, fd, block, 0);
  const text = block.toString("utf8");
  if (!text.startsWith(magic)) {
    throw inputError(
      `${path}: not a token file, or its writing was interrupted (it begins with ${JSON.stringify(text.slice(0, 8))})`,
    );
  }
  const header = parseHeader(path, text.slice(magic.length));
  const expected = headerBytes + header.tokens * itemBytes(header) + 4 * header.documents;
  if (size !== expected)
    throw inputError(
      `${path}: ${size < expected ? "truncated" : "too long"}: ${size} bytes, the header says ${expected}`,
    );
  return header;
}

function parseHeader(path: string, text: string): TokenFileHeader {
  let header: TokenFileHeader;
  try {
    header = JSON.parse(text) as TokenFileHeader;
  } catch (cause) {
    throw inputError(`${path}: the header is damaged`, cause);
  }
  const counts = [header.tokens, header.documents, header.vocabSize];
  const sound =
    counts.every((count) => Number.isSafeInteger(count) && count >= 0) &&
    (header.dtype === "uint16" || header.dtype === "uint32") &&
    typeof header.tokenizer === "string";
  if (!sound) throw inputError(`${path}: the header is damaged: ${text.trim().slice(0, 200)}`);
  return header;
}

function readEnds(path: string, fd: number, header: TokenFileHeader): Float64Array {
  const bytes = new Uint8Array(4 * header.documents);
  readAll(path, fd, bytes, headerBytes + header.tokens * itemBytes(header));
  let end = 0;
  const ends = Float64Array.from(new Uint32Array(bytes.buffer), (length) => {
    end += length;
    return end;
  });
  if (end !== header.tokens)
    throw inputError(`${path}: damaged: its documents have ${end} tokens, the header says ${header.tokens}`);
  return ends;
}

function itemBytes(header: TokenFileHeader): number {
  return header.dtype === "uint16" ? 2 : 4;
}

function readAll(path: string, fd: number, into: Uint8Array, position: number): void {
  for (let done = 0; done < into.length; ) {
    const got = readSync(fd, into, done, into.length - done, position + done);
    if (got === 0) throw inputError(`${path}: ends at byte ${position + done}`);
    done += got;
  }
}

function writeAll(path: string, fd: number, bytes: Uint8Array, position: number | null = null): void {
  try {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(fd, bytes, done, bytes.length - done, position === null ? null : position + done);
    }
  } catch (cause) {
    throw ioError(`write ${path}`, cause);
  }
}
