/**
 * `sluice sae eval`: how good an SAE is, on activations or through its model.
 */
import { z } from "zod";
import { evaluateOnModel, evaluateOnStore, type SaeEvaluation } from "../../recipes/index.ts";
import { disposeSae, loadSae, type Sae } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { count, deviceFields, loadModel, textFields, tokensOf, withDevice } from "./shared.ts";

const schema = z.object({
  sae: z.string().describe("SAE folder (SAELens layout)"),
  activations: z
    .string()
    .optional()
    .describe("folder of harvested activations, instead of --model and --text"),
  model: z.string().optional().describe("model folder, for cross-entropy and KL with the SAE in place"),
  ...textFields,
  hook: z.string().optional().describe("hook point [the one the SAE was trained on]"),
  k: count().optional().describe("active features per token [the SAE's own]"),
  tokens: count().default(100_000).describe("most tokens to measure"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeEval = defineCommand({
  name: "sae eval",
  summary: "measure an SAE: explained variance, L0, dead features, loss recovered, KL",
  description:
    "On harvested activations: explained variance (pooled R² = 1 - Σ‖x - x̂‖² / Σ‖x - x̄‖²), MSE, cosine, L0 and the " +
    "share of features that never fired. With --model and --text (held-out documents by default) also the model's " +
    "cross-entropy and KL with the SAE spliced in, and loss recovered against zero and against mean ablation.",
  schema,
  examples: [
    "sluice sae eval --sae out/sae --activations acts --json",
    "sluice sae eval --sae out/sae --model models/brook --text sotu --json",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae, warnings } = await loadSae(device, options.sae);
      for (const warning of warnings) context.log(warning);
      const progress = context.progress({ label: "sae eval", unit: "tokens" });
      const { metrics, splice } = await evaluate(device, sae, options, context, (n) => progress.update(n));
      progress.finish();
      disposeSae(sae);
      const json = { sae: options.sae, ...metrics, ...splice };
      return { json, text: table(json) };
    }),
});

async function evaluate(
  device: Device,
  sae: Sae,
  options: Options,
  context: CommandContext,
  onProgress: (tokens: number) => void,
): Promise<SaeEvaluation> {
  const { activations, model, text, tokens, k } = options;
  const shared = { tokens, k, signal: context.signal, onProgress };
  if (activations) {
    if (model || text)
      throw usageError("--activations stands alone: leave out --model and --text, or leave it out");
    return evaluateOnStore(device, sae, { folder: activations, hook: options.hook }, shared);
  }
  if (!model || !text)
    throw usageError("the SAE is measured on --activations DIR, or on --model and --text together");
  const hook = options.hook ?? sae.metadata.hook_name;
  if (typeof hook !== "string")
    throw usageError("the SAE does not say where it belongs; name the point with --hook");
  const lm = await loadModel(device, model);
  const file = await tokensOf({ ...options, text, split: options.split ?? "heldout" }, lm.tokenizer, context);
  try {
    return await evaluateOnModel(device, sae, { lm, hook, text: file, context: options.context }, shared);
  } finally {
    file.close();
  }
}

function table(json: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(json).filter((e): e is [string, number] => typeof e[1] === "number");
  const width = Math.max(...rows.map(([name]) => name.length));
  const show = (v: number) => (Number.isInteger(v) ? formatCount(v) : v.toPrecision(5));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${show(value)}`).join("\n");
}
