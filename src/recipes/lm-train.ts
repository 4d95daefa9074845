/**
 * Training a language model from text, into a run folder that is at the end a model in Hugging Face's layout:
 * `model.safetensors`, `config.json`, tokenizer; and `run.json`, `metrics.jsonl`, `state.safetensors` (the checkpoint).
 */
import { cpus } from "node:os";
import { join } from "node:path";
import {
  checkSpec,
  createTransformer,
  type FreshOptions,
  forwardFlops,
  type KvRoutingSpec,
  LM_TRAIN_DEFAULTS,
  type LmTrainConfig,
  type LmTrainProgress,
  type LmTrainRecord,
  lmSteps,
  type ModelSpec,
  parameterCount,
  type ResidualSpec,
  readTrainedParameters,
  refreshTopP,
  saveTransformer,
  type Transformer,
  trainingFlops,
  trainLm,
  VALIDATION_WINDOWS,
} from "../models/index.ts";
import type { Device } from "../tensor/index.ts";
import { type Tokenizer, TokenPacker, type TokenSource } from "../text/index.ts";
import { Rng, readJsonLines, usageError, writeJson } from "../util/index.ts";
import { type LmData, type LmDataOptions, openLmData, openTokenizer } from "./lm-data.ts";

export interface LmSizes {
  readonly d: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of the MLP's hidden layer. */
  readonly ffn: number;
  /** Tokens of a window, and of the model's context. */
  readonly context: number;
  /** The unembedding is the embedding. */
  readonly tied: boolean;
  readonly ropeTheta: number;
  /** Keys and values mixed over the layers. */
  readonly kvRouting?: KvRoutingSpec;
  /** What blocks add joins what came before otherwise than by a sum. */
  readonly residual?: ResidualSpec;
}

export interface LmRunOptions {
  readonly data: Omit<LmDataOptions, "out" | "context" | "reads" | "signal">;
  readonly sizes: LmSizes;
  /** What is left out has its default; `tokens`: one pass over the text; `micro`: the largest divisor of `batch` up to 8. */
  readonly train: Partial<LmTrainConfig>;
  /** What parameters begin as, where that is not the default. */
  readonly start?: Pick<FreshOptions, "routerIdentity">;
  /** Attention stays inside a document. */
  readonly segments: boolean;
  /** How the finished model is stored. */
  readonly dtype: "f32" | "f16" | "bf16";
  readonly out: string;
  readonly validationWindows?: number;
  readonly signal?: AbortSignal;
  readonly onRecord?: (record: LmTrainRecord) => void;
  readonly onStep?: (progress: LmTrainProgress) => void;
}

/** `run.json`. */
export interface LmRun {
  readonly schema: 1;
  readonly sizes: LmSizes;
  readonly parameters: { readonly total: number; readonly blocks: number };
  /** For each token, as `forwardFlops` counts by default: a forward pass over a window, and training. */
  readonly flops: { readonly forward: number; readonly training: number };
  readonly train: LmTrainConfig;
  /** What parameters began as, where that is not the default. */
  readonly start?: LmRunOptions["start"];
  readonly segments: boolean;
  readonly dtype: string;
  readonly text: { readonly train: string; readonly tokens: number; readonly documents: number };
  readonly tokenizer: { readonly vocab: number; readonly hash: string };
  readonly steps: number;
  /** Tokens seen, of how many wanted. */
  readonly tokens: number;
  /** Seconds spent on steps and validation, over all starts. */
  readonly seconds: number;
  readonly machine: string;
  readonly final?: LmTrainRecord;
}

/** Trains, or continues, and writes the model; a folder whose run is done is only written anew. */
export async function trainLmRun(device: Device, options: LmRunOptions): Promise<LmRun> {
  const { sizes, out, segments, signal } = options;
  const { tokens } = options.train;
  const validation = (options.validationWindows ?? VALIDATION_WINDOWS) * sizes.context;
  const data = await openLmData({
    ...options.data,
    out,
    context: sizes.context,
    reads: { train: tokens, heldOut: validation },
    signal,
  });
  const spec = specOf(sizes, data.tokenizer);
  const model = createTransformer(device, spec, { rng: parameterRng(options.train), ...options.start });
  try {
    const packer = packerOf(data.train, data.tokenizer, options, true);
    await packer.reach(tokens === undefined ? Number.POSITIVE_INFINITY : 1);
    const config = trainConfig(options.train, packer);
    const validated = Object.fromEntries(
      Object.entries(data.heldOut).map(([name, file]) => [
        name,
        packerOf(file, data.tokenizer, options, false),
      ]),
    );
    await trainLm(model, {
      config,
      packer,
      validation: validated,
      validationWindows: options.validationWindows,
      dir: out,
      identity: {
        tokenizer: data.tokenizer.hash,
        text: data.train.lazy?.identity ?? data.train.tokens,
        model: spec,
        segments,
        ...options.start,
      },
      signal,
      onRecord: options.onRecord,
      onStep: options.onStep,
    });
    return await writeRun(model, data, config, lmSteps(config, sizes.context), options);
  } finally {
    model.dispose();
    data.close();
  }
}

/** Writes the model as the run's last checkpoint has it, without training further. Needs no text. */
export async function exportLmRun(
  device: Device,
  options: LmRunOptions,
): Promise<{ readonly step: number; readonly parameters: LmRun["parameters"] }> {
  const { sizes, out, dtype } = options;
  const tokenizer = await openTokenizer({ ...options.data, out, context: sizes.context });
  const spec = specOf(sizes, tokenizer);
  const model = createTransformer(device, spec, { rng: parameterRng(options.train) });
  try {
    const { step } = await readTrainedParameters(join(out, "state.safetensors"), model);
    await saveModel(model, tokenizer, out, dtype);
    return { step, parameters: parameterCount(spec) };
  } finally {
    model.dispose();
  }
}

const parameterRng = ({ seed = LM_TRAIN_DEFAULTS.seed }: Partial<LmTrainConfig>): Rng =>
  new Rng(seed).fork("parameters");

/** A Llama of these sizes over the tokenizer's vocabulary. */
export const specOf = (sizes: LmSizes, { vocabSize, bosId, eosId }: Tokenizer): ModelSpec =>
  llamaOf(sizes, { vocabSize, bosToken: bosId, eosTokens: eosId === undefined ? [] : [eosId] });

/** A Llama of these sizes, with keys and values routed where that is asked for. */
export function llamaOf(
  sizes: LmSizes,
  vocabulary: Pick<ModelSpec, "vocabSize" | "bosToken" | "eosTokens">,
): ModelSpec {
  const { d, layers, heads, kvHeads, ffn, context, tied, ropeTheta, kvRouting, residual } = sizes;
  if (d % heads !== 0) throw usageError(`model: width d=${d} is no multiple of heads=${heads}`);
  const headDim = d / heads;
  return checkSpec({
    ...vocabulary,
    dModel: d,
    nLayers: layers,
    nHeads: heads,
    nKvHeads: kvHeads,
    headDim,
    dMlp: ffn,
    contextLength: context,
    norm: { kind: "rms", eps: 1e-5, offset: 0 },
    positions: { kind: "rope", theta: ropeTheta, fraction: 1 },
    mlp: { kind: "gated", activation: "silu" },
    attnScale: headDim ** -0.5,
    attnSoftcap: 0,
    windowPattern: new Array<number>(layers).fill(0),
    qkvBias: false,
    tiedHead: tied,
    ...(kvRouting && { kvRouting }),
    ...(residual && { residual }),
  });
}

function packerOf(
  tokens: TokenSource,
  { bosId, eosId }: Tokenizer,
  { sizes, segments, train }: LmRunOptions,
  shuffle: boolean,
): TokenPacker {
  const seed = train.seed ?? LM_TRAIN_DEFAULTS.seed;
  return new TokenPacker(tokens, {
    context: sizes.context,
    bos: bosId ?? null,
    eos: eosId ?? null,
    seed,
    segments,
    shuffle,
  });
}

/** Fills in what was left out. */
export function trainConfig(given: Partial<LmTrainConfig>, packer: TokenPacker): LmTrainConfig {
  const { tokens = packer.windows * packer.context, batch = LM_TRAIN_DEFAULTS.batch } = given;
  const micro = given.micro ?? [8, 7, 6, 5, 4, 3, 2, 1].find((m) => batch % m === 0) ?? 1;
  return { ...LM_TRAIN_DEFAULTS, ...given, tokens, batch, micro };
}

/** Writes the model; routers with a top p keep theirs from here on. */
async function saveModel(
  model: Transformer,
  { padId }: Tokenizer,
  out: string,
  dtype: LmRunOptions["dtype"],
): Promise<void> {
  if (model.spec.kvRouting?.topP !== undefined) await refreshTopP(model);
  const pad = padId === undefined ? {} : { pad_token_id: padId };
  await saveTransformer(model, out, { dtype, extra: pad, generation: pad });
}

async function writeRun(
  model: Transformer,
  data: LmData,
  config: LmTrainConfig,
  steps: number,
  { out, sizes, start, segments, dtype }: LmRunOptions,
): Promise<LmRun> {
  await saveModel(model, data.tokenizer, out, dtype);
  const records = readJsonLines(join(out, "metrics.jsonl")) as LmTrainRecord[];
  const { source, tokens, documents } = data.train.header;
  const run: LmRun = {
    schema: 1,
    sizes,
    parameters: parameterCount(model.spec),
    flops: { forward: forwardFlops(model.spec).total, training: trainingFlops(model.spec) },
    train: config,
    ...(start && Object.keys(start).length > 0 && { start }),
    segments,
    dtype,
    text: { train: source, tokens, documents },
    tokenizer: { vocab: data.tokenizer.vocabSize, hash: data.tokenizer.hash },
    steps,
    tokens: steps * config.batch * sizes.context,
    seconds: trainingSeconds(records),
    machine: `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${model.device.backend.threads} threads`,
    final: records.at(-1),
  };
  await writeJson(join(out, "run.json"), run);
  return run;
}

/** Time of the steps, from the tokens between records and the rate of each. */
export function trainingSeconds(
  records: readonly Pick<LmTrainRecord, "tokens" | "tokens_per_second">[],
): number {
  return records.reduce(
    (sum, r, i) => sum + (r.tokens - (records[i - 1]?.tokens ?? 0)) / r.tokens_per_second,
    0,
  );
}
