/**
 * How well a language model predicts text: cross-entropy in nats a token, perplexity, bits per byte, by text and over all.
 */
import { heldOutBatches, spreadWindows } from "../models/index.ts";
import {
  StridedWindows,
  type Tokenizer,
  TokenPacker,
  type TokenSource,
  type WindowSource,
} from "../text/index.ts";
import type { LanguageModel } from "./language-model.ts";

export interface LmScore {
  /** Targets counted: text tokens and ends of documents. */
  readonly tokens: number;
  /** Bytes of text that these tokens stand for. */
  readonly bytes: number;
  /** Mean cross-entropy, nats a token. */
  readonly loss: number;
  /** exp(loss) */
  readonly perplexity: number;
  /** Total cross-entropy in bits by bytes of text: comparable between tokenizers. */
  readonly bits_per_byte: number;
}

export interface LmEvaluation extends LmScore {
  /** Tokens of a window; each window is predicted from its own tokens only. */
  readonly context: number;
  /** Tokens from one window to the next; null: windows that do not overlap. */
  readonly stride: number | null;
  /** Whether every window begins with BOS. */
  readonly window_bos: boolean;
  readonly texts: Readonly<Record<string, LmScore>>;
}

export interface LmEvalOptions {
  readonly texts: Readonly<Record<string, TokenSource>>;
  /** Tokens of a window; default the model's context. */
  readonly context?: number;
  /**
   * Tokens from one window to the next. The windows overlap by the rest, which is context only and counts in the window before;
   * the last, shorter stretch counts too. Default: windows that do not overlap, and the last stretch is left out.
   */
  readonly stride?: number;
  /** Begin every window with BOS, if the tokenizer has one (default); else only documents do. */
  readonly windowBos?: boolean;
  /** Most windows a text, evenly spread; default all. */
  readonly windows?: number;
  /** Windows of a forward pass. */
  readonly micro?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { text: string; windows: number; total: number }) => void;
}

/** Scores every text. */
export async function evaluateLm(lm: LanguageModel, options: LmEvalOptions): Promise<LmEvaluation> {
  const { context = lm.model.spec.contextLength, stride = null, windowBos = true } = options;
  const meter = scoreMeter(lm.tokenizer);
  for (const [text, tokens] of Object.entries(options.texts)) {
    await tokens.lazy?.grow(Number.POSITIVE_INFINITY);
    const source = windowsFor(tokens, lm.tokenizer, { context, stride, windowBos });
    const total = spreadWindows(source.windows, options.windows).length;
    let windows = 0;
    for await (const { targets, losses } of heldOutBatches(lm.model, source, options)) {
      meter.add(text, targets, losses);
      windows += targets.length / context;
      options.onProgress?.({ text, windows, total });
    }
  }
  const window_bos = windowBos && lm.tokenizer.bosId !== undefined;
  return { context, stride, window_bos, ...meter.scores() };
}

/** Windows in the order of the text, as the model was trained to read it. */
function windowsFor(
  tokens: TokenSource,
  { bosId, eosId }: Tokenizer,
  { context, stride, windowBos }: { context: number; stride: number | null; windowBos: boolean },
): WindowSource {
  const bos = bosId ?? null;
  const ends = { context, bos, eos: eosId ?? null, windowBos: windowBos && bos !== null };
  return stride === null
    ? new TokenPacker(tokens, { ...ends, shuffle: false })
    : new StridedWindows(tokens, { ...ends, stride });
}

interface Sums {
  tokens: number;
  bytes: number;
  nats: number;
}

/** Adds up losses by text. */
function scoreMeter(tokenizer: Tokenizer) {
  const bytes: number[] = []; // by id
  const sums = new Map<string, Sums>();
  return {
    add(text: string, targets: Int32Array, losses: ArrayLike<number>) {
      const sum = sums.get(text) ?? { tokens: 0, bytes: 0, nats: 0 };
      sums.set(text, sum);
      targets.forEach((t, i) => {
        if (t < 0) return;
        sum.tokens++;
        bytes[t] ??= tokenizer.textBytes(t);
        sum.bytes += bytes[t];
        sum.nats += losses[i];
      });
    },
    scores() {
      const all = { tokens: 0, bytes: 0, nats: 0 };
      for (const { tokens, bytes: b, nats } of sums.values()) {
        all.tokens += tokens;
        all.bytes += b;
        all.nats += nats;
      }
      const texts = Object.fromEntries([...sums].map(([name, sum]) => [name, scoreOf(sum)]));
      return { ...scoreOf(all), texts };
    },
  };
}

function scoreOf({ tokens, bytes, nats }: Sums): LmScore {
  const loss = nats / tokens;
  return { tokens, bytes, loss, perplexity: Math.exp(loss), bits_per_byte: nats / Math.LN2 / bytes };
}
