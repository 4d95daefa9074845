/**
 * `sluice lime entropy`: how many directions the states of each layer spread over, of several models on the same text.
 */
import { z } from "zod";
import { ENTROPY_ORDER, type LayerEntropy, layerEntropies, type StateKind } from "../../lime/index.ts";
import { spreadWindows } from "../../models/index.ts";
import { windowsOf } from "../../recipes/language-model.ts";
import { inputError, usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import {
  columnsOf,
  count,
  deviceFields,
  modelFields,
  modelHelp,
  textFields,
  withDevice,
  withModel,
  withTokens,
} from "./shared.ts";

const KINDS = ["values", "read", "hidden"] as const satisfies readonly StateKind[];

export const limeEntropy = defineCommand({
  name: "lime entropy",
  summary: "matrix Rényi entropy of each layer's values and hidden states, model beside model",
  description:
    "Runs windows of a text through each model and gives, layer by layer, the matrix Rényi entropy of its states in nats: " +
    "mean and deviation over windows, each feature standardised over all of them first (LIMe, arXiv 2502.09245, section " +
    "5.2). values: what the layer makes; read: what its attention reads, mixed over the layers where the model does so; " +
    "hidden: the stream behind the block.",
  schema: z.object({
    model: z.array(z.string()).describe(modelHelp("; several are compared on the same windows")),
    ...modelFields,
    ...textFields("heldout"),
    sequences: count().default(32).describe("windows, evenly spread over the text"),
    order: z.number().positive().default(ENTROPY_ORDER).describe("order of the entropy; 1 is von Neumann's"),
    ...deviceFields,
  }),
  examples: ["sluice lime entropy --model models/brook,out/brook-lime --text sotu"],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { model: names, text, sequences, order } = options;
      if (text === undefined) throw usageError("lime entropy: name the text with --text");
      let first: { tokenizer: string; context: number; windows: number } | undefined;
      const found: { model: string; layers: Record<StateKind, LayerEntropy[]> }[] = [];
      for (const name of names) {
        const layers = await withModel(device, { ...options, model: name }, context, (lm) =>
          withTokens({ ...options, text }, lm.tokenizer, context, async (tokens) => {
            const packer = windowsOf(lm, tokens, { context: options.context, shuffle: false });
            await packer.reach(sequences);
            const windows = spreadWindows(packer.windows, sequences).map((w) => packer.at(w).tokens);
            if (first && (first.tokenizer !== lm.tokenizer.hash || first.context !== packer.context)) {
              throw usageError(
                `lime entropy: ${name} has another ${first.tokenizer === lm.tokenizer.hash ? "context" : "tokenizer"} than ${names[0]}, so their windows differ; compare models of one tokenizer, with --context`,
              );
            }
            first ??= { tokenizer: lm.tokenizer.hash, context: packer.context, windows: windows.length };
            if (windows.length < sequences)
              context.log(`the text has ${windows.length} windows, not ${sequences}`);
            if (windows.length < 2)
              throw inputError("lime entropy: at least two windows are needed; give more text");
            const progress = context.progress({
              label: `reading with ${name}`,
              unit: "kinds",
              total: KINDS.length,
            });
            const of: Partial<Record<StateKind, LayerEntropy[]>> = {};
            for (const [i, kind] of KINDS.entries()) {
              of[kind] = await layerEntropies(lm.model, windows, { kind, order, signal: context.signal });
              progress.update(i + 1);
            }
            progress.finish();
            return of as Record<StateKind, LayerEntropy[]>;
          }),
        );
        found.push({ model: name, layers });
      }
      const show = ({ mean, std }: LayerEntropy) => `${mean.toFixed(3)} ± ${std.toFixed(3)}`;
      const rows = found.flatMap(({ model, layers }) =>
        layers.values.map((_, l) => [model, String(l), ...KINDS.map((kind) => show(layers[kind][l]))]),
      );
      return {
        json: { order, sequences: first?.windows, context: first?.context, models: found },
        text: columnsOf([["model", "layer", ...KINDS], ...rows], { left: 1 }),
      };
    }),
});
