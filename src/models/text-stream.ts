/**
 * Tokens to text as they come: whole characters only, and nothing that may yet turn out to begin a stop string.
 */
import type { Tokenizer } from "../text/index.ts";

/** Tokens that a character may be cut into; more than this are invalid bytes and shown as such. */
const LONGEST_CHARACTER = 4;
const CUT = "\uFFFD";

export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #stops: readonly string[];
  readonly #ids: number[] = [];
  /** Tokens before `#from` give context to those after: some decoders treat a first token otherwise. */
  #context = 0;
  #from = 0;
  #text = "";
  #sent = 0;
  #stopped = false;

  constructor(tokenizer: Tokenizer, stopStrings: readonly string[] = []) {
    this.#tokenizer = tokenizer;
    this.#stops = stopStrings.filter((s) => s !== "");
  }

  /** All text so far that is final, without a stop string and what follows it. */
  get text(): string {
    return this.#text.slice(0, this.#sent);
  }

  /** Whether a stop string has appeared. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Adds a token; returns the text that became final. An id that only pads the model's vocabulary has none. */
  add(id: number): string {
    if (id >= this.#tokenizer.vocabSize) return "";
    this.#ids.push(id);
    const fresh = this.#decodeFresh(false);
    if (fresh === "") return "";
    this.#text += fresh;
    return this.#release(false);
  }

  /** The rest, whatever it is: an unfinished character becomes U+FFFD. */
  end(): string {
    if (this.#stopped) return "";
    this.#text += this.#decodeFresh(true);
    return this.#release(true);
  }

  /** Text of the tokens not yet decoded, or nothing while their last character is incomplete. */
  #decodeFresh(final: boolean): string {
    const decode = (ids: readonly number[]) => this.#tokenizer.decode(ids, { skipSpecial: true });
    const before = decode(this.#ids.slice(this.#context, this.#from));
    const after = decode(this.#ids.slice(this.#context));
    const open = after.endsWith(CUT) && this.#ids.length - this.#from < LONGEST_CHARACTER;
    if (open && !final) return "";
    this.#context = this.#from;
    this.#from = this.#ids.length;
    return after.slice(before.length);
  }

  #release(final: boolean): string {
    const found = this.#stops.map((s) => this.#text.indexOf(s)).filter((at) => at >= 0);
    this.#stopped = found.length > 0;
    const end = this.#stopped ? Math.min(...found) : this.#text.length - (final ? 0 : this.#held());
    const fresh = this.#text.slice(this.#sent, Math.max(end, this.#sent));
    this.#sent = Math.max(end, this.#sent);
    return fresh;
  }

  /** Length of the longest end of the text that begins a stop string. */
  #held(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, this.#text.length); n > longest; n--) {
        if (this.#text.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}
