/**
 * `sluice sae probe`: how well single features tell classes of texts.
 */
import { z } from "zod";
import type { ClassProbing } from "../../interpret/index.ts";
import { disposeAny, loadBoosted, sparseProbingOnTexts } from "../../recipes/index.ts";
import {
  type LabelledDocument,
  labelledDocuments,
  labelledSet,
  listLabelledSets,
  type OpenTextOptions,
  openText,
} from "../../text/index.ts";
import { usageError } from "../../util/index.ts";
import { columns } from "../columns.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { count, deviceFields, hubOptions, modelFields, modelHelp, withDevice, withModel } from "./shared.ts";

const OFFLINE = ["spam", "brown-genres", "languages"];

const schema = z.object({
  sae: z.string().describe("SAE folder (SAELens layout)"),
  parts: z
    .array(z.string())
    .optional()
    .describe("folders of residual parts (`sluice sae boost`) that are added to it"),
  model: z.string().describe(modelHelp("; the SAE belongs to it")),
  ...modelFields,
  hook: z.string().optional().describe("hook point [the one the SAE was trained on]"),
  set: z
    .array(z.string())
    .optional()
    .describe(
      `labelled sets [${OFFLINE.join(",")}]: ${listLabelledSets()
        .map(({ name, title }) => `${name}: ${title}`)
        .join("; ")}`,
    ),
  text: z
    .array(z.string())
    .optional()
    .describe("texts, each a class of its own, as one more set; they are named as for other commands"),
  ks: z.array(count()).default([1, 2, 5]).describe("features of a probe"),
  k: count().optional().describe("active features per token of a topk SAE [the SAE's own]"),
  context: z.number().int().min(8).default(128).describe("tokens of a passage, BOS included"),
  passages: count().default(4).describe("passages from the beginning of a document, at most"),
  samples: count().default(400).describe("passages of a class, at most"),
  testShare: z
    .number()
    .min(0)
    .max(1)
    .default(0.2)
    .describe("share of the documents that no probe is trained on"),
  seed: z.number().int().min(0).default(0).describe("seed of the passages and of those kept from training"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const saeProbe = defineCommand({
  name: "sae probe",
  summary: "sparse probing: how well one, two or five features tell a class of texts",
  description:
    "By SAEBench's definitions: texts are pooled over their tokens; a class is told from as many texts of the others by " +
    "logistic probes on the features whose means differ most, and, beside them, on the whole activation and on as many of its " +
    "dimensions. Accuracy on documents that no probe was trained on, where half are of the class: chance is 0.5. The L2 penalty " +
    "of every probe is chosen by cross-validation.",
  schema,
  examples: [
    "sluice sae probe --sae out/sae --model models/brook --set brown-genres,languages",
    "sluice sae probe --sae out/sae --model models/brook --text sotu,code,spdx,go --json",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const sets = setsOf(options, context);
      const { sae, warnings } = await loadBoosted(device, options.sae, options.parts);
      for (const warning of warnings) context.log(warning);
      try {
        const hook = options.hook ?? sae.base.metadata.hook_name;
        if (typeof hook !== "string")
          throw usageError("the SAE does not say where it belongs; name the point with --hook");
        return await withModel(device, options, context, async (lm) => {
          const found: SetProbing[] = [];
          for (const { name, documents } of sets) {
            const progress = context.progress({ label: `reading ${name}`, unit: "passages" });
            const classes = await sparseProbingOnTexts({
              ...options,
              lm,
              sae,
              hook,
              documents: documents(),
              signal: context.signal,
              onProgress: (done) => progress.update(done),
            });
            progress.finish();
            found.push({ name, classes });
          }
          const { sae: folder, parts, ks } = options;
          return { json: { sae: folder, parts, hook, ...jsonOf(found, ks) }, text: table(found, ks) };
        });
      } finally {
        disposeAny(sae);
      }
    }),
});

interface SetProbing {
  readonly name: string;
  readonly classes: readonly ClassProbing[];
}

function setsOf({ set, text }: Options, context: CommandContext) {
  const { signal, log } = context;
  const names = set ?? (text ? [] : OFFLINE);
  for (const name of names) labelledSet(name);
  const sets = names.map((name) => ({ name, documents: () => labelledDocuments(name, { signal, log }) }));
  if (!text) return sets;
  if (text.length < 2) throw usageError("--text: each text is a class, so there must be two or more");
  return [
    ...sets,
    {
      name: text.join(","),
      documents: () => textsAsClasses(text, { signal, log, hub: hubOptions(context) }),
    },
  ];
}

async function* textsAsClasses(
  texts: readonly string[],
  options: Pick<OpenTextOptions, "signal" | "log" | "hub">,
): AsyncGenerator<LabelledDocument> {
  for (const label of texts) {
    for await (const { id, text } of await openText(label, { ...options, blockBytes: 1 << 14 }))
      yield { group: `${label}/${id}`, text, label };
  }
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** Means over the classes, as SAEBench names them. */
function means(classes: readonly ClassProbing[], ks: readonly number[]): Record<string, number> {
  return {
    llm_test_accuracy: mean(classes.map((c) => c.dense)),
    ...Object.fromEntries(
      ks.map((k, i) => [`llm_top_${k}_test_accuracy`, mean(classes.map((c) => c.dimensions[i]))]),
    ),
    ...Object.fromEntries(
      ks.map((k, i) => [`sae_top_${k}_test_accuracy`, mean(classes.map((c) => c.sparse[i]))]),
    ),
  };
}

function jsonOf(sets: readonly SetProbing[], ks: readonly number[]) {
  const each = sets.map(({ classes }) => means(classes, ks));
  const names = Object.keys(each[0]);
  return {
    ...Object.fromEntries(names.map((name) => [name, mean(each.map((set) => set[name]))])),
    sets: sets.map(({ name, classes }, i) => ({
      set: name,
      ...each[i],
      classes: classes.map((c) => ({
        name: c.name,
        train: c.train,
        test: c.test,
        features: c.features,
        ...means([c], ks),
      })),
    })),
  };
}

function table(sets: readonly SetProbing[], ks: readonly number[]): string {
  const head = ["class", "texts", "all", ...ks.map((k) => `${k} dim`), ...ks.map((k) => `${k} feature`)];
  const show = (values: readonly number[]) => values.map((v) => v.toFixed(3));
  const rows = sets.flatMap(({ name, classes }) => [
    ...classes.map((c) => [
      `${name} ${c.name}`,
      `${c.train}+${c.test}`,
      ...show([c.dense, ...c.dimensions, ...c.sparse]),
    ]),
    [`${name} mean`, "", ...show(Object.values(means(classes, ks)))],
  ]);
  return columns([head, ...rows]);
}
