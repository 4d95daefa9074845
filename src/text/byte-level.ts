/**
 * Byte-level BPE's alphabet and word splitting. The alphabet is GPT-2's (Radford et al. 2019): printable Latin-1 bytes stand
 * for themselves, the other 68 for U+0100 and on. The splitting follows GPT-4's pattern, with two differences: digits are
 * single (so that numbers are spelled), the first with its space, and combining marks belong to the word before them.
 */

/**
 * Splitting of text into words, as written into tokenizer.json (Oniguruma syntax; `\s` is Unicode white space there).
 * Every character belongs to exactly one match.
 */
export const splitPattern =
  "'(?:[sdmtSDMT]|ll|LL|ve|VE|re|RE)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+| ?\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** GPT-2's own pattern, which `ByteLevel` uses when it does the splitting itself. */
export const gpt2Pattern =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** A pattern as JavaScript's: its own `\s` differs from Unicode white space in U+0085 and U+FEFF. */
export function wordRegExp(pattern: string): RegExp {
  const inClass = pattern.replaceAll("[^\\s", "[^\\p{White_Space}");
  return new RegExp(
    inClass.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"),
    "gu",
  );
}

/** Character of each byte, [256]. */
export const byteSymbols: readonly string[] = buildByteSymbols();

/** Byte of each of the 256 characters. */
export const symbolBytes: ReadonlyMap<string, number> = new Map(
  byteSymbols.map((symbol, byte) => [symbol, byte]),
);

function buildByteSymbols(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : next++);
  });
}

/** Bytes of a token written in the alphabet; undefined when a character is not of the alphabet. */
export function tokenBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = symbolBytes.get(token[i]);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
