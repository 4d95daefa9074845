/**
 * The whole story in minutes: a TopK SAE on the bundled model, measured on held-out text, with a page to look at.
 * Writes `metrics.json`, `report.html` and the SAE itself.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { densityHistogram, type ReportData, renderReport } from "../report/index.ts";
import {
  disposeSae,
  type Sae,
  type SaeTrainInput,
  type TrainProgress,
  type TrainRecord,
} from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { formatCount, readJsonLines, writeAtomic, writeJson } from "../util/index.ts";
import { collectFirings, featureCards } from "./features.ts";
import { type LanguageModel, openLanguageModel, windowsOf } from "./language-model.ts";
import { evaluateOnModel, type SaeEvaluation } from "./sae-eval.ts";
import { trainSaeRun } from "./sae-train.ts";
import { openTextTokens } from "./text-tokens.ts";

export interface DemoOptions {
  readonly modelFolder: string;
  readonly text: string;
  readonly hook: string;
  readonly features: number;
  readonly k: number;
  readonly train: SaeTrainInput;
  /** Held-out tokens to measure on. */
  readonly evalTokens: number;
  /** Tokens to look for telling passages in. */
  readonly readTokens: number;
  /** Features on the page. */
  readonly cards: number;
  readonly out: string;
  /** The command line that repeats this run, for the page. */
  readonly command: string;
  readonly version: string;
  readonly signal?: AbortSignal;
  readonly report: DemoProgress;
}

/** What a person is told while it runs. */
export interface DemoProgress {
  stage(name: string): void;
  training(progress: TrainProgress, record: TrainRecord | undefined): void;
  tokens(label: string, done: number, total: number): void;
}

export interface DemoResult {
  readonly metrics: Readonly<Record<string, number>>;
  readonly files: { readonly metrics: string; readonly report: string; readonly sae: string };
  readonly seconds: number;
}

export async function runDemo(device: Device, options: DemoOptions): Promise<DemoResult> {
  const { out, report, signal } = options;
  const clock = stopwatch();
  const saeFolder = join(out, "sae");
  await mkdir(out, { recursive: true });
  await rm(saeFolder, { recursive: true, force: true }); // a demo always tells the story from its beginning
  report.stage(`opening ${options.modelFolder} and the text ${options.text}`);
  const lm = await openLanguageModel(device, options.modelFolder);
  const open = (split: "train" | "heldout") =>
    openTextTokens({ text: [options.text], split, tokenizer: lm.tokenizer, signal });
  const [train, heldOut] = [await open("train"), await open("heldout")];
  clock.lap("model and text");

  report.stage(`training ${formatCount(options.features)} features, ${options.k} active, on ${options.hook}`);
  let record: TrainRecord | undefined;
  const { sae } = await trainSaeRun(device, {
    source: { kind: "live", lm, hook: options.hook, tokens: train, text: `${options.text} (train)` },
    arch: "topk",
    features: options.features,
    k: options.k,
    train: options.train,
    buffer: 65_536,
    out: saeFolder,
    logEvery: 10,
    signal,
    onMetrics: (r) => {
      record = r;
    },
    onStep: (p) => report.training(p, record),
  });
  clock.lap("training");

  report.stage("measuring on held-out text, with the SAE inside the model");
  const evaluation = await evaluateOnModel(
    device,
    sae,
    { lm, hook: options.hook, text: heldOut },
    {
      tokens: options.evalTokens,
      signal,
      onProgress: (n) => report.tokens("measuring", n, options.evalTokens),
    },
  );
  clock.lap("evaluation");

  report.stage("reading the text for the passages that each feature fires on");
  const packer = windowsOf(lm, train, { shuffle: true, seed: 1 });
  const windows = Math.ceil(options.readTokens / packer.context);
  const table = await collectFirings({
    lm,
    sae,
    hook: options.hook,
    packer,
    windows,
    signal,
    onProgress: (n) => report.tokens("reading", n, options.readTokens),
  });
  const cards = await featureCards(lm, sae, table, {
    count: options.cards,
    writesStream: writesStream(options.hook),
  });
  clock.lap("features");

  const metrics = numbersOf(evaluation);
  const files = { metrics: join(out, "metrics.json"), report: join(out, "report.html"), sae: saeFolder };
  const data = reportData(options, { lm, sae, evaluation, metrics, cards, laps: clock.laps });
  await writeJson(files.metrics, metrics);
  await writeAtomic(files.report, renderReport(data));
  for (const file of [train, heldOut]) file.close();
  disposeSae(sae);
  lm.model.dispose();
  return { metrics, files, seconds: clock.total() };
}

/** Rows of the decoder add to the residual stream at these points. */
const writesStream = (hook: string): boolean =>
  /hook_(resid_(pre|mid|post)|attn_out|mlp_out|embed)$/.test(hook);

function numbersOf({ metrics, splice }: SaeEvaluation): Record<string, number> {
  return { ...metrics, ...splice };
}

interface Findings {
  readonly lm: LanguageModel;
  readonly sae: Sae;
  readonly evaluation: SaeEvaluation;
  readonly metrics: Readonly<Record<string, number>>;
  readonly cards: ReportData["cards"];
  readonly laps: readonly { name: string; seconds: number }[];
}

function reportData(options: DemoOptions, found: Findings): ReportData {
  const { lm, metrics, evaluation, cards, laps } = found;
  const { spec } = lm.model;
  const trained = formatCount(options.train.tokens);
  const records = readJsonLines(join(options.out, "sae", "metrics.jsonl")) as TrainRecord[];
  return {
    title: `${formatCount(options.features)} features of ${options.hook}`,
    summary:
      `A TopK sparse autoencoder with ${options.features} features, ${options.k} of them active per token, was trained on ` +
      `${trained} activations of ${lm.name} at ${options.hook} over the text “${options.text}”. On held-out text it explains ` +
      `${(100 * metrics.explained_variance).toFixed(1)} % of the variance; with it in place, the model keeps ` +
      `${(100 * metrics.loss_recovered).toFixed(1)} % of the loss that zeroing the layer would destroy.`,
    createdAt: new Date().toISOString(),
    version: options.version,
    facts: [
      ["model", `${lm.name}: ${spec.nLayers} layers, D = ${spec.dModel}, vocabulary ${spec.vocabSize}`],
      ["hook", options.hook],
      ["text", options.text],
      ["SAE", `TopK, F = ${options.features}, k = ${options.k}`],
      ["trained on", `${trained} tokens`],
      ["measured on", `${formatCount(evaluation.metrics.tokens)} held-out tokens`],
    ],
    features: options.features,
    metrics,
    curves: {
      tokens: records.map((r) => r.tokens),
      loss: records.map((r) => r.loss),
      explainedVariance: records.map((r) => r.explained_variance),
      l0: records.map((r) => r.l0),
      deadFraction: records.map((r) => r.dead_fraction),
      learningRate: records.map((r) => r.lr),
    },
    density: densityHistogram(evaluation.accumulator.density()),
    cards,
    run: {
      command: options.command,
      config: { hook: options.hook, features: options.features, k: options.k, ...options.train },
      timings: laps,
      machine: `${lm.model.device.backend.threads} threads, ${lm.model.device.name} kernels, node ${process.versions.node}`,
    },
  };
}

function stopwatch() {
  const began = performance.now();
  let last = began;
  const laps: { name: string; seconds: number }[] = [];
  return {
    laps,
    lap(name: string) {
      const now = performance.now();
      laps.push({ name, seconds: (now - last) / 1000 });
      last = now;
    },
    total: () => (performance.now() - began) / 1000,
  };
}
