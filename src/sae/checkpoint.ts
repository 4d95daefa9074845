/**
 * Checkpoints of a training run: one folder each, `step-<n>`, whole or absent (written beside, fsynced, renamed). The
 * last two are kept. A folder holds all parameters, moments, counters, rows waiting in the loop, and the source's position.
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

/** A checkpoint as read. */
export interface SavedRun {
  readonly step: number;
  readonly scales: InputScales;
  readonly threshold?: number;
  readonly window: LossSums;
  readonly record?: TrainRecord;
  readonly params: PerParam<Float32Array>;
  readonly m: PerParam<Float32Array>;
  readonly v: PerParam<Float32Array>;
  readonly lastFired: Int32Array;
  /** Rows that the source had given but no step had used, [n, row width]. */
  readonly pending: Float32Array;
  readonly source?: SourceState;
}

const SCHEMA = 2;
const NAME = /^step-(\d+)$/;
/** Being written by a process. */
const TEMP = /^\.step-\d+\.tmp-(\d+)/;
const STATE = "state.json";
const TENSORS = "tensors.safetensors";
const SOURCE = "source.safetensors";

interface StateFile extends RunIdentity {
  readonly schema: number;
  readonly step: number;
  readonly scales: InputScales;
  readonly threshold?: number;
  readonly window: LossSums;
  readonly record?: TrainRecord;
  readonly source?: unknown;
}

export class Checkpoints {
  readonly folder: string;
  readonly #options: CheckpointOptions;
  readonly #identity: RunIdentity;
  #savedAt = performance.now();
  #savedTokens = 0;

  constructor(options: CheckpointOptions, identity: RunIdentity) {
    this.folder = options.folder;
    this.#options = options;
    // As it would come back from JSON: undefined fields vanish.
    this.#identity = JSON.parse(JSON.stringify(identity));
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

  async save(run: RunState, batcher: Batcher): Promise<void> {
    const target = this.#path(run.step);
    const temp = tempPath(target);
    try {
      fs.mkdirSync(temp, { recursive: true });
      await this.#write(temp, run, batcher);
      syncFolder(temp);
      fs.rmSync(target, { recursive: true, force: true }); // the same step again has the same bits
      fs.renameSync(temp, target);
      syncFolder(this.folder);
    } catch (cause) {
      removeQuietly(temp);
      throw ioError(`write the checkpoint ${target}`, cause);
    }
    for (const step of this.steps().slice(Math.max(this.#options.keep ?? 2, 1))) {
      fs.rmSync(this.#path(step), { recursive: true, force: true });
    }
    this.#savedAt = performance.now();
    this.#savedTokens = run.step * this.#identity.train.batch;
  }

  async #write(temp: string, run: RunState, batcher: Batcher): Promise<void> {
    const source = await batcher.state();
    const pending = batcher.pending();
    const tensors: Record<string, WritableTensor> = {
      lastFired: lazy(run.lastFired, "i32"),
      pending: fromFloat32(pending, [pending.length / batcher.width, batcher.width]),
    };
    const groups = { param: run.sae.params, ...run.moments };
    for (const [prefix, group] of Object.entries(groups)) {
      mapParams(group, (t, name) => {
        tensors[`${prefix}.${name}`] = lazy(t, "f32");
      });
    }
    await writeSafetensors(path.join(temp, TENSORS), tensors);
    if (source?.arrays) await writeSafetensors(path.join(temp, SOURCE), source.arrays);
    const { step, scales, threshold, window, record } = run;
    const state: StateFile = {
      schema: SCHEMA,
      step,
      scales,
      threshold,
      window,
      record,
      source: source?.json,
      ...this.#identity,
    };
    await writeJson(path.join(temp, STATE), state);
  }

  /** Reads the newest checkpoint, if any; refuses one of another run by naming the fields that differ. */
  async newest(): Promise<SavedRun | undefined> {
    const [step] = this.steps();
    if (step === undefined) return undefined;
    const folder = this.#path(step);
    const state = readJson(path.join(folder, STATE)) as StateFile;
    if (state.schema !== SCHEMA) {
      throw inputError(`${folder}: schema ${state.schema} is not the one of this version (${SCHEMA})`);
    }
    const { config, train, metadata } = state;
    const differing = differences({ config, train, metadata }, this.#identity);
    if (differing.length > 0) {
      throw usageError(
        `${folder} is a checkpoint of another run: ${differing.join("; ")}. Use the same options, or another folder`,
      );
    }
    this.#savedTokens = state.step * state.train.batch;
    return { ...(await readTensors(folder, state)), source: await readSource(folder, state) };
  }
}

async function readTensors(folder: string, state: StateFile): Promise<Omit<SavedRun, "source">> {
  const file = path.join(folder, TENSORS);
  const tensors = await readSafetensors(file);
  const shapes = paramShapes(state.config);
  const get = (name: string, shape?: readonly number[]): NamedArray => {
    const array = tensors.get(name);
    if (!array) throw inputError(`${file}: no tensor "${name}"`);
    if (shape && (array.shape.length !== shape.length || array.shape.some((d, i) => d !== shape[i]))) {
      throw inputError(`${file}: "${name}" is [${array.shape}], expected [${shape}]`);
    }
    return array;
  };
  const group = (prefix: string) =>
    mapParams(shapes, (shape, name) => toFloat32(get(`${prefix}.${name}`, shape)));
  return {
    step: state.step,
    scales: state.scales,
    threshold: state.threshold,
    window: state.window,
    record: state.record,
    params: group("param"),
    m: group("m"),
    v: group("v"),
    lastFired: toInt32(get("lastFired", [state.config.features])),
    pending: toFloat32(get("pending")),
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
