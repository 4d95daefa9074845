/**
 * `sluice lime entropy`: how many directions the states of each layer spread over, of several models on the same text.
 */
import { z } from "zod";
import {
  ENTROPY_ORDER,
  type LayerEntropy,
  layerEntropies,
  STATE_KINDS,
  type StateKind,
} from "../../lime/index.ts";
import { inputError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { drawLayers, layerSeries, onSameWindows, spreadOver } from "./lime-shared.ts";
import {
  columnsOf,
  count,
  deviceFields,
  modelFields,
  modelHelp,
  pictureField,
  textFields,
  withDevice,
} from "./shared.ts";

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
    ...pictureField,
    ...deviceFields,
  }),
  examples: [
    "sluice lime entropy --model models/brook,models/brook-lime --text sotu",
    "sluice lime entropy --model models/brook,models/brook-lime --text sotu --picture out/entropy.svg",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sequences, order, picture } = options;
      const found = await onSameWindows({ command: "lime entropy", device, options }, context, {
        async choose(_, packer) {
          const windows = await spreadOver(packer, sequences);
          if (windows.length < sequences)
            context.log(`the text has ${windows.length} windows, not ${sequences}`);
          if (windows.length < 2)
            throw inputError("lime entropy: at least two windows are needed; give more text");
          return windows;
        },
        async measure({ model }, windows, name) {
          const progress = context.progress({
            label: `reading with ${name}`,
            unit: "kinds",
            total: STATE_KINDS.length,
          });
          const of: Partial<Record<StateKind, LayerEntropy[]>> = {};
          for (const [i, kind] of STATE_KINDS.entries()) {
            of[kind] = await layerEntropies(model, windows, { kind, order, signal: context.signal });
            progress.update(i + 1);
          }
          progress.finish();
          return of as Record<StateKind, LayerEntropy[]>;
        },
      });
      const { models, chosen } = found;
      if (picture !== undefined) {
        await drawLayers(picture, `Matrix Rényi entropy of order ${order}, ${chosen.length} windows`, {
          label: "entropy, nats (bars: a deviation over windows)",
          series: layerSeries(models),
        });
        context.log(`drawn: ${picture}`);
      }
      const show = ({ mean, std }: LayerEntropy) => `${mean.toFixed(3)} ± ${std.toFixed(3)}`;
      const rows = models.flatMap(({ model, layers }) =>
        layers.values.map((_, l) => [model, String(l), ...STATE_KINDS.map((kind) => show(layers[kind][l]))]),
      );
      return {
        json: { order, sequences: chosen.length, context: found.context, models, picture },
        text: columnsOf([["model", "layer", ...STATE_KINDS], ...rows], { left: 1 }),
      };
    }),
});
