/**
 * UTF-8 read strictly: the first invalid byte is reported by file and offset. RFC 3629 (no surrogates, no overlong forms).
 */
import { inputError } from "../util/errors.ts";

export type InvalidUtf8 = "error" | "replace";

/** Offset of the first byte that does not belong to well-formed UTF-8, or -1. */
export function invalidUtf8Offset(bytes: Uint8Array): number {
  const length = bytes.length;
  let i = 0;
  while (i < length) {
    const lead = bytes[i];
    if (lead < 0x80) {
      i++;
      continue;
    }
    const size =
      lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) === 0xe0 ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (size === 0 || i + size > length) return i;
    const second = bytes[i + 1];
    const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    if (second < low || second > high) return i;
    for (let k = 2; k < size; k++) if ((bytes[i + k] & 0xc0) !== 0x80) return i;
    i += size;
  }
  return -1;
}

/** Text of `bytes`; a byte-order mark is dropped. `offset` is where `bytes` begin in `file`, for the message. */
export function decodeUtf8(
  bytes: Uint8Array,
  file: string,
  options: { invalid?: InvalidUtf8; offset?: number } = {},
): string {
  const { invalid = "error", offset = 0 } = options;
  if (invalid === "error") {
    const at = invalidUtf8Offset(bytes);
    if (at >= 0) {
      const value = bytes[at].toString(16).padStart(2, "0");
      throw inputError(
        `${file}: invalid UTF-8 at byte ${offset + at} (0x${value}); convert the file, or pass invalid: "replace" to read U+FFFD there`,
      );
    }
  }
  return new TextDecoder("utf-8", { ignoreBOM: offset > 0 }).decode(bytes);
}
