/**
 * Rows for training SAEs, from activations on disk or from a live model: one stream for one SAE or several, each of which
 * finds its numbers in columns of its own. The order of the rows depends on the seed and the text, not on the SAEs.
 */
import { createHash } from "node:crypto";
import { hookPoints, type ModelSpec, resolveHook } from "../models/index.ts";
import type { ActivationBatch, ActivationSource, Columns, Notes, OpenSource } from "../sae/index.ts";
import { type ActivationStore, openActivations, type ShuffleState } from "../store/index.ts";
import type { TokenSource } from "../text/index.ts";
import { inputError, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { openLiveSource, rowWidth, sideBySide } from "./live-activations.ts";
import { tokensHash } from "./text-tokens.ts";

/** Activations on disk. */
export interface StoreRows {
  readonly kind: "store";
  readonly folder: string;
}

/** Activations as a model computes them. */
export interface LiveRows {
  readonly kind: "live";
  readonly lm: LanguageModel;
  readonly tokens: TokenSource;
  /** Names the text in the SAE's metadata. */
  readonly text: string;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  /** Windows of a forward pass; default 16. */
  readonly windows?: number;
  /** Rows leave when their norm exceeds this multiple of the median of their block; 0 (default) keeps all. */
  readonly maxNorm?: number;
  /** Ids whose rows are left out; default all special tokens. */
  readonly excludeTokens?: ReadonlySet<number>;
  /** Told how many rows the model has computed in this process. */
  readonly onRows?: (rows: number) => void;
}

export type RowSource = StoreRows | LiveRows;

/** Where an SAE reads. */
export interface SaePoints {
  /** A store with one point needs no name. */
  readonly hook?: string;
  /** A transcoder's target, of a live model; it reads `hook`. */
  readonly targetHook?: string;
}

/** Where activations come from. */
export type SaeSource =
  | (StoreRows & Pick<SaePoints, "hook">)
  | (LiveRows & SaePoints & { readonly hook: string });

/** What is known before the first row of what an SAE reads. */
export interface SaeInput {
  readonly width: number;
  /** Of a transcoder's target. */
  readonly targetWidth?: number;
  readonly columns: Columns;
  /** For the SAE's file, in SAELens' words. */
  readonly metadata: Notes;
  /** Further settings that decide which rows come in which order. */
  readonly settings: Notes;
}

/** How the rows are taken. */
export interface RowOrder {
  readonly batch: number;
  readonly tokens: number;
  readonly seed: number;
}

export interface OpenedRows {
  /** Of each SAE, in their order. */
  readonly inputs: readonly SaeInput[];
  readonly open: (order: RowOrder) => OpenSource;
  close(): void;
}

/** Opens the rows that SAEs at these points are trained on; `buffer` of them are held for shuffling. */
export function openRows(
  source: RowSource,
  points: readonly SaePoints[],
  { buffer, signal }: { readonly buffer: number; readonly signal?: AbortSignal },
): Promise<OpenedRows> | OpenedRows {
  switch (source.kind) {
    case "store":
      return fromStores(source, points, buffer);
    case "live":
      return fromModel(source, points, buffer, signal);
    default:
      return source satisfies never;
  }
}

/** Where each of several widths begins, and their sum. */
function layout(widths: ReadonlyMap<string, number>): { starts: Map<string, number>; width: number } {
  const starts = new Map<string, number>();
  let width = 0;
  for (const [name, own] of widths) {
    starts.set(name, width);
    width += own;
  }
  return { starts, width };
}

async function fromStores(
  { folder }: StoreRows,
  points: readonly SaePoints[],
  window: number,
): Promise<OpenedRows> {
  const stores = new Map<string, ActivationStore>(); // by point
  const close = () => {
    for (const store of stores.values()) store.close();
  };
  try {
    const found: string[] = [];
    for (const { hook, targetHook } of points) {
      if (targetHook !== undefined) throw usageError("a transcoder's target comes from a live model only");
      const open = [...stores].find(([name]) => name === hook)?.[1];
      const store = open ?? (await openActivations(folder, { hook }));
      found.push(store.index.hook);
      if (open) continue;
      if (stores.has(store.index.hook)) store.close();
      else stores.set(store.index.hook, store);
    }
    const all = [...stores.values()];
    refuseUnlike(all);
    const { starts, width } = layout(new Map(all.map((store) => [store.index.hook, store.width])));
    const inputs = found.map((name): SaeInput => {
      const store = stores.get(name)!;
      return { width: store.width, columns: { width, input: starts.get(name)! }, ...notesOf(store) };
    });
    return {
      inputs,
      open: (order) => (state) => shuffledStores(all, { ...order, window }, state?.json),
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

function notesOf({
  index: { hook, model, source, shards, rows },
}: ActivationStore): Pick<SaeInput, "metadata" | "settings"> {
  const hash = createHash("sha256").update(shards.map((s) => s.sha256).join());
  return {
    metadata: { model_name: model.id, model_hash: model.hash, hook_name: hook, dataset_path: textOf(source) },
    settings: { kind: "store", rows, sha256: hash.digest("hex").slice(0, 32) },
  };
}

/** The text that a harvest says it read. */
function textOf(source: unknown): unknown {
  return (source as { text?: unknown } | null)?.text ?? source;
}

/** Rows stand side by side only if they are of the same tokens. */
function refuseUnlike([first, ...others]: readonly ActivationStore[]): void {
  const same = ({ index: { model, source, seed, rows } }: ActivationStore): string =>
    JSON.stringify([model.hash, source, seed, rows]);
  const other = others.find((store) => same(store) !== same(first));
  if (other) {
    throw inputError(
      `${first.folder} and ${other.folder} are not of the same harvest, so their rows do not belong together; harvest both points at once`,
    );
  }
}

/** Every epoch is shuffled anew; the run stops when it has its tokens. The stores go in step. */
function shuffledStores(
  stores: readonly ActivationStore[],
  { batch, seed, window }: RowOrder & { readonly window: number },
  state: unknown,
): ActivationSource {
  const resume = state as ShuffleState | undefined;
  const epochs = Number.POSITIVE_INFINITY;
  const streams = stores.map((store) => store.shuffled({ batch, seed, window, epochs, resume }));
  let at = streams[0].state();
  async function* rows(): AsyncGenerator<ActivationBatch> {
    for (;;) {
      const parts: ActivationBatch[] = [];
      for (const stream of streams) {
        const part = await stream.next();
        if (!part) return;
        parts.push(part);
      }
      at = streams[0].state(); // not before all have given their rows: one may fail
      const [{ rows }] = parts;
      yield {
        x: sideBySide(
          parts.map((part) => part.x),
          rows,
        ),
        rows,
      };
    }
  }
  return Object.assign(rows(), { state: () => ({ json: at }) });
}

/** What a transcoder reads must be there when its target is computed, or it could never stand in for it. */
function refuseBackwards(spec: ModelSpec, hook: string, target: string): void {
  const order = hookPoints(spec);
  if (order.indexOf(hook) < order.indexOf(target)) return;
  throw usageError(
    `a transcoder reads a point before the one it reconstructs, but ${hook} comes after ${target}`,
  );
}

/** The text is read as often as needed; no more rows are computed than are trained on. */
function fromModel(
  source: LiveRows,
  points: readonly SaePoints[],
  capacity: number,
  signal?: AbortSignal,
): OpenedRows {
  const { lm, tokens, text, context, windows = 16, maxNorm = 0, onRows } = source;
  const { excludeTokens = lm.tokenizer.specialIds } = source;
  const { spec } = lm.model;
  const resolved = points.map(({ hook, targetHook }) => {
    if (hook === undefined) throw usageError("activations of a live model need a hook point (--hook)");
    const point = resolveHook(spec, hook);
    const target = targetHook === undefined ? undefined : resolveHook(spec, targetHook);
    if (target !== undefined) refuseBackwards(spec, point, target);
    return { hook: point, target };
  });
  const widths = new Map<string, number>();
  for (const { hook, target } of resolved) {
    widths.set(hook, rowWidth(lm.model, hook));
    if (target !== undefined) widths.set(target, rowWidth(lm.model, target));
  }
  if (maxNorm > 0 && new Set(resolved.map(({ hook }) => hook)).size > 1) {
    throw usageError(
      "norms are judged at one point: with SAEs at several, --max-norm would choose other rows than for each alone; leave it out",
    );
  }
  const { starts, width } = layout(widths);
  const packing = { context: context ?? spec.contextLength, shuffle: true };
  const shared = {
    dataset_path: text,
    context_size: packing.context,
    prepend_bos: lm.tokenizer.bosId !== undefined,
    exclude_special_tokens: excludedOf(excludeTokens, lm.tokenizer.specialIds),
  };
  const settings = {
    kind: "live",
    ...(lm.dtype !== "f32" && { modelDtype: lm.dtype }),
    tokens: tokensHash(tokens),
    windows,
    maxNorm,
    excludeTokens: [...excludeTokens].sort((a, b) => a - b),
  };
  return {
    inputs: resolved.map(({ hook, target }) => ({
      width: widths.get(hook)!,
      targetWidth: target === undefined ? undefined : widths.get(target),
      columns: {
        width,
        input: starts.get(hook)!,
        target: target === undefined ? undefined : starts.get(target),
      },
      metadata: {
        model_name: lm.name,
        model_hash: lm.hash,
        hook_name: hook,
        ...(target !== undefined && { hook_name_out: target }),
        ...shared,
      },
      settings,
    })),
    open: ({ batch, seed, tokens: wanted }) =>
      openLiveSource({
        model: lm.model,
        packer: windowsOf(lm, tokens, { ...packing, seed }),
        hooks: [...widths.keys()],
        windows,
        until: Number.POSITIVE_INFINITY,
        rows: Math.floor(wanted / batch) * batch,
        filter: {
          excludeTokens,
          maxNorm: maxNorm ? { multiple: maxNorm } : undefined,
        },
        capacity,
        batch,
        seed,
        signal,
        onRows,
      }),
    close: () => {},
  };
}

/** In SAELens' words: true for all special tokens, false for none, else the ids. */
function excludedOf(chosen: ReadonlySet<number>, special: ReadonlySet<number>): boolean | number[] {
  if (chosen.size === 0) return false;
  const all = chosen.size === special.size && [...chosen].every((id) => special.has(id));
  return all || [...chosen].sort((a, b) => a - b);
}
