/**
 * Training an SAE from activations on disk or from a live model, into a run folder:
 * `run.json`, `metrics.jsonl`, `checkpoints/` while it runs, and at the end the SAE in SAELens' layout.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  disposeSae,
  loadSae,
  lockFolder,
  type Notes,
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
  type WarmStart,
} from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { removeStaleTemps, usageError } from "../util/index.ts";
import {
  clearFolder,
  inspectFolder,
  RUN,
  type RunOutcome,
  runSettings,
  type SaeRunFile,
  type StartNotes,
  writeRecord,
} from "./sae-run.ts";
import { type OpenedRows, openRows, type SaeInput, type SaeSource } from "./sae-source.ts";

export interface SaeRunOptions {
  readonly source: SaeSource;
  /** The activations decide the widths. */
  readonly config: Omit<SaeConfigInput, "dIn" | "dOut" | "transcoder">;
  readonly train: SaeTrainInput;
  /** Seed of the order of the rows; default that of the training. */
  readonly dataSeed?: number;
  /** SAE Boost: the frozen SAE whose error is learnt, and what names it. */
  readonly base?: { readonly sae: Sae; readonly hash: string };
  /** The SAE to start from, and what names it. */
  readonly start?: WarmStart & { readonly hash: string };
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

/**
 * Trains, saves, and gives back the SAE of raw inputs, which the caller disposes. A folder with this very run is continued, or
 * left alone if it is finished; one with anything else is refused, and so is one that a living process works in.
 */
export async function trainSaeRun(device: Device, options: SaeRunOptions): Promise<SaeRunResult> {
  const { out, buffer, source, base, signal } = options;
  const opened = await openRows(source, [source], { buffer, signal });
  try {
    const [input] = opened.inputs;
    if (base) refuseStrange("base", base.sae, input);
    if (options.start) refuseStrange("SAE to start from", options.start.sae, input);
    const start = startNotes(options.start);
    const config = saeConfig({ ...options.config, ...widthsOf(input) });
    const train = saeTrainConfig(options.train, config);
    const { dataSeed = train.seed } = options;
    const settings = runSettings(device, {
      ...{ config, train, input, buffer, dataSeed, start },
      base: base?.hash,
    });
    const inspect = () => inspectFolder(RUN, out, settings, options.owner);
    const before = inspect();
    if (before.run?.outcome) return await finished(device, out, before.run.outcome, train);
    const unlock = lockFolder(out);
    try {
      const { run, replace } = inspect(); // of a run that ended meanwhile
      if (run?.outcome) return await finished(device, out, run.outcome, train);
      if (replace) await clearFolder(out);
      removeStaleTemps(out);
      return await work(device, options, { opened, settings, config, train, dataSeed, run });
    } finally {
      unlock();
    }
  } finally {
    opened.close();
  }
}

/** What the activations say of an SAE's shape. */
export const widthsOf = ({ width, targetWidth }: SaeInput) => ({
  dIn: width,
  dOut: targetWidth ?? width,
  transcoder: targetWidth !== undefined,
});

/** An SAE of another width, model or hook point has nothing to do with these activations. */
function refuseStrange(what: string, { config, metadata }: Sae, { width, metadata: found }: SaeInput): void {
  if (config.dIn !== width) {
    throw usageError(`the ${what} reads activations of width ${config.dIn}, but these have width ${width}`);
  }
  for (const [key, named] of [
    ["model_hash", "weights"],
    ["hook_name", "hook point"],
  ] as const) {
    if (metadata[key] === undefined || found[key] === undefined || metadata[key] === found[key]) continue;
    throw usageError(
      `the ${what} was trained on the ${named} ${metadata[key]}, but these activations are of ${found[key]}`,
    );
  }
}

const checkpointsIn = (out: string): string => join(out, "checkpoints");

interface Work {
  readonly opened: OpenedRows;
  readonly settings: Notes;
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  readonly dataSeed: number;
  /** As found in the folder. */
  readonly run?: SaeRunFile;
}

async function work(
  device: Device,
  options: SaeRunOptions,
  { opened, settings, config, train, dataSeed, run: found }: Work,
): Promise<SaeRunResult> {
  const { out, version, commit, owner } = options;
  const [{ columns, metadata }] = opened.inputs;
  const run = found ?? {
    settings,
    version,
    commit,
    owner,
    started: new Date().toISOString(),
    outcome: null,
  };
  if (!found) await writeRecord(RUN, out, run);
  const result = await trainSae(device, {
    ...options, // train, signal, logEvery, onMetrics, onStep
    config,
    base: options.base?.sae,
    start: options.start,
    columns,
    metadata,
    openSource: opened.open({ ...train, seed: dataSeed }),
    metricsFile: join(out, "metrics.jsonl"),
    checkpoint: { folder: checkpointsIn(out), everyMinutes: options.checkpointMinutes },
    resume: true,
  });
  const sae = withOrigin(result.sae, options);
  try {
    await saveSae(out, sae);
    await writeRecord(RUN, out, { ...run, outcome: outcomeOf(result) });
    await rm(checkpointsIn(out), { recursive: true, force: true }); // all that counts is in the SAE now
  } catch (error) {
    disposeSae(result.sae);
    throw error;
  }
  return { ...result, sae, finishedBefore: false };
}

/** What run.json says at the end. */
export const outcomeOf = ({ stopped, steps, tokens, inputScale, record }: TrainResult): RunOutcome => ({
  stopped,
  steps,
  tokens,
  inputScale,
  record,
});

/** Names the base of a residual part, or the SAE that was started from, by its content. */
function withOrigin(sae: Sae, { base, start }: SaeRunOptions): Sae {
  const origin = { ...(base && { boost: { base: base.hash } }), ...(start && { start: startNotes(start) }) };
  return { ...sae, provenance: { ...sae.provenance, ...origin } };
}

const startNotes = (start: SaeRunOptions["start"]): StartNotes | undefined =>
  start && {
    sae: start.hash,
    features: start.sae.config.features,
    newFeatures: start.newFeatures,
    freeze: start.freeze ?? false,
  };

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
