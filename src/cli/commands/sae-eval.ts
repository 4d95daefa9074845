/**
 * `sluice sae eval`: how good an SAE is, on activations or through its model.
 */
import { z } from "zod";
import {
  disposeAny,
  evaluateOnModel,
  evaluateOnStore,
  type LanguageModel,
  loadBoosted,
  type SaeEvalOptions,
  type SaeEvaluation,
} from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import type { BoostedSae } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import {
  columnsOf,
  count,
  deviceFields,
  evalProgress,
  modelFields,
  modelHelp,
  refuseLiveFlags,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  sae: z.string().describe("SAE folder (SAELens layout)"),
  parts: z
    .array(z.string())
    .optional()
    .describe("folders of residual parts (`sluice sae boost`) that are added to it"),
  activations: z
    .string()
    .optional()
    .describe("folder of harvested activations, instead of --model and --text"),
  model: z.string().optional().describe(modelHelp("; for cross-entropy and KL with the SAE in place")),
  ...modelFields,
  ...textFields("heldout"),
  excludeTokens: z
    .string()
    .optional()
    .describe("tokens that are not measured, as in `sluice harvest` [those left out of the SAE's training]"),
  hook: z.string().optional().describe("hook point [the one the SAE was trained on]"),
  k: z
    .array(count())
    .optional()
    .describe(
      "active features per token of a topk SAE; several, as in 8,16,32, give the whole curve [the SAE's own]",
    ),
  tokens: z
    .number()
    .int()
    .min(2)
    .default(100_000)
    .describe("most tokens to measure; where there are more, windows (or blocks of --activations) are drawn"),
  seed: z.number().int().min(0).default(0).describe("seed of that draw"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeEval = defineCommand({
  name: "sae eval",
  summary: "measure an SAE: explained variance, L0, dead features, loss recovered, KL",
  description:
    "On harvested activations: explained variance (pooled R² = 1 - Σ‖x - x̂‖² / Σ‖x - x̄‖²), MSE, cosine, L0 and the " +
    "share of features that never fired. With --model and --text (held-out documents by default) also the model's " +
    "cross-entropy and KL with the SAE spliced in, and loss recovered against zero and against mean ablation. --json also " +
    "has density_histogram: counts of features by log10 of the share of tokens on which they fire (edges: one more than " +
    "counts), and never: those that did not fire. With several --k it has the metrics of each in `budgets`, and those of " +
    "the largest at the top.",
  schema,
  examples: [
    "sluice sae eval --sae out/sae --activations acts --json",
    "sluice sae eval --sae out/sae --model models/brook --text sotu --json",
    "sluice sae eval --sae out/sae --activations acts --k 8,16,32,64",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { activations, model, text } = options;
      if (activations !== undefined && (model !== undefined || text !== undefined)) {
        throw usageError("--activations stands alone: leave out --model and --text, or leave it out");
      }
      if (activations !== undefined) refuseLiveFlags(context, ["excludeTokens"]);
      if (activations === undefined && (model === undefined || text === undefined)) {
        throw usageError("the SAE is measured on --activations DIR, or on --model and --text together");
      }
      const { sae, warnings } = await loadBoosted(device, options.sae, options.parts);
      for (const warning of warnings) context.log(warning);
      try {
        const all = await evaluate(device, sae, options, context);
        const { metrics, splice, accumulator } = all[all.length - 1]; // of the largest k
        const json = { sae: options.sae, parts: options.parts, ...metrics, ...splice };
        const budgets = all.map(({ k, metrics, splice }) => ({ k, ...metrics, ...splice }));
        return {
          json: {
            ...json,
            ...(all.length > 1 && { budgets }),
            density_histogram: accumulator.densityHistogram(),
          },
          text: all.length > 1 ? curve(budgets) : table(json),
        };
      } finally {
        disposeAny(sae);
      }
    }),
});

async function evaluate(
  device: Device,
  sae: BoostedSae,
  options: Options,
  context: CommandContext,
): Promise<SaeEvaluation[]> {
  const { activations, tokens, seed, k } = options;
  const { onProgress, finish } = evalProgress(context);
  const budgets = k && [...new Set(k)].sort((a, b) => a - b);
  const shared = { tokens, seed, budgets, signal: context.signal, onProgress };
  const found =
    activations !== undefined
      ? await evaluateOnStore(device, sae, { folder: activations, hook: options.hook }, shared)
      : await evaluateLive(device, sae, options, context, shared);
  finish();
  return found;
}

function evaluateLive(
  device: Device,
  sae: BoostedSae,
  options: Options,
  context: CommandContext,
  shared: SaeEvalOptions,
): Promise<SaeEvaluation[]> {
  const { model = "", text = [] } = options; // given: checked above
  const hook = options.hook ?? sae.base.metadata.hook_name;
  if (typeof hook !== "string") {
    throw usageError("the SAE does not say where it belongs; name the point with --hook");
  }
  return withModel(device, { ...options, model }, context, (lm) =>
    withTokens({ ...options, text }, lm.tokenizer, context, (file) =>
      evaluateOnModel(
        device,
        sae,
        { lm, hook, text: file, context: options.context, excludeTokens: excludedBy(options, lm) },
        shared,
      ),
    ),
  );
}

const excludedBy = ({ excludeTokens }: Options, lm: LanguageModel) =>
  excludeTokens === undefined ? undefined : parseExcludedTokens(lm.tokenizer, excludeTokens);

/** One line for each k. */
function curve(budgets: readonly Readonly<Record<string, unknown>>[]): string {
  const columns = [
    "k",
    "explained_variance",
    "mse",
    "cosine",
    "dead_fraction",
    "loss_recovered",
    "kl",
  ].filter((name) => typeof budgets[0][name] === "number");
  const cell = (v: unknown): string => (Number.isInteger(v) ? String(v) : (v as number).toPrecision(5));
  return columnsOf([columns, ...budgets.map((b) => columns.map((name) => cell(b[name])))]);
}

function table(json: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(json).filter((e): e is [string, number] => typeof e[1] === "number");
  const width = Math.max(...rows.map(([name]) => name.length));
  const show = (v: number) => (Number.isInteger(v) ? formatCount(v) : v.toPrecision(5));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${show(value)}`).join("\n");
}
