/**
 * The record of a training run, `run.json`, or of a sweep of them, `sweep.json`: every setting from the start, the outcome at
 * the end. A folder with one belongs to that run: the same command continues it or finds it finished, any other is refused
 * with what differs.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  differences,
  type NewFeatures,
  type Notes,
  type SaeConfig,
  type SaeTrainConfig,
  type TrainRecord,
  type TrainResult,
} from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { inputError, readJson, usageError, writeJson } from "../util/index.ts";
import type { SaeInput } from "./sae-source.ts";

/** What stands in a folder under which name. */
export interface RecordKind {
  readonly file: string;
  readonly kind: string;
  readonly schema: number;
  readonly word: string;
}

export const RUN: RecordKind = {
  file: "run.json",
  kind: "sluice-sae-run",
  schema: 2, // 1: settings of topk SAEs only
  word: "run",
};
export const SWEEP: RecordKind = { file: "sweep.json", kind: "sluice-sae-sweep", schema: 1, word: "sweep" };

export interface RunOutcome extends Pick<TrainResult, "stopped" | "steps" | "tokens" | "inputScale"> {
  /** Last line of metrics.jsonl. */
  readonly record: TrainRecord;
}

export interface RecordFile<Outcome> {
  readonly schema: number;
  readonly kind: string;
  /** All that decides the result; plain JSON. */
  readonly settings: Notes;
  /** Of the code that began the run. */
  readonly version?: string;
  /** Of the clone that it ran from. */
  readonly commit?: string;
  /** Who may begin anew in this folder. */
  readonly owner?: string;
  /** ISO 8601. */
  readonly started: string;
  /** Null until the run has its tokens. */
  readonly outcome: Outcome | null;
}

export interface SaeRunFile extends RecordFile<RunOutcome> {
  /** Why it has no outcome: a sweep left it behind and went on. */
  readonly failure?: string;
}

/** Reads the record of a folder; undefined where there is none. */
export function readRecord<T extends RecordFile<unknown>>(what: RecordKind, folder: string): T | undefined {
  const file = join(folder, what.file);
  if (!existsSync(file)) return undefined;
  const found = readJson(file) as Partial<T> | null;
  if (found?.kind !== what.kind || found.settings === undefined)
    throw inputError(`${file}: not the record of a ${what.word}`);
  if (found.schema !== what.schema) {
    throw inputError(
      `${file}: schema ${found.schema} is not the one of this version (${what.schema}); choose another folder`,
    );
  }
  return found as T;
}

export const readRun = (folder: string): SaeRunFile | undefined => readRecord<SaeRunFile>(RUN, folder);

export const writeRecord = <T extends RecordFile<unknown>>(
  { file, kind, schema }: RecordKind,
  folder: string,
  record: Omit<T, "schema" | "kind">,
): Promise<void> => writeJson(join(folder, file), { schema, kind, ...record });

/** All that decides an SAE's bits. */
export function runSettings(
  device: Device,
  { config, train, input, buffer, dataSeed, base, start }: RunParts,
): Notes {
  return {
    sae: config,
    base,
    start,
    source: { ...input.metadata, ...input.settings },
    dataSeed,
    buffer,
    backend: device.name, // another one has other last bits
    train,
  };
}

interface RunParts {
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  readonly input: SaeInput;
  /** Rows held for shuffling. */
  readonly buffer: number;
  readonly dataSeed: number;
  /** Hash of the SAE whose error is learnt. */
  readonly base?: string;
  readonly start?: StartNotes;
}

/** The SAE that a training starts from: its hash, and what becomes of it. */
export interface StartNotes {
  readonly sae: string;
  readonly features: number;
  readonly newFeatures?: NewFeatures;
  readonly freeze: boolean;
}

/** What a folder has to do with a run that is about to begin in it. */
export interface FolderState<T> {
  /** This very run, finished or not. */
  readonly run?: T;
  /** Its finished run gives way: see `clearFolder`. */
  readonly replace: boolean;
}

/**
 * The run that a folder holds, if it is the one with these settings. Refuses another run's folder, and one that holds an SAE
 * or other files. An `owner` replaces a finished run of its own with other settings.
 */
export function inspectFolder<T extends RecordFile<unknown> = SaeRunFile>(
  what: RecordKind,
  folder: string,
  settings: Notes,
  owner?: string,
): FolderState<T> {
  const run = readRecord<T>(what, folder);
  if (!run) {
    refuseStrangers(folder, what);
    return { replace: false };
  }
  const wanted = JSON.parse(JSON.stringify(settings)) as unknown; // undefined fields vanish, as in the file
  const differing = differences(run.settings, wanted);
  if (differing.length === 0) return { run, replace: false };
  if (owner !== undefined && run.owner === owner && run.outcome) return { replace: true };
  const more = differing.length > SHOWN ? `; … (${differing.length} differences in all)` : "";
  throw usageError(
    `${folder} holds ${run.outcome ? "a finished" : "an unfinished"} ${what.word} with other settings: ${differing.slice(0, SHOWN).join("; ")}${more}. Choose another folder, or the same settings`,
  );
}

/** Differences that a message names. */
const SHOWN = 8;

/** Empties a folder, but for what is hidden, such as its lock. */
export async function clearFolder(folder: string): Promise<void> {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(".")) await rm(join(folder, name), { recursive: true, force: true });
  }
}

function refuseStrangers(folder: string, { word }: RecordKind): void {
  if (!existsSync(folder)) return;
  if (!statSync(folder).isDirectory())
    throw usageError(`${folder} is a file; a folder for the ${word} was expected`);
  const found = readdirSync(folder).filter((name) => !name.startsWith("."));
  if (found.length === 0) return;
  const some = found.slice(0, 3).join(", ") + (found.length > 3 ? " …" : "");
  throw usageError(`${folder} holds ${some}, but no ${word}; choose an empty or a new folder`);
}
