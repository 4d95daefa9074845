/**
 * Activations to disk: one forward pass feeds a store for each hook point. An interrupted harvest continues behind its last
 * whole shard, from the same blocks of windows, and ends with the bytes of one that was not interrupted.
 */
import { join } from "node:path";
import { ActivationWriter } from "../store/index.ts";
import type { TokenPacker } from "../text/index.ts";
import { inputError, interruptedError, usageError } from "../util/index.ts";
import { type LanguageModel, modelIdentity } from "./language-model.ts";
import {
  badActivation,
  type LiveActivations,
  type LiveBlock,
  liveActivations,
  rowWidth,
} from "./live-activations.ts";

export interface HarvestOptions {
  readonly lm: LanguageModel;
  readonly packer: TokenPacker;
  readonly hooks: readonly string[];
  /** Rows to write, excluded tokens not counted. */
  readonly tokens: number;
  readonly dtype: "f32" | "f16";
  /** What the text is and how its windows are chosen, any JSON: stands in the index; other ones are refused on resume. */
  readonly source: Readonly<Record<string, string | number | boolean | null>>;
  readonly seed: number;
  readonly out: string;
  /** Leave out rows whose norm exceeds this multiple of the median of their block; 0 keeps all. */
  readonly maxNorm?: number;
  /** Ids whose rows are left out; default all special tokens. */
  readonly excludeTokens?: ReadonlySet<number>;
  /** Windows of a forward pass; default 16. */
  readonly windows?: number;
  /** Rows of a shard; default 64 MB, or a sixteenth of the harvest if that is less. */
  readonly shardRows?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (rows: number) => void;
}

export interface HarvestResult {
  /** Rows in each store. */
  readonly rows: number;
  readonly hooks: readonly string[];
  /** Folder of each hook point. */
  readonly folders: readonly string[];
  /** Rows that were on disk when the harvest began. */
  readonly resumedFrom: number;
  /** Rows that this harvest left out. */
  readonly skipped: { readonly special: number; readonly norm: number };
  /** True when the text ended before `tokens` rows. */
  readonly exhausted: boolean;
}

/** One store being written. */
interface Target {
  readonly hook: string;
  readonly writer: ActivationWriter;
  /** Place of the last row on disk when the harvest began. */
  readonly last?: { readonly document: number; readonly position: number };
  /** Rows on disk and in memory. */
  rows: number;
}

/** Writes `tokens` rows of every hook point. Ctrl-C keeps the whole shards; what ends without a row leaves no store. */
export async function harvest(options: HarvestOptions): Promise<HarvestResult> {
  const { lm, packer, windows = 16, maxNorm = 0, signal, excludeTokens = lm.tokenizer.specialIds } = options;
  const filter = { excludeTokens, maxNorm: maxNorm ? { multiple: maxNorm } : undefined };
  const live = liveActivations({ model: lm.model, packer, hooks: options.hooks, filter, windows, signal });
  const targets: Target[] = [];
  try {
    for (const hook of live.hooks) targets.push(await openTarget(options, hook, live.hooks.length > 1));
    return await fill(targets, live, options);
  } catch (error) {
    if (!signal?.aborted) for (const { writer } of targets) writer.discardEmpty();
    throw error;
  }
}

async function fill(
  targets: readonly Target[],
  live: LiveActivations,
  options: HarvestOptions,
): Promise<HarvestResult> {
  const { packer, tokens, signal, onProgress, windows = 16 } = options;
  const rowsNow = () => Math.min(...targets.map((t) => t.rows));
  const resumedFrom = rowsNow();
  const open = targets.filter((t) => !t.writer.complete);
  // The blocks must be those of the first attempt: filters and the last bits of products depend on the whole block.
  const reached = Math.min(...open.map((t) => t.last?.document ?? 0));
  if (open.length > 0) packer.restore({ epoch: 0, index: Math.floor(reached / windows) * windows });
  if (open.some((t) => t.rows < tokens)) {
    for await (const block of live) {
      for (const target of open) target.rows += await append(target, block, options);
      onProgress?.(rowsNow());
      if (rowsNow() >= tokens) break;
    }
  }
  const rows = rowsNow();
  if (signal?.aborted && rows < tokens) {
    const kept = Math.min(...targets.map((t) => t.writer.rows));
    throw interruptedError(
      `harvest: interrupted; ${kept} of ${tokens} rows are on disk, the same command continues`,
    );
  }
  if (rows === 0) throw inputError("harvest: the text gave no row; nothing was written");
  for (const { writer } of open) await writer.finish({ tokens });
  return {
    rows,
    hooks: live.hooks,
    folders: targets.map((t) => t.writer.folder),
    resumedFrom,
    skipped: { special: live.counts.token, norm: live.counts.norm },
    exhausted: rows < tokens,
  };
}

const SHARD_BYTES = 64e6;

/** `several`: each point has its own subfolder. */
async function openTarget(options: HarvestOptions, hook: string, several: boolean): Promise<Target> {
  const { lm, out, dtype, seed, source, tokens, windows = 16, maxNorm = 0 } = options;
  const { excludeTokens = lm.tokenizer.specialIds } = options;
  const width = rowWidth(lm.model, hook);
  const spec = {
    hook,
    model: modelIdentity(lm),
    width,
    dtype,
    seed,
    source: { ...source, windows, maxNorm, excludeTokens: [...excludeTokens].sort((a, b) => a - b) },
  };
  const rowBytes = width * (dtype === "f16" ? 2 : 4);
  const shardRows =
    options.shardRows ??
    Math.max(1, Math.floor(Math.min(SHARD_BYTES / rowBytes, Math.max(4096, tokens / 16))));
  const folder = several ? join(out, hook) : out;
  const writer = await ActivationWriter.open(folder, spec, { shardRows });
  const harvested = writer.notes.tokens;
  if (writer.complete && writer.rows === 0) {
    throw inputError(`${folder}: holds a finished harvest without a row; delete it or choose another folder`);
  }
  if (writer.complete && harvested !== tokens) {
    throw usageError(
      `${folder}: holds a finished harvest of ${harvested} rows, not ${tokens}; choose another folder, or ask for --tokens ${harvested}`,
    );
  }
  return { hook, writer, last: writer.last, rows: writer.rows };
}

/** Appends what the store does not hold yet, up to `tokens` rows in all; returns how many. */
async function append(
  { hook, writer, last, rows }: Target,
  block: LiveBlock,
  { tokens, dtype }: HarvestOptions,
): Promise<number> {
  let from = 0;
  if (last) while (from < block.rows && !isBehind(block, from, last)) from++;
  const to = Math.min(block.rows, from + Math.max(tokens - rows, 0));
  if (to <= from) return 0;
  const width = block.activations[hook].length / block.rows;
  const activations = block.activations[hook].subarray(from * width, to * width);
  const bad = activations.findIndex((v) => !(Math.abs(v) <= LARGEST[dtype]));
  if (bad >= 0) {
    const at = { row: from + Math.floor(bad / width), dim: bad % width, value: activations[bad] };
    throw badActivation(hook, block, at, "f16 ends at 65504, use --dtype f32");
  }
  await writer.append({
    activations,
    tokens: block.tokens.subarray(from, to),
    positions: block.positions.subarray(from, to),
    documents: block.windows.subarray(from, to),
  });
  return to - from;
}

/** Largest number of each storage type. */
const LARGEST = { f32: 3.4028234663852886e38, f16: 65504 } as const;

function isBehind(block: LiveBlock, row: number, last: { document: number; position: number }): boolean {
  const window = block.windows[row];
  return window > last.document || (window === last.document && block.positions[row] > last.position);
}
