/**
 * Many SAEs from one forward pass of the model: trained beside each other on the same rows, into a folder of run folders.
 * Each has the bits, the files and the record of a run by itself. `sweep.json`: every setting from the start, the outcome at
 * the end; `checkpoints/` while it runs.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  disposeSae,
  lockFolder,
  type Notes,
  type SaeConfig,
  type SaeTrainConfig,
  type SaeTrainInput,
  saeConfig,
  saeTrainConfig,
  saveSae,
  type TrainRecord,
  type TrainResult,
  trainSaes,
} from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { readJsonLines, removeStaleTemps, SluiceError, usageError } from "../util/index.ts";
import {
  inspectFolder,
  type RecordFile,
  RUN,
  readRun,
  runSettings,
  type SaeRunFile,
  SWEEP,
  writeRecord,
} from "./sae-run.ts";
import { type OpenedRows, openRows, type RowSource, type SaeInput, type SaePoints } from "./sae-source.ts";
import { outcomeOf, type SaeRunOptions, widthsOf } from "./sae-train.ts";

/** One SAE of a sweep. */
export interface SweepSae extends SaePoints, Pick<SaeRunOptions, "config"> {
  /** Its folder within the sweep's. */
  readonly name: string;
  /** The same batch and tokens for all. */
  readonly train: SaeTrainInput;
}

export interface SweepOptions
  extends Pick<
    SaeRunOptions,
    "buffer" | "out" | "version" | "commit" | "checkpointMinutes" | "logEvery" | "signal" | "onStep"
  > {
  readonly source: RowSource;
  readonly saes: readonly SweepSae[];
  /** Seed of the order of the rows, for all. */
  readonly dataSeed: number;
  readonly onMetrics?: (name: string, record: TrainRecord) => void;
}

/** What became of an SAE. */
export interface SweptSae extends Pick<TrainResult, "stopped" | "failure" | "steps" | "tokens"> {
  readonly name: string;
  readonly folder: string;
  /** The last one; none of an SAE that failed at its first step. */
  readonly record?: TrainRecord;
}

export interface SweepResult {
  /** In the order in which they were named. */
  readonly saes: readonly SweptSae[];
  /** The folder held this sweep already, trained: nothing was done. */
  readonly finishedBefore: boolean;
  /** Step that a checkpoint was taken up at. */
  readonly resumedFrom?: number;
}

type Ending = Pick<SweptSae, "stopped" | "failure" | "steps" | "tokens">;

/** `sweep.json`; its outcome by name. */
type SweepFile = RecordFile<Readonly<Record<string, Ending>>>;

/** Names that a sweep's folder has other uses for. */
const TAKEN = ["checkpoints", "sweep.json", "comparison.json", "report.html"];

/**
 * Trains the SAEs and saves them. A folder with this very sweep is continued, or left alone if it is trained; one with
 * anything else is refused. An SAE that cannot go on (NaN) is left without files, and the others go on.
 */
export async function trainSweep(device: Device, options: SweepOptions): Promise<SweepResult> {
  const { source, buffer, out, signal } = options;
  const names = options.saes.map((sae) => sae.name);
  checkNames(names);
  // By name: rows and checkpoints are laid out in this order, and a file with the SAEs in another finds them.
  const saes = [...options.saes].sort((a, b) => (a.name < b.name ? -1 : 1));
  const inOrder = ({ saes, ...result }: SweepResult): SweepResult => ({
    ...result,
    saes: names.map((name) => saes.find((sae) => sae.name === name)!),
  });
  const opened = await openRows(source, saes, { buffer, signal });
  try {
    const plans = saes.map((sae, i) => planOf(device, options, sae, opened.inputs[i]));
    const settings = sweepSettings(plans);
    const inspect = () => inspectFolder<SweepFile>(SWEEP, out, settings).run;
    const before = inspect();
    if (before?.outcome) return inOrder(await trainedBefore(plans, out, before.outcome));
    const unlock = lockFolder(out);
    try {
      const found = inspect(); // ended meanwhile
      if (found?.outcome) return inOrder(await trainedBefore(plans, out, found.outcome));
      return inOrder(await work(device, options, { opened, plans, settings, found }));
    } finally {
      unlock();
    }
  } finally {
    opened.close();
  }
}

function checkNames(names: readonly string[]): void {
  if (names.length === 0) throw usageError("sweep: no SAE to train");
  const seen = new Set<string>();
  for (const name of names) {
    if (!/^[\w-][\w.+=-]{0,150}$/.test(name)) {
      throw usageError(
        `sweep: "${name}" is no name for a folder; use letters, digits and . _ - + =, the first no dot`,
      );
    }
    const small = name.toLowerCase(); // as some file systems see it
    if (TAKEN.includes(small)) throw usageError(`sweep: the name ${name} is taken by the sweep itself`);
    if (seen.has(small))
      throw usageError(`sweep: two SAEs are called ${name}; give one of them another name`);
    seen.add(small);
  }
}

/** An SAE with its defaults filled in. */
interface Plan {
  readonly name: string;
  readonly folder: string;
  readonly input: SaeInput;
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  /** The training as it was asked for. */
  readonly given: SaeTrainInput;
  /** Of its run.json. */
  readonly settings: Notes;
}

function planOf(
  device: Device,
  { out, buffer, dataSeed }: SweepOptions,
  { name, ...sae }: SweepSae,
  input: SaeInput,
): Plan {
  try {
    const config = saeConfig({ ...sae.config, ...widthsOf(input) });
    const train = saeTrainConfig(sae.train, config);
    const settings = runSettings(device, { config, train, input, buffer, dataSeed });
    return { name, folder: join(out, name), input, config, train, given: sae.train, settings };
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    throw new SluiceError(error.code, `SAE ${name}: ${error.message}`, { cause: error });
  }
}

/** What all have in common is named once. */
function sweepSettings(plans: readonly Plan[]): Notes {
  const [{ settings, train }] = plans;
  const { dataSeed, buffer, backend } = settings;
  const { batch, tokens } = train;
  for (const other of plans) {
    if (other.train.batch === batch && other.train.tokens === tokens) continue;
    throw usageError(
      `SAEs of a sweep share batch and tokens: ${plans[0].name} has ${batch} and ${tokens}, ${other.name} ${other.train.batch} and ${other.train.tokens}`,
    );
  }
  const own = ({ settings: { sae, source }, train: { batch: _, tokens: __, ...rest } }: Plan) => ({
    sae,
    source,
    train: rest,
  });
  const saes = Object.fromEntries(plans.map((plan) => [plan.name, own(plan)]));
  return { dataSeed, buffer, backend, batch, tokens, saes };
}

function lockAll(folders: readonly string[]): () => void {
  const held: (() => void)[] = [];
  const unlock = () => {
    for (const release of held) release();
  };
  try {
    for (const folder of folders) held.push(lockFolder(folder));
  } catch (error) {
    unlock();
    throw error;
  }
  return unlock;
}

interface Work {
  readonly opened: OpenedRows;
  readonly plans: readonly Plan[];
  readonly settings: Notes;
  /** As found in the folder. */
  readonly found?: SweepFile;
}

const checkpointsIn = (out: string): string => join(out, "checkpoints");

async function work(
  device: Device,
  options: SweepOptions,
  { opened, plans, settings, found }: Work,
): Promise<SweepResult> {
  const { out, version, commit } = options;
  const begun = { version, commit, started: new Date().toISOString(), outcome: null };
  const sweep = found ?? { ...begun, settings };
  if (!found) await writeRecord<SweepFile>(SWEEP, out, sweep);
  const folders = plans.map((plan) => plan.folder);
  const unlock = lockAll(folders); // each could be continued by itself too
  try {
    for (const folder of [out, ...folders]) removeStaleTemps(folder);
    return await trainAll(device, options, { opened, plans, sweep, begun });
  } finally {
    unlock();
  }
}

interface Training extends Pick<Work, "opened" | "plans"> {
  readonly sweep: Unwritten<SweepFile>;
  /** What the records of new runs begin with. */
  readonly begun: Omit<Unwritten<SaeRunFile>, "settings">;
}

/** A record without what names its kind. */
type Unwritten<T> = Omit<T, "schema" | "kind">;

async function trainAll(
  device: Device,
  options: SweepOptions,
  { opened, plans, sweep, begun }: Training,
): Promise<SweepResult> {
  const { out, dataSeed } = options;
  const runs: Unwritten<SaeRunFile>[] = [];
  for (const plan of plans) {
    const run = readRun(plan.folder) ?? { ...begun, settings: plan.settings };
    runs.push(run);
    await writeRecord<SaeRunFile>(RUN, plan.folder, run);
  }
  const results = await trainSaes(
    device,
    plans.map(({ name, folder, config, given, input: { columns, metadata } }) => ({
      config,
      train: given,
      columns,
      metadata,
      metricsFile: join(folder, "metrics.jsonl"),
      onMetrics: (record) => options.onMetrics?.(name, record),
    })),
    {
      ...options, // signal, logEvery, onStep
      openSource: opened.open({ ...plans[0].train, seed: dataSeed }),
      checkpoint: { folder: checkpointsIn(out), everyMinutes: options.checkpointMinutes },
      resume: true,
    },
  );
  try {
    for (const [i, plan] of plans.entries()) await keep(plan, runs[i], results[i]);
    const outcome = Object.fromEntries(plans.map(({ name }, i) => [name, endingOf(results[i])]));
    await writeRecord<SweepFile>(SWEEP, out, { ...sweep, outcome });
    await rm(checkpointsIn(out), { recursive: true, force: true }); // all that counts is in the SAEs now
    return { saes: sweptOf(plans, outcome), finishedBefore: false, resumedFrom: results[0].resumedFrom };
  } finally {
    for (const { sae } of results) disposeSae(sae);
  }
}

/** The SAE, if it came to its end, and its record. */
async function keep({ folder }: Plan, run: Unwritten<SaeRunFile>, result: TrainResult): Promise<void> {
  if (result.stopped === "failed") {
    await writeRecord<SaeRunFile>(RUN, folder, { ...run, failure: result.failure });
    return;
  }
  await saveSae(folder, result.sae);
  await writeRecord<SaeRunFile>(RUN, folder, { ...run, outcome: outcomeOf(result) });
}

const endingOf = ({ stopped, failure, steps, tokens }: TrainResult): Ending => ({
  stopped,
  failure,
  steps,
  tokens,
});

/** Of a sweep that is trained; removes the checkpoints that it kept when it was killed at its very end. */
async function trainedBefore(
  plans: readonly Plan[],
  out: string,
  outcome: Readonly<Record<string, Ending>>,
): Promise<SweepResult> {
  await rm(checkpointsIn(out), { recursive: true, force: true });
  return { saes: sweptOf(plans, outcome), finishedBefore: true };
}

const sweptOf = (plans: readonly Plan[], outcome: Readonly<Record<string, Ending>>): SweptSae[] =>
  plans.map(({ name, folder }) => ({ name, folder, ...outcome[name], record: recordsIn(folder).at(-1) }));

/** The records of a run folder. */
export const recordsIn = (folder: string): TrainRecord[] =>
  readJsonLines(join(folder, "metrics.jsonl")) as TrainRecord[];
