/**
 * `sluice task train`: a small transformer learns a synthetic task and is examined by what it writes.
 */
import { z } from "zod";
import { type TaskChoice, trainTaskRun } from "../../recipes/task-train.ts";
import { usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import {
  count,
  deviceFields,
  refuseRouterFlags,
  residualFields,
  residualOf,
  routerStartField,
  routingFields,
  routingOf,
  withDevice,
} from "./shared.ts";

const task = { group: "Task" };
const model = { group: "Model" };
const optimizer = { group: "Optimiser" };

const schema = z.object({
  task: z
    .enum(["arithmetic", "prosqa"])
    .describe(
      "arithmetic: expressions with their solutions; prosqa: questions of reach in graphs (docs/tasks.md)",
    )
    .meta(task),
  operands: z.number().int().min(2).default(6).describe("arithmetic: size of an expression").meta(task),
  count: z
    .enum(["operands", "operators"])
    .default("operators")
    .describe("arithmetic: what --operands counts; the paper's example, called one of 6, has 6 operators")
    .meta(task),
  max: count().default(127).describe("arithmetic: largest number in any line").meta(task),
  numbers: z
    .enum(["whole", "digits"])
    .default("whole")
    .describe("arithmetic: a token a number, or a digit")
    .meta(task),
  trainSamples: count().optional().describe("samples to learn from [50,000; prosqa 18,000]").meta(task),
  testSamples: count()
    .optional()
    .describe("held-out samples to be examined on [1000; prosqa 500]")
    .meta(task),
  dataSeed: z.number().int().min(0).default(0).describe("seed of the samples").meta(task),
  d: count().default(32).describe("model width").meta(model),
  layers: count().default(4).describe("blocks").meta(model),
  heads: count().default(4).describe("query heads").meta(model),
  kvHeads: count().default(4).describe("key-value heads").meta(model),
  ffn: count().default(88).describe("width of the MLP's hidden layer").meta(model),
  context: z.number().int().min(2).optional().describe("tokens of a window [the longest sample]").meta(model),
  ...routingFields(model),
  ...residualFields(model),
  kvStart: z
    .enum(["normal", "uniform"])
    .default("normal")
    .describe(
      "what keys' and values' matrices begin as: normal as the others, or uniform in ±1/√d as in LIMe's code",
    )
    .meta(model),
  ...routerStartField(model),
  epochs: z
    .number()
    .positive()
    .default(20)
    .describe("passes over the samples; the paper has 200")
    .meta(optimizer),
  batch: count().default(64).describe("windows per step").meta(optimizer),
  lr: z
    .number()
    .positive()
    .default(1e-3)
    .describe("peak learning rate; falls to 0 in a straight line")
    .meta(optimizer),
  weightDecay: z.number().min(0).default(0.1).describe("decoupled decay of matrices").meta(optimizer),
  routerLr: z
    .number()
    .positive()
    .default(10)
    .describe("learning rate of routers, as a multiple of --lr")
    .meta(optimizer),
  loss: z
    .enum(["all", "completion"])
    .default("all")
    .describe("learn the whole text, or the answer and its steps only")
    .meta(optimizer),
  seed: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("seed of the parameters and of the order")
    .meta(optimizer),
  out: z.string().describe("run folder: checkpoint, metrics.jsonl, model, run.json with the grades"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const taskTrain = defineCommand({
  name: "task train",
  summary: "train a small transformer on a synthetic task, and examine it",
  description:
    "Makes the samples, trains (AdamW, straight decay), lets the model answer all test samples by greedy generation, and " +
    "grades the final answers by exact match, with Wilson's 95 % interval; steps_valid counts answers whose every step " +
    "is right. Ctrl-C writes a checkpoint; the same command continues it.",
  schema,
  examples: [
    "sluice task train --task arithmetic --operands 6 --kv-routing learned --out out/aet/lime",
    "sluice task train --task prosqa --d 128 --layers 6 --epochs 10 --out out/prosqa/plain",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      refuseRouterFlags(options, context, ["routerLr", "routerIdentity"]);
      const idle = ["operands", "count", "max", "numbers"].filter((name) => context.given.has(name));
      if (options.task === "prosqa" && idle.length > 0)
        throw usageError(`--${idle.join(", --")}: only for --task arithmetic; leave it out`);
      const lines = progressOf(context);
      const kvRouting = routingOf(options);
      const routed = kvRouting !== undefined && kvRouting.kind !== "average";
      const run = await trainTaskRun(device, {
        task: choiceOf(options),
        samples: { train: options.trainSamples, test: options.testSamples },
        dataSeed: options.dataSeed,
        sizes: {
          d: options.d,
          layers: options.layers,
          heads: options.heads,
          kvHeads: options.kvHeads,
          ffn: options.ffn,
          context: options.context,
          tied: true,
          ropeTheta: 10_000,
          kvRouting,
          residual: residualOf(options),
        },
        start: { kvStart: options.kvStart, routerIdentity: options.routerIdentity },
        epochs: options.epochs,
        train: {
          batch: options.batch,
          lr: options.lr,
          weightDecay: options.weightDecay,
          ...(routed && { routerLr: options.routerLr }),
          seed: options.seed,
        },
        loss: options.loss,
        out: options.out,
        signal: context.signal,
        ...lines,
      });
      const { grades, loss } = run;
      const [low, high] = grades.interval;
      return {
        json: { out: options.out, ...run },
        text:
          `${percent(grades.accuracy)} of ${grades.count} answers are right (${percent(low)} to ${percent(high)}), ` +
          `${grades.stepsValid} with every step; ${grades.none} gave none. Test loss ${loss.toFixed(4)} nats a token. ${options.out}`,
      };
    }),
});

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

function choiceOf({ task: kind, operands, count: counted, max, numbers }: Options): TaskChoice {
  return kind === "prosqa" ? { kind } : { kind, operands, count: counted, max, numbers };
}

/** A line for the training and one for the examination. */
function progressOf(context: CommandContext) {
  let training: ReturnType<CommandContext["progress"]> | undefined;
  let grading: typeof training;
  return {
    onStep: ({ step, steps, loss }: { step: number; steps: number; loss: number }) => {
      training ??= context.progress({ label: "training", unit: "steps", total: steps, start: step - 1 });
      training.update(step, { loss: loss.toFixed(3) });
      if (step === steps) training.finish();
    },
    onGraded: (done: number, total: number) => {
      grading ??= context.progress({ label: "examining", unit: "answers", total });
      grading.update(done);
      if (done === total) grading.finish();
    },
  };
}
