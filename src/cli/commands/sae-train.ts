/**
 * `sluice sae train`: a sparse autoencoder from activations on disk or from a live model.
 */
import { z } from "zod";
import { configOfShape, configOfStart, refuseIdleK, saeShapeSchema } from "../../recipes/sae-shape.ts";
import { disposeSae, loadSae, NEW_FEATURES, saeHash } from "../../sae/index.ts";
import type { Device } from "../../tensor/index.ts";
import { usageError } from "../../util/index.ts";
import { type CommandContext, type CommandResult, defineCommand } from "../command.ts";
import { kebab } from "../flags.ts";
import { commandName, shellWord } from "../package.ts";
import { runFields, sourceFields, train, withSource } from "./sae-shared.ts";
import { pointFields, refuseSweepFlags, runSweep, sweepFields } from "./sae-sweep.ts";
import { deviceFields, withDevice } from "./shared.ts";

const { out, ...howToRun } = runFields;
const { hook: _, windows, maxNorm, excludeTokens, ...whereFrom } = sourceFields;

/** Training that does not start from scratch. */
const startFields = {
  init: z
    .string()
    .optional()
    .describe(
      "SAE folder to start from: it is trained further, or extended if --features is more than it has",
    ),
  newFeatures: z
    .enum(NEW_FEATURES)
    .optional()
    .describe(
      "how features that --init lacks begin: as in a fresh SAE, or as copies of its most active ones [random]",
    ),
  freeze: z
    .boolean()
    .default(false)
    .describe("train only the features that --init lacks; its own and the decoder bias stay as they are"),
};

const schema = z.object({
  ...whereFrom,
  ...pointFields,
  ...saeShapeSchema.shape,
  features: saeShapeSchema.shape.features
    .optional()
    .describe("F, number of features; without --init required"),
  ...startFields,
  out,
  ...howToRun,
  windows,
  maxNorm,
  excludeTokens,
  ...deviceFields,
  ...sweepFields,
});
type Options = z.output<typeof schema>;

export const saeTrain = defineCommand({
  name: "sae train",
  summary: "train a sparse autoencoder",
  description:
    "Trains an SAE on harvested activations, or on those of a live model, which pass through a shuffle buffer. " +
    "The result is written in SAELens' layout. Ctrl-C writes a checkpoint; the same command continues, to the same bits. " +
    "A --config file with a list `saes` trains many SAEs on one pass over the activations, measures them on held-out text " +
    "and writes a table and a page that compare them.",
  schema,
  examples: [
    "sluice sae train --activations acts --k 32 --features 4096 --tokens 500k --out out/sae",
    "sluice sae train --model models/brook --text sotu --hook blocks.3.hook_resid_post --features 4096 --tokens 2M --out out/sae",
    "sluice sae train --activations acts --objective hierarchical --k 128 --features 4096 --tokens 2M --out out/every-k",
    "sluice sae train --activations acts --encoder kron --features 16k --tokens 2M --out out/kron",
    "sluice sae train --activations acts --arch jumprelu --target-l0 32 --features 4096 --tokens 2M --out out/jumprelu",
    "sluice sae train --init out/sae --activations acts-russian --tokens 500k --out out/finetuned",
    "sluice sae train --config examples/sweep.yaml --out out/sweep",
  ],
  run: (options, context) =>
    withDevice(options, (device) => {
      refuseSweepFlags(context);
      if (options.init !== undefined) return trainFrom(device, options.init, options, context);
      for (const name of ["newFeatures", "freeze"]) {
        if (context.given.has(name))
          throw usageError(`--${kebab(name)} says what becomes of an SAE to start from (--init)`);
      }
      const { features } = options;
      if (features === undefined)
        throw usageError("--features is missing: how many features the SAE is to have");
      refuseIdleK(options.arch, context.given.has("k"));
      const config = { ...configOfShape({ ...options, features }), skip: options.skip };
      return withSource(device, options, context, (source) =>
        train(device, source, options, context, { config, next: nextCommand(options) }),
      );
    }),
  many: {
    key: "saes",
    description:
      "SAEs to train on the same activations. Each has a name and any options of its own: those of its architecture and of its " +
      "training, and its hook point; what stands beside the list is the default of all. A list where one value is " +
      "expected (seed: [0, 1, 2]) makes an SAE of each. --out gets a folder for each SAE, comparison.json and report.html.",
    run: runSweep,
  },
});

/** What the SAE to start from decides. */
const DECIDED = ["encoder", "kronM", "kronN", "kronProduct", "skip"] as const;

async function trainFrom(
  device: Device,
  init: string,
  options: Options,
  context: CommandContext,
): Promise<CommandResult> {
  const { given } = context;
  const idle = DECIDED.filter((name) => given.has(name));
  if (idle.length > 0)
    throw usageError(
      `${idle.map((name) => `--${kebab(name)}`).join(", ")}: that is as in the SAE to start from`,
    );
  const { sae } = await loadSae(device, init);
  try {
    const { features, newFeatures, freeze } = options;
    const shape = configOfStart(sae, {
      features,
      arch: given.has("arch") ? options.arch : undefined,
      k: given.has("k") ? options.k : undefined,
    });
    refuseIdleK(shape.activation.kind, given.has("k"));
    const { skip } = sae.config;
    const start = { sae, hash: await saeHash(sae), newFeatures, freeze };
    const { hook_name: hook, hook_name_out: targetHook } = sae.metadata as Partial<Record<string, string>>;
    const points = { hook: options.hook ?? hook, targetHook: options.targetHook ?? targetHook };
    return await withSource(device, { ...options, ...points }, context, (source) =>
      train(device, source, options, context, {
        config: { ...shape, skip },
        start,
        next: nextCommand(options),
      }),
    );
  } finally {
    disposeSae(sae);
  }
}

/** The command that measures the SAE, on the activations or through the model that it was trained on. */
function nextCommand({ out, activations, model, text, field, split, context }: Options): string {
  const live = {
    model,
    text: text?.join(","),
    field,
    split: split === "all" ? split : undefined, // else the held-out documents, as is the default there
    context,
  };
  const flags = { sae: out, ...(activations === undefined ? live : { activations }) };
  const words = Object.entries(flags).filter(([, value]) => value !== undefined);
  return [
    commandName(),
    "sae eval",
    ...words.map(([name, value]) => `--${name} ${shellWord(String(value))}`),
  ].join(" ");
}
