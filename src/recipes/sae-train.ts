/**
 * Training an SAE from activations on disk or from a live model, into a run folder:
 * `run.json`, `metrics.jsonl`, `checkpoints/` while it runs, and at the end the SAE in SAELens' layout.
 */
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { hookPoints, type ModelSpec, resolveHook } from "../models/index.ts";
import {
  disposeSae,
  loadSae,
  lockFolder,
  type Notes,
  type OpenSource,
  type Sae,
  type SaeConfig,
  type SaeConfigInput,
  type SaeTrainConfig,
  type SaeTrainInput,
  saeConfig,
  saeTrainConfig,
  saveSae,
  type TrainProgress,
  type TrainRecord,
  type TrainResult,
  trainSae,
} from "../sae/index.ts";
import { type ActivationStore, openActivations } from "../store/index.ts";
import type { Device } from "../tensor/index.ts";
import type { TokenSource } from "../text/index.ts";
import { removeStaleTemps, usageError } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { openLiveSource, rowWidth } from "./live-activations.ts";
import { clearFolder, inspectFolder, type RunOutcome, type SaeRunFile, writeRun } from "./sae-run.ts";
import { tokensHash } from "./text-tokens.ts";

/** Where activations come from. */
export type SaeSource =
  | { readonly kind: "store"; readonly folder: string; readonly hook?: string }
  | {
      readonly kind: "live";
      readonly lm: LanguageModel;
      readonly hook: string;
      /** A transcoder's target; it reads `hook`. */
      readonly targetHook?: string;
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
    };

export interface SaeRunOptions {
  readonly source: SaeSource;
  /** The activations decide the widths. */
  readonly config: Omit<SaeConfigInput, "dIn" | "dOut" | "transcoder">;
  readonly train: SaeTrainInput;
  /** SAE Boost: the frozen SAE whose error is learnt, and what names it. */
  readonly base?: { readonly sae: Sae; readonly hash: string };
  /** Rows held for shuffling. */
  readonly buffer: number;
  readonly out: string;
  /** Of the program, for run.json. */
  readonly version?: string;
  /** Of the program's clone, for run.json. */
  readonly commit?: string;
  /** Replaces a finished run of this owner with other settings. */
  readonly owner?: string;
  /** Minutes between checkpoints; default 10. */
  readonly checkpointMinutes?: number;
  /** Steps between records. */
  readonly logEvery?: number;
  readonly signal?: AbortSignal;
  readonly onMetrics?: (record: TrainRecord) => void;
  readonly onStep?: (progress: TrainProgress) => void;
}

export interface SaeRunResult extends TrainResult {
  /** The folder held this run already, finished: nothing was done. */
  readonly finishedBefore: boolean;
}

/** A source and what is known of it before the first row. */
interface Opened {
  readonly width: number;
  /** Of a transcoder's target. */
  readonly targetWidth?: number;
  readonly open: (train: SaeTrainConfig) => OpenSource;
  /** For the SAE's file, in SAELens' words. */
  readonly metadata: Notes;
  /** Further settings that decide which rows come in which order. */
  readonly settings: Notes;
  close(): void;
}

/**
 * Trains, saves, and gives back the SAE of raw inputs, which the caller disposes. A folder with this very run is continued, or
 * left alone if it is finished; one with anything else is refused, and so is one that a living process works in.
 */
export async function trainSaeRun(device: Device, options: SaeRunOptions): Promise<SaeRunResult> {
  const { out, buffer, source, base } = options;
  const opened = await openSource(source, buffer, options.signal);
  try {
    if (base) refuseStrangeBase(base.sae, opened);
    const config = saeConfig({
      ...options.config,
      dIn: opened.width,
      dOut: opened.targetWidth ?? opened.width,
      transcoder: opened.targetWidth !== undefined,
    });
    const train = saeTrainConfig(options.train, config);
    const settings = {
      sae: config,
      base: base?.hash,
      source: { ...opened.metadata, ...opened.settings },
      buffer,
      backend: device.name, // another one has other last bits
      train,
    };
    const inspect = () => inspectFolder(out, settings, options.owner);
    const before = inspect();
    if (before.run?.outcome) return await finished(device, out, before.run.outcome, train);
    const unlock = lockFolder(out);
    try {
      const { run, replace } = inspect(); // of a run that ended meanwhile
      if (run?.outcome) return await finished(device, out, run.outcome, train);
      if (replace) await clearFolder(out);
      removeStaleTemps(out);
      return await work(device, options, { opened, settings, config, train, run });
    } finally {
      unlock();
    }
  } finally {
    opened.close();
  }
}

/** A base of another width, model or hook point has no errors here that could be learnt. */
function refuseStrangeBase({ config, metadata }: Sae, { width, metadata: found }: Opened): void {
  if (config.dIn !== width) {
    throw usageError(`the base reads activations of width ${config.dIn}, but these have width ${width}`);
  }
  for (const [key, what] of [
    ["model_hash", "weights"],
    ["hook_name", "hook point"],
  ] as const) {
    if (metadata[key] === undefined || found[key] === undefined || metadata[key] === found[key]) continue;
    throw usageError(
      `the base was trained on the ${what} ${metadata[key]}, but these activations are of ${found[key]}`,
    );
  }
}

const checkpointsIn = (out: string): string => join(out, "checkpoints");

interface Work {
  readonly opened: Opened;
  readonly settings: Notes;
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  /** As found in the folder. */
  readonly run?: SaeRunFile;
}

async function work(
  device: Device,
  options: SaeRunOptions,
  { opened, settings, config, train, run: found }: Work,
): Promise<SaeRunResult> {
  const { out, version, commit, owner } = options;
  const run = found ?? {
    settings,
    version,
    commit,
    owner,
    started: new Date().toISOString(),
    outcome: null,
  };
  if (!found) await writeRun(out, run);
  const result = await trainSae(device, {
    ...options, // train, signal, logEvery, onMetrics, onStep
    config,
    base: options.base?.sae,
    openSource: opened.open(train),
    metadata: opened.metadata,
    metricsFile: join(out, "metrics.jsonl"),
    checkpoint: { folder: checkpointsIn(out), everyMinutes: options.checkpointMinutes },
    resume: true,
  });
  const sae = withBase(result.sae, options.base?.hash);
  try {
    const { stopped, steps, tokens, inputScale, record } = result;
    await saveSae(out, sae);
    await writeRun(out, { ...run, outcome: { stopped, steps, tokens, inputScale, record } });
    await rm(checkpointsIn(out), { recursive: true, force: true }); // all that counts is in the SAE now
  } catch (error) {
    disposeSae(result.sae);
    throw error;
  }
  return { ...result, sae, finishedBefore: false };
}

/** Names the base of a residual part by its content. */
const withBase = (sae: Sae, base: string | undefined): Sae =>
  base === undefined ? sae : { ...sae, provenance: { ...sae.provenance, boost: { base } } };

/** The SAE of a run that is done; removes the checkpoints that it kept when it was killed at its very end. */
async function finished(
  device: Device,
  out: string,
  outcome: RunOutcome,
  train: SaeTrainConfig,
): Promise<SaeRunResult> {
  await rm(checkpointsIn(out), { recursive: true, force: true });
  return { ...outcome, train, sae: (await loadSae(device, out)).sae, finishedBefore: true };
}

async function openSource(source: SaeSource, buffer: number, signal?: AbortSignal): Promise<Opened> {
  switch (source.kind) {
    case "store":
      return fromStore(await openActivations(source.folder, { hook: source.hook }), buffer);
    case "live":
      return fromModel(source, buffer, signal);
    default:
      return source satisfies never;
  }
}

/** Every epoch is shuffled anew; the run stops when it has its tokens. */
function fromStore(store: ActivationStore, window: number): Opened {
  const { hook, model, source, shards } = store.index;
  const rows = createHash("sha256").update(shards.map((s) => s.sha256).join());
  return {
    width: store.width,
    metadata: { model_name: model.id, model_hash: model.hash, hook_name: hook, dataset_path: textOf(source) },
    settings: { kind: "store", rows: store.rows, sha256: rows.digest("hex").slice(0, 32) },
    open:
      ({ batch, seed }) =>
      (state) => {
        const resume = state?.json as { epoch: number; row: number } | undefined;
        const stream = store.shuffled({ batch, seed, window, epochs: Number.POSITIVE_INFINITY, resume });
        return {
          [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
          state: () => ({ json: stream.state() }),
        };
      },
    close: () => store.close(),
  };
}

/** The text that a harvest says it read. */
function textOf(source: unknown): unknown {
  return (source as { text?: unknown } | null)?.text ?? source;
}

/** The text is read as often as needed; no more rows are computed than are trained on. */
function fromModel(
  source: Extract<SaeSource, { kind: "live" }>,
  capacity: number,
  signal?: AbortSignal,
): Opened {
  const { lm, tokens, text, context, windows = 16, maxNorm = 0, onRows } = source;
  const { excludeTokens = lm.tokenizer.specialIds } = source;
  const hook = resolveHook(lm.model.spec, source.hook);
  const target = source.targetHook === undefined ? undefined : resolveHook(lm.model.spec, source.targetHook);
  if (target !== undefined) refuseBackwards(lm.model.spec, hook, target);
  const packing = { context: context ?? lm.model.spec.contextLength, shuffle: true };
  return {
    width: rowWidth(lm.model, hook),
    targetWidth: target === undefined ? undefined : rowWidth(lm.model, target),
    metadata: {
      model_name: lm.name,
      model_hash: lm.hash,
      hook_name: hook,
      ...(target !== undefined && { hook_name_out: target }),
      dataset_path: text,
      context_size: packing.context,
      prepend_bos: lm.tokenizer.bosId !== undefined,
      exclude_special_tokens: excludedOf(excludeTokens, lm.tokenizer.specialIds),
    },
    settings: {
      kind: "live",
      tokens: tokensHash(tokens),
      windows,
      maxNorm,
      excludeTokens: [...excludeTokens].sort((a, b) => a - b),
    },
    open: ({ batch, seed, tokens: wanted }) =>
      openLiveSource({
        model: lm.model,
        packer: windowsOf(lm, tokens, { ...packing, seed }),
        hooks: target === undefined ? [hook] : [hook, target],
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

/** What a transcoder reads must be there when its target is computed, or it could never stand in for it. */
function refuseBackwards(spec: ModelSpec, hook: string, target: string): void {
  const order = hookPoints(spec);
  if (order.indexOf(hook) < order.indexOf(target)) return;
  throw usageError(
    `a transcoder reads a point before the one it reconstructs, but ${hook} comes after ${target}`,
  );
}

/** In SAELens' words: true for all special tokens, false for none, else the ids. */
function excludedOf(chosen: ReadonlySet<number>, special: ReadonlySet<number>): boolean | number[] {
  if (chosen.size === 0) return false;
  const all = chosen.size === special.size && [...chosen].every((id) => special.has(id));
  return all || [...chosen].sort((a, b) => a - b);
}
