/**
 * Everything that changes while one SAE is trained, besides its source: how it begins, is taken up again, and ends.
 * D input width · E output width · F features.
 */
import { type Device, exp, type Tensor } from "../tensor/index.ts";
import { Rng } from "../util/index.ts";
import type { SavedRun } from "./checkpoint.ts";
import { type Activation, type SaeConfig, saeConfig } from "./config.ts";
import { createSae } from "./create.ts";
import { initialBias, meanNormScale, type Sample } from "./init.ts";
import { createMoments, disposeMoments, type Moments } from "./optimizer.ts";
import { disposeSae, foldInput, mapParams, type Notes, type PerParam, paramShapes, type Sae } from "./sae.ts";
import type { SaeTrainConfig } from "./train-config.ts";
import type { TrainRecord } from "./train-log.ts";
import { startFrom, type WarmStart } from "./warm-start.ts";

export interface RunState {
  readonly sae: Sae;
  readonly moments: Moments;
  /** Tokens since each feature last fired, i32 [F]. */
  readonly lastFired: Tensor;
  /** Factors on the inputs and on a transcoder's targets. */
  readonly scales: InputScales;
  /** Steps done. */
  step: number;
  /** batchtopk: running mean of the smallest kept values; undefined before the first step. */
  threshold?: number;
  /** Slots per token of the next step, where they were found to be too few or, for jumprelu, enough. */
  slots?: number;
  /** Sums since the last record. */
  window: LossSums;
  record?: TrainRecord;
  /** Why it was left behind in a training of several: it stays as it was before the step that could not be taken. */
  failed?: string;
}

export interface InputScales {
  readonly input: number;
  readonly target: number;
}

export interface LossSums {
  readonly steps: number;
  readonly loss: number;
  readonly auxLoss: number;
  readonly penalty: number;
}

export const NO_LOSSES: LossSums = { steps: 0, loss: 0, auxLoss: 0, penalty: 0 };

/** What an SAE reads and reconstructs, for its first estimates. */
export interface RunSamples {
  readonly input: Sample;
  /** Of a transcoder. */
  readonly target?: Sample;
}

/**
 * A run at its first step: estimates the scales and the decoder bias from rows that are trained on later. With `start` only the
 * scales.
 */
export async function startRun(
  device: Device,
  config: SaeConfig,
  train: SaeTrainConfig,
  metadata: Notes,
  { input, target = input }: RunSamples,
  start?: WarmStart,
): Promise<RunState> {
  const scaleOf = (sample: Sample): number => (train.inputNorm === "mean-norm" ? meanNormScale(sample) : 1);
  const scales = { input: scaleOf(input), target: scaleOf(target) };
  const rng = new Rng(train.seed);
  const { thresholdInit: threshold, unitDecoder } = train;
  const fresh = (): Sae => {
    const bDec = config.decoderBias ? initialBias(train.bDecInit, target, scales.target).bDec : undefined;
    return createSae(device, config, { rng, bDec, threshold, metadata });
  };
  const sae = start
    ? await startFrom(device, config, start, { rng, scales, sample: input, threshold, unitDecoder, metadata })
    : fresh();
  return {
    sae,
    moments: createMoments(device, sae),
    lastFired: device.zeros([config.features], "i32").keep(),
    scales,
    step: 0,
    window: NO_LOSSES,
  };
}

/** A run as a checkpoint left it. */
export function restoreRun(device: Device, config: SaeConfig, metadata: Notes, saved: SavedRun): RunState {
  const shapes = paramShapes(config);
  const upload = (data: PerParam<Float32Array>): PerParam<Tensor> =>
    mapParams(data, (array, name) => device.tensor(array, shapes[name]).keep());
  return {
    sae: { config, params: upload(saved.params), metadata },
    moments: { m: upload(saved.m), v: upload(saved.v) },
    lastFired: device.tensor(saved.lastFired, [config.features], "i32").keep(),
    scales: saved.scales,
    step: saved.step,
    threshold: saved.threshold,
    slots: saved.slots,
    window: saved.window,
    record: saved.record,
    failed: saved.failed,
  };
}

export function disposeRun(run: RunState): void {
  disposeSae(run.sae);
  disposeMoments(run.moments);
  run.lastFired.dispose();
}

/** The SAE of raw inputs as it is used from now on, with how it came about. */
export function finishedSae(device: Device, run: RunState, train: SaeTrainConfig): Sae {
  const { scales, step } = run;
  const provenance = {
    training: train,
    tokens: step * train.batch,
    steps: step,
    input_scale: scales.input,
    ...(run.sae.config.transcoder && { target_scale: scales.target }),
    ...trainedAs(run.sae.config.activation),
  };
  const folded = device.scope(() => {
    const ready = forInference(device, run);
    const sae = foldInput(ready, scales.input, scales.target);
    return sae;
  });
  return { ...folded, provenance };
}

/** What the files of others cannot say: that thresholds stand in for a k per batch. */
function trainedAs(activation: Activation): Notes {
  return activation.kind === "batchtopk" ? { trained_as: activation } : {};
}

/** Activations that exist in training only become what stands in for them: thresholds. Shares parameters with the run. */
function forInference(device: Device, { sae, threshold }: RunState): Sae {
  const { config, params } = sae;
  const jumprelu = saeConfig({ ...config, activation: { kind: "jumprelu" } });
  switch (config.activation.kind) {
    case "batchtopk": {
      const thresholds = device.full([config.features], threshold ?? 0);
      return { ...sae, config: jumprelu, params: { ...params, threshold: thresholds } };
    }
    case "jumprelu": {
      const { logThreshold, ...others } = params;
      if (!logThreshold) return sae;
      return { ...sae, config: jumprelu, params: { ...others, threshold: exp(logThreshold) } };
    }
    default:
      return sae;
  }
}
