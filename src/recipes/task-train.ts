/**
 * A small transformer trained on a synthetic task and examined by what it writes. The run folder holds the checkpoint
 * (`state.safetensors`), `metrics.jsonl`, the model, and `run.json` with the grades.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import {
  createTransformer,
  type FreshOptions,
  generate,
  LM_TRAIN_DEFAULTS,
  type LmTrainConfig,
  type LmTrainProgress,
  type LmTrainRecord,
  lmSteps,
  parameterCount,
  refreshTopP,
  saveTransformer,
  type Transformer,
  trainLm,
} from "../models/index.ts";
import {
  type ArithmeticOptions,
  arithmeticVocabulary,
  evaluateByGeneration,
  type Grader,
  type GradeSummary,
  gradeArithmetic,
  gradeProsqa,
  makeArithmeticSplits,
  makeProsqaSplits,
  prosqaVocabulary,
  type Splits,
  type TaskSample,
  type TaskVocabulary,
} from "../tasks/index.ts";
import type { Device } from "../tensor/index.ts";
import { type PackedSample, SamplePacker } from "../text/index.ts";
import { Rng, readJson, readJsonLines, usageError, writeJson } from "../util/index.ts";
import { type LmSizes, llamaOf } from "./lm-train.ts";

export type TaskChoice =
  | ({ readonly kind: "arithmetic"; readonly numbers: "whole" | "digits" } & ArithmeticOptions)
  | { readonly kind: "prosqa" };

export interface TaskRunOptions {
  readonly task: TaskChoice;
  /** Samples to learn from and to be examined on; defaults of the task. The loss by epoch is of the latter too. */
  readonly samples: { readonly train?: number; readonly test?: number };
  /** Of the samples: runs with the same one learn from, and are examined on, the same. */
  readonly dataSeed: number;
  /** Without a context windows hold the longest sample. */
  readonly sizes: Omit<LmSizes, "context"> & { readonly context?: number };
  readonly start: Pick<FreshOptions, "kvStart" | "routerIdentity">;
  readonly epochs: number;
  readonly train: Partial<Omit<LmTrainConfig, "tokens">>;
  /** What is learnt: the answer with its steps, or the question too. The papers do not say; default in commands: `all`. */
  readonly loss: "completion" | "all";
  readonly out: string;
  readonly signal?: AbortSignal;
  readonly onRecord?: (record: LmTrainRecord) => void;
  readonly onStep?: (progress: LmTrainProgress) => void;
  /** Samples that were graded, of how many. */
  readonly onGraded?: (done: number, total: number) => void;
}

/** `run.json`. */
export interface TaskRun {
  readonly schema: 1;
  readonly settings: Readonly<Record<string, unknown>>;
  readonly parameters: { readonly total: number; readonly blocks: number };
  readonly steps: number;
  /** Positions of windows seen, padding too. */
  readonly tokens: number;
  /** Cross-entropy on the test set, nats a target. */
  readonly loss: number;
  readonly grades: GradeSummary;
}

interface Task {
  readonly vocabulary: TaskVocabulary;
  readonly splits: Splits<TaskSample>;
  readonly grade: Grader<TaskSample>;
}

function openTask({ task, samples, dataSeed: seed }: TaskRunOptions): Task {
  if (task.kind === "prosqa") {
    const splits = makeProsqaSplits({ ...samples, seed });
    return { vocabulary: prosqaVocabulary(), splits, grade: gradeProsqa as Grader<TaskSample> };
  }
  const { kind: _, ...options } = task;
  return {
    vocabulary: arithmeticVocabulary(options),
    splits: makeArithmeticSplits({ ...options, ...samples, seed }),
    grade: gradeArithmetic as Grader<TaskSample>,
  };
}

/** Trains, or continues, examines and writes; a folder whose run is done is returned as it stands. */
export async function trainTaskRun(device: Device, options: TaskRunOptions): Promise<TaskRun> {
  const { out, sizes, epochs, loss, task, dataSeed, start, signal } = options;
  const { vocabulary, splits, grade } = openTask(options);
  const encode = (sample: TaskSample): PackedSample => {
    const { ids, promptLength } = vocabulary.encodeSample(sample);
    return { ids, given: loss === "all" ? 1 : promptLength };
  };
  const [train, test] = [splits.train.map(encode), splits.test.map(encode)];
  const longest = [...train, ...test].reduce((n, { ids }) => Math.max(n, ids.length - 1), 0);
  const { context = longest } = sizes;
  const seed = options.train.seed ?? LM_TRAIN_DEFAULTS.seed;
  const packing = { context, pad: vocabulary.pad };
  const packer = new SamplePacker(train, { ...packing, seed });
  const config = configOf(options, packer);
  const settings = {
    task,
    samples: { train: splits.train.length, test: splits.test.length },
    dataSeed,
    sizes: { ...sizes, context },
    start,
    epochs,
    loss,
    train: config,
  };
  const done = finished(out, settings);
  if (done) return done;
  // A window leaves out the last token of a sample, which is a target only; a model that writes it has it in its context.
  const spec = llamaOf(
    { ...sizes, context: context + 1 },
    { vocabSize: vocabulary.size, bosToken: vocabulary.bos, eosTokens: [vocabulary.eos] },
  );
  const model = createTransformer(device, spec, { rng: new Rng(seed).fork("parameters"), ...start });
  try {
    await trainLm(model, {
      config,
      packer,
      validation: { test: new SamplePacker(test, packing) },
      validationWindows: Number.POSITIVE_INFINITY,
      dir: out,
      identity: { ...settings, train: undefined },
      signal,
      onRecord: options.onRecord,
      onStep: options.onStep,
    });
    if (spec.kvRouting?.topP !== undefined) await refreshTopP(model);
    const { summary } = await evaluateByGeneration(splits.test, {
      vocabulary,
      grade,
      generate: (prompts) => answers(model, prompts, longest, signal),
      signal,
      onProgress: (n) => options.onGraded?.(n, splits.test.length),
    });
    await saveTransformer(model, out);
    await writeJson(join(out, "vocabulary.json"), vocabulary.words);
    const steps = lmSteps(config, context);
    const run: TaskRun = {
      schema: 1,
      settings,
      parameters: parameterCount(spec),
      steps,
      tokens: steps * config.batch * context,
      loss: lastLoss(out),
      grades: summary,
    };
    await writeJson(join(out, "run.json"), run);
    return run;
  } finally {
    model.dispose();
  }
}

/** Fills in what was left out: linear decay without warm-up and rate 1e-3 (LIMe, App. B); batch and micro are our choice. */
function configOf({ epochs, train }: TaskRunOptions, packer: SamplePacker): LmTrainConfig {
  if (!(epochs > 0)) throw usageError(`task train: epochs=${epochs}, expected a positive number`);
  const batch = train.batch ?? 64;
  const perEpoch = Math.max(1, Math.round(packer.windows / batch));
  return {
    ...LM_TRAIN_DEFAULTS,
    warmup: 0,
    decay: { kind: "linear", share: 1 },
    micro: batch,
    logEverySteps: perEpoch,
    validateEverySteps: perEpoch,
    checkpointEverySteps: perEpoch,
    ...train,
    batch,
    tokens: Math.max(1, Math.round((epochs * packer.windows) / batch)) * batch * packer.context,
  };
}

/** The run that a folder holds, if it is done; another one's folder is refused. */
function finished(out: string, settings: Readonly<Record<string, unknown>>): TaskRun | undefined {
  const file = join(out, "run.json");
  if (!existsSync(file)) return undefined;
  const run = readJson(file) as TaskRun;
  if (isDeepStrictEqual(run.settings, JSON.parse(JSON.stringify(settings)))) return run;
  throw usageError(`${out}: holds a finished run with other settings; choose another folder, or delete it`);
}

/** What a model writes after each prompt, greedily, until it ends or has written as much as the longest sample has. */
async function answers(
  model: Transformer,
  prompts: readonly number[][],
  longest: number,
  signal?: AbortSignal,
): Promise<Int32Array[]> {
  const rows = await generate(model, prompts, { maxNewTokens: longest, temperature: 0, signal });
  return rows.map(({ tokens }) => tokens);
}

/** Of the last validation. */
function lastLoss(out: string): number {
  const records = readJsonLines(join(out, "metrics.jsonl")) as LmTrainRecord[];
  return records.findLast((r) => r.validation)?.validation?.test ?? Number.NaN;
}
