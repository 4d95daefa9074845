/**
 * Activations to disk: one forward pass feeds a store for each hook point. Interrupted harvests continue where the last
 * whole shard ended.
 */
import { join } from "node:path";
import { ActivationWriter } from "../store/index.ts";
import type { Tokenizer, TokenPacker } from "../text/index.ts";
import { interruptedError } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";
import { type LiveBlock, liveActivations, rowWidth } from "./live-activations.ts";

export interface HarvestOptions {
  readonly lm: LanguageModel;
  readonly packer: TokenPacker;
  readonly hooks: readonly string[];
  /** Rows to write, special tokens not counted. */
  readonly tokens: number;
  readonly dtype: "f32" | "f16";
  /** What the text is: names it in the index. */
  readonly source: string;
  readonly seed: number;
  readonly out: string;
  /** Leave out rows whose norm exceeds this multiple of the median of their block; 0 keeps all. */
  readonly maxNorm?: number;
  /** Rows of a shard; default about 64 MB. */
  readonly shardRows?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (rows: number) => void;
}

export interface HarvestResult {
  readonly rows: number;
  readonly hooks: readonly string[];
  /** Rows that were on disk when the harvest began. */
  readonly resumedFrom: number;
  readonly skipped: { readonly special: number; readonly norm: number };
  /** True when the text ended before `tokens` rows. */
  readonly exhausted: boolean;
}

/** Tokens that are never measured or trained on: BOS, EOS, padding and other special ones. */
export const specialTokens = (tokenizer: Tokenizer): ReadonlySet<number> => tokenizer.specialIds;

/** Writes `tokens` rows of every hook point. Ctrl-C keeps the whole shards. */
export async function harvest(options: HarvestOptions): Promise<HarvestResult> {
  const { lm, packer, tokens, signal, onProgress, maxNorm = 0 } = options;
  const filter = {
    excludeTokens: specialTokens(lm.tokenizer),
    maxNorm: maxNorm ? { multiple: maxNorm } : undefined,
  };
  const live = liveActivations({ model: lm.model, packer, hooks: options.hooks, filter, signal });
  const writers = await openWriters(options, live.hooks);
  const begun = Math.min(...writers.map((w) => w.rows));
  const done = () => ({
    hooks: live.hooks,
    resumedFrom: begun,
    skipped: { special: live.counts.token, norm: live.counts.norm },
  });
  if (writers.every((w) => w.complete)) return { ...done(), rows: begun, exhausted: begun < tokens };
  const counts = writers.map((w) => w.rows);
  const first = Math.min(
    ...writers.map((w) => (w.complete ? Number.POSITIVE_INFINITY : (w.last?.document ?? 0))),
  );
  packer.restore({ epoch: 0, index: first });
  for await (const block of live) {
    for (const [i, writer] of writers.entries()) {
      if (!writer.complete) counts[i] += await appendRows(writer, block, live.hooks[i], tokens - counts[i]);
    }
    const least = Math.min(...counts);
    onProgress?.(least);
    if (least >= tokens) break;
  }
  if (signal?.aborted) {
    const kept = Math.min(...writers.map((w) => w.rows));
    throw interruptedError(
      `harvest: interrupted; ${kept} rows are in whole shards, run the same command to continue`,
    );
  }
  for (const writer of writers) if (!writer.complete) await writer.finish({ tokens });
  const rows = Math.min(...counts);
  return { ...done(), rows, exhausted: rows < tokens };
}

async function openWriters(options: HarvestOptions, hooks: readonly string[]): Promise<ActivationWriter[]> {
  const { lm, out, dtype, seed, source, shardRows } = options;
  const writers: ActivationWriter[] = [];
  for (const hook of hooks) {
    const folder = hooks.length === 1 ? out : join(out, hook);
    const spec = {
      hook,
      model: { id: lm.name, hash: lm.hash },
      width: rowWidth(lm.model, hook),
      dtype,
      seed,
      source,
    };
    writers.push(await ActivationWriter.open(folder, spec, { shardRows }));
  }
  return writers;
}

/** Appends what the store does not hold yet, at most `room` rows; returns how many. */
async function appendRows(
  writer: ActivationWriter,
  block: LiveBlock,
  hook: string,
  room: number,
): Promise<number> {
  const { last } = writer;
  let from = 0;
  if (last && writer.rows > 0) {
    while (from < block.rows && !isBehind(block, from, last)) from++;
  }
  const to = Math.min(block.rows, from + Math.max(room, 0));
  if (to <= from) return 0;
  const width = block.activations[hook].length / block.rows;
  await writer.append({
    activations: block.activations[hook].subarray(from * width, to * width),
    tokens: block.tokens.subarray(from, to),
    positions: block.positions.subarray(from, to),
    documents: block.windows.subarray(from, to),
  });
  return to - from;
}

function isBehind(block: LiveBlock, row: number, last: { document: number; position: number }): boolean {
  const window = block.windows[row];
  return window > last.document || (window === last.document && block.positions[row] > last.position);
}
