/**
 * `sluice demo`: the whole story on the bundled model, with a page to look at.
 */
import { readFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import { z } from "zod";
import { runDemo } from "../../recipes/index.ts";
import { formatDuration } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { packagePath } from "../package.ts";
import { count, deviceFields, withDevice } from "./shared.ts";

export const demo = defineCommand({
  name: "demo",
  summary: "the whole story on the bundled model, in minutes, with a report to look at",
  description:
    "Trains a TopK sparse autoencoder on the middle layer of the bundled language model brook over the State of the " +
    "Union speeches, measures it on held-out speeches with the SAE inside the model, and writes metrics.json and " +
    "report.html: curves, metrics with their formulas, and the most telling features with the passages they fire on.",
  schema: z.object({
    model: z.string().optional().describe("model folder [the bundled brook]"),
    text: z.string().default("sotu").describe("corpus, file or folder to train and measure on"),
    hook: z.string().default("blocks.3.hook_resid_post").describe("hook point"),
    features: count().default(4096).describe("F, number of features"),
    k: count().default(32).describe("active features per token"),
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
    evalTokens: count().default(40_000).describe("held-out tokens to measure on"),
    readTokens: count().default(250_000).describe("tokens to search for telling passages"),
    cards: count().default(60).describe("features on the page"),
    out: z.string().default("out/demo").describe("folder for the results"),
    ...deviceFields,
  }),
  examples: ["sluice demo", "sluice demo --tokens 300k --out out/quick"],
  run: (options, context) =>
    withDevice(options, async (device) => {
      const folder = options.model ?? packagePath("models", "brook");
      let line: ReturnType<typeof context.progress> | undefined;
      const { metrics, files, seconds } = await runDemo(device, {
        ...options,
        modelFolder: options.model ? folder : relative(process.cwd(), folder) || folder,
        train: { tokens: options.tokens, batch: options.batch, lr: options.lr, seed: options.seed },
        command: `sluice demo${options.tokens === 1_500_000 ? "" : ` --tokens ${options.tokens}`}`,
        version: version(),
        signal: context.signal,
        report: {
          stage(name) {
            line?.finish();
            line = undefined;
            context.log(`\n${name}`);
          },
          training(p, record) {
            line ??= context.progress({ label: "training", unit: "tokens", total: options.tokens });
            line.update(p.tokens, {
              loss: p.loss.toFixed(2),
              ev: record?.explained_variance.toFixed(3) ?? "",
            });
          },
          tokens(label, done, total) {
            line ??= context.progress({ label, unit: "tokens", total });
            line.update(done);
          },
        },
      });
      line?.finish();
      return { json: { ...metrics, files, seconds }, text: story(metrics, files, seconds) };
    }),
});

function version(): string {
  return (JSON.parse(readFileSync(packagePath("package.json"), "utf8")) as { version: string }).version;
}

function story(
  m: Readonly<Record<string, number>>,
  files: { report: string; metrics: string; sae: string },
  seconds: number,
): string {
  return [
    `Done in ${formatDuration(seconds * 1000)}.`,
    "",
    `  explained variance    ${m.explained_variance.toFixed(4)}   (held-out text, pooled R²)`,
    `  L0                    ${m.l0.toFixed(1)}     active features per token`,
    `  dead features         ${(100 * m.dead_fraction).toFixed(1)} %`,
    `  cross-entropy         ${m.ce_clean.toFixed(3)} → ${m.ce_spliced.toFixed(3)} nats with the SAE in place (zeroed: ${m.ce_zero.toFixed(2)})`,
    `  loss recovered        ${(100 * m.loss_recovered).toFixed(1)} % against zero, ${(100 * m.loss_recovered_mean).toFixed(1)} % against mean ablation`,
    "",
    `  look   ${resolve(files.report)}`,
    `  read   ${resolve(files.metrics)}`,
    "",
    "Next:",
    `  sluice sae eval --sae ${files.sae} --model models/brook --text brown`,
    "  sluice sae train --model models/brook --text sotu --hook blocks.1.hook_resid_post --features 8192 --tokens 4M --out out/deeper",
    "  sluice lm generate --model models/brook --prompt 'The people of'",
  ].join("\n");
}
