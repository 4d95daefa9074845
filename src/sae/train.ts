/**
 * The training loop of SAEs, one or several beside each other on the same activations. It reads activations from a source, steps,
 * logs, checkpoints, and returns the SAEs of raw inputs. The same options give the same bits, whether or not the run was
 * killed and resumed in between, and whether or not other SAEs were trained beside it.
 */
import { setImmediate } from "node:timers/promises";
import type { Device, Tensor } from "../tensor/index.ts";
import { inputError, interruptedError, numericError, SluiceError, usageError } from "../util/index.ts";
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
import { NotFinite, Trainer } from "./trainer.ts";
import { checkStart, frozenFeatures, type WarmStart } from "./warm-start.ts";

/** One SAE to be trained. */
export interface TrainRun {
  readonly config: SaeConfigInput;
  readonly train: SaeTrainInput;
  /** Where in the source's rows the SAE finds its numbers; default: the row is the input, then a transcoder's target. */
  readonly columns?: Columns;
  /** SAE Boost (arXiv 2507.12990): a frozen SAE of raw inputs whose error x − x̂ is to be reconstructed. */
  readonly base?: Sae;
  /** The SAE whose training is taken further, or that is extended; default none: from scratch. */
  readonly start?: WarmStart;
  /** model_name, hook_name …: saved with the SAE, and what a checkpoint must agree on besides the configs. */
  readonly metadata?: Notes;
  /** Receives every record. */
  readonly onMetrics?: (record: TrainRecord) => void;
  /** JSON-lines file of the records; on resume, what will be done again is cut off. */
  readonly metricsFile?: string;
}

/** What the SAEs of a training share. */
export interface TrainingOptions {
  /** Opens the activations: at the start, or where a checkpoint was taken. */
  readonly openSource: OpenSource;
  /** Steps between two records (50). The first and the last step are always recorded. */
  readonly logEvery?: number;
  /** Called after every step. */
  readonly onStep?: (progress: TrainProgress) => void;
  readonly checkpoint?: CheckpointOptions;
  /** Continue from the newest checkpoint if there is one. */
  readonly resume?: boolean;
  /** Stops after the running step: writes a checkpoint and throws `interrupted`. */
  readonly signal?: AbortSignal;
}

export interface TrainOptions extends TrainRun, TrainingOptions {}

export interface TrainProgress {
  readonly step: number;
  readonly steps: number;
  readonly tokens: number;
  /** Reconstruction loss of this step's batch, of the first SAE: mean over tokens of the squared error summed over dims. */
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
  /** `source`: it ended before the planned number of tokens. `failed`: see `failure`. */
  readonly stopped: "done" | "source" | "failed";
  /** Why this SAE was left behind while the others went on; it is as it was before the step that could not be taken. */
  readonly failure?: string;
  /** Step that a checkpoint was taken up at. */
  readonly resumedFrom?: number;
  readonly train: SaeTrainConfig;
}

/** Trains an SAE. Throws a SluiceError: usage (options), input (data), numeric (NaN), interrupted (signal), io (disk). */
export async function trainSae(device: Device, options: TrainOptions): Promise<TrainResult> {
  const [result] = await trainSaes(device, [options], options);
  return result;
}

/** What a run has become once its defaults are filled in. */
interface Planned {
  readonly given: TrainRun;
  readonly config: SaeConfig;
  readonly train: SaeTrainConfig;
  readonly columns: Columns;
  readonly metadata: Notes;
}

/**
 * Trains several SAEs on one stream of activations: the source is read once, and each SAE gets the bits that it would get alone.
 * They share the batch size, the number of tokens and the width of the rows. One whose step cannot be taken (NaN) is left
 * behind, and the others go on; alone, it throws.
 */
export async function trainSaes(
  device: Device,
  runs: readonly TrainRun[],
  options: TrainingOptions,
): Promise<TrainResult[]> {
  const { logEvery = 50, signal } = options;
  const plans = plansOf(runs);
  const [{ columns, train }] = plans;
  const identities = plans.map(({ config, train, metadata }) => ({ config, train, metadata }));
  const checkpoints = options.checkpoint && new Checkpoints(options.checkpoint, identities);
  if (!options.resume) checkpoints?.refuseLeftovers();
  const saved = options.resume ? await checkpoints?.newest() : undefined;

  const batcher = new Batcher(await options.openSource(saved?.source), columns.width, saved?.pending);
  const rows = device.empty([train.batch, columns.width]).keep();
  const states: RunState[] = [];
  const sinks: RecordSink[] = [];
  try {
    const wanted = train.batch * Math.max(...plans.map((plan) => plan.train.initBatches));
    const first = saved ? undefined : await firstRows(batcher, wanted, train.batch, signal);
    for (const [i, plan] of plans.entries()) {
      const { config, metadata } = plan;
      const found = saved?.runs[i];
      const samples = () => samplesOf(first ?? new Float32Array(), plan);
      const run = found
        ? restoreRun(device, config, metadata, found)
        : await startRun(device, config, plan.train, metadata, samples(), plan.given.start);
      states.push(run);
      sinks.push(recordSink(plan.given, run.step));
    }
    const trainers = plans.map(
      ({ train, columns, given: { base, start } }, i) =>
        new Trainer(device, {
          run: states[i],
          train,
          columns,
          base,
          frozen: frozenFeatures(start),
          logEvery,
          sink: sinks[i],
        }),
    );
    const host = new Float32Array(rows.size);
    const stopped = await trainSteps(
      { device, trainers, batcher, rows, host, checkpoints, step: saved?.step ?? 0 },
      options,
    );
    return states.map((run, i) => ({
      sae: finishedSae(device, run, plans[i].train),
      inputScale: run.scales.input,
      steps: run.step,
      tokens: run.step * train.batch,
      record: run.record!, // the first step is always recorded
      stopped: run.failed === undefined ? stopped : "failed",
      failure: run.failed,
      resumedFrom: saved?.step,
      train: plans[i].train,
    }));
  } finally {
    rows.dispose();
    for (const run of states) disposeRun(run);
    for (const sink of sinks) sink.close();
    await batcher.close();
  }
}

function plansOf(runs: readonly TrainRun[]): Planned[] {
  if (runs.length === 0) throw usageError("sae training: no SAE to train");
  const plans = runs.map((given) => {
    const config = saeConfig(given.config);
    const { columns = ownColumns(config), metadata = {} } = given;
    if (given.start) checkStart(given.start, config);
    return { given, config, train: saeTrainConfig(given.train, config), columns, metadata };
  });
  const shared = ({ train, columns }: Planned) => ({
    batch: train.batch,
    tokens: train.tokens,
    width: columns.width,
  });
  const [first, ...others] = plans;
  for (const plan of others) {
    for (const [name, value] of Object.entries(shared(plan))) {
      const wanted = shared(first)[name as keyof ReturnType<typeof shared>];
      if (value === wanted) continue;
      throw usageError(
        `sae training: SAEs beside each other share ${name}, but it is ${wanted} and ${value}`,
      );
    }
  }
  return plans;
}

/** What the steps need. */
interface Loop {
  readonly device: Device;
  readonly trainers: readonly Trainer[];
  readonly batcher: Batcher;
  /** The running batch, [B, row width]. */
  readonly rows: Tensor;
  readonly host: Float32Array;
  readonly checkpoints?: Checkpoints;
  /** Steps of the training done: of every SAE but those that failed. */
  step: number;
}

async function trainSteps(
  loop: Loop,
  { signal, onStep }: TrainingOptions,
): Promise<Exclude<TrainResult["stopped"], "failed">> {
  const { device, trainers, batcher, checkpoints } = loop;
  const { schedule, train } = trainers[0];
  const begun = loop.step;
  while (loop.step < schedule.steps) {
    if (signal?.aborted) {
      if (loop.step > begun) await save(loop);
      throw interruptedError(whereInterrupted(loop));
    }
    if (!(await nextBatch(loop, signal))) {
      if (signal?.aborted) continue; // saved above
      break;
    }
    device.write(loop.rows, loop.host);
    const loss = await stepAll(loop);
    onStep?.({ step: loop.step, steps: schedule.steps, tokens: loop.step * train.batch, loss });
    if (loop.step < schedule.steps && checkpoints?.due(loop.step * train.batch)) await save(loop);
    await setImmediate(); // signals, timers and sockets get their turn
    for (const { laps } of trainers) laps.lap("other");
  }
  if (loop.step === 0) throw inputError(tooFewRows(batcher.received, train.batch));
  if (loop.step > begun) await save(loop);
  return loop.step < schedule.steps ? "source" : "done";
}

const living = ({ trainers }: Loop): Trainer[] => trainers.filter(({ run }) => run.failed === undefined);

/** One step of every SAE on the batch in `loop.rows`; returns the first one's loss. */
async function stepAll(loop: Loop): Promise<number> {
  let loss: number | undefined;
  for (const trainer of living(loop)) {
    trainer.laps.lap("other"); // the others' turn
    try {
      const numbers = await trainer.step(loop.rows);
      loss ??= numbers.loss;
    } catch (error) {
      if (!(error instanceof NotFinite)) throw error;
      await leaveBehind(loop, trainer, error);
    }
  }
  if (loss === undefined) throw numericError(allFailed(loop));
  loop.step++;
  return loss;
}

/** Alone, or with a bad batch, a training ends where a step cannot be taken; among others an SAE is left as it is. */
async function leaveBehind(loop: Loop, trainer: Trainer, error: NotFinite): Promise<void> {
  const bad = firstNonFinite(loop.host, loop.batcher.width);
  if (loop.trainers.length === 1 || bad) throw numericError(await whyNotFinite(loop, trainer, error, bad));
  const ruined = trainer.run.step > 0 ? await trainer.ruinedParameter() : undefined;
  const why = ruined ? `the update of step ${trainer.run.step} ruined the parameters: ${ruined}` : undefined;
  trainer.run.failed = `${numbersOf(trainer, error)}${why ? `; ${why}` : ""}`;
}

const allFailed = ({ trainers }: Loop): string =>
  `sae training: none of the ${trainers.length} SAEs is left: ${trainers.map(({ run }) => run.failed).join("; ")}`;

/** Writes a checkpoint, if the parameters of every SAE are finite; one that has lost them is left behind first. */
async function save(loop: Loop): Promise<void> {
  for (const trainer of living(loop)) {
    const ruined = await trainer.ruinedParameter();
    if (!ruined) continue;
    if (loop.trainers.length === 1) throw numericError(`sae training: ${whoRuined(loop, trainer, ruined)}`);
    trainer.run.failed = `the update of step ${trainer.run.step} ruined the parameters: ${ruined}`;
  }
  const runs = loop.trainers.map(({ run }) => run);
  await loop.checkpoints?.save(loop.step, runs, loop.batcher);
}

/** Reads a batch. When the source fails with one of our errors, the steps done so far are saved first. */
async function nextBatch(loop: Loop, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    return await loop.batcher.fill(loop.host, signal);
  } catch (error) {
    if (!(error instanceof SluiceError) || loop.step === 0) throw error;
    const kept = await keepWork(loop);
    throw new SluiceError(error.code, `${error.message}. Step ${loop.step + 1} was not taken; ${kept}`, {
      cause: error,
    });
  }
}

/** The first rows, which are trained on later. */
async function firstRows(
  batcher: Batcher,
  wanted: number,
  batch: number,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const x = await batcher.peek(wanted, signal);
  if (signal?.aborted) throw interruptedError("interrupted before the first step; nothing was saved");
  const rows = x.length / batcher.width;
  if (rows < batch) throw inputError(tooFewRows(rows, batch));
  const bad = firstNonFinite(x, batcher.width);
  if (bad) throw inputError(`sae training: ${inOrder(bad)}`);
  return x;
}

/** The rows as an SAE reads them. */
function samplesOf(x: Float32Array, { config, columns, train }: Planned): RunSamples {
  const rows = x.subarray(0, train.initBatches * train.batch * columns.width);
  const input = columnsOf(rows, columns.width, columns.input, config.dIn);
  if (columns.target === undefined) return { input };
  return { input, target: columnsOf(rows, columns.width, columns.target, config.dOut) };
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
async function keepWork(loop: Loop): Promise<string> {
  const { checkpoints, step } = loop;
  let trouble = "";
  if (checkpoints && step > 0 && checkpoints.latest()?.step !== step) {
    try {
      await save(loop);
    } catch (error) {
      trouble = ` (step ${step} could not be saved: ${(error as Error).message})`;
    }
  }
  return `${howToGoOn(checkpoints)}${trouble}`;
}

function howToGoOn(checkpoints: Checkpoints | undefined): string {
  const found = checkpoints?.latest();
  if (!found) return "no step is saved: the same command begins anew";
  return `step ${found.step} is saved in ${found.folder}, from which the same command continues`;
}

const OTHER_LR = "A lower lr is another run: give it another folder (--out)";

function whoRuined({ checkpoints }: Loop, { run, lastLr }: Trainer, ruined: string): string {
  const found = checkpoints?.latest();
  const disk = found ? `the last good checkpoint is ${found.folder}` : "there is no checkpoint before it";
  return `the update of step ${run.step} (lr ${lastLr}) ruined the parameters: ${ruined}; nothing was written, ${disk}. ${OTHER_LR}`;
}

function numbersOf({ run }: Trainer, { numbers: { loss, auxLoss, penalty, gradNorm } }: NotFinite): string {
  const aux = Number.isFinite(auxLoss) ? "" : `, AuxK loss ${auxLoss}`;
  const sparse = Number.isFinite(penalty) ? "" : `, penalty ${penalty}`;
  return `step ${run.step + 1} has loss ${loss}${aux}${sparse} and gradient norm ${gradNorm}`;
}

/** What made a step impossible. Its batch is given back first, so that a checkpoint has it still to come. */
async function whyNotFinite(
  loop: Loop,
  trainer: Trainer,
  error: NotFinite,
  bad: BadRow | undefined,
): Promise<string> {
  const { run, train } = trainer;
  const at = `sae training: ${numbersOf(trainer, error)}`;
  if (bad) {
    // A checkpoint would keep the bad row for good.
    const where = inOrder({ ...bad, row: run.step * train.batch + bad.row });
    return `${at}: ${where}; the step was not taken; ${howToGoOn(loop.checkpoints)}`;
  }
  const ruined = run.step > 0 ? await trainer.ruinedParameter() : undefined;
  if (ruined) return `${at}: ${whoRuined(loop, trainer, ruined)}`;
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

function whereInterrupted({ step, trainers, checkpoints }: Loop): string {
  const where = `interrupted after step ${step} of ${trainers[0].schedule.steps}`;
  if (!checkpoints || step === 0) return `${where}; nothing was saved`;
  return `${where}; saved in ${checkpoints.folder}, the same run goes on from there`;
}

function tooFewRows(rows: number, batch: number): string {
  if (rows === 0) return "sae training: the source has no activations";
  return `sae training: the source ended after ${rows} activations, less than one batch of ${batch}; lower the batch`;
}
