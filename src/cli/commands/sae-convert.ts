/**
 * `sluice sae convert`: an SAE from the format of one library to that of another. `sluice sae list`: public releases.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import {
  findReleases,
  findSae,
  SAE_FORMATS,
  type SaeFormat,
  saeFormatTitle,
  WRITABLE_SAE_FORMATS,
  type WritableSaeFormat,
} from "../../formats/index.ts";
import { disposeSae, formatTitle, loadSae, type Sae, saveSae } from "../../sae/index.ts";
import { SluiceError, usageError } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { columnsOf, deviceFields, withDevice } from "./shared.ts";

const positive = () => z.number().positive();

export const saeConvert = defineCommand({
  name: "sae convert",
  summary: "read an SAE of another library, or write one for it",
  description:
    `Reads ${SAE_FORMATS.map(saeFormatTitle).join(", ")}; which one it is, is told by what the files hold, not by their names. ` +
    "Numbers stay as they are, bit for bit, wherever the other format can hold them; a conversion that would round is refused " +
    "with the reason unless --lossy allows it, and what is lost is said. Nothing in a file is ever run: pickles are read by a " +
    "reader that knows tensors, dicts, lists, strings and numbers only.",
  schema: z.object({
    sae: z.string().describe("folder or file of the SAE"),
    to: z.enum(WRITABLE_SAE_FORMATS).default("sae-lens").describe("format to write"),
    out: z.string().describe("folder to write"),
    hook: z.string().optional().describe("hook point that it reads [what the files or the path say]"),
    hookOut: z.string().optional().describe("hook point of a transcoder's output"),
    modelName: z.string().optional().describe("language model [what the files or the path say]"),
    normFactor: positive()
      .optional()
      .describe(
        "what activations were multiplied by before the SAE saw them, for files that do not say; 1: it is in the weights already",
      ),
    normFactorOut: positive().optional().describe("the same of a transcoder's target [--norm-factor]"),
    dictClass: z
      .string()
      .optional()
      .describe("class of a dictionary_learning file without config.json, as in BatchTopKSAE"),
    threshold: z
      .number()
      .min(0)
      .optional()
      .describe("threshold of a BatchTopK file whose training never set one"),
    dtype: z.enum(["f32", "f16", "bf16"]).default("f32").describe("storage type of the weights"),
    lossy: z.boolean().default(false).describe("allow what rounds or cannot be expressed exactly"),
    ...deviceFields,
  }),
  examples: [
    "sluice sae convert --sae gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --out out/gemma",
    "sluice sae convert --sae trainer_2/ae.pt --to sae-lens --out out/lens",
    "sluice sae convert --sae out/sae --to dictionary-learning --out out/trainer_0",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const { sae: place, out, to, dtype, lossy } = options;
      checkOut(place, out, to);
      const loaded = await loadSae(device, place, options);
      const { sae, warnings } = loaded;
      try {
        for (const warning of warnings) context.log(warning);
        if (to === "sae-lens") requirePlace(sae, place);
        const { lost } = await saveSae(out, sae, { format: to, dtype, lossy });
        const { dIn, features, activation } = sae.config;
        const kind = activation.kind;
        return {
          json: {
            sae: place,
            from: loaded.format,
            to,
            out,
            d_in: dIn,
            features,
            activation: kind,
            warnings,
            lost,
          },
          text: [
            `${out}: ${formatTitle(loaded)} to ${saeFormatTitle(to)}, ${features} features of width ${dIn}, ${kind}`,
            ...(lost.length > 0 ? lost.map((text) => `lost: ${text}`) : ["nothing was lost"]),
          ].join("\n"),
        };
      } finally {
        disposeSae(sae);
      }
    }),
});

/** Two SAEs in one folder could not be told apart. One of the same format is replaced. */
function checkOut(place: string, out: string, to: WritableSaeFormat): void {
  const folder = fs.statSync(place, { throwIfNoEntry: false })?.isFile() ? path.dirname(place) : place;
  if (real(folder) === real(out)) throw usageError(`--out ${out}: is the folder of --sae; choose another`);
  const there = formatIn(out);
  if (there !== undefined && there !== to)
    throw usageError(`--out ${out}: holds an SAE of ${saeFormatTitle(there)} already; choose another folder`);
}

const real = (place: string): string => (fs.existsSync(place) ? fs.realpathSync(place) : path.resolve(place));

/** Format of the SAE in a folder; undefined where none is recognised. */
function formatIn(folder: string): SaeFormat | undefined {
  try {
    return fs.existsSync(folder) ? findSae(folder).format : undefined;
  } catch (error) {
    if (error instanceof SluiceError) return undefined;
    throw error;
  }
}

/** SAELens files say where they belong, and commands go by it. */
function requirePlace(sae: Sae, place: string): void {
  if (typeof sae.metadata.hook_name !== "string") {
    throw usageError(
      `${place}: neither the files nor the path say at which hook point it belongs; name it with --hook, as in --hook blocks.3.hook_resid_post`,
    );
  }
}

export const saeList = defineCommand({
  name: "sae list",
  summary: "public releases of SAEs: where they are and in which format",
  description:
    "Lists releases on the Hugging Face hub that `sluice sae convert` reads, with the path of one SAE in the repository and the " +
    "hook point that it belongs to; braces stand for what varies. Nothing is downloaded.",
  schema: z.object({
    filter: z
      .string()
      .optional()
      .describe("only releases with these words in their name, model, repository or format"),
  }),
  positional: ["filter"],
  examples: ["sluice sae list", "sluice sae list 'gemma-2-2b att' --json"],
  async run({ filter }) {
    const releases = findReleases(filter);
    if (releases.length === 0)
      throw usageError(`no release has ${JSON.stringify(filter)} in it; see them all with sluice sae list`);
    const rows = releases.map(({ name, format, repo, path, hook = "–" }) => [name, format, repo, path, hook]);
    const notes = releases.flatMap(({ name, note }) => (note ? [`${name}: ${note}`] : []));
    return {
      json: { releases },
      text: [
        columnsOf([["name", "format", "repository", "path", "hook"], ...rows], { left: 5 }),
        ...notes,
      ].join("\n"),
    };
  },
});
