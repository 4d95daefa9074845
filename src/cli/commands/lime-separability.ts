/**
 * `sluice lime separability`: how well a linear probe tells a few words apart by the states of each layer, of several models on the
 * same text.
 */
import { z } from "zod";
import {
  findOccurrences,
  type LayerSeparability,
  layerSeparability,
  OCCURRENCES_PER_WORD,
  SEPARABLE_WORDS,
  type SeparabilityOptions,
  STATE_KINDS,
  wordTokens,
} from "../../lime/index.ts";
import type { Progress } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { drawLayers, layerSeries, onSameWindows } from "./lime-shared.ts";
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

export const limeSeparability = defineCommand({
  name: "lime separability",
  summary: "how well a linear probe tells words apart by each layer's states, model beside model",
  description:
    "Takes equally many occurrences of a few words from a text, and trains, layer by layer, a linear softmax probe to tell " +
    "by the state which of them stands there: mean and deviation of its accuracy over folds that it has not seen (LIMe, " +
    "arXiv 2502.09245, section 5.2). values: what the layer makes; read: what its attention reads, mixed over the layers " +
    "where the model does so; hidden: the stream behind the block. The probe is asked for the token that the model has just " +
    "read, not for the next one: what falls with depth is how easily the states still show it.",
  schema: z.object({
    model: z.array(z.string()).describe(modelHelp("; several are compared on the same occurrences")),
    ...modelFields,
    ...textFields("heldout"),
    words: z
      .array(z.string())
      .default([...SEPARABLE_WORDS])
      .describe("words to tell apart, each a single token behind a blank"),
    perWord: count()
      .default(OCCURRENCES_PER_WORD)
      .describe("most occurrences of a word; of all words as many as of the rarest"),
    folds: z.number().int().min(2).default(5).describe("folds of the cross-validation, stratified by word"),
    epochs: count().default(1).describe("of the probe; 1 as in the paper, more let it converge"),
    seed: z.number().int().min(0).default(42).describe("of the folds and of the order of samples"),
    ...pictureField,
    ...deviceFields,
  }),
  examples: [
    "sluice lime separability --model models/brook,models/brook-lime --text sotu --split all",
    "sluice lime separability --model models/brook --text sotu --epochs 30 --picture out/words.svg",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { words, perWord, folds, epochs, seed, picture } = options;
      const { signal } = context;
      const found = await onSameWindows({ command: "lime separability", device, options }, context, {
        choose: ({ tokenizer }, packer) =>
          findOccurrences(packer, wordTokens(tokenizer, words), {
            perWord,
            least: folds,
            names: words,
            signal,
          }),
        measure: ({ model }, occurrences, name) =>
          withLines(context, name, (onProgress) =>
            layerSeparability(model, occurrences, { folds, epochs, seed, signal, onProgress }),
          ),
      });
      const { models, chosen } = found;
      const what = `${chosen.perWord} of each of ${words.join(", ")}; chance ${(1 / words.length).toFixed(3)}`;
      if (picture !== undefined) {
        await drawLayers(picture, `Words told apart, ${what}`, {
          label: "accuracy (bars: a deviation over folds)",
          series: layerSeries(models, 1),
        });
        context.log(`drawn: ${picture}`);
      }
      const show = ({ mean, std }: LayerSeparability) => `${mean.toFixed(4)} ± ${std.toFixed(4)}`;
      const rows = models.flatMap(({ model, layers }) =>
        layers.values.map((_, l) => [model, String(l), ...STATE_KINDS.map((kind) => show(layers[kind][l]))]),
      );
      const settings = { words, perWord: chosen.perWord, folds, epochs, seed };
      return {
        json: { ...settings, chance: 1 / words.length, context: found.context, models, picture },
        text: `${columnsOf([["model", "layer", ...STATE_KINDS], ...rows], { left: 1 })}\n\n${what}`,
      };
    }),
});

type OnProgress = NonNullable<SeparabilityOptions["onProgress"]>;

/** A line of progress for reading, and one for the probes. */
async function withLines<T>(
  context: CommandContext,
  name: string,
  work: (onProgress: OnProgress) => Promise<T>,
): Promise<T> {
  let line: { part: string; progress: Progress } | undefined;
  const found = await work(({ part, done, total }) => {
    if (line?.part !== part) {
      line?.progress.finish();
      const label = `${part === "windows" ? "reading with" : "probing"} ${name}`;
      line = { part, progress: context.progress({ label, unit: part, total }) };
    }
    line.progress.update(done);
  });
  line?.progress.finish();
  return found;
}
