/**
 * The training loop of every SAE. It reads activations from a source, steps, logs, checkpoints, and returns the SAE of
 * raw inputs. The same options give the same bits, whether or not the run was killed and resumed in between.
 */
import { setImmediate } from "node:timers/promises";
import type { Device, Tensor } from "../tensor/index.ts";
import { inputError, interruptedError, numericError, SluiceError } from "../util/index.ts";
import { type CheckpointOptions, Checkpoints } from "./checkpoint.ts";
import { type SaeConfig, type SaeConfigInput, saeConfig } from "./config.ts";
import type { Sample } from "./init.ts";
import {
  disposeRun,
  finishedSae,
  type RunSamples,
  type RunState,
  restoreRun,
  startRun,
} from "./run-state.ts";
import type { Notes, Sae } from "./sae.ts";
import { Batcher, type Columns, type OpenSource, ownColumns } from "./source.ts";
import { type SaeTrainConfig, type SaeTrainInput, saeTrainConfig } from "./train-config.ts";
import { type RecordSink, recordSink, type TrainRecord } from "./train-log.ts";
import { NotFinite, OTHER_LR, Trainer } from "./trainer.ts";

export interface TrainOptions {
  readonly config: SaeConfigInput;
  readonly train: SaeTrainInput;
  /** Opens the activations: at the start, or where a checkpoint was taken. */
  readonly openSource: OpenSource;
  /** Where in the source's rows the SAE finds its numbers; default: the row is the input, then a transcoder's target. */
  readonly columns?: Columns;
  /** SAE Boost (arXiv 2507.12990): a frozen SAE of raw inputs whose error x − x̂ is to be reconstructed. */
  readonly base?: Sae;
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
  /** Reconstruction loss of this step's batch: mean over tokens of the squared error summed over dims. */
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

/** What a step needs besides the trainer. */
interface Loop {
  readonly device: Device;
  readonly trainer: Trainer;
  readonly batcher: Batcher;
  /** The running batch, [B, row width]. */
  readonly rows: Tensor;
  readonly host: Float32Array;
}

/** Trains an SAE. Throws a SluiceError: usage (options), input (data), numeric (NaN), interrupted (signal), io (disk). */
export async function trainSae(device: Device, options: TrainOptions): Promise<TrainResult> {
  const { metadata = {}, logEvery = 50, base, signal } = options;
  const config = saeConfig(options.config);
  const train = saeTrainConfig(options.train, config);
  const columns = options.columns ?? ownColumns(config);
  const checkpoints = options.checkpoint && new Checkpoints(options.checkpoint, { config, train, metadata });
  if (!options.resume) checkpoints?.refuseLeftovers();
  const saved = options.resume ? await checkpoints?.newest() : undefined;

  const batcher = new Batcher(await options.openSource(saved?.source), columns.width, saved?.pending);
  const rows = device.empty([train.batch, columns.width]).keep();
  let run: RunState | undefined;
  let sink: RecordSink | undefined;
  try {
    run = saved
      ? restoreRun(device, config, metadata, saved)
      : startRun(device, config, train, metadata, await firstRows(batcher, config, train, columns, signal));
    sink = recordSink(options, run.step);
    const trainer = new Trainer(device, { run, train, columns, base, logEvery, sink, checkpoints });
    const host = new Float32Array(rows.size);
    const stopped = await trainSteps({ device, trainer, batcher, rows, host }, options);
    return {
      sae: finishedSae(device, run, train),
      inputScale: run.scales.input,
      steps: run.step,
      tokens: run.step * train.batch,
      record: run.record!, // the first step is always recorded
      stopped,
      resumedFrom: saved?.step,
      train,
    };
  } finally {
    rows.dispose();
    if (run) disposeRun(run);
    sink?.close();
    await batcher.close();
  }
}

async function trainSteps(loop: Loop, { signal, onStep }: TrainOptions): Promise<TrainResult["stopped"]> {
  const { device, trainer, batcher } = loop;
  const { run, schedule, train, laps, checkpoints } = trainer;
  const begun = run.step;
  const save = async (): Promise<void> => {
    await trainer.requireFinite();
    await checkpoints?.save(run, batcher);
  };
  while (run.step < schedule.steps) {
    if (signal?.aborted) {
      if (run.step > begun) await save();
      throw interruptedError(whereInterrupted(trainer));
    }
    if (!(await nextBatch(loop, signal))) {
      if (signal?.aborted) continue; // saved above
      break;
    }
    device.write(loop.rows, loop.host);
    const { loss } = await trainStep(loop);
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
async function nextBatch(loop: Loop, signal: AbortSignal | undefined): Promise<boolean> {
  const { run } = loop.trainer;
  try {
    return await loop.batcher.fill(loop.host, signal);
  } catch (error) {
    if (!(error instanceof SluiceError) || run.step === 0) throw error;
    const kept = await keepWork(loop);
    throw new SluiceError(error.code, `${error.message}. Step ${run.step + 1} was not taken; ${kept}`, {
      cause: error,
    });
  }
}

async function trainStep(loop: Loop) {
  try {
    return await loop.trainer.step(loop.rows);
  } catch (error) {
    if (!(error instanceof NotFinite)) throw error;
    throw numericError(await whyNotFinite(loop, error));
  }
}

/** The first rows, which are trained on later, as the SAE reads them. */
async function firstRows(
  batcher: Batcher,
  config: SaeConfig,
  train: SaeTrainConfig,
  columns: Columns,
  signal: AbortSignal | undefined,
): Promise<RunSamples> {
  const x = await batcher.peek(train.initBatches * train.batch, signal);
  if (signal?.aborted) throw interruptedError("interrupted before the first step; nothing was saved");
  const rows = x.length / columns.width;
  if (rows < train.batch) throw inputError(tooFewRows(rows, train.batch));
  const bad = firstNonFinite(x, columns.width);
  if (bad) throw inputError(`sae training: ${inOrder(bad)}`);
  const input = columnsOf(x, columns.width, columns.input, config.dIn);
  if (columns.target === undefined) return { input };
  return { input, target: columnsOf(x, columns.width, columns.target, config.dOut) };
}

function columnsOf(x: Float32Array, rowWidth: number, from: number, width: number): Sample {
  const rows = x.length / rowWidth;
  if (width === rowWidth) return { x, rows, width };
  const out = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++) {
    const at = r * rowWidth + from;
    out.set(x.subarray(at, at + width), r * width);
  }
  return { x: out, rows, width };
}

/** Writes a checkpoint of the last good state, whose parameters must be finite, and says how to go on from what is on disk. */
async function keepWork({ trainer, batcher }: Loop): Promise<string> {
  const { checkpoints, run } = trainer;
  let trouble = "";
  if (checkpoints && run.step > 0 && checkpoints.latest()?.step !== run.step) {
    try {
      await trainer.requireFinite();
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
async function whyNotFinite(loop: Loop, { numbers }: NotFinite): Promise<string> {
  const { trainer } = loop;
  const { run, checkpoints, train } = trainer;
  const { loss, auxLoss, gradNorm } = numbers;
  const aux = Number.isFinite(auxLoss) ? "" : `, AuxK loss ${auxLoss}`;
  const at = `sae training: step ${run.step + 1} has loss ${loss}${aux} and gradient norm ${gradNorm}`;
  const bad = firstNonFinite(loop.host, loop.batcher.width);
  if (bad) {
    // A checkpoint would keep the bad row for good.
    const where = inOrder({ ...bad, row: run.step * train.batch + bad.row });
    return `${at}: ${where}; the step was not taken; ${howToGoOn(checkpoints)}`;
  }
  const ruined = run.step > 0 ? await trainer.ruinedParameter() : undefined;
  if (ruined) return `${at}: ${trainer.whoRuined(ruined)}`;
  loop.batcher.unread(loop.host);
  const kept = await keepWork(loop);
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

function whereInterrupted({ run, schedule, checkpoints }: Trainer): string {
  const where = `interrupted after step ${run.step} of ${schedule.steps}`;
  if (!checkpoints || run.step === 0) return `${where}; nothing was saved`;
  return `${where}; saved in ${checkpoints.folder}, the same run goes on from there`;
}

function tooFewRows(rows: number, batch: number): string {
  if (rows === 0) return "sae training: the source has no activations";
  return `sae training: the source ended after ${rows} activations, less than one batch of ${batch}; lower the batch`;
}
