/**
 * Token ids as text, from a feature database: no tokenizer is needed to read one.
 */

interface TokenText {
  readonly id: number;
  readonly text: string;
  readonly bytes: Uint8Array | null;
  readonly special: boolean;
  /** How often it was read. */
  readonly count: number;
}

export class Vocabulary {
  readonly #tokens: readonly TokenText[];

  /** By id, without gaps. */
  constructor(tokens: readonly TokenText[]) {
    this.#tokens = tokens;
  }

  get size(): number {
    return this.#tokens.length;
  }

  token(id: number): TokenText {
    return this.#tokens[id] ?? { id, text: `<${id}>`, bytes: null, special: false, count: 0 };
  }

  /** One string per id that together are the text: a character of several tokens belongs to the last of them. */
  pieces(ids: readonly number[]): string[] {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = ids.map((id) => {
      const { bytes, text } = this.token(id);
      // SentencePiece writes a space as ▁.
      return bytes ? decoder.decode(bytes, { stream: true }) : decoder.decode() + text.replaceAll("▁", " ");
    });
    const rest = decoder.decode();
    if (rest !== "" && pieces.length > 0) pieces[pieces.length - 1] += rest;
    return pieces;
  }

  /** Ids of tokens whose text, without spaces around it, is this word in any case. */
  idsOf(word: string): number[] {
    const wanted = word.trim().toLowerCase();
    const bare = (text: string) => text.replaceAll("▁", " ").trim().toLowerCase();
    return this.#tokens.filter((t) => !t.special && bare(t.text) === wanted).map((t) => t.id);
  }
}
