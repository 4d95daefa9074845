/**
 * Activations of a live model: windows of text in, rows of one or several hook points out, from one forward pass that
 * stops after the last of them. B windows · T context · D width of a point.
 */
import { setImmediate } from "node:timers/promises";
import { forwardPacked, hookPoints, resolveHook, type Transformer } from "../models/index.ts";
import type { ActivationSource, OpenSource, SourceState } from "../sae/index.ts";
import {
  createRowFilter,
  type FilterCounts,
  firstNonFinite,
  type NonFinite,
  type RowFilterOptions,
  SHUFFLE_CAPACITY,
  type ShuffledState,
  shuffled,
  takeRows,
} from "../store/index.ts";
import type { PackedBatch, PackerState, Tokenizer, TokenPacker } from "../text/index.ts";
import { inputError, Rng, usageError } from "../util/index.ts";

export interface LiveOptions {
  readonly model: Transformer;
  readonly packer: TokenPacker;
  /** Points to read, by any name that the model knows. */
  readonly hooks: readonly string[];
  /** Windows of a forward pass; default 16. */
  readonly windows?: number;
  /** Rows to leave out: special tokens, high norms (judged at the first point). */
  readonly filter?: RowFilterOptions;
  /** Stop before this window, counted through all epochs; default: at the end of the first epoch. */
  readonly until?: number;
  /** Stop after this many rows; the last block is cut there. */
  readonly rows?: number;
  readonly signal?: AbortSignal;
}

/** Rows of one forward pass, the same ones at every point. */
export interface LiveBlock {
  readonly rows: number;
  /** [rows, D] by canonical name. */
  readonly activations: Readonly<Record<string, Float32Array>>;
  /** Token ids, [rows]. */
  readonly tokens: Int32Array;
  /** Position in its window, [rows]. */
  readonly positions: Int32Array;
  /** Number of the window since the start, [rows]. */
  readonly windows: Int32Array;
}

export interface LiveActivations extends AsyncIterable<LiveBlock> {
  readonly counts: FilterCounts;
  /** Canonical names, in the order of the forward pass. */
  readonly hooks: readonly string[];
}

/** Width of a row at a point: all axes but batch and position. */
export function rowWidth(model: Transformer, hook: string): number {
  const { spec } = model;
  const point = resolveHook(spec, hook);
  if (point.endsWith("hook_pattern")) {
    throw usageError(`hook ${hook}: attention patterns have no fixed width; choose another point`);
  }
  if (/hook_(q|z)$/.test(point)) return spec.nHeads * spec.headDim;
  if (/hook_(k|v)$/.test(point)) return spec.nKvHeads * spec.headDim;
  return point.endsWith("mlp.hook_post") ? spec.dMlp : spec.dModel;
}

const LIVE_WINDOWS = 16;

/**
 * Ids of the tokens whose rows are left out: `--exclude-tokens` as typed. Undefined: all special tokens; `none`: no token;
 * else ids, token texts and the word `special`, separated by commas. A number is an id; a text must be one token.
 */
export function parseExcludedTokens(tokenizer: Tokenizer, spec?: string): ReadonlySet<number> {
  if (spec === undefined) return tokenizer.specialIds;
  if (spec.trim() === "none") return new Set();
  const parts = spec.split(",").filter((part) => part !== "");
  return new Set(
    parts.flatMap((part) => (part === "special" ? [...tokenizer.specialIds] : idOf(tokenizer, part))),
  );
}

function idOf(tokenizer: Tokenizer, part: string): number {
  const name = `--exclude-tokens ${JSON.stringify(part)}`;
  if (/^\s*\d+\s*$/.test(part)) {
    const id = Number(part);
    if (id < tokenizer.vocabSize) return id;
    throw usageError(`${name}: the tokenizer has only ${tokenizer.vocabSize} ids`);
  }
  const named = tokenizer.idOf(part);
  if (named !== undefined) return named;
  const ids = tokenizer.encode(part);
  if (ids.length === 1) return ids[0];
  throw usageError(
    `${name}: this is ${ids.length} tokens (${ids.join(", ")}), not one; name tokens by their ids`,
  );
}

/** NaN or infinity at a point, or a number that cannot be stored, named by the window and token that it comes from. */
export function badActivation(
  hook: string,
  block: Pick<LiveBlock, "windows" | "positions" | "tokens">,
  { row, dim, value }: NonFinite,
  advice = "the model's weights or the point are at fault",
): Error {
  const { windows, positions, tokens } = block;
  return inputError(
    `${hook} is ${value} at dimension ${dim} of window ${windows[row]}, position ${positions[row]} (token ${tokens[row]}); ${advice}`,
  );
}

/**
 * Reads windows from where the packer stands. A whole pass over the text without one row is an error; after an error the
 * packer stands before the failed block.
 */
export function liveActivations(options: LiveOptions): LiveActivations {
  const { model, packer, windows = LIVE_WINDOWS, signal } = options;
  const wanted = new Set(options.hooks.map((h) => resolveHook(model.spec, h)));
  if (wanted.size === 0) throw usageError("activations: no hook point was named");
  const hooks = hookPoints(model.spec).filter((p) => wanted.has(p));
  const filter = createRowFilter(options.filter);
  for (const hook of hooks) rowWidth(model, hook);

  async function* read(): AsyncGenerator<LiveBlock> {
    let wanted = options.rows ?? Number.POSITIVE_INFINITY;
    let barren = 0; // windows since the last one that gave a row
    for (;;) {
      const before = packer.state;
      await packer
        .reach(Math.min(before.index + windows, options.until ?? Number.POSITIVE_INFINITY))
        .catch((error) => {
          if (!signal?.aborted) throw error; // below
        });
      const { until = packer.windows } = options;
      const first = before.epoch * packer.windows + before.index;
      if (wanted <= 0 || first >= until || signal?.aborted) return;
      const batch = packer.next(Math.min(windows, until - first));
      let block: LiveBlock;
      try {
        block = await readBlock(model, hooks, batch, { context: packer.context, first, filter });
        barren = block.rows > 0 ? 0 : barren + batch.tokens.length / packer.context;
        if (barren >= packer.windows) throw inputError(noRows(packer.windows, filter.counts));
      } catch (error) {
        packer.restore(before);
        throw error;
      }
      yield block.rows > wanted ? head(block, wanted) : block;
      wanted -= block.rows;
      await setImmediate(); // timers and sockets get their turn
    }
  }
  return { counts: filter.counts, hooks, [Symbol.asyncIterator]: read };
}

function noRows(windows: number, { seen, token, norm }: FilterCounts): string {
  return (
    `activations: a whole pass over the text (${windows} windows) gave no row: of ${seen} tokens ${token} were left out as ` +
    `excluded ones and ${norm} for their norm; raise --max-norm, exclude fewer tokens or add text`
  );
}

async function readBlock(
  model: Transformer,
  hooks: readonly string[],
  batch: PackedBatch,
  { context, first, filter }: { context: number; first: number; filter: ReturnType<typeof createRowFilter> },
): Promise<LiveBlock> {
  const n = batch.tokens.length;
  const captured = capture(model, hooks, batch, context);
  const whole: Record<string, Float32Array> = {};
  for (const hook of hooks) {
    whole[hook] = await captured[hook].floats();
    captured[hook].dispose();
  }
  const lead = whole[hooks[0]];
  const at = (rows: Int32Array) => ({
    tokens: rows.map((i) => batch.tokens[i]),
    positions: rows.map((i) => i % context),
    windows: rows.map((i) => first + Math.floor(i / context)),
  });
  const kept = filter.select(lead, lead.length / n, batch.tokens, (bad) =>
    badActivation(hooks[0], at(Int32Array.of(bad.row)), { ...bad, row: 0 }),
  );
  const activations = Object.fromEntries(
    hooks.map((h) => [h, takeRows(whole[h], whole[h].length / n, kept)]),
  );
  const block = { rows: kept.length, activations, ...at(kept) };
  for (const hook of hooks) {
    const x = activations[hook];
    const bad = firstNonFinite(x, x.length / Math.max(kept.length, 1));
    if (bad) throw badActivation(hook, block, bad);
  }
  return block;
}

/** The first rows of a block. */
function head(block: LiveBlock, rows: number): LiveBlock {
  const cut = ([hook, x]: [string, Float32Array]) => [hook, x.subarray(0, (rows * x.length) / block.rows)];
  return {
    rows,
    activations: Object.fromEntries(Object.entries(block.activations).map(cut)),
    tokens: block.tokens.subarray(0, rows),
    positions: block.positions.subarray(0, rows),
    windows: block.windows.subarray(0, rows),
  };
}

function capture(model: Transformer, hooks: readonly string[], batch: PackedBatch, context: number) {
  return model.device.scope(
    () => forwardPacked(model, batch, context, { capture: hooks, stopEarly: true }).captured,
  );
}

export interface LiveSourceOptions extends LiveOptions {
  /** Rows held for shuffling; default 262,144. */
  readonly capacity?: number;
  /** Rows handed out at a time; at most half the capacity. */
  readonly batch: number;
  readonly seed: number;
  /** Told how many rows were computed since the source was opened. */
  readonly onRows?: (rows: number) => void;
}

/**
 * The shuffled rows of the hook points as a source for SAE training, resumable to the bit. A row is that of the first point,
 * then that of the second … in the order in which they were named.
 */
export function openLiveSource(options: LiveSourceOptions): OpenSource {
  return (state?: SourceState): ActivationSource => {
    const saved = state?.json as { packer: PackerState; shuffle: ShuffledState } | undefined;
    if (saved) options.packer.restore(saved.packer);
    const rows = options.rows === undefined ? undefined : options.rows - (saved?.shuffle.rows ?? 0);
    // Raised, the signal makes the shuffle pause; the text must not seem to end there.
    const live = liveActivations({ ...options, rows, signal: undefined });
    const capacity = options.capacity ?? SHUFFLE_CAPACITY;
    const points = options.hooks.map((h) => resolveHook(options.model.spec, h));
    const stream = shuffled(blocksOf(live, points, options.onRows), {
      batch: Math.max(1, Math.min(options.batch, Math.floor(capacity / 2))),
      capacity,
      signal: options.signal,
      rng: new Rng(options.seed).fork("shuffle"),
      resume: saved && { state: saved.shuffle, tensors: state?.arrays ?? {} },
    });
    return {
      [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
      state: () => ({
        json: { packer: options.packer.state, shuffle: stream.state() },
        arrays: stream.tensors(),
      }),
    };
  };
}

async function* blocksOf(
  live: LiveActivations,
  points: readonly string[],
  onRows?: (rows: number) => void,
): AsyncGenerator<{ x: Float32Array; rows: number }> {
  let total = 0;
  for await (const { activations, rows } of live) {
    total += rows;
    onRows?.(total);
    yield {
      x: sideBySide(
        points.map((p) => activations[p]),
        rows,
      ),
      rows,
    };
  }
}

/** Rows of several arrays joined into one row each. */
export function sideBySide(parts: readonly Float32Array[], rows: number): Float32Array {
  if (parts.length === 1) return parts[0];
  const widths = parts.map((p) => p.length / Math.max(rows, 1));
  const total = widths.reduce((a, b) => a + b, 0);
  const out = new Float32Array(rows * total);
  let from = 0;
  parts.forEach((part, i) => {
    const width = widths[i];
    for (let r = 0; r < rows; r++) out.set(part.subarray(r * width, (r + 1) * width), r * total + from);
    from += width;
  });
  return out;
}
