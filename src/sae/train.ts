/**
 * The training loop of every SAE. It reads activations from a source, steps, logs, checkpoints, and returns the SAE of
 * raw inputs. The same options give the same bits, whether or not the run was killed and resumed in between.
 */
import { setImmediate } from "node:timers/promises";
import { clipFactor, learningRate, type Schedule } from "../nn/index.ts";
import { type Device, markFired, scaleInPlace, sumSquares, type Tensor } from "../tensor/index.ts";
import { inputError, interruptedError, numericError, Rng, SluiceError } from "../util/index.ts";
import type { AuxK } from "./auxk.ts";
import { type CheckpointOptions, Checkpoints, type SavedRun } from "./checkpoint.ts";
import {
  type SaeConfig,
  type SaeTrainConfig,
  type SaeTrainInput,
  saeConfig,
  saeTrainConfig,
} from "./config.ts";
import { initialBias, meanNormScale } from "./init.ts";
import { applyAdam, createMoments, disposeMoments, type Moments } from "./optimizer.ts";
import {
  createSae,
  disposeSae,
  foldInput,
  mapParams,
  type Notes,
  PARAM_NAMES,
  paramShapes,
  type Sae,
} from "./sae.ts";
import { Batcher, type OpenSource } from "./source.ts";
import { batchStatistics, readStep, type StepGradients, type StepNumbers, stepGradients } from "./step.ts";
import { Laps, type RecordSink, recordSink, type TrainRecord } from "./train-log.ts";

export interface TrainOptions {
  readonly config: Omit<SaeConfig, "applyBDecToInput"> & { readonly applyBDecToInput?: boolean };
  readonly train: SaeTrainInput;
  /** Opens the activations: at the start, or where a checkpoint was taken. */
  readonly openSource: OpenSource;
  /** model_name, hook_name …: saved with the SAE, and what a checkpoint must agree on besides the configs. */
  readonly metadata?: Notes;
  /** Steps between two records (50). The first and the last step are always recorded. */
  readonly logEvery?: number;
  /** Receives every record. */
  readonly onMetrics?: (record: TrainRecord) => void;
  /** JSON-lines file of the records; on resume, what will be done again is cut off. */
  readonly metricsFile?: string;
  /** Called after every step. */
  readonly onStep?: (progress: TrainProgress) => void;
  readonly checkpoint?: CheckpointOptions;
  /** Continue from the newest checkpoint if there is one. */
  readonly resume?: boolean;
  /** Stops after the running step: writes a checkpoint and throws `interrupted`. */
  readonly signal?: AbortSignal;
}

export interface TrainProgress {
  readonly step: number;
  readonly steps: number;
  readonly tokens: number;
  /** Mean over tokens of the squared error summed over dims, of this step's batch. */
  readonly loss: number;
}

export interface TrainResult {
  /** Of raw inputs: the scale is folded in. The caller disposes it. */
  readonly sae: Sae;
  /** The factor on the inputs that was folded in. */
  readonly inputScale: number;
  readonly steps: number;
  readonly tokens: number;
  /** The last record. */
  readonly record: TrainRecord;
  /** `source`: it ended before the planned number of tokens. */
  readonly stopped: "done" | "source";
  /** Step that a checkpoint was taken up at. */
  readonly resumedFrom?: number;
  readonly train: SaeTrainConfig;
}

/** Everything that changes during a run, besides the source. */
export interface RunState {
  readonly sae: Sae;
  readonly moments: Moments;
  /** Tokens since each feature last fired, i32 [F]. */
  readonly lastFired: Tensor;
  /** Factor on the inputs. */
  readonly inputScale: number;
  /** Steps done. */
  step: number;
  /** Sums since the last record. */
  window: { steps: number; loss: number; auxLoss: number };
  record?: TrainRecord;
}

/** What a step needs besides the state that it changes. */
interface Loop {
  readonly device: Device;
  readonly train: SaeTrainConfig;
  readonly schedule: Schedule;
  readonly logEvery: number;
  readonly laps: Laps;
  readonly sink: RecordSink;
  readonly batcher: Batcher;
  readonly checkpoints?: Checkpoints;
  /** The running batch, [B, D]. */
  readonly x: Tensor;
  readonly host: Float32Array;
}

/** Trains an SAE. Throws a SluiceError: usage (options), input (data), numeric (NaN), interrupted (signal), io (disk). */
export async function trainSae(device: Device, options: TrainOptions): Promise<TrainResult> {
  const { metadata = {}, logEvery = 50 } = options;
  const config = saeConfig(options.config);
  const train = saeTrainConfig(options.train, config);
  const checkpoints = options.checkpoint && new Checkpoints(options.checkpoint, { config, train, metadata });
  if (!options.resume) checkpoints?.refuseLeftovers();
  const saved = options.resume ? await checkpoints?.newest() : undefined;

  const batcher = new Batcher(await options.openSource(saved?.source), config.dIn, saved?.pending);
  const x = device.empty([train.batch, config.dIn]).keep();
  let run: RunState | undefined;
  let sink: RecordSink | undefined;
  try {
    run = saved
      ? restore(device, config, metadata, saved)
      : await start(device, config, train, metadata, batcher, options.signal);
    sink = recordSink(options, run.step);
    const host = new Float32Array(x.size);
    const schedule = scheduleOf(train);
    const laps = new Laps();
    const loop = { device, train, schedule, logEvery, laps, sink, batcher, checkpoints, x, host };
    const stopped = await trainSteps(run, loop, options);
    return {
      sae: finished(device, run, train),
      inputScale: run.inputScale,
      steps: run.step,
      tokens: run.step * train.batch,
      record: run.record!, // the first step is always recorded
      stopped,
      resumedFrom: saved?.step,
      train,
    };
  } finally {
    x.dispose();
    if (run) disposeRun(run);
    sink?.close();
    await batcher.close();
  }
}

export function scheduleOf(train: SaeTrainConfig): Schedule {
  return {
    peak: train.lr,
    steps: Math.floor(train.tokens / train.batch),
    warmup: train.warmupSteps,
    decay: { kind: "linear", share: train.decayShare },
  };
}

async function trainSteps(
  run: RunState,
  loop: Loop,
  { signal, onStep }: TrainOptions,
): Promise<TrainResult["stopped"]> {
  const { device, train, schedule, laps, batcher, checkpoints } = loop;
  const begun = run.step;
  const save = async (): Promise<void> => {
    await requireFinite(run, loop);
    await checkpoints?.save(run, batcher);
  };
  while (run.step < schedule.steps) {
    if (signal?.aborted) {
      if (run.step > begun) await save();
      throw interruptedError(whereInterrupted(run, schedule, checkpoints));
    }
    if (!(await nextBatch(run, loop, signal))) {
      if (signal?.aborted) continue; // saved above
      break;
    }
    device.write(loop.x, loop.host);
    if (run.inputScale !== 1) scaleInPlace(loop.x, run.inputScale);
    laps.lap("data");
    const loss = await trainStep(run, loop);
    onStep?.({ step: run.step, steps: schedule.steps, tokens: run.step * train.batch, loss });
    if (run.step < schedule.steps && checkpoints?.due(run.step * train.batch)) await save();
    await setImmediate(); // signals, timers and sockets get their turn
    laps.lap("other");
  }
  if (run.step === 0) throw inputError(tooFewRows(batcher.received, train.batch));
  if (run.step > begun) await save();
  return run.step < schedule.steps ? "source" : "done";
}

/** Reads a batch. When the source fails with one of our errors, the steps done so far are saved first. */
async function nextBatch(run: RunState, loop: Loop, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return await loop.batcher.fill(loop.host, signal);
  } catch (error) {
    if (!(error instanceof SluiceError) || run.step === 0) throw error;
    const kept = await keepWork(run, loop);
    throw new SluiceError(error.code, `${error.message}. Step ${run.step + 1} was not taken; ${kept}`, {
      cause: error,
    });
  }
}

/** One step on the batch in `loop.x`; returns its loss. Parameters change only when loss and gradient are finite. */
async function trainStep(run: RunState, loop: Loop): Promise<number> {
  const { device, train, laps, x } = loop;
  const auxK = await deadFeatures(run, train);
  const g = device.scope(() => stepGradients(run.sae, x, { auxK, lap: (part) => laps.lap(part) }));
  auxK?.dead.dispose();
  try {
    const numbers = await readStep(g, train.removeParallelGradient);
    if (!Number.isFinite(numbers.loss + numbers.auxLoss + numbers.gradNorm)) {
      throw numericError(await whyNotFinite(run, loop, numbers));
    }
    await update(run, loop, g, numbers);
    return numbers.loss;
  } finally {
    release(g);
  }
}

async function update(run: RunState, loop: Loop, g: StepGradients, numbers: StepNumbers): Promise<void> {
  const { device, train, schedule, laps } = loop;
  const step = run.step + 1;
  const lr = learningRate(schedule, run.step);
  const gradScale = g.scale * clipFactor(numbers.gradNorm, train.clip);
  laps.lap("other");
  device.scope(() => {
    applyAdam(run.sae.params, g.grads, run.moments, train, { lr, step, gradScale });
    markFired(run.lastFired, g.codes.values, g.codes.indices, train.batch);
  });
  laps.lap("optimizer");
  run.step = step;
  run.window.steps++;
  run.window.loss += numbers.loss;
  run.window.auxLoss += numbers.auxLoss;
  laps.endStep();
  if (step === 1 || step % loop.logEvery === 0 || step === schedule.steps) {
    run.record = await makeRecord(run, loop, g, { ...numbers, lr });
    loop.sink.write(run.record);
    run.window = { steps: 0, loss: 0, auxLoss: 0 };
  }
}

function release({ grads, scalars, codes, error }: StepGradients): void {
  for (const name of PARAM_NAMES) grads[name].dispose();
  for (const t of [scalars, codes.values, codes.indices, error]) t.dispose();
}

async function makeRecord(
  run: RunState,
  { device, train, schedule, laps, x }: Loop,
  g: StepGradients,
  { loss, gradNorm, lr }: { loss: number; gradNorm: number; lr: number },
): Promise<TrainRecord> {
  const { variance, active } = await batchStatistics(device, x, g.codes);
  const { window, step } = run;
  const { ms, stepsPerSecond, seconds } = laps.take();
  const silent = await run.lastFired.ints();
  let dead = 0;
  for (const tokens of silent) if (tokens >= train.deadAfter) dead++;
  return {
    step,
    steps: schedule.steps,
    tokens: step * train.batch,
    loss: window.loss / window.steps,
    aux_loss: window.auxLoss / window.steps,
    explained_variance: 1 - loss / variance,
    l0: active,
    dead_fraction: dead / silent.length,
    lr,
    grad_norm: gradNorm,
    tokens_per_second: Math.round(stepsPerSecond * train.batch),
    seconds: Math.round(seconds * 1000) / 1000,
    ms,
  };
}

/** AuxK on the features that are dead now, if there are any. */
async function deadFeatures(run: RunState, train: SaeTrainConfig): Promise<AuxK | undefined> {
  if (train.auxCoefficient === 0 || run.step * train.batch < train.deadAfter) return undefined;
  const silent = await run.lastFired.ints();
  const dead: number[] = [];
  for (let f = 0; f < silent.length; f++) if (silent[f] >= train.deadAfter) dead.push(f);
  if (dead.length === 0) return undefined;
  const indices = run.lastFired.device.tensor(dead, [dead.length], "i32").keep();
  return { dead: indices, k: train.auxK, coefficient: train.auxCoefficient };
}

/** A run at its first step: estimates the input scale and the decoder bias from rows that are trained on later. */
async function start(
  device: Device,
  config: SaeConfig,
  train: SaeTrainConfig,
  metadata: Notes,
  batcher: Batcher,
  signal: AbortSignal | undefined,
): Promise<RunState> {
  const { dIn, features } = config;
  const x = await batcher.peek(train.initBatches * train.batch, signal);
  if (signal?.aborted) throw interruptedError("interrupted before the first step; nothing was saved");
  const sample = { x, rows: x.length / dIn, width: dIn };
  if (sample.rows < train.batch) throw inputError(tooFewRows(sample.rows, train.batch));
  const bad = firstNonFinite(x, dIn);
  if (bad) throw inputError(`sae training: ${inOrder(bad)}`);
  const inputScale = train.inputNorm === "mean-norm" ? meanNormScale(sample) : 1;
  const { bDec } = initialBias(train.bDecInit, sample, inputScale);
  const sae = createSae(device, config, { rng: new Rng(train.seed), bDec, metadata });
  return {
    sae,
    moments: createMoments(device, sae),
    lastFired: device.zeros([features], "i32").keep(),
    inputScale,
    step: 0,
    window: { steps: 0, loss: 0, auxLoss: 0 },
  };
}

function restore(device: Device, config: SaeConfig, metadata: Notes, saved: SavedRun): RunState {
  const shapes = paramShapes(config);
  const upload = (data: Record<keyof typeof shapes, Float32Array>) =>
    mapParams((name) => device.tensor(data[name], shapes[name]).keep());
  return {
    sae: { config, params: upload(saved.params), metadata },
    moments: { m: upload(saved.m), v: upload(saved.v) },
    lastFired: device.tensor(saved.lastFired, [config.features], "i32").keep(),
    inputScale: saved.inputScale,
    step: saved.step,
    window: { ...saved.window },
    record: saved.record,
  };
}

/** The SAE of raw inputs, with how it came about. */
function finished(device: Device, run: RunState, train: SaeTrainConfig): Sae {
  const folded = device.scope(() => foldInput(run.sae, run.inputScale));
  const provenance = {
    training: train,
    tokens: run.step * train.batch,
    steps: run.step,
    input_scale: run.inputScale,
  };
  return { ...folded, provenance };
}

function disposeRun(run: RunState): void {
  disposeSae(run.sae);
  disposeMoments(run.moments);
  run.lastFired.dispose();
}

/** A parameter that is not finite any more, or too large for its squares to be. */
async function ruinedParameter({ sae }: RunState, device: Device): Promise<string | undefined> {
  for (const name of PARAM_NAMES) {
    const squares = device.scope(() => sumSquares(sae.params[name]));
    const total = await squares.item();
    squares.dispose();
    if (!Number.isFinite(total)) return `${name} is not finite (the sum of its squares is ${total})`;
  }
  return undefined;
}

async function requireFinite(run: RunState, loop: Loop): Promise<void> {
  const ruined = await ruinedParameter(run, loop.device);
  if (ruined) throw numericError(`sae training: ${whoRuined(run, loop, ruined)}`);
}

function whoRuined({ step }: RunState, { schedule, checkpoints }: Loop, ruined: string): string {
  const found = checkpoints?.latest();
  const lr = learningRate(schedule, step - 1);
  const disk = found ? `the last good checkpoint is ${found.folder}` : "there is no checkpoint before it";
  return `the update of step ${step} (lr ${lr}) ruined the parameters: ${ruined}; nothing was written, ${disk}. ${OTHER_LR}`;
}

const OTHER_LR = "A lower lr is another run: give it another folder (--out)";

/** Writes a checkpoint of the last good state, whose parameters must be finite, and says how to go on from what is on disk. */
async function keepWork(run: RunState, loop: Loop): Promise<string> {
  const { checkpoints, batcher } = loop;
  let trouble = "";
  if (checkpoints && run.step > 0 && checkpoints.latest()?.step !== run.step) {
    try {
      await requireFinite(run, loop);
      await checkpoints.save(run, batcher);
    } catch (error) {
      trouble = ` (step ${run.step} could not be saved: ${(error as Error).message})`;
    }
  }
  return `${howToGoOn(checkpoints)}${trouble}`;
}

function howToGoOn(checkpoints: Checkpoints | undefined): string {
  const found = checkpoints?.latest();
  if (!found) return "no step is saved: the same command begins anew";
  return `step ${found.step} is saved in ${found.folder}, from which the same command continues`;
}

/** What made a step impossible. Its batch is given back first, so that a checkpoint has it still to come. */
async function whyNotFinite(run: RunState, loop: Loop, numbers: StepNumbers): Promise<string> {
  const { loss, auxLoss, gradNorm } = numbers;
  const aux = Number.isFinite(auxLoss) ? "" : `, AuxK loss ${auxLoss}`;
  const at = `sae training: step ${run.step + 1} has loss ${loss}${aux} and gradient norm ${gradNorm}`;
  const width = run.sae.config.dIn;
  const bad = firstNonFinite(loop.host, width);
  if (bad) {
    // A checkpoint would keep the bad row for good.
    const where = inOrder({ ...bad, row: run.step * loop.train.batch + bad.row });
    return `${at}: ${where}; the step was not taken; ${howToGoOn(loop.checkpoints)}`;
  }
  const ruined = run.step > 0 ? await ruinedParameter(run, loop.device) : undefined;
  if (ruined) return `${at}: ${whoRuined(run, loop, ruined)}`;
  loop.batcher.unread(loop.host);
  const kept = await keepWork(run, loop);
  return `${at}, though activations and parameters are finite; the step was not taken; ${kept} and meets the same batch. ${OTHER_LR}`;
}

type BadRow = { readonly row: number; readonly dim: number; readonly value: number };

function firstNonFinite(x: Float32Array, width: number): BadRow | undefined {
  const at = x.findIndex((v) => !Number.isFinite(v));
  return at < 0 ? undefined : { row: Math.floor(at / width), dim: at % width, value: x[at] };
}

/** Sources know where a row comes from and name it themselves; here only its turn is known. */
const inOrder = ({ row, dim, value }: BadRow): string =>
  `row ${row} in training order holds ${value} at dimension ${dim}`;

function whereInterrupted(run: RunState, { steps }: Schedule, checkpoints: Checkpoints | undefined): string {
  const where = `interrupted after step ${run.step} of ${steps}`;
  if (!checkpoints || run.step === 0) return `${where}; nothing was saved`;
  return `${where}; saved in ${checkpoints.folder}, the same run goes on from there`;
}

function tooFewRows(rows: number, batch: number): string {
  if (rows === 0) return "sae training: the source has no activations";
  return `sae training: the source ended after ${rows} activations, less than one batch of ${batch}; lower the batch`;
}
