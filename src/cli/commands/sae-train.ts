/**
 * `sluice sae train`: a sparse autoencoder from activations on disk or from a live model.
 */
import { z } from "zod";
import { configOfShape, refuseIdleK, saeShapeSchema } from "../../recipes/sae-shape.ts";
import { defineCommand } from "../command.ts";
import { commandName, shellWord } from "../package.ts";
import { runFields, sourceFields, train, withSource } from "./sae-shared.ts";
import { pointFields, refuseSweepFlags, runSweep, sweepFields } from "./sae-sweep.ts";
import { deviceFields, withDevice } from "./shared.ts";

const { out, ...howToRun } = runFields;
const { hook: _, windows, maxNorm, excludeTokens, ...whereFrom } = sourceFields;

const schema = z.object({
  ...whereFrom,
  ...pointFields,
  ...saeShapeSchema.shape,
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
    "sluice sae train --config examples/sweep.yaml --out out/sweep",
  ],
  run: (options, context) =>
    withDevice(options, (device) => {
      refuseSweepFlags(context);
      refuseIdleK(options.arch, context.given.has("k"));
      const config = { ...configOfShape(options), skip: options.skip };
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
