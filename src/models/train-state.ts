/**
 * The checkpoint of a training run: one safetensors file with parameters and moments, the rest as JSON in its header.
 * Written to a temporary name, synced and renamed: whole or absent.
 */
import { existsSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import {
  fromFloat32,
  type NamedArray,
  openSafetensors,
  type SafetensorsFile,
  toFloat32,
  writeSafetensors,
} from "../formats/index.ts";
import type { AdamW } from "../nn/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { PackerState } from "../text/index.ts";
import { inputError, usageError } from "../util/index.ts";
import type { LmTrainConfig, LmTrainRecord } from "./train.ts";
import type { Transformer } from "./transformer.ts";

export interface LmTrainState {
  readonly version: 1;
  /** Optimiser steps taken. */
  readonly step: number;
  readonly packer: PackerState;
  readonly config: LmTrainConfig;
  /** Losses since the last record. */
  readonly meter?: MeterState;
  /** The record of this step, whose validation was interrupted: still to be made and written. */
  readonly pending?: LmTrainRecord;
  /** What the run reads and trains; see `LmTrainOptions.identity`. */
  readonly identity?: Readonly<Record<string, unknown>>;
}

/** Sum of the losses of some steps, and how many. */
export interface MeterState {
  readonly loss: number;
  readonly steps: number;
}

/** Saves parameters, moments and state to `path`. */
export async function saveTrainState(path: string, optimizer: AdamW, state: LmTrainState): Promise<void> {
  const arrays: Record<string, NamedArray> = {};
  for (const [i, { name, tensor }] of optimizer.params.entries()) {
    const { m, v } = optimizer.moments[i];
    for (const [key, t] of [
      [name, tensor],
      [`adam.m.${name}`, m],
      [`adam.v.${name}`, v],
    ] as const) {
      arrays[key] = fromFloat32(await t.floats(), t.shape);
    }
  }
  await writeSafetensors(path, arrays, { "sluice.lm-train": JSON.stringify(state) });
}

/** Puts a checkpoint's parameters into a model, without the optimiser; returns its state. */
export async function readTrainedParameters(path: string, model: Transformer): Promise<LmTrainState> {
  if (!existsSync(path)) throw inputError(`${path} is not there: the run has no checkpoint yet`);
  const file = openSafetensors(path);
  try {
    const state = stateOf(file);
    refuseOtherModel(path, state, model);
    for (const { name, tensor } of model.learned) await restoreTensor(file, name, tensor);
    return state;
  } finally {
    file.close();
  }
}

/** A run that says which model it trains is not read into another one, even where shapes agree. */
function refuseOtherModel(path: string, { identity }: LmTrainState, { spec }: Transformer): void {
  const trained = (identity as { model?: unknown } | undefined)?.model;
  if (trained === undefined) return;
  const wanted = JSON.parse(JSON.stringify(spec)) as Record<string, unknown>;
  const found = trained as Record<string, unknown>;
  const differ = [...new Set([...Object.keys(found), ...Object.keys(wanted)])].filter(
    (key) => !isDeepStrictEqual(found[key], wanted[key]),
  );
  if (differ.length === 0) return;
  const list = differ.map((k) => `${k} ${JSON.stringify(found[k])}, not ${JSON.stringify(wanted[k])}`);
  throw usageError(
    `${path} is of a model with ${list.join("; ")}; give the settings that it was trained with`,
  );
}

function stateOf(file: SafetensorsFile): LmTrainState {
  const text = file.metadata["sluice.lm-train"];
  if (!text) throw inputError(`${file.path}: not a checkpoint of a language-model run`);
  const wayOut = "remove it to begin the run anew, or choose another folder";
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw inputError(`${file.path}: the run's state in the header is damaged; ${wayOut}`, cause);
  }
  const version = (json as { version?: unknown } | null)?.version;
  if (version !== 1) {
    throw inputError(
      `${file.path}: a checkpoint of version ${JSON.stringify(version)}, this sluice reads version 1; ${wayOut}`,
    );
  }
  const state = stateSchema.safeParse(json);
  if (state.success) return json as LmTrainState;
  const [{ path, message }] = state.error.issues;
  throw inputError(`${file.path}: the run's state is damaged at ${path.join(".")}: ${message}; ${wayOut}`);
}

const count = z.int().min(0);
/** What a continuation computes with. The config is compared with the caller's, key by key. */
const stateSchema = z.object({
  step: count,
  packer: z.object({ epoch: count, index: count }),
  config: z.record(z.string(), z.unknown()),
  meter: z.object({ loss: z.number(), steps: count }).optional(),
  pending: z
    .object({
      step: count,
      tokens: count,
      lr: z.number(),
      grad_norm: z.number(),
      loss: z.number(),
      tokens_per_second: z.number(),
    })
    .optional(),
  identity: z.record(z.string(), z.unknown()).optional(),
});

async function restoreTensor(file: SafetensorsFile, name: string, t: Tensor): Promise<void> {
  if (!file.has(name) || file.info(name).shape.join() !== t.shape.join())
    throw inputError(`${file.path}: ${name} is missing or misshapen; the checkpoint is of another model`);
  t.device.write(t, toFloat32(await file.read(name)));
}

/** What may change between a checkpoint and its continuation: how far it goes, and how often it reports. */
const FREE: ReadonlySet<string> = new Set([
  "tokens",
  "logEverySteps",
  "validateEverySteps",
  "checkpointEverySteps",
]);

/**
 * Restores a checkpoint in place, or returns undefined when there is none. Refuses one of another run. `named`: the caller said
 * what the run depends on, so that a checkpoint without identity is refused; otherwise nobody can tell, and it is taken.
 */
export async function restoreTrainState(
  path: string,
  optimizer: AdamW,
  { config, identity, named }: Required<Pick<LmTrainState, "config" | "identity">> & { named: boolean },
): Promise<LmTrainState | undefined> {
  if (!existsSync(path)) return undefined;
  const file = openSafetensors(path);
  try {
    const state = stateOf(file);
    if (named && !state.identity) {
      throw inputError(
        `${path}: the checkpoint does not say which text and tokenizer it belongs to, so it cannot be continued here; choose another folder, or continue it with trainLm without an identity`,
      );
    }
    refuseOther(path, { ...state.config, ...state.identity }, { ...config, ...(state.identity && identity) });
    for (const [i, { name, tensor }] of optimizer.params.entries()) {
      const { m, v } = optimizer.moments[i];
      await restoreTensor(file, name, tensor);
      await restoreTensor(file, `adam.m.${name}`, m);
      await restoreTensor(file, `adam.v.${name}`, v);
    }
    optimizer.restore(state.step);
    return state;
  } finally {
    file.close();
  }
}

type Settings = Readonly<Record<string, unknown>>;

function refuseOther(path: string, saved: Settings, wanted: Settings): void {
  const differ = Object.keys({ ...saved, ...wanted }).filter(
    (key) => !FREE.has(key) && JSON.stringify(saved[key]) !== JSON.stringify(wanted[key]),
  );
  if (differ.length === 0) return;
  const list = differ.map((k) => `${k} ${JSON.stringify(saved[k])} there, ${JSON.stringify(wanted[k])} here`);
  throw inputError(
    `${path}: the checkpoint is of another run (${list.join("; ")}); choose another folder or the same settings`,
  );
}
