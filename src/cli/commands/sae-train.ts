/**
 * `sluice sae train`: a sparse autoencoder from activations on disk or from a live model.
 */
import { z } from "zod";
import { type SaeSource, trainSaeRun } from "../../recipes/index.ts";
import { disposeSae, saeTrainSchema } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { count, deviceFields, loadModel, textFields, tokensOf, withDevice } from "./shared.ts";

const schema = z.object({
  activations: z
    .string()
    .optional()
    .describe("folder of harvested activations, instead of --model and --text"),
  model: z.string().optional().describe("model folder, for activations as they are computed"),
  ...textFields,
  hook: z.string().optional().describe("hook point, as in blocks.3.hook_resid_post"),
  arch: z.enum(["topk"]).default("topk").describe("architecture"),
  features: count().describe("F, number of features"),
  k: count().default(32).describe("active features per token"),
  out: z.string().describe("run folder: the SAE (SAELens layout), run.json, metrics.jsonl, checkpoints"),
  ...saeTrainSchema.shape,
  buffer: count().default(262_144).describe("activation vectors held in memory for shuffling"),
  windows: count().default(16).describe("windows per forward pass of the model"),
  maxNorm: z
    .number()
    .min(0)
    .default(0)
    .describe("leave out rows above this multiple of the median norm; 0 keeps all"),
  logEvery: count().default(50).describe("steps between records in metrics.jsonl"),
  checkpointMinutes: z
    .number()
    .min(0)
    .default(10)
    .describe("minutes between checkpoints; 0 for none but the last"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeTrain = defineCommand({
  name: "sae train",
  summary: "train a sparse autoencoder",
  description:
    "Trains an SAE on harvested activations, or on those of a live model, which pass through a shuffle buffer. " +
    "The result is written in SAELens' layout. Ctrl-C writes a checkpoint; the same command continues, to the same bits.",
  schema,
  examples: [
    "sluice sae train --activations acts --k 32 --features 4096 --tokens 500k --out out/sae",
    "sluice sae train --model models/brook --text sotu --hook blocks.3.hook_resid_post --features 4096 --tokens 2M --out out/sae",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const source = await sourceOf(device, options, context);
      const progress = context.progress({ label: "sae train", unit: "tokens", total: options.tokens });
      let ev = Number.NaN;
      const { sae, tokens, record, stopped, resumedFrom } = await trainSaeRun(device, {
        ...options,
        source,
        train: trainInput(options),
        signal: context.signal,
        onMetrics: (r) => {
          ev = r.explained_variance;
        },
        onStep: (s) => progress.update(s.tokens, { loss: s.loss.toFixed(3), ev: ev.toFixed(4) }),
      });
      progress.finish();
      disposeSae(sae);
      if (stopped === "source") context.log(`the activations ended after ${formatCount(tokens)} tokens`);
      return {
        json: { out: options.out, stopped, resumed_from: resumedFrom ?? null, ...record },
        text: `${options.out}: explained variance ${record.explained_variance.toFixed(4)} on the last batch, ${formatCount(tokens)} tokens, dead ${(100 * record.dead_fraction).toFixed(1)} %. Next: sluice sae eval --sae ${options.out}`,
      };
    }),
});

/** Only the fields of the training schema. */
function trainInput(options: Options) {
  return saeTrainSchema.parse(
    Object.fromEntries(Object.keys(saeTrainSchema.shape).map((key) => [key, options[key as keyof Options]])),
  );
}

async function sourceOf(device: Device, options: Options, context: CommandContext): Promise<SaeSource> {
  const { activations, model, text, hook, split = "train" } = options;
  if (activations) {
    if (model || text)
      throw usageError("--activations stands alone: leave out --model and --text, or leave it out");
    return { kind: "store", folder: activations, hook };
  }
  if (!model || !text || !hook) {
    throw usageError("activations come from --activations DIR, or from --model, --text and --hook together");
  }
  const lm = await loadModel(device, model);
  const tokens = await tokensOf({ ...options, text, split }, lm.tokenizer, context);
  return { ...options, kind: "live", lm, hook, tokens, text: `${text.join(",")} (${split})` };
}
