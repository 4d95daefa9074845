/**
 * Overlapping windows for measuring: each begins `stride` tokens after the one before, and a token counts only in the first window
 * that reaches it, so that all but those of the first window are predicted from at least T - stride + 1 tokens.
 */
import { usageError } from "../util/errors.ts";
import { type PackedBatch, type TokenSource, TokenStream, type WindowSource } from "./packing.ts";

export interface StrideOptions {
  /** T: tokens that a window shows to the model. */
  readonly context: number;
  /** Tokens from the beginning of one window to that of the next, 1 to T. */
  readonly stride: number;
  /** Put before each document; null for none. */
  readonly bos?: number | null;
  /** Put after each document; null for none. */
  readonly eos?: number | null;
  /** A BOS in front of every window too; true by default if there is a BOS. See `PackOptions`. */
  readonly windowBos?: boolean;
}

/**
 * Windows over the stream [BOS] document [EOS] …, as `TokenPacker`'s without shuffling, which a stride of T gives; but the last,
 * shorter one is there too, filled up on the right with tokens that are no targets.
 */
export class StridedWindows implements WindowSource {
  readonly context: number;
  readonly windows: number;
  readonly #stride: number;
  readonly #stream: TokenStream;
  readonly #bos: number | null;
  readonly #windowBos: boolean;
  /** Targets in all: tokens of the stream, without the first where no BOS is in front of it. */
  readonly #targets: number;

  constructor(source: TokenSource, options: StrideOptions) {
    const { context, stride, bos = null, eos = null } = options;
    if (!(Number.isInteger(stride) && stride >= 1 && stride <= context)) {
      throw usageError(
        `stride=${stride}: a whole number from 1 to the window's ${context} tokens was expected`,
      );
    }
    this.context = context;
    this.#stride = stride;
    this.#bos = bos;
    this.#windowBos = (options.windowBos ?? true) && bos !== null;
    this.#stream = new TokenStream(source, { bos, eos });
    this.#targets = this.#stream.length - (this.#windowBos ? 0 : 1);
    if (this.#targets < 1) throw usageError("the text is too short: it has no token to predict");
    this.windows = 1 + Math.max(0, Math.ceil((this.#targets - context) / stride));
  }

  /** `batch` windows from `first`; targets that are -1 are context only, or what fills up the last window. */
  at(first: number, batch = 1): PackedBatch {
    const { context } = this;
    const packed = {
      tokens: new Int32Array(batch * context),
      targets: new Int32Array(batch * context).fill(-1),
    };
    for (let row = 0; row < batch; row++) this.#fill(first + row, packed, row * context);
    return packed;
  }

  #fill(window: number, packed: PackedBatch, at: number): void {
    const begin = window * this.#stride;
    const length = Math.min(this.context, this.#targets - begin);
    const lead = this.#windowBos ? 0 : 1;
    const { ids } = this.#stream.read(begin, length + lead);
    // Targets of the windows before reach to begin - stride + T.
    const known = window === 0 ? 0 : Math.min(length, this.context - this.#stride);
    for (let t = 0; t < length; t++) {
      packed.tokens[at + t] = lead === 1 ? ids[t] : t === 0 ? (this.#bos as number) : ids[t - 1];
      if (t >= known && ids[t + lead] !== this.#bos) packed.targets[at + t] = ids[t + lead];
    }
  }
}
