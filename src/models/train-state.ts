/**
 * The checkpoint of a training run: one safetensors file with parameters and moments, the rest as JSON in its header.
 * Written to a temporary name, synced and renamed: whole or absent.
 */
import { existsSync } from "node:fs";
import {
  fromFloat32,
  type NamedArray,
  openSafetensors,
  toFloat32,
  writeSafetensors,
} from "../formats/index.ts";
import type { AdamW } from "../nn/index.ts";
import type { PackerState } from "../text/index.ts";
import { inputError } from "../util/index.ts";
import type { LmTrainConfig } from "./train.ts";

export interface LmTrainState {
  readonly version: 1;
  /** Optimiser steps taken. */
  readonly step: number;
  readonly packer: PackerState;
  readonly config: LmTrainConfig;
  /** Losses since the last record. */
  readonly meter?: MeterState;
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

/** What may change between a checkpoint and its continuation: how far it goes, and how often it reports. */
const FREE: ReadonlySet<string> = new Set([
  "tokens",
  "logEverySteps",
  "validateEverySteps",
  "checkpointEverySteps",
]);

/** Restores a checkpoint in place, or returns undefined when there is none. Refuses one of another run. */
export async function restoreTrainState(
  path: string,
  optimizer: AdamW,
  { config, identity }: Required<Pick<LmTrainState, "config" | "identity">>,
): Promise<LmTrainState | undefined> {
  if (!existsSync(path)) return undefined;
  const file = openSafetensors(path);
  try {
    const text = file.metadata["sluice.lm-train"];
    if (!text) throw inputError(`${path}: not a checkpoint of a language-model run`);
    const state = JSON.parse(text) as LmTrainState;
    refuseOther(path, { ...state.config, ...state.identity }, { ...config, ...(state.identity && identity) });
    for (const [i, { name, tensor }] of optimizer.params.entries()) {
      const { m, v } = optimizer.moments[i];
      for (const [key, t] of [
        [name, tensor],
        [`adam.m.${name}`, m],
        [`adam.v.${name}`, v],
      ] as const) {
        if (!file.has(key) || file.info(key).shape.join() !== t.shape.join()) {
          throw inputError(`${path}: ${key} is missing or misshapen; the checkpoint is of another model`);
        }
        t.device.write(t, toFloat32(await file.read(key)));
      }
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
