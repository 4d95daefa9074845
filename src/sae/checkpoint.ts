/**
 * Checkpoints of a training: one folder each, `step-<n>`, whole or absent (written beside, fsynced, renamed). The last two are
 * kept. A folder holds parameters, moments and counters of every SAE that is trained, the rows waiting in the loop, and the
 * source's position.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import {
  fromFloat32,
  fromInt32,
  type LazyArray,
  type NamedArray,
  readSafetensors,
  toFloat32,
  toInt32,
  type WritableTensor,
  writeSafetensors,
} from "../formats/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { inputError, ioError, isAlive, readJson, tempPath, usageError, writeJson } from "../util/index.ts";
import { differences, type SaeConfig } from "./config.ts";
import type { InputScales, LossSums, RunState } from "./run-state.ts";
import { mapParams, type Notes, type PerParam, paramShapes } from "./sae.ts";
import type { Batcher, SourceState } from "./source.ts";
import type { SaeTrainConfig } from "./train-config.ts";
import type { TrainRecord } from "./train-log.ts";

export interface CheckpointOptions {
  /** Folder that holds the `step-<n>` folders. */
  readonly folder: string;
  /** Minutes between checkpoints (10); 0 for none but the last. */
  readonly everyMinutes?: number;
  /** Tokens between checkpoints, besides those by the clock. */
  readonly everyTokens?: number;
  /** How many are kept (2). */
  readonly keep?: number;
}

/** What a checkpoint must agree on with the run that continues it. */
export interface RunIdentity {
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  readonly metadata: Notes;
}

/** Of one SAE, what is not a tensor. */
interface RunNumbers {
  /** Steps that it has done: those of the training, unless it failed. */
  readonly step: number;
  readonly scales: InputScales;
  readonly threshold?: number;
  readonly slots?: number;
  readonly window: LossSums;
  readonly record?: TrainRecord;
  /** Why it was left behind. */
  readonly failed?: string;
}

/** One SAE of a checkpoint as read. */
export interface SavedRun extends RunNumbers {
  readonly params: PerParam<Float32Array>;
  readonly m: PerParam<Float32Array>;
  readonly v: PerParam<Float32Array>;
  readonly lastFired: Int32Array;
}

/** A checkpoint as read. */
export interface SavedTraining {
  readonly step: number;
  readonly runs: readonly SavedRun[];
  /** Rows that the source had given but no step had used, [n, row width]. */
  readonly pending: Float32Array;
  readonly source?: SourceState;
}

const SCHEMA = 2;
const NAME = /^step-(\d+)$/;
/** Being written by a process. */
const TEMP = /^\.step-\d+\.tmp-(\d+)/;
const STATE = "state.json";
const tensorsOf = (run: number): string => `run-${run}.safetensors`;
const PENDING = "pending.safetensors";
const SOURCE = "source.safetensors";

interface StateFile {
  readonly schema: number;
  readonly step: number;
  readonly runs: readonly (RunIdentity & RunNumbers)[];
  readonly source?: unknown;
}

export class Checkpoints {
  readonly folder: string;
  readonly #options: CheckpointOptions;
  readonly #identities: readonly RunIdentity[];
  #savedAt = performance.now();
  #savedTokens = 0;

  constructor(options: CheckpointOptions, identities: readonly RunIdentity[]) {
    this.folder = options.folder;
    this.#options = options;
    // As it would come back from JSON: undefined fields vanish.
    this.#identities = JSON.parse(JSON.stringify(identities));
    if (!fs.existsSync(this.folder)) return;
    for (const name of fs.readdirSync(this.folder)) {
      const writer = TEMP.exec(name)?.[1];
      if (writer !== undefined && !isAlive(Number(writer)))
        fs.rmSync(path.join(this.folder, name), { recursive: true, force: true });
    }
  }

  /** The newest checkpoint on disk. */
  latest(): { readonly step: number; readonly folder: string } | undefined {
    const [step] = this.steps();
    return step === undefined ? undefined : { step, folder: this.#path(step) };
  }

  /** Numbers of the steps saved here, newest first. */
  steps(): number[] {
    if (!fs.existsSync(this.folder)) return [];
    const found = fs.readdirSync(this.folder).flatMap((name) => NAME.exec(name)?.[1] ?? []);
    return found.map(Number).sort((a, b) => b - a);
  }

  /** A fresh run must not write among the checkpoints of another. */
  refuseLeftovers(): void {
    const [newest] = this.steps();
    if (newest === undefined) return;
    throw usageError(
      `${this.folder} holds a checkpoint of step ${newest}; resume that run, or choose another folder for a new one`,
    );
  }

  /** Whether it is time for another one. */
  due(tokens: number): boolean {
    const { everyMinutes = 10, everyTokens = Number.POSITIVE_INFINITY } = this.#options;
    const byClock = everyMinutes > 0 && performance.now() - this.#savedAt >= everyMinutes * 60_000;
    return byClock || tokens - this.#savedTokens >= everyTokens;
  }

  #path(step: number): string {
    return path.join(this.folder, `step-${String(step).padStart(8, "0")}`);
  }

  /** `runs` in the order of the identities. */
  async save(step: number, runs: readonly RunState[], batcher: Batcher): Promise<void> {
    const target = this.#path(step);
    const temp = tempPath(target);
    try {
      fs.mkdirSync(temp, { recursive: true });
      await this.#write(temp, step, runs, batcher);
      syncFolder(temp);
      fs.rmSync(target, { recursive: true, force: true }); // the same step again has the same bits
      fs.renameSync(temp, target);
      syncFolder(this.folder);
    } catch (cause) {
      removeQuietly(temp);
      throw ioError(`write the checkpoint ${target}`, cause);
    }
    for (const old of this.steps().slice(Math.max(this.#options.keep ?? 2, 1))) {
      fs.rmSync(this.#path(old), { recursive: true, force: true });
    }
    this.#savedAt = performance.now();
    this.#savedTokens = step * this.#identities[0].train.batch;
  }

  async #write(temp: string, step: number, runs: readonly RunState[], batcher: Batcher): Promise<void> {
    const source = await batcher.state();
    const pending = batcher.pending();
    for (const [i, run] of runs.entries())
      await writeSafetensors(path.join(temp, tensorsOf(i)), stateOf(run));
    const waiting = fromFloat32(pending, [pending.length / batcher.width, batcher.width]);
    await writeSafetensors(path.join(temp, PENDING), { pending: waiting });
    if (source?.arrays) await writeSafetensors(path.join(temp, SOURCE), source.arrays);
    const numbers = runs.map(({ step, scales, threshold, slots, window, record, failed }, i) => ({
      ...this.#identities[i],
      step,
      scales,
      threshold,
      slots,
      window,
      record,
      failed,
    }));
    await writeJson(path.join(temp, STATE), { schema: SCHEMA, step, runs: numbers, source: source?.json });
  }

  /** Reads the newest checkpoint, if any; refuses one of another run by naming the fields that differ. */
  async newest(): Promise<SavedTraining | undefined> {
    const [step] = this.steps();
    if (step === undefined) return undefined;
    const folder = this.#path(step);
    const state = readJson(path.join(folder, STATE)) as StateFile;
    if (state.schema !== SCHEMA) {
      throw inputError(`${folder}: schema ${state.schema} is not the one of this version (${SCHEMA})`);
    }
    this.#refuseOthers(folder, state.runs);
    this.#savedTokens = state.step * state.runs[0].train.batch;
    const runs: SavedRun[] = [];
    for (const [i, run] of state.runs.entries()) {
      runs.push(await readRun(path.join(folder, tensorsOf(i)), run));
    }
    const pendingFile = path.join(folder, PENDING);
    const pending = (await readSafetensors(pendingFile)).get("pending");
    if (!pending) throw inputError(`${pendingFile}: no tensor "pending"`);
    return { step: state.step, runs, pending: toFloat32(pending), source: await readSource(folder, state) };
  }

  #refuseOthers(folder: string, found: StateFile["runs"]): void {
    const others = (what: string) =>
      usageError(
        `${folder} is a checkpoint of another run: ${what}. Use the same options, or another folder`,
      );
    if (found.length !== this.#identities.length) {
      throw others(`it has ${found.length} SAEs instead of ${this.#identities.length}`);
    }
    found.forEach(({ config, train, metadata }, i) => {
      const differing = differences({ config, train, metadata }, this.#identities[i]);
      const which = found.length > 1 ? `SAE ${i + 1}: ` : "";
      if (differing.length > 0) throw others(which + differing.join("; "));
    });
  }
}

/** All tensors of a run, by their names in a checkpoint. */
function stateOf(run: RunState): Record<string, WritableTensor> {
  const tensors: Record<string, WritableTensor> = { lastFired: lazy(run.lastFired, "i32") };
  const groups = { param: run.sae.params, ...run.moments };
  for (const [prefix, group] of Object.entries(groups)) {
    mapParams(group, (t, name) => {
      tensors[`${prefix}.${name}`] = lazy(t, "f32");
    });
  }
  return tensors;
}

async function readRun(file: string, { config, ...run }: StateFile["runs"][number]): Promise<SavedRun> {
  const tensors = await readSafetensors(file);
  const shapes = paramShapes(config);
  const get = (name: string, shape: readonly number[]): NamedArray => {
    const array = tensors.get(name);
    if (!array) throw inputError(`${file}: no tensor "${name}"`);
    if (array.shape.length !== shape.length || array.shape.some((d, i) => d !== shape[i])) {
      throw inputError(`${file}: "${name}" is [${array.shape}], expected [${shape}]`);
    }
    return array;
  };
  const group = (prefix: string) =>
    mapParams(shapes, (shape, name) => toFloat32(get(`${prefix}.${name}`, shape)));
  const { step, scales, threshold, slots, window, record, failed } = run;
  return {
    step,
    scales,
    threshold,
    slots,
    window,
    record,
    failed,
    params: group("param"),
    m: group("m"),
    v: group("v"),
    lastFired: toInt32(get("lastFired", [config.features])),
  };
}

async function readSource(folder: string, state: StateFile): Promise<SourceState> {
  if (state.source === undefined) {
    throw inputError(
      `${folder}: its source of activations could not save its position, so the run cannot be resumed`,
    );
  }
  const file = path.join(folder, SOURCE);
  const arrays = fs.existsSync(file) ? Object.fromEntries(await readSafetensors(file)) : undefined;
  return { json: state.source, arrays };
}

/** A tensor that is copied to the host when its turn to be written comes. */
function lazy(t: Tensor, dtype: "f32" | "i32"): LazyArray {
  return {
    dtype,
    shape: t.shape,
    load: async () =>
      dtype === "f32" ? fromFloat32(await t.floats(), t.shape) : fromInt32(await t.ints(), t.shape),
  };
}

/** Clean-up after a failure, which must not hide that failure. */
function removeQuietly(folder: string): void {
  try {
    fs.rmSync(folder, { recursive: true, force: true });
  } catch {
    return;
  }
}

/** Makes names durable. Some systems cannot open folders: there the rename alone has to do. */
function syncFolder(folder: string): void {
  let handle: number | undefined;
  try {
    handle = fs.openSync(folder, "r");
    fs.fsyncSync(handle);
  } catch {
    return;
  } finally {
    if (handle !== undefined) fs.closeSync(handle);
  }
}
