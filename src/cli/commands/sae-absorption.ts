/**
 * `sluice sae absorption`: whether features that stand for a class are silent where a more special one fires.
 */
import { z } from "zod";
import { TOKEN_TASK_NAMES, TOKEN_TASKS } from "../../interpret/token-tasks.ts";
import { type AbsorptionResult, absorptionOnText, disposeAny, loadBoosted } from "../../recipes/index.ts";
import { formatCount, usageError } from "../../util/index.ts";
import { columns } from "../columns.ts";
import { defineCommand } from "../command.ts";
import { count, deviceFields, textFields, withDevice, withModel, withTokens } from "./shared.ts";

const share = () => z.number().min(0).max(1);

const schema = z.object({
  sae: z.string().describe("SAE folder (SAELens layout)"),
  parts: z
    .array(z.string())
    .optional()
    .describe("folders of residual parts (`sluice sae boost`) that are added to it"),
  model: z.string().describe("model folder that the SAE belongs to"),
  ...textFields("heldout"),
  text: z.array(z.string()).describe("corpora (see `sluice text`), text files, .jsonl files or folders"),
  hook: z.string().optional().describe("hook point [the one the SAE was trained on]"),
  task: z
    .enum(TOKEN_TASK_NAMES)
    .default("first-letter")
    .describe(TOKEN_TASK_NAMES.map((name) => `${name}: ${TOKEN_TASKS[name].summary}`).join("; ")),
  k: count().optional().describe("active features per token of a topk SAE [the SAE's own]"),
  places: count().default(4).describe("places in the text that each token of the vocabulary is taken from"),
  tokens: count().default(500_000).describe("most tokens of text to read"),
  testShare: share().default(0.2).describe("share of the vocabulary's tokens that no probe is trained on"),
  minF1: share()
    .default(0.6)
    .describe("F1 score on those tokens that a class's probe needs for the class to count"),
  minTokens: count().default(5).describe("different tokens that a class needs to train on, and to test on"),
  seed: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("seed of the windows and of the tokens kept from training"),
  ...deviceFields,
});

export const saeAbsorption = defineCommand({
  name: "sae absorption",
  summary: "measure feature absorption: classes of tokens whose feature is silent where a special one fires",
  description:
    "By SAEBench's definitions (Chanin et al. 2024). A linear probe on the activations gives each class a direction; the " +
    "features that stand for the class are those that a sparse probe needs. On tokens that no probe was trained on and that the " +
    "probe finds: the absorption fraction, the share of the direction that other features write in their place; full " +
    "absorption, the share of tokens where they are silent and one other feature writes 0.4 of it or more; and how many " +
    "features the class is split into. Tokens are taken from running text and classified by their own letters.",
  schema,
  examples: [
    "sluice sae absorption --sae out/sae --model models/brook --text sotu,brown --task token-form",
    "sluice sae absorption --sae out/sae --model models/brook --text sotu,brown --min-f1 0.2 --json",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae, warnings } = await loadBoosted(device, options.sae, options.parts);
      for (const warning of warnings) context.log(warning);
      try {
        const hook = options.hook ?? sae.base.metadata.hook_name;
        if (typeof hook !== "string")
          throw usageError("the SAE does not say where it belongs; name the point with --hook");
        return await withModel(device, options.model, (lm) =>
          withTokens(options, lm.tokenizer, context, async (text) => {
            const progress = context.progress({
              label: "reading the text",
              unit: "tokens",
              total: options.tokens,
            });
            const found = await absorptionOnText({
              ...options,
              lm,
              sae,
              hook,
              text,
              signal: context.signal,
              onProgress: ({ read, samples }) => progress.update(read, { samples: formatCount(samples) }),
            });
            progress.finish();
            const { sae: folder, parts, task } = options;
            return { json: { sae: folder, parts, task, hook, ...jsonOf(found) }, text: table(found) };
          }),
        );
      } finally {
        disposeAny(sae);
      }
    }),
});

function jsonOf({ fraction, full, features, classes, ...found }: AbsorptionResult) {
  return {
    mean_absorption_fraction: fraction.mean,
    std_absorption_fraction: fraction.std,
    mean_full_absorption: full.mean,
    std_full_absorption: full.std,
    mean_num_split_features: features.mean,
    std_num_split_features: features.std,
    classes_counted: classes.filter((c) => c.counted).length,
    probe_l2: found.l2,
    tokens: found.tokens,
    samples: found.samples,
    too_few: found.tooFew,
    classes: classes.map((c) => ({
      name: c.name,
      counted: c.counted,
      train_tokens: c.trainTokens,
      test_tokens: c.testTokens,
      train_samples: c.train,
      test_samples: c.test,
      probe_f1: c.probe.f1,
      probe_precision: finite(c.probe.precision),
      probe_recall: c.probe.recall,
      probe_auc: c.probe.auc,
      sparse_f1: c.sparseF1,
      features: c.features,
      true_positives: c.truePositives,
      absorption_fraction: finite(c.fraction),
      full_absorption: finite(c.full),
    })),
  };
}

const finite = (v: number): number | null => (Number.isFinite(v) ? v : null);

function table({ classes, fraction, full, features, tooFew }: AbsorptionResult): string {
  const rows = classes.map((c) => [
    c.counted ? c.name : `(${c.name})`,
    String(c.testTokens),
    c.probe.f1.toFixed(3),
    Math.max(0, ...c.sparseF1.slice(0, 1)).toFixed(3),
    String(c.features.length),
    c.fraction.toFixed(3),
    c.full.toFixed(3),
  ]);
  const mean = ["mean", "", "", "", features.mean.toFixed(2), fraction.mean.toFixed(3), full.mean.toFixed(3)];
  const head = ["class", "tokens", "probe F1", "1 feature F1", "features", "absorption", "full"];
  const notes = [
    ...(classes.some((c) => !c.counted) ? ["in brackets: the probe is too poor for the class to count"] : []),
    ...(tooFew.length > 0 ? [`too few tokens: ${tooFew.join(", ")}`] : []),
  ];
  return [columns([head, ...rows, mean]), ...notes].join("\n");
}
