/**
 * `sluice lm train`: a language model from text, resumable, written in Hugging Face's layout.
 */
import { z } from "zod";
import { LM_TRAIN_DEFAULTS as DEFAULTS, type LmTrainConfig, type LmTrainRecord } from "../../models/index.ts";
import {
  exportLmRun,
  type LmRun,
  type LmRunOptions,
  type LmTextSource,
  trainLmRun,
} from "../../recipes/lm.ts";
import type { MixConfig } from "../../text/index.ts";
import { formatCount, formatDuration, type Progress, readJson, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import {
  columnsOf,
  count,
  deviceFields,
  hubOptions,
  refuseRouterFlags,
  residualFields,
  residualOf,
  routerStartField,
  routingFields,
  routingOf,
  TEXTS,
  withDevice,
} from "./shared.ts";

const text = { group: "Text" };
const model = { group: "Model" };
const optimizer = { group: "Optimiser" };
const share = () => z.number().min(0).max(1);

const schema = z.object({
  text: z.array(z.string()).optional().describe(TEXTS).meta(text),
  field: z.string().optional().describe("JSON lines: the field that holds the text [text]").meta(text),
  mix: z
    .string()
    .optional()
    .describe("JSON file with a weighted mix of corpora, as runs/brook-mix.json")
    .meta(text),
  tokensFile: z.string().optional().describe("token file made earlier; needs --tokenizer").meta(text),
  heldOut: z
    .array(z.string())
    .default([])
    .describe("with --tokens-file: token files, or folders of them, to validate on")
    .meta(text),
  tokenizer: z
    .string()
    .optional()
    .describe("folder with tokenizer.json, or org/name[@revision] on the hub [one is trained on the text]")
    .meta(text),
  vocab: z
    .number()
    .int()
    .min(260)
    .default(4096)
    .describe("ids of a tokenizer trained on --text, special tokens included")
    .meta(text),
  d: count().default(256).describe("model width").meta(model),
  layers: count().default(6).describe("blocks").meta(model),
  heads: count().default(8).describe("query heads").meta(model),
  kvHeads: count().default(4).describe("key-value heads").meta(model),
  ffn: count().default(688).describe("width of the MLP's hidden layer").meta(model),
  context: z.number().int().min(2).default(256).describe("tokens of a window").meta(model),
  tied: z.boolean().default(true).describe("use the embedding as the unembedding too").meta(model),
  ropeTheta: z.number().positive().default(10_000).describe("base of the rotary frequencies").meta(model),
  ...routingFields(model),
  ...residualFields(model),
  ...routerStartField(model),
  tokens: count()
    .optional()
    .describe(
      "tokens to see; of a text of the hub no more is downloaded than they need [one pass over the text]",
    )
    .meta(optimizer),
  batch: count().default(DEFAULTS.batch).describe("windows per step").meta(optimizer),
  micro: count()
    .optional()
    .describe("windows per forward pass; less needs less memory [the largest divisor of batch up to 8]")
    .meta(optimizer),
  lr: z.number().positive().default(DEFAULTS.lr).describe("peak learning rate").meta(optimizer),
  warmup: z.number().int().min(0).default(DEFAULTS.warmup).describe("steps of warm-up").meta(optimizer),
  schedule: z
    .enum(["cosine", "linear", "constant"])
    .default("cosine")
    .describe("after the warm-up: half a cosine; level, then a straight line down; level")
    .meta(optimizer),
  decayShare: share()
    .default(0.2)
    .describe("with linear: share of the run that falls, at its end")
    .meta(optimizer),
  floor: share().default(0.1).describe("last learning rate as a share of the peak").meta(optimizer),
  weightDecay: z
    .number()
    .min(0)
    .default(DEFAULTS.weightDecay)
    .describe("decoupled decay of matrices; gains have none")
    .meta(optimizer),
  routerLr: z
    .number()
    .positive()
    .optional()
    .describe("with --kv-routing: learning rate of routers, as a multiple of --lr [10]")
    .meta(optimizer),
  beta1: share().default(DEFAULTS.beta1).describe("decay of Adam's first moment").meta(optimizer),
  beta2: share().default(DEFAULTS.beta2).describe("decay of Adam's second moment").meta(optimizer),
  clip: z
    .number()
    .positive()
    .default(DEFAULTS.clip)
    .describe("largest global norm of the gradient")
    .meta(optimizer),
  segments: z.boolean().default(false).describe("attention stays inside a document").meta(optimizer),
  seed: z
    .number()
    .int()
    .min(0)
    .default(DEFAULTS.seed)
    .describe("seed of the parameters and of the order of windows")
    .meta(optimizer),
  out: z.string().describe("run folder; in the end a model in Hugging Face's layout"),
  dtype: z.enum(["f32", "f16", "bf16"]).default("f16").describe("how the finished model is stored"),
  exportOnly: z
    .boolean()
    .default(false)
    .describe("write the model as the last checkpoint has it, without training further"),
  logEvery: count().default(DEFAULTS.logEverySteps).describe("steps between lines of metrics.jsonl"),
  validateEvery: count()
    .default(DEFAULTS.validateEverySteps)
    .describe("steps between validations, a multiple of --log-every"),
  validationWindows: count().default(64).describe("most windows of each held-out text in a validation"),
  checkpointEvery: count().default(DEFAULTS.checkpointEverySteps).describe("steps between checkpoints"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const lmTrain = defineCommand({
  name: "lm train",
  summary: "train a language model from text",
  description:
    "Trains a Llama-style model: AdamW, warm-up, gradient clipping, validation on held-out documents, checkpoints. " +
    "The run folder holds the checkpoint (state.safetensors), metrics.jsonl, run.json and, at the end, the model with " +
    "its tokenizer; Python's transformers loads a plain one. Ctrl-C writes a checkpoint; the same command continues it, " +
    "to the same bits as if it had never stopped.",
  schema,
  examples: [
    "sluice lm train --text sotu,moby-dick --d 128 --layers 4 --heads 4 --kv-heads 2 --ffn 344 --tokens 2M --out out/small",
    "sluice lm train --config runs/brook.json --out out/brook  # the bundled model",
    "sluice lm train --config runs/brook.json --out out/brook --export-only",
  ],
  run: (options, context) => withDevice(options, (device) => runTraining(device, options, context)),
});

async function runTraining(
  device: Parameters<typeof trainLmRun>[0],
  options: Options,
  context: CommandContext,
): Promise<{ json: Record<string, unknown>; text: string }> {
  refuseRouterFlags(options, context, ["routerLr", "routerIdentity"]);
  const run = runOptions(options, context);
  if (options.exportOnly) {
    const { step, parameters } = await exportLmRun(device, run);
    const text = `${options.out}: the model after step ${step}, ${formatCount(parameters.total)} parameters. ${next(options)}`;
    return { json: { out: options.out, step, parameters }, text };
  }
  const result = await trainLmRun(device, run);
  return { json: { out: options.out, ...result }, text: story(result, options) };
}

function runOptions(options: Options, context: CommandContext): LmRunOptions {
  const line = trainingLine(context);
  const { d, layers, heads, kvHeads, ffn, tied, ropeTheta } = options;
  let preparing: { label: string; progress: Progress } | undefined;
  return {
    data: {
      source: sourceOf(options),
      tokenizer: options.tokenizer,
      vocab: options.vocab,
      hub: hubOptions(context),
      log: context.log,
      onProgress(label, done, unit) {
        if (preparing?.label !== label) {
          preparing?.progress.finish();
          preparing = { label, progress: context.progress({ label, unit, start: done }) };
        }
        preparing.progress.update(done);
      },
    },
    sizes: {
      d,
      layers,
      heads,
      kvHeads,
      ffn,
      context: options.context,
      tied,
      ropeTheta,
      kvRouting: routingOf(options),
      residual: residualOf(options),
    },
    train: trainOptions(options),
    start: options.routerIdentity ? {} : { routerIdentity: false },
    segments: options.segments,
    dtype: options.dtype,
    out: options.out,
    validationWindows: options.validationWindows,
    signal: context.signal,
    onRecord: line.record,
    onStep: line.step,
  };
}

function sourceOf({ text, field, mix, tokensFile, heldOut }: Options): LmTextSource {
  const given = [text, mix, tokensFile].filter((x) => x !== undefined).length;
  if (given !== 1) throw usageError("lm train: name the text by one of --text, --mix and --tokens-file");
  if (mix !== undefined) return { kind: "mix", config: readJson(mix) as MixConfig };
  if (tokensFile !== undefined) return { kind: "tokens", train: tokensFile, heldOut };
  return { kind: "text", text: text ?? [], field };
}

/** What the flags say about the optimiser; fields without a value keep their default. */
function trainOptions(options: Options): Partial<LmTrainConfig> {
  const { batch, lr, warmup, weightDecay, beta1, beta2, clip, seed } = options;
  return {
    batch,
    lr,
    warmup,
    weightDecay,
    beta1,
    beta2,
    clip,
    seed,
    decay: decayOf(options),
    logEverySteps: options.logEvery,
    validateEverySteps: options.validateEvery,
    checkpointEverySteps: options.checkpointEvery,
    ...(options.tokens === undefined ? {} : { tokens: options.tokens }),
    ...(options.micro === undefined ? {} : { micro: options.micro }),
    ...(options.routerLr === undefined ? {} : { routerLr: options.routerLr }),
  };
}

function decayOf({ schedule, decayShare, floor }: Options): LmTrainConfig["decay"] {
  switch (schedule) {
    case "cosine":
      return { kind: "cosine", floor };
    case "linear":
      return { kind: "linear", share: decayShare, floor };
    case "constant":
      return { kind: "constant" };
    default:
      return schedule satisfies never;
  }
}

/** The progress line: tokens, rate and time left, the loss of late, the last validation. */
function trainingLine(context: CommandContext) {
  let progress: Progress | undefined;
  let recent = Number.NaN;
  let validation = "";
  return {
    step({ step, steps, tokens, loss, lr }: Parameters<NonNullable<LmRunOptions["onStep"]>>[0]) {
      const each = tokens / step;
      progress ??= context.progress({
        label: "training",
        unit: "tokens",
        total: each * steps,
        start: tokens,
      });
      recent = Number.isNaN(recent) ? loss : 0.95 * recent + 0.05 * loss;
      const details = { loss: recent.toFixed(3), lr: lr.toExponential(1) };
      progress.update(tokens, validation ? { ...details, validation } : details);
      if (step === steps) progress.finish();
    },
    record(record: LmTrainRecord) {
      const losses = Object.values(record.validation ?? {});
      if (losses.length > 0) validation = (losses.reduce((a, b) => a + b, 0) / losses.length).toFixed(3);
    },
  };
}

const next = ({ out }: Options): string => `Next: sluice lm generate --model ${out} --prompt "The "`;

function story(run: LmRun, options: Options): string {
  const { loss, validation = {} } = run.final ?? { loss: Number.NaN };
  const rows = Object.entries(validation).map(([name, value]) => [`  ${name}`, value.toFixed(3)]);
  const held = rows.length > 0 ? columnsOf(rows, { left: 1 }).split("\n") : [];
  return [
    `${options.out}: ${formatCount(run.parameters.total)} parameters, ${formatCount(run.tokens)} tokens in ${formatDuration(run.seconds)}, loss ${loss.toFixed(3)} nats a token`,
    ...(held.length > 0 ? ["held-out, nats a token:", ...held] : []),
    next(options),
  ].join("\n");
}
