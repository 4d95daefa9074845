/**
 * `sluice demo`: the whole story on the bundled model, with a page to look at.
 */
import { relative, resolve } from "node:path";
import { z } from "zod";
import { type DemoResult, runDemo } from "../../recipes/index.ts";
import { formatDuration, type Progress } from "../../util/index.ts";
import { type CommandContext, defineCommand } from "../command.ts";
import { commandName, packageCommit, packagePath, packageVersion, shellWord } from "../package.ts";
import { count, deviceFields, hubOptions, modelHelp, withDevice } from "./shared.ts";

const schema = z.object({
  model: z.string().optional().describe(modelHelp(" [the bundled brook]")),
  text: z
    .array(z.string())
    .default(["sotu"])
    .describe("corpora, files or folders to train on; their held-out part is measured on"),
  hook: z.string().default("blocks.3.hook_resid_post").describe("hook point"),
  features: count().default(4096).describe("F, number of features"),
  objective: z
    .enum(["hierarchical", "mse"])
    .default("hierarchical")
    .describe("hierarchical: one SAE for every number of active features up to k; mse: for k only (TopK)"),
  k: count()
    .default(64)
    .describe("K, active features per token; at most so many with the hierarchical objective"),
  tokens: count().default(1_500_000).describe("activation vectors to train on"),
  batch: count().default(2048).describe("activation vectors per step"),
  lr: z
    .number()
    .positive()
    .default(1e-3)
    .describe("peak learning rate; higher than the default of sae train, for a short run"),
  seed: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("seed of the initial weights and of the order of the text"),
  buffer: count().default(65_536).describe("activation vectors held in memory for shuffling"),
  evalTokens: count().default(40_000).describe("held-out tokens to measure on"),
  evalK: z
    .array(count())
    .optional()
    .describe(
      "numbers of active features to measure at, the stops of the page's slider [k, k/2 … k/16; mse: k]",
    ),
  readTokens: count().default(250_000).describe("tokens to search for telling passages"),
  cards: count().default(60).describe("features on the page"),
  out: z.string().default("out/demo").describe("folder for the results"),
  ...deviceFields,
});
type Options = z.output<typeof schema>;

export const demo = defineCommand({
  name: "demo",
  summary: "the whole story on the bundled model, in minutes, with a report to look at",
  description:
    "Trains a HierarchicalTopK sparse autoencoder (arXiv 2505.24473), one SAE for every number k of active features up to " +
    "--k, on the middle layer of the bundled language model brook over the State of the Union speeches, measures it on " +
    "held-out speeches with the SAE inside the model, and writes metrics.json and report.html: curves, metrics with their " +
    "formulas, the most telling features with the passages they fire on, and a slider for k. The numbers at the top of " +
    "metrics.json are those of the k that it names, 32 if that was measured; `budgets` has those of every k.",
  schema,
  examples: [
    "sluice demo",
    "sluice demo --tokens 300k --out out/quick",
    "sluice demo --objective mse --k 32 --out out/topk",
  ],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const folder = options.model ?? bundledModel();
      const progress = stageProgress(context);
      if (device.name === "ref" && options.tokens >= SLOW_TOKENS) {
        context.log(`on these loops that takes hours; a small demo: ${commandName()} demo ${SMALL}`);
      }
      const { tokens, batch, lr, seed, objective } = options;
      const result = await runDemo(device, {
        ...options,
        modelFolder: folder,
        hub: hubOptions(context),
        train: { tokens, batch, lr, seed, objective },
        budgets: options.evalK,
        command: commandLine(options),
        version: packageVersion(),
        commit: packageCommit(),
        signal: context.signal,
        report: progress,
      });
      progress.finish();
      const { metrics, budgets, files, seconds } = result;
      return { json: { ...metrics, budgets, files, seconds }, text: story(result, options, folder) };
    }),
});

/** From so many tokens on, and what to type instead, where there are no native kernels. */
const SLOW_TOKENS = 100_000;
const SMALL =
  "--features 1024 --tokens 16k --batch 512 --buffer 4096 --eval-tokens 1k --read-tokens 16k --out out/small";

/** models/brook of the package, as one would type it here. */
function bundledModel(): string {
  const folder = packagePath("models", "brook");
  const typed = relative(process.cwd(), folder);
  return typed.startsWith("..") ? folder : typed;
}

/** A line for each stage, and one for each kind of work in it. */
function stageProgress(context: CommandContext) {
  let line: { readonly label: string; readonly progress: Progress } | undefined;
  const finish = (): void => {
    line?.progress.finish();
    line = undefined;
  };
  return {
    finish,
    stage(name: string): void {
      finish();
      context.log(name);
    },
    work(label: string, done: number, total: number, details?: Readonly<Record<string, string>>): void {
      if (line?.label !== label) {
        finish();
        line = { label, progress: context.progress({ label, unit: "tokens", total }) };
      }
      line.progress.update(done, details);
    },
  };
}

/** The options that are not the defaults. */
function commandLine(options: Options): string {
  const defaults: Record<string, unknown> = schema.parse({});
  const flags = Object.entries(options)
    .filter(([name, value]) => value !== undefined && String(value) !== String(defaults[name]))
    .map(
      ([name, value]) =>
        ` --${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)} ${shellWord(String(value))}`,
    );
  return `${commandName()} demo${flags.join("")}`;
}

function story(
  { metrics: m, budgets, files, seconds }: DemoResult,
  options: Options,
  folder: string,
): string {
  const sluice = commandName();
  const model = `--model ${shellWord(folder)}`;
  const measured = `${sluice} sae eval --sae ${shellWord(files.sae)} ${model}`;
  const curve = budgets.map(({ k }) => k).join(",");
  return [
    `Done in ${formatDuration(seconds)}.`,
    "",
    ...(budgets.length > 1
      ? [
          `One SAE with any number k of active features up to ${options.k}:`,
          "",
          ...table(budgets),
          "",
          `At k = ${m.k}:`,
        ]
      : []),
    `  explained variance    ${m.explained_variance.toFixed(4)}   (held-out text, pooled R²)`,
    `  L0                    ${m.l0.toFixed(1)}     active features per token`,
    `  dead features         ${(100 * m.dead_fraction).toFixed(1)}%`,
    `  cross-entropy         ${m.ce_clean.toFixed(3)} → ${m.ce_spliced.toFixed(3)} nats with the SAE in place (zeroed: ${m.ce_zero.toFixed(2)})`,
    `  loss recovered        ${(100 * m.loss_recovered).toFixed(1)}% against zero, ${(100 * m.loss_recovered_mean).toFixed(1)}% against mean ablation`,
    "",
    `  look   ${resolve(files.report)}`,
    `  read   ${resolve(files.metrics)}`,
    "",
    "Next:",
    `  ${measured} --text brown${budgets.length > 1 ? ` --k ${curve}` : ""}`,
    `  ${sluice} sae train ${model} --text sotu --hook blocks.1.hook_resid_post --features 8192 --tokens 4M --out out/early`,
    `  ${sluice} lm generate ${model} --prompt 'The people of'`,
  ].join("\n");
}

/** One line for each k. */
function table(budgets: DemoResult["budgets"]): string[] {
  const share = (x: number): string => `${(100 * x).toFixed(1)}%`;
  const rows = [
    ["k", "explained variance", "loss recovered", "KL", "dead features"],
    ...budgets.map((m) => [
      String(m.k),
      m.explained_variance.toFixed(4),
      share(m.loss_recovered),
      m.kl.toFixed(4),
      share(m.dead_fraction),
    ]),
  ];
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) => `  ${row.map((cell, i) => cell.padStart(widths[i])).join("   ")}`);
}
