/**
 * `sluice sae absorption`: whether features that stand for a class are silent where a more special one fires.
 */
import { z } from "zod";
import { TOKEN_TASK_NAMES, TOKEN_TASKS } from "../../interpret/token-tasks.ts";
import {
  type AbsorptionOptions,
  type AbsorptionResult,
  absorptionOnText,
  disposeAny,
  type LoadedBoost,
  loadBoosted,
} from "../../recipes/index.ts";
import { formatCount, type Progress, usageError } from "../../util/index.ts";
import { columns } from "../columns.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import {
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

const share = () => z.number().min(0).max(1);

const schema = z.object({
  sae: z
    .array(z.string())
    .min(1)
    .describe("SAE folder (SAELens layout), or several of one hook point, which share text and probes"),
  parts: z
    .array(z.string())
    .optional()
    .describe("folders of residual parts (`sluice sae boost`) that are added to it"),
  model: z.string().describe(modelHelp("; the SAE belongs to it")),
  ...modelFields,
  ...textFields("heldout"),
  text: z.array(z.string()).describe(TEXTS),
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
    "sluice sae absorption --sae out/topk,out/kron --model models/brook --text sotu,brown --task token-form",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae: folders, parts, task } = options;
      if (parts && folders.length > 1) throw usageError("--parts goes with one --sae");
      const loaded: LoadedBoost[] = [];
      try {
        for (const folder of folders) loaded.push(await loadBoosted(device, folder, parts));
        for (const warning of loaded.flatMap(({ warnings }) => warnings)) context.log(warning);
        const hook = options.hook ?? hookOf(folders, loaded);
        const results = await withModel(device, options, context, (lm) =>
          withTokens(options, lm.tokenizer, context, (text) => {
            const saes = loaded.map(({ sae }) => sae);
            return measure({ ...options, lm, saes, hook, text }, context);
          }),
        );
        const jsons = results.map((found, i) => ({ sae: folders[i], parts, task, hook, ...jsonOf(found) }));
        if (results.length === 1) return { json: jsons[0], text: table(results[0]) };
        return { json: { saes: jsons }, text: comparison(folders, results) };
      } finally {
        for (const { sae } of loaded) disposeAny(sae);
      }
    }),
});

function hookOf(folders: readonly string[], loaded: readonly LoadedBoost[]): string {
  const hooks = loaded.map(({ sae }) => sae.base.metadata.hook_name);
  const [hook] = hooks;
  if (typeof hook !== "string")
    throw usageError("the SAE does not say where it belongs; name the point with --hook");
  const other = hooks.findIndex((one) => one !== hook);
  if (other < 0) return hook;
  throw usageError(
    `${folders[other]} belongs to ${hooks[other]}, but ${folders[0]} to ${hook}; measure the SAEs of one point at a time`,
  );
}

async function measure(
  options: Omit<AbsorptionOptions, "signal" | "onProgress" | "onSae">,
  { signal, progress }: CommandContext,
): Promise<AbsorptionResult[]> {
  const reading = progress({ label: "reading the text", unit: "tokens", total: options.tokens });
  const total = options.saes.length;
  let fitting: Progress | undefined;
  const found = await absorptionOnText({
    ...options,
    signal,
    onProgress: ({ read, samples }) => reading.update(read, { samples: formatCount(samples) }),
    onSae: (done) => {
      if (!fitting) {
        reading.finish();
        fitting = progress({ label: "fitting probes", unit: "SAEs", total });
      }
      fitting.update(done);
    },
  });
  fitting?.finish();
  return found;
}

/** A line for each SAE. */
function comparison(folders: readonly string[], results: readonly AbsorptionResult[]): string {
  const cell = ({ mean, std }: AbsorptionResult["full"]): string => `${mean.toFixed(3)} ± ${std.toFixed(3)}`;
  const rows = results.map(({ fraction, full, features, classes }, i) => [
    folders[i],
    String(classes.filter((c) => c.counted).length),
    cell(features),
    cell(fraction),
    cell(full),
  ]);
  return [
    columns([["SAE", "classes", "features", "absorption", "full"], ...rows]),
    "mean and standard deviation over the classes that count",
  ].join("\n");
}

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
