/**
 * Generation: batched decoding over a key-value cache. Prompts of different length are padded on the left; the padding is
 * never seen. B rows · V vocabulary.
 */
import { reshape, type Tensor } from "../tensor/index.ts";
import type { Tokenizer } from "../text/index.ts";
import { inputError, interruptedError, Rng, usageError } from "../util/index.ts";
import { KvCache } from "./cache.ts";
import type { Edit } from "./hooks.ts";
import { checkSampling, GREEDY, type SamplingOptions, sampleTokens } from "./sampling.ts";
import { TextStream } from "./text-stream.ts";
import type { Transformer } from "./transformer.ts";

/** Sampling is greedy unless a temperature is given. */
export interface GenerateOptions extends Partial<SamplingOptions> {
  /** Most new tokens a row; default 128. */
  readonly maxNewTokens?: number;
  /** Seed of the draws; default 0. */
  readonly seed?: number;
  /** Number of each row's random stream, default 0, 1, 2 …: a row with the same stream draws the same in any batch. */
  readonly streams?: readonly number[];
  /** A row ends after one of these; default the model's end-of-text tokens. */
  readonly stopTokens?: readonly number[];
  /** A row ends when its text contains one of these; needs `tokenizer`. */
  readonly stopStrings?: readonly string[];
  /** Turns tokens into text; without it there are only ids. */
  readonly tokenizer?: Tokenizer;
  /**
   * What happens at the end of the model's context. `stop` (default): a prompt that fills it is an error, and a row that
   * reaches it ends. `slide`: the row goes on from the second half of what it saw, read anew, with BOS in front.
   */
  readonly overflow?: "stop" | "slide";
  /** How keys and values are held; default f32. */
  readonly cacheType?: "f32" | "f16";
  /** Edits at hook points, in the prompt and in every step after it (one position each). */
  readonly edit?: Readonly<Record<string, Edit>>;
  readonly onToken?: (event: TokenEvent) => void;
  readonly signal?: AbortSignal;
}

/** A new token of one row. */
export interface TokenEvent {
  readonly row: number;
  readonly token: number;
  /** Text that became final with it; may be empty, or more than the token's own. */
  readonly text: string;
}

export interface Generation {
  /** New tokens, the stop token included. */
  readonly tokens: Int32Array;
  /** Their text without stop tokens and stop strings; undefined without a tokenizer. */
  readonly text?: string;
  /** Why it ended: a stop token or string, `maxNewTokens`, or the end of the context. */
  readonly finish: "stop" | "length" | "context";
}

interface Row {
  /** Prompt and new tokens. */
  readonly ids: number[];
  readonly promptLength: number;
  /** Tokens before this one have slid out of sight, except BOS. */
  visibleFrom: number;
  finish?: Generation["finish"];
  readonly rng: Rng;
  readonly text?: TextStream;
}

type Settings = ReturnType<typeof resolve>;

function resolve(model: Transformer, options: GenerateOptions) {
  const { maxNewTokens = 128, stopStrings = [], tokenizer } = options;
  if (!(Number.isInteger(maxNewTokens) && maxNewTokens >= 1))
    throw usageError(`generate: maxNewTokens=${maxNewTokens} must be a positive whole number`);
  if (stopStrings.length > 0 && !tokenizer) throw usageError("generate: stopStrings need a tokenizer");
  return {
    ...options,
    maxNewTokens,
    stopStrings,
    stopTokens: new Set(options.stopTokens ?? model.spec.eosTokens),
    context: model.spec.contextLength,
    slides: options.overflow === "slide",
    sampling: checkSampling({
      temperature: options.temperature ?? GREEDY.temperature,
      topK: options.topK ?? GREEDY.topK,
      topP: options.topP ?? GREEDY.topP,
    }),
  };
}

/**
 * Continues each prompt (token ids, not empty). Rows that have ended wait for the others; a row's tokens do not depend on
 * which rows stand beside it, up to the rounding of the products. Throws `interrupted` on abort.
 */
export async function generate(
  model: Transformer,
  prompts: readonly ArrayLike<number>[],
  options: GenerateOptions = {},
): Promise<Generation[]> {
  const settings = resolve(model, options);
  const rows = startRows(model, prompts, settings);
  const turn = turnTaker(settings.signal);
  const isFull = (row: Row) => !row.finish && visible(model, row).length >= settings.context;
  let cache: KvCache | undefined;
  try {
    while (rows.some((row) => !row.finish)) {
      let logits: Tensor;
      if (cache && !rows.some(isFull)) {
        logits = predict(
          model,
          cache,
          rows.map(lastToken),
          settings,
          rows.map((row) => lastPosition(model, row)),
        );
      } else {
        cache?.dispose();
        for (const row of rows) if (isFull(row)) slide(row, settings);
        cache = makeCache(model, rows, settings);
        logits = await prefill(model, cache, rows, settings, turn);
      }
      const rngs = rows.map((row) => (row.finish ? undefined : row.rng));
      const next = await sampleTokens(logits, settings.sampling, rngs).finally(() => logits.dispose());
      rows.forEach((row, b) => {
        if (!row.finish) accept(row, b, next[b], settings);
      });
      await turn();
    }
  } finally {
    cache?.dispose();
  }
  return rows.map(({ ids, promptLength, text, finish = "length" }) => ({
    tokens: Int32Array.from(ids.slice(promptLength)),
    finish,
    ...(text ? { text: text.text } : {}),
  }));
}

function startRows(model: Transformer, prompts: readonly ArrayLike<number>[], settings: Settings): Row[] {
  const { tokenizer, stopStrings, seed = 0, streams, slides, context } = settings;
  const { vocabSize } = model.spec;
  if (streams && streams.length !== prompts.length)
    throw usageError(`generate: ${streams.length} streams for ${prompts.length} prompts`);
  const draws = new Rng(seed).fork("generate");
  return prompts.map((prompt, b) => {
    const ids = Array.from(prompt);
    if (ids.length === 0)
      throw usageError(`generate: prompt ${b} is empty; begin it with the BOS token at least`);
    const strange = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (strange !== undefined)
      throw inputError(`generate: prompt ${b} has token ${strange}, the vocabulary has ${vocabSize}`);
    if (ids.length >= context && !slides) {
      throw usageError(
        `generate: prompt ${b} has ${ids.length} tokens, which leave no room in a context of ${context}; shorten it or let it slide`,
      );
    }
    return {
      ids,
      promptLength: ids.length,
      visibleFrom: 0,
      rng: draws.fork(streams?.[b] ?? b),
      text: tokenizer && new TextStream(tokenizer, stopStrings),
    };
  });
}

/** Tokens of a row that the model sees: all, or BOS and those after the slide. */
function visible(model: Transformer, { ids, visibleFrom }: Row): number[] {
  if (visibleFrom === 0) return ids;
  const seen = ids.slice(visibleFrom);
  return ids[0] === model.spec.bosToken ? [ids[0], ...seen] : seen;
}

/** Keeps the last half of a full context. Depends on the row's own length only, never on the batch. */
function slide(row: Row, { context }: Settings): void {
  row.visibleFrom = row.ids.length - Math.max(Math.floor(context / 2), 1);
}

/** A cache with room for every row until it ends or slides. */
function makeCache(model: Transformer, rows: readonly Row[], settings: Settings): KvCache {
  const lengths = rows.map((row) => visible(model, row).length);
  const longest = Math.max(...lengths);
  const steps = rows.map(({ ids, promptLength }, b) =>
    Math.min(settings.maxNewTokens - (ids.length - promptLength), settings.context - lengths[b]),
  );
  return new KvCache(model.device, model.spec, {
    batch: rows.length,
    capacity: longest + Math.max(...steps),
    starts: lengths.map((n) => longest - n),
    dtype: settings.cacheType,
  });
}

/** Most tokens that one pass over the prompts reads, so that the event loop is not held up for long. */
const PREFILL_TOKENS = 1024;

/** Reads all visible tokens into the cache; logits [B, V] after the last. */
async function prefill(
  model: Transformer,
  cache: KvCache,
  rows: readonly Row[],
  settings: Settings,
  turn: () => Promise<void>,
): Promise<Tensor> {
  const padded = rows.map((row, b) => [
    ...new Array<number>(cache.firsts[b]).fill(0),
    ...visible(model, row),
  ]);
  const L = padded[0].length;
  // An edit may count positions, so it gets the prompt in one piece.
  const chunk = settings.edit ? L : Math.max(Math.floor(PREFILL_TOKENS / rows.length), 16);
  let at = 0;
  for (; at + chunk < L; at += chunk) {
    const part = padded.map((p) => p.slice(at, at + chunk));
    model.device.scope(() => void model.forward(batchOf(model, part), { cache, logits: "none" }));
    await turn();
  }
  const rest = padded.map((p) => p.slice(at));
  return predict(model, cache, rest, settings);
}

/** Feeds one or more tokens a row; logits [B, V] after the last of them. */
function predict(
  model: Transformer,
  cache: KvCache,
  tokens: readonly (readonly number[])[],
  { edit }: Settings,
  positions?: readonly number[],
): Tensor {
  return model.device.scope(() => {
    const { logits } = model.forward(batchOf(model, tokens), { cache, edit, positions, logits: "last" });
    if (!logits) throw new Error("generate: the model gave no logits");
    return reshape(logits, [tokens.length, -1]);
  });
}

const batchOf = (model: Transformer, tokens: readonly (readonly number[])[]): Tensor =>
  model.device.tensor(tokens.flat(), [tokens.length, tokens[0].length], "i32");

/** Position of a row's last token. A row that has ended is fed on without being read, and must not leave the context. */
const lastPosition = (model: Transformer, row: Row): number =>
  row.finish ? 0 : visible(model, row).length - 1;

const lastToken = ({ ids }: Row): number[] => [ids[ids.length - 1]];

/** Appends a token to a row and decides whether the row ends. */
function accept(row: Row, b: number, token: number, settings: Settings): void {
  row.ids.push(token);
  const stops = settings.stopTokens.has(token);
  let text = stops ? "" : (row.text?.add(token) ?? "");
  if (stops || row.text?.stopped) row.finish = "stop";
  else if (row.ids.length - row.promptLength >= settings.maxNewTokens) row.finish = "length";
  else if (!settings.slides && row.ids.length >= settings.context) row.finish = "context";
  if (row.finish) text += row.text?.end() ?? "";
  settings.onToken?.({ row: b, token, text });
}

/** Milliseconds after which the event loop gets a turn. */
const TURN = 10;

/** Gives the event loop a turn now and then, and ends the generation when it was aborted. */
function turnTaker(signal: AbortSignal | undefined): () => Promise<void> {
  let last = performance.now();
  return async () => {
    if (performance.now() - last >= TURN) {
      await new Promise(setImmediate);
      last = performance.now();
    }
    if (signal?.aborted) throw interruptedError("generation interrupted");
  };
}
