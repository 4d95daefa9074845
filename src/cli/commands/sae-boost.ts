/**
 * `sluice sae boost`: a small residual SAE that teaches a frozen one a new domain. `sluice sae stitch`: both as one SAE.
 * `sluice sae graft`: what a fine-tuned copy has learnt, as features of the original.
 */
import { z } from "zod";
import { disposeAny, loadBoosted } from "../../recipes/index.ts";
import { disposeSae, graft, loadSae, saeHash, saveSae, stitch } from "../../sae/index.ts";
import { usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { commandName, shellWord } from "../package.ts";
import { runFields, sourceFields, train, withSource } from "./sae-shared.ts";
import { count, deviceFields, withDevice } from "./shared.ts";

const { text, ...otherSources } = sourceFields;
const { objective: _, budgets: __, levels: ___, ...howToRun } = runFields;

const schema = z.object({
  base: z.string().describe("folder of the SAE that stays as it is"),
  domain: text.describe("text of the domain: names of the catalogue (`sluice text`), files or folders"),
  ...otherSources,
  hook: sourceFields.hook.describe("hook point [the one the base was trained on]"),
  features: count().default(1024).describe("features of the residual SAE"),
  k: count().default(5).describe("active features per token of the residual SAE, on average over a batch"),
  ...howToRun,
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeBoost = defineCommand({
  name: "sae boost",
  summary: "teach an SAE a new domain by a residual SAE beside it",
  description:
    "SAE Boost (arXiv 2507.12990): the base is frozen; a BatchTopK SAE without decoder bias reads the same activations and learns " +
    "what the base leaves over, x - x̂, on the domain's text. Its threshold is the running mean of the smallest kept values. The " +
    "result is a part that names its base by content and is refused on any other; where none of its features is active, the " +
    "output is the base's, bit for bit. Parts of several domains sum.",
  schema,
  examples: [
    "sluice sae boost --base out/sae --model models/brook --domain fortunes-ru --tokens 2M --out out/russian",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae: base } = await loadSae(device, options.base);
      try {
        if (base.config.transcoder)
          throw usageError(`--base ${options.base} is a transcoder; its error is not one of its input`);
        const hash = await saeHash(base);
        const { features, k } = options;
        const hook = options.hook ?? (base.metadata.hook_name as string | undefined);
        return await withSource(device, { ...options, text: options.domain, hook }, context, (source) =>
          train(device, source, { ...options, objective: "mse" }, context, {
            config: { features, activation: { kind: "batchtopk", k }, decoderBias: false },
            base: { sae: base, hash },
            next: nextCommand(options),
          }),
        );
      } finally {
        disposeSae(base);
      }
    }),
});

function nextCommand({ base, out, activations, model, domain }: Options): string {
  const flags = activations === undefined ? { model, text: domain?.join(",") } : { activations };
  const words = Object.entries({ sae: base, parts: out, ...flags }).filter(
    ([, value]) => value !== undefined,
  );
  return `${commandName()} sae eval ${words.map(([name, value]) => `--${name} ${shellWord(String(value))}`).join(" ")}`;
}

export const saeStitch = defineCommand({
  name: "sae stitch",
  summary: "write a boosted SAE as one SAELens jumprelu SAE",
  description:
    "Joins a base and its residual parts into one SAE with a threshold for every feature, which other libraries load. Exact up to " +
    "the rounding of sums. A top-k base has no thresholds, and a kron encoder no rows of its own: both are refused.",
  schema: z.object({
    base: z.string().describe("folder of the base"),
    parts: z.array(z.string()).min(1).describe("folders of its parts"),
    out: z.string().describe("folder to write"),
    ...deviceFields,
  }),
  examples: ["sluice sae stitch --base out/sae --parts out/russian,out/code --out out/stitched"],
  run: ({ base, parts, out, ...options }) =>
    withDevice(options, async (device) => {
      const { sae } = await loadBoosted(device, base, parts);
      try {
        const one = stitch(sae);
        try {
          await saveSae(out, one);
          const { features } = one.config;
          return {
            json: { out, features },
            text: `${out}: ${features} features, ${parts.length} parts joined`,
          };
        } finally {
          disposeSae(one);
        }
      } finally {
        disposeAny(sae);
      }
    }),
});

export const saeGraft = defineCommand({
  name: "sae graft",
  summary: "give an SAE the features of a fine-tuned copy that changed most",
  description:
    "A baseline of SAE Boost: of the features of --changed (the base after `sae train --init`), those whose decoder rows have the " +
    "least cosine with their originals are set beside them, or in their place. The rest of the base stays as it is.",
  schema: z.object({
    base: z.string().describe("folder of the SAE that gets them"),
    changed: z.string().describe("folder of the base trained further"),
    features: count().describe("how many features to graft"),
    replace: z.boolean().default(false).describe("in the place of their originals, instead of beside them"),
    out: z.string().describe("folder to write"),
    ...deviceFields,
  }),
  examples: ["sluice sae graft --base out/sae --changed out/finetuned --features 256 --out out/grafted"],
  run: ({ base, changed, features, replace, out, ...options }) =>
    withDevice(options, async (device) => {
      const original = await loadSae(device, base);
      const other = await loadSae(device, changed);
      const how = replace ? "replace" : "append";
      const { sae, grafted } = await graft(device, original.sae, other.sae, { features, how });
      await saveSae(out, sae);
      for (const one of [original.sae, other.sae, sae]) disposeSae(one);
      const all = sae.config.features;
      return {
        json: { out, features: all, grafted },
        text: `${out}: ${all} features, ${grafted.length} of them from ${changed}`,
      };
    }),
});
