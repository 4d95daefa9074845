/**
 * The record of a training run, `run.json`: every setting from the start, the outcome at the end. A folder with one belongs
 * to that run: the same command continues it or finds it finished, any other is refused with what differs.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { differences, type TrainRecord, type TrainResult } from "../sae/index.ts";
import { inputError, readJson, usageError, writeJson } from "../util/index.ts";

const SCHEMA = 2; // 1: settings of topk SAEs only
const KIND = "sluice-sae-run";

export interface RunOutcome extends Pick<TrainResult, "stopped" | "steps" | "tokens" | "inputScale"> {
  /** Last line of metrics.jsonl. */
  readonly record: TrainRecord;
}

export interface SaeRunFile {
  readonly schema: number;
  readonly kind: typeof KIND;
  /** All that decides the result; plain JSON. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Of the code that began the run. */
  readonly version?: string;
  /** Of the clone that it ran from. */
  readonly commit?: string;
  /** Who may begin anew in this folder. */
  readonly owner?: string;
  /** ISO 8601. */
  readonly started: string;
  /** Null until the run has its tokens. */
  readonly outcome: RunOutcome | null;
}

const pathIn = (folder: string): string => join(folder, "run.json");

/** Reads the record of a folder; undefined where there is none. */
export function readRun(folder: string): SaeRunFile | undefined {
  const file = pathIn(folder);
  if (!existsSync(file)) return undefined;
  const run = readJson(file) as Partial<SaeRunFile> | null;
  if (run?.kind !== KIND || run.settings === undefined) throw inputError(`${file}: not the record of a run`);
  if (run.schema !== SCHEMA) {
    throw inputError(
      `${file}: schema ${run.schema} is not the one of this version (${SCHEMA}); choose another folder`,
    );
  }
  return run as SaeRunFile;
}

export const writeRun = (folder: string, run: Omit<SaeRunFile, "schema" | "kind">): Promise<void> =>
  writeJson(pathIn(folder), { schema: SCHEMA, kind: KIND, ...run });

/** What a folder has to do with a run that is about to begin in it. */
export interface FolderState {
  /** This very run, finished or not. */
  readonly run?: SaeRunFile;
  /** Its finished run gives way: see `clearFolder`. */
  readonly replace: boolean;
}

/**
 * The run that a folder holds, if it is the one with these settings. Refuses another run's folder, and one that holds an SAE
 * or other files. An `owner` replaces a finished run of its own with other settings.
 */
export function inspectFolder(folder: string, settings: SaeRunFile["settings"], owner?: string): FolderState {
  const run = readRun(folder);
  if (!run) {
    refuseStrangers(folder);
    return { replace: false };
  }
  const wanted = JSON.parse(JSON.stringify(settings)) as unknown; // undefined fields vanish, as in the file
  const differing = differences(run.settings, wanted);
  if (differing.length === 0) return { run, replace: false };
  if (owner !== undefined && run.owner === owner && run.outcome) return { replace: true };
  throw usageError(
    `${folder} holds ${run.outcome ? "a finished" : "an unfinished"} run with other settings: ${differing.join("; ")}. Choose another folder, or the same settings`,
  );
}

/** Empties a folder, but for what is hidden, such as its lock. */
export async function clearFolder(folder: string): Promise<void> {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(".")) await rm(join(folder, name), { recursive: true, force: true });
  }
}

function refuseStrangers(folder: string): void {
  if (!existsSync(folder)) return;
  if (!statSync(folder).isDirectory())
    throw usageError(`${folder} is a file; a folder for the run was expected`);
  const found = readdirSync(folder).filter((name) => !name.startsWith("."));
  if (found.length === 0) return;
  const some = found.slice(0, 3).join(", ") + (found.length > 3 ? " …" : "");
  throw usageError(`${folder} holds ${some}, but no run; choose an empty or a new folder`);
}
