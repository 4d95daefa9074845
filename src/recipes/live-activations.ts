/**
 * Activations of a live model: windows of text in, rows of one or several hook points out, from one forward pass that
 * stops after the last of them. B windows · T context · D width of a point.
 */
import { setImmediate } from "node:timers/promises";
import { hookPoints, resolveHook, type Transformer } from "../models/index.ts";
import type { ActivationSource, OpenSource, SourceState } from "../sae/index.ts";
import {
  createRowFilter,
  type FilterCounts,
  type RowFilterOptions,
  SHUFFLE_CAPACITY,
  type ShuffledState,
  shuffled,
  takeRows,
} from "../store/index.ts";
import type { PackedBatch, PackerState, TokenPacker } from "../text/index.ts";
import { Rng, usageError } from "../util/index.ts";

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

/** Reads windows from where the packer stands. */
export function liveActivations(options: LiveOptions): LiveActivations {
  const { model, packer, windows = LIVE_WINDOWS, until = packer.windows, signal } = options;
  const wanted = new Set(options.hooks.map((h) => resolveHook(model.spec, h)));
  if (wanted.size === 0) throw usageError("activations: no hook point was named");
  const hooks = hookPoints(model.spec).filter((p) => wanted.has(p));
  const filter = createRowFilter(options.filter);
  for (const hook of hooks) rowWidth(model, hook);

  async function* read(): AsyncGenerator<LiveBlock> {
    let wanted = options.rows ?? Number.POSITIVE_INFINITY;
    for (;;) {
      const { epoch, index } = packer.state;
      const first = epoch * packer.windows + index;
      if (wanted <= 0 || first >= until || signal?.aborted) return;
      const batch = packer.next(Math.min(windows, until - first));
      const block = await readBlock(model, hooks, batch, { context: packer.context, first, filter });
      yield block.rows > wanted ? head(block, wanted) : block;
      wanted -= block.rows;
      await setImmediate(); // timers and sockets get their turn
    }
  }
  return { counts: filter.counts, hooks, [Symbol.asyncIterator]: read };
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
  const kept = filter.select(lead, lead.length / n, batch.tokens);
  const activations = Object.fromEntries(
    hooks.map((h) => [h, takeRows(whole[h], whole[h].length / n, kept)]),
  );
  return {
    rows: kept.length,
    activations,
    tokens: kept.map((i) => batch.tokens[i]),
    positions: kept.map((i) => i % context),
    windows: kept.map((i) => first + Math.floor(i / context)),
  };
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
  const { device } = model;
  return device.scope(() => {
    const shape = [batch.tokens.length / context, context];
    const tokens = device.tensor(batch.tokens, shape, "i32");
    const segments = batch.segments && device.tensor(batch.segments, shape, "i32");
    return model.forward(tokens, { capture: hooks, stopEarly: true, segments }).captured;
  });
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

/** The shuffled rows of one hook point as a source for SAE training, resumable to the bit. */
export function openLiveSource(options: LiveSourceOptions): OpenSource {
  return (state?: SourceState): ActivationSource => {
    const saved = state?.json as { packer: PackerState; shuffle: ShuffledState } | undefined;
    if (saved) options.packer.restore(saved.packer);
    const rows = options.rows === undefined ? undefined : options.rows - (saved?.shuffle.rows ?? 0);
    // Raised, the signal makes the shuffle pause; the text must not seem to end there.
    const live = liveActivations({ ...options, rows, signal: undefined });
    const capacity = options.capacity ?? SHUFFLE_CAPACITY;
    const stream = shuffled(blocksOf(live, options.onRows), {
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
  onRows?: (rows: number) => void,
): AsyncGenerator<{ x: Float32Array; rows: number }> {
  const [hook] = live.hooks;
  let total = 0;
  for await (const { activations, rows } of live) {
    total += rows;
    onRows?.(total);
    yield { x: activations[hook], rows };
  }
}
