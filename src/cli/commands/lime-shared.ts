/**
 * What the commands share that look into several models layer by layer: the same windows of a text for all of them, and pictures.
 */
import { basename } from "node:path";
import { STATE_KINDS, type StateKind } from "../../lime/index.ts";
import { spreadWindows } from "../../models/index.ts";
import { type LanguageModel, windowsOf } from "../../recipes/language-model.ts";
import type { Series } from "../../report/chart.ts";
import type { Device } from "../../tensor/index.ts";
import type { Split, TokenPacker } from "../../text/index.ts";
import { usageError } from "../../util/index.ts";
import type { CommandContext } from "../command.ts";
import { withModel, withTokens } from "./shared.ts";

export interface SameWindowsOptions {
  readonly model: readonly string[];
  readonly modelDtype?: "f32" | "f16" | "bf16";
  readonly text?: readonly string[];
  readonly field?: string;
  readonly split: Split;
  readonly context?: number;
}

export interface Measured<T> {
  readonly model: string;
  readonly layers: T;
}

/**
 * Chooses from the windows of a text with the first model's tokenizer, then measures each model on what was chosen; models that
 * would make other windows of the text are refused.
 */
export async function onSameWindows<W, T>(
  { command, device, options }: { command: string; device: Device; options: SameWindowsOptions },
  context: CommandContext,
  {
    choose,
    measure,
  }: {
    choose(lm: LanguageModel, packer: TokenPacker): Promise<W>;
    measure(lm: LanguageModel, chosen: W, model: string): Promise<T>;
  },
): Promise<{ readonly chosen: W; readonly context: number; readonly models: Measured<T>[] }> {
  const { model: names, text } = options;
  if (text === undefined) throw usageError(`${command}: name the text with --text`);
  refuseTwins(command, names);
  let first: { tokenizer: string; context: number; chosen: W } | undefined;
  const models: Measured<T>[] = [];
  for (const model of names) {
    const layers = await withModel(device, { ...options, model }, context, async (lm) => {
      const tokenizer = lm.tokenizer.hash;
      const length = options.context ?? lm.model.spec.contextLength;
      if (first && (first.tokenizer !== tokenizer || first.context !== length)) {
        throw usageError(
          `${command}: ${model} has another ${first.tokenizer === tokenizer ? "context" : "tokenizer"} than ${names[0]}, so their windows differ; compare models of one tokenizer, with --context`,
        );
      }
      first ??= {
        tokenizer,
        context: length,
        chosen: await withTokens({ ...options, text }, lm.tokenizer, context, (tokens) =>
          choose(lm, windowsOf(lm, tokens, { context: length, shuffle: false })),
        ),
      };
      return measure(lm, first.chosen, model);
    });
    models.push({ model, layers });
  }
  if (!first) throw usageError(`${command}: name at least one model with --model`);
  return { chosen: first.chosen, context: first.context, models };
}

/** At most so many windows of a text, evenly spread over it. */
export async function spreadOver(packer: TokenPacker, most: number): Promise<Int32Array[]> {
  await packer.reach(most);
  return spreadWindows(packer.windows, most).map((window) => packer.at(window).tokens);
}

/** Refuses a model that is named twice. */
export function refuseTwins(command: string, names: readonly string[]): void {
  const twin = names.find((name, i) => names.indexOf(name) !== i);
  if (twin !== undefined) throw usageError(`${command}: --model names ${twin} twice; once is enough`);
}

/** Last parts of the models' paths where they tell them apart, else all of them. */
export function modelLabels(names: readonly string[]): string[] {
  const short = names.map((name) => basename(name));
  return new Set(short).size === names.length && short.every((name) => name !== "") ? short : [...names];
}

/**
 * A line for each model and kind of states, with a deviation to either side but not beyond `most`; what a model reads only where it
 * is not what it makes.
 */
export function layerSeries(
  models: readonly Measured<Record<StateKind, readonly { readonly mean: number; readonly std: number }[]>>[],
  most = Number.POSITIVE_INFINITY,
): Series[] {
  const labels = modelLabels(models.map(({ model }) => model));
  return models.flatMap(({ layers }, i) => {
    const own = layers.values.every(({ mean }, l) => mean === layers.read[l].mean);
    return STATE_KINDS.filter((kind) => kind !== "read" || !own).map((kind) => ({
      name: `${labels[i]}: ${kind}`,
      dashed: kind === "hidden",
      points: layers[kind].map(({ mean, std }, x) => ({
        x,
        mean,
        min: mean - std,
        max: Math.min(most, mean + std),
      })),
    }));
  });
}

/** A chart over layers. */
export async function drawLayers(
  file: string,
  title: string,
  { label, series }: { readonly label: string; readonly series: readonly Series[] },
): Promise<void> {
  const { writeChart } = await import("../../report/chart.ts");
  const ticks = series[0].points.map(({ x }) => x);
  writeChart(file, { title, x: { label: "layer", ticks }, y: { label }, series });
}
