/**
 * Training a language model: AdamW with decay on matrices only, warm-up, cosine or trapezoid, clipping, gradient
 * accumulation, validation, exact resume. B windows a step · T context · tokens a step = B · T.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import {
  AdamW,
  type AdamWParam,
  checkSchedule,
  clipFactor,
  type Decay,
  globalNorm,
  learningRate,
  type Schedule,
} from "../nn/index.ts";
import { add, mul, sum, type Tensor } from "../tensor/index.ts";
import type { PackedBatch, TrainingWindows, WindowSource } from "../text/index.ts";
import { inputError, interruptedError, numericError, openJsonLines, usageError } from "../util/index.ts";
import { crossEntropies, heldOutLoss } from "./held-out.ts";
import { isRouter } from "./params.ts";
import { type MeterState, restoreTrainState, saveTrainState } from "./train-state.ts";
import type { Transformer } from "./transformer.ts";

export interface LmTrainConfig {
  /** Tokens to see in all; rounded up to whole steps. */
  readonly tokens: number;
  /** Windows a step. */
  readonly batch: number;
  /** Windows a forward pass; gradients of batch / micro passes are summed. */
  readonly micro: number;
  /** Peak learning rate. */
  readonly lr: number;
  /** Steps of linear warm-up. */
  readonly warmup: number;
  readonly decay: Decay;
  /** Decoupled weight decay of matrices; norms and routers have none. */
  readonly weightDecay: number;
  /** Learning rate of the routers of keys and values, as a multiple of the others'; default 10 (LIMe, App. A). */
  readonly routerLr?: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Largest global norm of the gradient. */
  readonly clip: number;
  /** Seed of the parameters and of the order of windows. */
  readonly seed: number;
  /** Steps between records; a validation writes one too. */
  readonly logEverySteps: number;
  readonly validateEverySteps: number;
  readonly checkpointEverySteps: number;
}

export const VALIDATION_WINDOWS = 64;

export const LM_TRAIN_DEFAULTS: Omit<LmTrainConfig, "tokens"> = {
  batch: 32,
  micro: 8,
  lr: 1e-3,
  warmup: 100,
  decay: { kind: "cosine", floor: 0.1 },
  weightDecay: 0.1,
  beta1: 0.9,
  beta2: 0.95,
  eps: 1e-8,
  clip: 1,
  seed: 0,
  logEverySteps: 10,
  validateEverySteps: 200,
  checkpointEverySteps: 100,
};

/** One line of `metrics.jsonl`. */
export interface LmTrainRecord {
  readonly step: number;
  readonly tokens: number;
  /** Mean next-token cross-entropy since the last line, nats. */
  readonly loss: number;
  readonly lr: number;
  /** Norm of the last gradient before clipping. */
  readonly grad_norm: number;
  readonly tokens_per_second: number;
  /** Held-out cross-entropy by name, nats a token; only where validation ran. */
  readonly validation?: Readonly<Record<string, number>>;
}

export interface LmTrainOptions {
  readonly config: LmTrainConfig;
  readonly packer: TrainingWindows;
  /** Held-out windows by name. */
  readonly validation?: Readonly<Record<string, WindowSource>>;
  /** Most windows that each validation text gives; default `VALIDATION_WINDOWS`. */
  readonly validationWindows?: number;
  /** Run folder: `state.safetensors`, `metrics.jsonl`. */
  readonly dir: string;
  /** What else the run depends on (text, tokenizer, sizes). Kept in the checkpoint; a continuation must give the same. */
  readonly identity?: Readonly<Record<string, unknown>>;
  readonly signal?: AbortSignal;
  readonly onRecord?: (record: LmTrainRecord) => void;
  /** After every step. */
  readonly onStep?: (progress: LmTrainProgress) => void;
}

export interface LmTrainProgress {
  /** Steps taken since the run began, and in all. */
  readonly step: number;
  readonly steps: number;
  readonly tokens: number;
  /** Of this step, nats. */
  readonly loss: number;
  readonly lr: number;
}

/** Steps of a run. */
export function lmSteps({ tokens, batch }: Pick<LmTrainConfig, "tokens" | "batch">, context: number): number {
  return Math.ceil(tokens / (batch * context));
}

/**
 * Trains `model` in place until `config.tokens` are seen, continuing from the folder's checkpoint if it holds one.
 * On abort it writes a checkpoint and throws `interrupted`. A loss that is not finite stops the run: the last good
 * checkpoint stays.
 */
export async function trainLm(model: Transformer, options: LmTrainOptions): Promise<LmTrainRecord[]> {
  const { config, packer } = options;
  checkConfig(config);
  const steps = lmSteps(config, packer.context);
  const schedule = checkSchedule({
    peak: config.lr,
    steps,
    warmup: Math.min(config.warmup, steps),
    decay: config.decay,
  });
  const optimizer = new AdamW(model.device, paramGroups(model, config), config);
  try {
    return await runSteps(model, optimizer, schedule, options);
  } finally {
    optimizer.dispose();
  }
}

/** Matrices are decayed; gains, biases and routers are not, and routers learn faster. */
export function paramGroups(
  model: Transformer,
  { weightDecay, routerLr = 10 }: Pick<LmTrainConfig, "weightDecay" | "routerLr">,
): AdamWParam[] {
  return model.learned.map(({ tensor, ...slot }) => ({
    name: slot.name,
    tensor,
    weightDecay: slot.matrix ? weightDecay : 0,
    lrScale: isRouter(slot) ? routerLr : 1,
  }));
}

async function runSteps(
  model: Transformer,
  optimizer: AdamW,
  schedule: Schedule,
  options: LmTrainOptions,
): Promise<LmTrainRecord[]> {
  const { config, packer, dir, signal } = options;
  const { steps } = schedule;
  await mkdir(dir, { recursive: true });
  const statePath = join(dir, "state.safetensors");
  const windows = packer.lazy ? undefined : packer.windows; // how many there will be is not known
  const identity = { ...options.identity, context: packer.context, windows };
  const resumed = await restoreTrainState(statePath, optimizer, {
    config,
    identity,
    named: options.identity !== undefined,
  });
  if (resumed) packer.restore(resumed.packer);
  const meter = startMeter(resumed?.meter);
  const save = (step: number, pending?: LmTrainRecord) => {
    const shared = {
      version: 1,
      step,
      packer: packer.state,
      meter: meter.state(),
      config,
      identity,
    } as const;
    return saveTrainState(statePath, optimizer, { ...shared, ...(pending && { pending }) });
  };
  const log = openJsonLines(join(dir, "metrics.jsonl"), {
    keep: (r: LmTrainRecord) => r.step <= (resumed?.step ?? 0),
  });
  const records: LmTrainRecord[] = [];
  const stopAt = async (step: number, pending?: LmTrainRecord): Promise<never> => {
    await save(step, pending);
    throw interruptedError(`interrupted at step ${step} of ${steps}; run the same command again to continue`);
  };
  const due = (step: number, every: number) => step % every === 0 || step === steps;
  const validates = (step: number) =>
    options.validation !== undefined && due(step, config.validateEverySteps);
  const report = async (measured: LmTrainRecord): Promise<void> => {
    const { step } = measured;
    let record = measured;
    try {
      if (validates(step)) record = { ...measured, validation: await validateAll(model, options) };
    } catch (error) {
      if (signal?.aborted) await stopAt(step, measured);
      throw error;
    }
    meter.reset();
    log.append(record);
    records.push(record);
    options.onRecord?.(record);
  };
  try {
    const first = resumed?.step ?? 0;
    if (resumed?.pending) {
      await report(resumed.pending);
      await save(first);
    }
    for (let step = first; step < steps; step++) {
      if (signal?.aborted) await stopAt(step);
      try {
        await packer.reach(packer.state.index + config.batch);
      } catch (error) {
        await save(step); // the text is somewhere that cannot be reached, or Ctrl-C came while it was
        throw error;
      }
      const lr = learningRate(schedule, step);
      const { loss, norm } = await trainStep(model, optimizer, packer, config, lr);
      meter.add(loss, config.batch * packer.context);
      const done = step + 1;
      const tokens = done * config.batch * packer.context;
      options.onStep?.({ step: done, steps, tokens, loss, lr });
      if (validates(done) || due(done, config.logEverySteps)) {
        await report({ step: done, tokens, lr, grad_norm: norm, ...meter.read() });
      }
      if (due(done, config.checkpointEverySteps)) await save(done);
    }
    return records;
  } finally {
    log.close();
  }
}

const COUNTS = ["batch", "micro", "logEverySteps", "validateEverySteps", "checkpointEverySteps"] as const;

function checkConfig(config: LmTrainConfig): void {
  const { batch, micro, tokens } = config;
  if (!(tokens > 0)) throw usageError(`training: tokens=${tokens}, expected a positive number`);
  for (const key of COUNTS) {
    if (!(Number.isInteger(config[key]) && config[key] > 0))
      throw usageError(`training: ${key}=${config[key]}, expected a positive whole number`);
  }
  if (batch % micro !== 0) throw usageError(`training: batch=${batch} must be a multiple of micro=${micro}`);
}

/** One optimiser step: gradients of all micro-batches, summed, clipped, applied. */
async function trainStep(
  model: Transformer,
  optimizer: AdamW,
  packer: TrainingWindows,
  config: LmTrainConfig,
  lr: number,
): Promise<{ loss: number; norm: number }> {
  const batches = Array.from({ length: config.batch / config.micro }, () => packer.next(config.micro));
  const counted = batches.reduce((n, b) => n + b.targets.reduce((m, t) => m + Number(t >= 0), 0), 0);
  if (counted === 0) {
    throw inputError(
      `training: step ${optimizer.steps + 1} has nothing to predict: ${config.batch} windows of ${packer.context} tokens without a target; its documents are too short for segments, use longer ones or train without`,
    );
  }
  let total: { loss: Tensor; grads: Tensor[] } | undefined;
  try {
    for (const batch of batches) {
      total = accumulate(model, total, microGradients(model, batch, counted, packer.context));
      await new Promise(setImmediate); // the event loop gets its turn
    }
    if (!total) throw new Error("trainStep: no batches");
    const { loss, grads } = total;
    const norm = await globalNorm(grads);
    const value = await loss.item();
    if (!Number.isFinite(value) || !Number.isFinite(norm)) {
      throw numericError(
        `training: loss ${value} and gradient norm ${norm} at step ${optimizer.steps + 1}; the last checkpoint is from before it. Lower the learning rate (now ${lr})`,
      );
    }
    optimizer.step(grads, { lr, gradScale: clipFactor(norm, config.clip) });
    return { loss: value, norm };
  } finally {
    for (const t of total ? [total.loss, ...total.grads] : []) t.dispose();
  }
}

/** Sum over the micro-batch of the cross-entropy / counted, and its gradients; all kept. */
function microGradients(
  model: Transformer,
  batch: PackedBatch,
  counted: number,
  context: number,
): { loss: Tensor; grads: Tensor[] } {
  const { value, grads } = model.device.valueAndGrad(
    () => mul(sum(crossEntropies(model, batch, context)), 1 / counted),
    model.parameters(),
  );
  const missing = grads.findIndex((g) => !g);
  if (missing >= 0) throw new Error(`training: ${model.learned[missing].name} has no gradient`);
  return { loss: value, grads: grads as Tensor[] };
}

function accumulate(
  model: Transformer,
  total: { loss: Tensor; grads: Tensor[] } | undefined,
  part: { loss: Tensor; grads: Tensor[] },
): { loss: Tensor; grads: Tensor[] } {
  if (!total) return part;
  const join = (a: Tensor, b: Tensor) => {
    const c = model.device.untracked(() => add(a, b));
    a.dispose();
    b.dispose();
    return c;
  };
  return { loss: join(total.loss, part.loss), grads: total.grads.map((g, i) => join(g, part.grads[i])) };
}

async function validateAll(model: Transformer, options: LmTrainOptions): Promise<Record<string, number>> {
  const { validation = {}, validationWindows: windows = VALIDATION_WINDOWS, config, signal } = options;
  const out: Record<string, number> = {};
  for (const [name, packer] of Object.entries(validation)) {
    out[name] = (await heldOutLoss(model, packer, { windows, micro: config.micro, signal })).loss;
  }
  return out;
}

/** Loss and rate since the last record. Its state is part of a checkpoint, so that a resumed run writes the same records. */
function startMeter({ loss, steps }: MeterState = { loss: 0, steps: 0 }) {
  let began = performance.now();
  let tokens = 0;
  return {
    add(value: number, seen: number) {
      loss += value;
      steps++;
      tokens += seen;
    },
    read: () => ({ loss: loss / steps, tokens_per_second: (tokens / (performance.now() - began)) * 1000 }),
    reset() {
      began = performance.now();
      loss = 0;
      steps = 0;
      tokens = 0;
    },
    state: (): MeterState => ({ loss, steps }),
  };
}
