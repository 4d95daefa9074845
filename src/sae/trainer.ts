/**
 * The training of one SAE, step by step: what a batch does to it, its records, and what it says when a step is impossible.
 * Where batches come from, and when it is saved, is the loop's matter (train.ts). B tokens · D, E widths · F features.
 */
import { clipFactor, learningRate, type Schedule } from "../nn/index.ts";
import {
  type Device,
  markFired,
  max,
  mul,
  reshape,
  slice,
  sub,
  sumSquares,
  type Tensor,
} from "../tensor/index.ts";
import type { AuxK } from "./auxk.ts";
import { nextThreshold } from "./batch-topk.ts";
import type { SaeConfig } from "./config.ts";
import { applyAdam } from "./optimizer.ts";
import { NO_LOSSES, type RunState } from "./run-state.ts";
import { type Codes, disposeCodes, mapParams, PARAM_NAMES, reconstruct, type Sae } from "./sae.ts";
import type { Columns } from "./source.ts";
import { moreSlots } from "./sparse-step.ts";
import {
  batchStatistics,
  readStep,
  type StepGradients,
  type StepNumbers,
  type StepObjective,
  stepGradients,
} from "./step.ts";
import type { SaeTrainConfig } from "./train-config.ts";
import { Laps, type RecordSink, type TrainRecord } from "./train-log.ts";

export interface TrainerOptions {
  readonly run: RunState;
  readonly train: SaeTrainConfig;
  readonly columns: Columns;
  /** A frozen SAE whose error is to be reconstructed: SAE Boost. */
  readonly base?: Sae;
  /** The first features, which stay as they are. */
  readonly frozen?: number;
  readonly logEvery: number;
  readonly sink: RecordSink;
}

/** What an SAE reads of a batch and what it is to reconstruct, scaled. */
interface Batch {
  readonly x: Tensor;
  readonly target: Tensor;
}

export class Trainer {
  readonly run: RunState;
  readonly train: SaeTrainConfig;
  readonly schedule: Schedule;
  readonly laps = new Laps();
  readonly #device: Device;
  readonly #options: TrainerOptions;
  readonly #objective: StepObjective;

  constructor(device: Device, options: TrainerOptions) {
    this.#device = device;
    this.#options = options;
    this.run = options.run;
    this.train = options.train;
    this.schedule = scheduleOf(options.train);
    this.#objective = options.train;
  }

  get config(): SaeConfig {
    return this.run.sae.config;
  }

  /** One step on a batch of the source's rows, [B, row width]; returns its numbers. Parameters change only when all are finite. */
  async step(rows: Tensor): Promise<StepNumbers> {
    const batch = this.#device.scope(() => this.#batchOf(rows));
    this.laps.lap("data");
    const auxK = await this.#deadFeatures();
    let g: StepGradients | undefined;
    try {
      const taken = await this.#gradients(batch, auxK);
      g = taken.g;
      const { numbers } = taken;
      const finite = numbers.loss + numbers.auxLoss + numbers.penalty + numbers.gradNorm + numbers.least;
      if (!Number.isFinite(finite)) throw new NotFinite(numbers);
      await this.#update(batch, g, numbers);
      return numbers;
    } finally {
      auxK?.dead.dispose();
      auxK?.parents?.dispose();
      if (g) release(g);
      batch.x.dispose();
      if (batch.target !== batch.x) batch.target.dispose();
    }
  }

  #batchOf(rows: Tensor): Batch {
    const { columns, base } = this.#options;
    const { scales } = this.run;
    const { dIn, dOut } = this.config;
    const part = (from: number, width: number): Tensor => slice(rows, [0, from], [rows.shape[0], width]);
    const raw = part(columns.input, dIn);
    const x = mul(raw, scales.input);
    if (columns.target !== undefined) return { x, target: mul(part(columns.target, dOut), scales.target) };
    if (base) return { x, target: mul(sub(raw, reconstruct(base, raw)), scales.target) };
    return { x, target: x };
  }

  /** Gradients of a batch; a step whose slots did not suffice is done again with more. */
  async #gradients({ x, target }: Batch, auxK: AuxK | undefined) {
    const { run } = this;
    const { sae } = run;
    const objective = this.#warmedUp();
    const { frozen } = this.#options;
    const count = isJump(sae.config) && run.step % COUNT_EVERY === 0;
    for (;;) {
      const { slots } = run;
      const lap = this.laps.lap.bind(this.laps);
      const g = this.#device.scope(() =>
        stepGradients(sae, x, { objective, target, auxK, slots, count, frozen, lap }),
      );
      const numbers = await readStep(g, this.train.removeParallelGradient);
      if (!(numbers.full > 0)) {
        if (count) run.slots = slotsFor(numbers.widest, sae.config.features);
        return { g, numbers };
      }
      release(g);
      run.slots = isJump(sae.config)
        ? slotsFor(2 * (slots ?? 1), sae.config.features)
        : moreSlots(sae, slots);
    }
  }

  /** The objective with the penalty of this step: it rises from 0 over the first part of the run. */
  #warmedUp(): StepObjective {
    const steps = this.train.sparsityWarmup * this.schedule.steps;
    const share = Math.min(1, (this.run.step + 1) / Math.max(steps, 1));
    const { l1, l0 } = this.#objective;
    return { ...this.#objective, l1: l1 * share, l0: l0 * share };
  }

  async #update(batch: Batch, g: StepGradients, numbers: StepNumbers): Promise<void> {
    const { run, train, schedule, laps } = this;
    const step = run.step + 1;
    const lr = learningRate(schedule, run.step);
    const gradScale = g.scale * clipFactor(numbers.gradNorm, train.clip);
    laps.lap("other");
    this.#device.scope(() => {
      applyAdam(run.sae.params, g.grads, run.moments, train, { lr, step, gradScale });
      countFirings(run.lastFired, g.codes, train.batch);
    });
    laps.lap("optimizer");
    run.step = step;
    if (run.sae.config.activation.kind === "batchtopk") {
      run.threshold = nextThreshold(run.threshold, numbers.least, { rate: train.thresholdRate });
    }
    run.window = {
      steps: run.window.steps + 1,
      loss: run.window.loss + numbers.loss,
      auxLoss: run.window.auxLoss + numbers.auxLoss,
      penalty: run.window.penalty + numbers.penalty,
    };
    laps.endStep();
    const { logEvery, sink } = this.#options;
    if (step === 1 || step % logEvery === 0 || step === schedule.steps) {
      run.record = await this.#record(batch, g, { ...numbers, lr });
      sink.write(run.record);
      run.window = NO_LOSSES;
    }
  }

  async #record(
    { target }: Batch,
    g: StepGradients,
    { sse, gradNorm, lr }: StepNumbers & { lr: number },
  ): Promise<TrainRecord> {
    const { run, train, schedule, config } = this;
    const { variance, active } = await batchStatistics(this.#device, target, g.codes);
    const { window, step, threshold } = run;
    const { ms, stepsPerSecond, seconds } = this.laps.take();
    const silent = await run.lastFired.ints();
    const dead = deadOf(silent, train.deadAfter);
    return {
      step,
      steps: schedule.steps,
      tokens: step * train.batch,
      loss: window.loss / window.steps,
      aux_loss: window.auxLoss / window.steps,
      ...(train.l1 + train.l0 > 0 && { penalty: window.penalty / window.steps }),
      ...(threshold !== undefined && { threshold }),
      explained_variance: 1 - sse / variance,
      l0: active,
      dead_fraction: dead.length / silent.length,
      ...(config.encoder.kind === "kron" && {
        dead_prelatents: deadPreLatents(silent, train.deadAfter, config),
      }),
      lr,
      grad_norm: gradNorm,
      tokens_per_second: Math.round(stepsPerSecond * train.batch),
      seconds: Math.round(seconds * 1000) / 1000,
      ms,
    };
  }

  /** AuxK on the features that are dead now, if there are any. */
  async #deadFeatures(): Promise<AuxK | undefined> {
    const { run, train } = this;
    if (train.auxCoefficient === 0 || run.step * train.batch < train.deadAfter) return undefined;
    const { frozen = 0 } = this.#options;
    const dead = deadOf(await run.lastFired.ints(), train.deadAfter).filter((f) => f >= frozen);
    if (dead.length === 0) return undefined;
    const parents = parentRows(dead, this.config);
    return {
      dead: this.#device.tensor(dead, [dead.length], "i32").keep(),
      parents: parents && this.#device.tensor(parents, [parents.length], "i32").keep(),
      k: train.auxK,
      coefficient: train.auxCoefficient,
    };
  }

  /** A parameter that is not finite any more, or too large for its squares to be. */
  async ruinedParameter(): Promise<string | undefined> {
    const { params } = this.run.sae;
    for (const name of PARAM_NAMES) {
      const t = params[name];
      if (!t) continue;
      const squares = this.#device.scope(() => sumSquares(t));
      const total = await squares.item();
      squares.dispose();
      if (!Number.isFinite(total)) return `${name} is not finite (the sum of its squares is ${total})`;
    }
    return undefined;
  }

  /** Learning rate of the last step taken. */
  get lastLr(): number {
    return learningRate(this.schedule, this.run.step - 1);
  }
}

/** Steps between two looks at how many slots jumprelu needs. */
const COUNT_EVERY = 25;

const isJump = ({ activation }: SaeConfig): boolean => activation.kind === "jumprelu";

/** Slots for tokens with up to so many features near or above their thresholds; none where the step is dense. */
function slotsFor(widest: number, features: number): number | undefined {
  const slots = 16 * Math.ceil((1.25 * widest + 8) / 16);
  return slots <= features / 16 ? slots : undefined;
}

/** A step that has to be explained: its numbers are not all finite. */
export class NotFinite extends Error {
  readonly numbers: StepNumbers;
  constructor(numbers: StepNumbers) {
    super("a step's numbers are not finite");
    this.numbers = numbers;
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

function release({ grads, scalars, codes, error }: StepGradients): void {
  mapParams(grads, (t) => t.dispose());
  scalars.dispose();
  disposeCodes(codes);
  error.dispose();
}

/** Adds `tokens` to every counter and clears those of features that fired. */
export function countFirings(lastFired: Tensor, codes: Codes, tokens: number): void {
  if (codes.kind === "sparse") {
    markFired(lastFired, codes.values, codes.indices, tokens);
    return;
  }
  const F = lastFired.size;
  const all = lastFired.device.tensor(
    Int32Array.from({ length: F }, (_, f) => f),
    [1, F],
    "i32",
  );
  markFired(lastFired, reshape(max(codes.values, { axes: [0] }), [1, F]), all, tokens);
}

/** Features that have been silent for so many tokens, ascending. */
function deadOf(silent: Int32Array, deadAfter: number): number[] {
  const dead: number[] = [];
  for (let f = 0; f < silent.length; f++) if (silent[f] >= deadAfter) dead.push(f);
  return dead;
}

/** Of kron features: rows of W_enc of the base and the extension of the first, of the second … */
function parentRows(features: readonly number[], { encoder }: SaeConfig): number[] | undefined {
  if (encoder.kind !== "kron") return undefined;
  const { m, n } = encoder;
  return features.flatMap((f) => {
    const head = Math.floor(f / (m * n)) * (m + n);
    return [head + (Math.floor(f / n) % m), head + m + (f % n)];
  });
}

/** Share of a kron encoder's pre-latents none of whose products has fired for so long. */
function deadPreLatents(silent: Int32Array, deadAfter: number, config: SaeConfig): number {
  const { encoder, features } = config;
  if (encoder.kind !== "kron") return 0;
  const { m, n } = encoder;
  const alive = new Set<number>();
  for (let f = 0; f < features; f++) {
    if (silent[f] >= deadAfter) continue;
    for (const row of parentRows([f], config) ?? []) alive.add(row);
  }
  return 1 - alive.size / ((features / (m * n)) * (m + n));
}
