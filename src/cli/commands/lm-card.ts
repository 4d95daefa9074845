/**
 * `sluice lm card`: measures a trained model beside an n-gram model and writes its model card.
 */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { openSafetensors } from "../../formats/index.ts";
import {
  forwardFlops,
  type LmTrainConfig,
  type LmTrainRecord,
  type ModelSpec,
  parameterCount,
} from "../../models/index.ts";
import type { LanguageModel } from "../../recipes/index.ts";
import { type CardCorpus, type CardLoss, type ModelCard, renderModelCard } from "../../recipes/lm-card.ts";
import { compareOn, ngramOf, sampleDomains } from "../../recipes/lm-results.ts";
import type { Device } from "../../tensor/index.ts";
import { corpusByName, TokenFile } from "../../text/index.ts";
import {
  formatCount,
  inputError,
  mean,
  readJson,
  readJsonLines,
  usageError,
  writeAtomic,
  writeJson,
} from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { count, deviceFields, withDevice, withModel } from "./shared.ts";

const schema = z.object({
  model: z.string().describe("model folder, to be measured and named by its last part"),
  data: z.string().describe("folder of `sluice text mix`: train.tokens, heldout/*.tokens, mix.json"),
  run: z
    .string()
    .describe("folder of the training run: metrics.jsonl and, for the settings, state.safetensors"),
  out: z.string().describe("the card, a Markdown file; results.json is written beside it"),
  tokensSeen: count()
    .optional()
    .describe("tokens of training; the n-gram model gets as many [the run's last record]"),
  ngramOrder: count().default(5).describe("longest n-gram"),
  windows: count().default(64).describe("held-out windows a domain"),
  seed: z.number().int().default(1).describe("seed of the samples"),
  recipe: z
    .string()
    .default("bash runs/train-brook.sh")
    .describe("command that makes the model, for the card"),
  twin: z
    .string()
    .optional()
    .describe("a second model of the same tokenizer, scored on the same windows and compared in the card"),
  machine: z.string().optional().describe("what it was trained on, for the card"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

/** What the card needs of `mix.json`. */
const mixSchema = z.object({
  train: z.object({ tokens: z.number() }),
  parts: z.array(z.object({ corpus: z.string(), tokens: z.number(), epochs: z.number() })),
  heldOut: z.array(z.object({ domain: z.string() })),
});
type Mix = z.output<typeof mixSchema>;

const SAMPLING = { temperature: 0.8, topP: 0.95, promptTokens: 24, newTokens: 72 } as const;

export const lmCard = defineCommand({
  name: "lm card",
  summary: "measure a trained language model beside an n-gram model, write its model card",
  description:
    "Held-out cross-entropy by domain, beside an interpolated Kneser-Ney n-gram model trained on as many tokens of the same " +
    "file and scored on the same ones, and samples with a fixed seed; data, licences, recipe and settings come from the mix " +
    "and the run. Writes Markdown with Hugging Face's front matter, and results.json beside it.",
  schema,
  examples: [
    "sluice lm card --model models/brook --data out/mix --run out/run --out models/brook/README.md",
    "sluice lm card --model models/brook --data out/mix --run out/run --out card.md --windows 8 --tokens-seen 300000",
    "sluice lm card --model models/brook-lime --twin models/brook --data out/mix --run out/run --out card.md",
  ],
  run: (options, context) =>
    withDevice(options, (device) =>
      withModel(device, options, context, async (lm) => {
        const mix = readMix(join(options.data, "mix.json"));
        const training = readTraining(options);
        const found = await measure(device, lm, mix, options, training.tokens, context);
        const card: ModelCard = {
          name: lm.name,
          license: "mit",
          languages: languagesOf(mix),
          parameters: parameterCount(lm.model.spec),
          architecture: describeArchitecture(lm.model.spec),
          inTransformers: !lm.model.spec.kvRouting && !lm.model.spec.residual,
          context: lm.model.spec.contextLength,
          vocabSize: lm.model.spec.vocabSize,
          training,
          mixture: { tokens: mix.train.tokens, corpora: mix.parts.map(describePart) },
          ...found,
          windows: options.windows,
          command: commandLine(lm.name, options, training.tokens),
        };
        const { losses, ngram, twin } = card;
        const json = {
          model: lm.name,
          hash: lm.hash,
          tokensSeen: training.tokens,
          ngram,
          ...(twin && { twin: twin.name }),
          heldOut: losses,
        };
        await writeAtomic(options.out, renderModelCard(card));
        await writeJson(join(dirname(options.out), "results.json"), json);
        return { json, text: `${resultTable(losses)}\n\n${options.out}` };
      }),
    ),
});

/** Opens the twin where one is named; it must cut text into the same tokens and read windows as long. */
async function withTwin<T>(
  device: Device,
  lm: LanguageModel,
  options: Options,
  context: CommandContext,
  use: (twin?: LanguageModel) => Promise<T>,
): Promise<T> {
  const { twin: model } = options;
  if (model === undefined) return use();
  return withModel(device, { ...options, model }, context, (twin) => {
    if (twin.tokenizer.hash !== lm.tokenizer.hash)
      throw usageError(`--twin ${model}: has another tokenizer than ${lm.name}; their losses do not compare`);
    const [own, other] = [lm, twin].map((m) => m.model.spec.contextLength);
    if (other < own) throw usageError(`--twin ${model}: reads ${other} tokens at a time, ${lm.name} ${own}`);
    return use(twin);
  });
}

/** What a reader would want to know of two models; what is equal is left out. */
function differences(spec: ModelSpec, twin: ModelSpec): [string, string, string][] {
  const [own, other] = [spec, twin].map((s) =>
    Object.fromEntries<string>([
      ["Keys and values", "each layer's own"],
      ["Residual", "sum"],
      ...describeArchitecture(s),
      ["Parameters", String(parameterCount(s).total)],
    ]),
  );
  return Object.keys(own).flatMap((key): [string, string, string][] =>
    own[key] === other[key] ? [] : [[key, own[key], other[key]]],
  );
}

async function measure(
  device: Device,
  lm: LanguageModel,
  mix: Mix,
  options: Options,
  tokens: number,
  context: CommandContext,
): Promise<Pick<ModelCard, "losses" | "ngram" | "samples" | "sampling" | "twin">> {
  const { data, ngramOrder: order, windows, seed } = options;
  const { signal, progress } = context;
  const opened: TokenFile[] = [];
  const open = (path: string): TokenFile => {
    const file = TokenFile.open(join(data, path), { tokenizer: lm.tokenizer.hash });
    opened.push(file);
    return file;
  };
  try {
    const files = mix.heldOut.map(({ domain }) => ({ domain, file: open(`heldout/${domain}.tokens`) }));
    const samples = await sampleDomains(lm, files, { ...SAMPLING, seed, signal });
    const counting = progress({ label: "n-gram model", unit: "orders", total: order });
    const { ngram, tokens: trained } = ngramOf(lm, open("train.tokens"), {
      order,
      tokens,
      signal,
      onProgress: (stage) => counting.update(order - stage.order + 1),
    });
    counting.finish();
    const scoring = progress({ label: "held-out text", unit: "domains", total: files.length });
    const losses: CardLoss[] = [];
    const twin = await withTwin(device, lm, options, context, async (other) => {
      for (const held of files) {
        losses.push(await compareOn(lm, ngram, { ...held, windows, twin: other, signal }));
        scoring.update(losses.length);
      }
      return other && { name: other.name, differences: differences(lm.model.spec, other.model.spec) };
    });
    scoring.finish();
    const { temperature, topP } = SAMPLING;
    return {
      losses,
      ...(twin && { twin }),
      samples,
      sampling: { temperature, topP, seed },
      ngram: { order, tokens: trained, ngrams: ngram.sizes[order - 1] },
    };
  } finally {
    for (const file of opened) file.close();
  }
}

function readMix(path: string): Mix {
  const { data, error } = mixSchema.safeParse(readJson(path));
  if (!data) throw inputError(`${path}: not the report of a mix: ${z.prettifyError(error)}`);
  return data;
}

/** Training loss is averaged over this many records. */
const LAST_RECORDS = 10;

function readTraining({ run, tokensSeen, recipe, machine }: Options): ModelCard["training"] {
  const path = join(run, "metrics.jsonl");
  const all = readJsonLines(path) as LmTrainRecord[];
  const records = all.filter(({ tokens }) => tokens <= (tokensSeen ?? Number.POSITIVE_INFINITY));
  const last = records.at(-1);
  if (!last)
    throw inputError(`${path}: ${all.length} records, none up to ${tokensSeen ?? "any number of"} tokens`);
  const seconds = records.reduce(
    (sum, { tokens, tokens_per_second }, i) =>
      sum + (tokens - (records[i - 1]?.tokens ?? 0)) / tokens_per_second,
    0,
  );
  return {
    recipe,
    machine,
    tokens: tokensSeen ?? last.tokens,
    steps: last.step,
    seconds,
    loss: mean(records.slice(-LAST_RECORDS).map((record) => record.loss)),
    settings: readSettings(join(run, "state.safetensors")),
  };
}

/** Settings of the run as its checkpoint keeps them. */
function readSettings(path: string): ModelCard["training"]["settings"] {
  if (!existsSync(path)) return [];
  const file = openSafetensors(path);
  const text = file.metadata["sluice.lm-train"];
  file.close();
  if (text === undefined) throw inputError(`${path}: not a checkpoint of a language-model run`);
  const { config: c } = JSON.parse(text) as { config: LmTrainConfig };
  const floor = c.decay.kind === "constant" ? "" : ` to ${c.decay.floor ?? 0} of the peak`;
  const over = c.decay.kind === "linear" ? ` over the last ${100 * c.decay.share}% of the steps` : "";
  return [
    [
      "Optimiser",
      `AdamW, β₁ ${c.beta1}, β₂ ${c.beta2}, ε ${c.eps}, weight decay ${c.weightDecay} (matrices only)`,
    ],
    [
      "Learning rate",
      `peak ${c.lr}, ${c.warmup} steps of linear warm-up, then ${c.decay.kind}${floor}${over}`,
    ],
    ["Length of the schedule", `${formatCount(c.tokens)} tokens`],
    ["Batch", `${c.batch} windows, in passes of ${c.micro}`],
    ["Clipping", `gradient norm ${c.clip}`],
    ["Seed", String(c.seed)],
  ];
}

function describePart({ corpus, tokens, epochs }: Mix["parts"][number]): CardCorpus {
  const { name, title, domain, licence, source } = corpusByName(corpus);
  const list = source.packages.map((p) => `${p.name}@${p.version}`).join(", ");
  return { name, title, domain, licence, packages: `${list} (${PACKAGE_KIND[source.kind]})`, tokens, epochs };
}

const PACKAGE_KIND = { npm: "npm", deb: "Debian" } as const;

const languagesOf = ({ heldOut }: Mix): string[] =>
  heldOut.some((h) => h.domain === "russian") ? ["en", "ru"] : ["en"];

function describeArchitecture(spec: ModelSpec): [string, string][] {
  return [
    ["Layout", "Llama: pre-norm RMSNorm, rotary positions, gated MLP with SiLU, no biases"],
    ...(spec.kvRouting
      ? [
          ["Keys and values", `routed over the layers (LIMe), ${JSON.stringify(spec.kvRouting)}`] as [
            string,
            string,
          ],
        ]
      : []),
    ...(spec.residual ? [["Residual", JSON.stringify(spec.residual)] as [string, string]] : []),
    ["Blocks", String(spec.nLayers)],
    ["Width", String(spec.dModel)],
    ["Heads", `${spec.nHeads} for queries, ${spec.nKvHeads} for keys and values, of ${spec.headDim}`],
    ["MLP", String(spec.dMlp)],
    [
      "Vocabulary",
      `${spec.vocabSize}, byte-level BPE${spec.tiedHead ? "; embedding and head are tied" : ""}`,
    ],
    ["Context", `${spec.contextLength} tokens`],
    [
      "Arithmetic",
      `${formatCount(forwardFlops(spec).total)} FLOP a token in a window of ${spec.contextLength}, forward: 2 for each multiply-accumulate of a product, all keys counted`,
    ],
  ];
}

/** The command that makes the same numbers, with paths as in the repository. */
function commandLine(name: string, { ngramOrder, windows, seed, twin }: Options, tokens: number): string {
  const beside = twin === undefined ? "" : ` --twin models/${basename(twin)}`;
  return (
    `sluice lm card --model models/${name}${beside} --data MIX --run RUN --out models/${name}/README.md \\\n` +
    `  --tokens-seen ${tokens} --ngram-order ${ngramOrder} --windows ${windows} --seed ${seed}`
  );
}

function resultTable(losses: readonly CardLoss[]): string {
  const row = (cells: readonly string[]) =>
    cells.map((c, i) => (i === 0 ? c.padEnd(12) : c.padStart(12))).join("");
  const lines = losses.map((l) =>
    row([
      l.domain,
      formatCount(l.tokens),
      l.loss.toFixed(3),
      l.standardError.toFixed(3),
      l.bitsPerByte.toFixed(3),
      l.ngram.toFixed(3),
    ]),
  );
  return [row(["domain", "tokens", "nats/token", "±", "bits/byte", "n-gram"]), ...lines].join("\n");
}
