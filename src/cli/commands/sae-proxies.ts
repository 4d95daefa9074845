/**
 * `sluice sae proxies`: how clear the features of SAEs look, from counts and weights alone.
 */
import { z } from "zod";
import { proxiesOnText, type SaeProxies } from "../../recipes/index.ts";
import { parseExcludedTokens } from "../../recipes/live-activations.ts";
import { disposeSae, type LoadedSae, loadSae } from "../../sae/index.ts";
import { usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { EXCLUDE_TOKENS } from "./harvest.ts";
import {
  columnsOf,
  count,
  deviceFields,
  modelFields,
  modelHelp,
  TEXTS,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const schema = z.object({
  sae: z
    .array(z.string())
    .min(1)
    .describe("SAE folders (SAELens layout), which share one pass over the text"),
  model: z.string().describe(modelHelp("; the SAEs belong to it")),
  ...modelFields,
  ...textFields("heldout"),
  text: z.array(z.string()).describe(TEXTS),
  k: z
    .array(count())
    .optional()
    .describe("active features per token that topk SAEs are counted at, besides their own k"),
  tokens: count().default(200_000).describe("tokens to read, in windows chosen at random"),
  firings: count()
    .default(100)
    .describe("firings that a feature needs to count; its entropy is over the first so many"),
  excludeTokens: z.string().optional().describe(EXCLUDE_TOKENS),
  seed: z.number().int().min(0).default(0).describe("seed of the choice of windows"),
  ...deviceFields,
});

export const saeProxies = defineCommand({
  name: "sae proxies",
  summary: "how clear features look without a language model: token entropy, multi-token ratio, redundancy",
  description:
    "Means over the features that fire often enough, at each k: the entropy of the tokens that a feature fires on (nats, over the " +
    "same number of firings at every k; low: always the same token), the share of a context's tokens on which it fires, its mean " +
    "value; and the mean cosine of a decoder row to the nearest other one (1: a duplicate).",
  schema,
  examples: [
    "sluice sae proxies --sae out/every-k,out/topk --model models/brook --text sotu,brown --k 8,16,32,64",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const loaded: LoadedSae[] = [];
      try {
        for (const folder of options.sae) loaded.push(await loadSae(device, folder));
        const saes = loaded.map(({ sae }, i) => {
          const hook = sae.metadata.hook_name;
          if (typeof hook === "string") return { sae, hook };
          throw usageError(`${options.sae[i]} does not say where it belongs (hook_name in its metadata)`);
        });
        const found = await withModel(device, options, context, (lm) =>
          withTokens(options, lm.tokenizer, context, async (text) => {
            const line = context.progress({ label: "counting", unit: "tokens", total: options.tokens });
            const excludeTokens = parseExcludedTokens(lm.tokenizer, options.excludeTokens);
            const results = await proxiesOnText({
              ...options, // context, tokens, firings, seed
              ...{ lm, saes, text, excludeTokens },
              budgets: options.k,
              signal: context.signal,
              onProgress: ({ tokens }) => line.update(Math.min(tokens, options.tokens)),
            });
            line.finish();
            return results;
          }),
        );
        return {
          json: { saes: found.map((one, i) => jsonOf(options.sae[i], one)) },
          text: table(options.sae, found),
        };
      } finally {
        for (const { sae } of loaded) disposeSae(sae);
      }
    }),
});

const finite = (v: number): number | null => (Number.isFinite(v) ? v : null);

const jsonOf = (folder: string, { maxDecoderCosine, budgets }: SaeProxies) => ({
  sae: folder,
  max_decoder_cosine: maxDecoderCosine,
  budgets: budgets.map((at) => ({
    k: at.k ?? null,
    features_alive: at.alive,
    features_counted: at.features,
    token_entropy: finite(at.tokenEntropy),
    token_entropy_all: finite(at.tokenEntropyAll),
    multi_token_ratio: finite(at.multiTokenRatio),
    mean_activation: finite(at.meanActivation),
  })),
});

function table(folders: readonly string[], found: readonly SaeProxies[]): string {
  const rows = found.flatMap(({ maxDecoderCosine, budgets }, i) =>
    budgets.map((at) => [
      folders[i],
      String(at.k ?? ""),
      String(at.features),
      at.tokenEntropy.toFixed(3),
      at.multiTokenRatio.toFixed(4),
      at.meanActivation.toFixed(3),
      maxDecoderCosine.toFixed(3),
    ]),
  );
  const head = ["SAE", "k", "features", "token entropy", "multi-token", "activation", "max cosine"];
  return columnsOf([head, ...rows], { left: 1 });
}
