/**
 * The whole story in minutes: a TopK SAE on the bundled model, measured on held-out text, with a page to look at.
 * Writes `metrics.json`, `report.html` and the SAE itself.
 */
import { join } from "node:path";
import { densityHistogram, type ReportData, renderReport } from "../report/index.ts";
import { disposeSae, type Sae, type SaeTrainInput, type TrainRecord } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import type { TokenFile } from "../text/index.ts";
import {
  formatCount,
  interruptedError,
  readJsonLines,
  SluiceError,
  writeAtomic,
  writeJson,
} from "../util/index.ts";
import { collectFirings, featureCards } from "./features.ts";
import { type LanguageModel, openLanguageModel, windowsOf } from "./language-model.ts";
import { evaluateOnModel, type SaeEvaluation } from "./sae-eval.ts";
import { trainSaeRun } from "./sae-train.ts";
import { openTextTokens } from "./text-tokens.ts";

export interface DemoOptions {
  readonly modelFolder: string;
  readonly text: readonly string[];
  readonly hook: string;
  readonly features: number;
  readonly k: number;
  readonly train: SaeTrainInput;
  /** Rows held for shuffling. */
  readonly buffer: number;
  /** Held-out tokens to measure on. */
  readonly evalTokens: number;
  /** Training tokens to look for telling passages in. */
  readonly readTokens: number;
  /** Features on the page. */
  readonly cards: number;
  readonly out: string;
  /** The command line that repeats this run, for the page. */
  readonly command: string;
  readonly version: string;
  /** Of the clone, for the run's record. */
  readonly commit?: string;
  readonly signal?: AbortSignal;
  readonly report: DemoProgress;
}

/** What a person is told while it runs. */
export interface DemoProgress {
  stage(name: string): void;
  /** Counted work within the stage. */
  work(label: string, done: number, total: number, details?: Readonly<Record<string, string>>): void;
}

export interface DemoResult {
  readonly metrics: Readonly<Record<string, number>>;
  readonly files: { readonly metrics: string; readonly report: string; readonly sae: string };
  readonly seconds: number;
}

/**
 * Trains, measures, reads, and writes the page. Stopped during the training it keeps a checkpoint, and later the SAE: the
 * next run with the same options goes on from there.
 */
export async function runDemo(device: Device, options: DemoOptions): Promise<DemoResult> {
  const { report } = options;
  const clock = stopwatch();
  report.stage(`opening ${options.modelFolder} and the text ${options.text.join(", ")}`);
  const lm = await openLanguageModel(device, options.modelFolder);
  const texts: TokenFile[] = [];
  let sae: Sae | undefined;
  try {
    for (const split of ["train", "heldout"] as const) texts.push(await openSplit(options, lm, split));
    const [train, heldOut] = texts;
    clock.lap("model and text");
    sae = await trainStage(device, options, lm, train);
    clock.lap("training");
    const evaluation = await measureStage(device, options, lm, sae, heldOut);
    clock.lap("evaluation");
    const cards = await readStage(options, lm, sae, train);
    clock.lap("features");
    const metrics = { ...evaluation.metrics, ...evaluation.splice };
    const files = await write(options, { lm, evaluation, metrics, cards, laps: clock.laps });
    return { metrics, files, seconds: clock.total() };
  } catch (error) {
    if (sae && error instanceof SluiceError && error.code === "interrupted") {
      throw interruptedError(
        `interrupted; the trained SAE is in ${pathsIn(options.out).sae}, and the same command goes on from there`,
      );
    }
    throw error;
  } finally {
    for (const file of texts) file.close();
    if (sae) disposeSae(sae);
    lm.model.dispose();
  }
}

const pathsIn = (out: string) => ({
  metrics: join(out, "metrics.json"),
  report: join(out, "report.html"),
  sae: join(out, "sae"),
});

function openSplit(
  { text, report, signal }: DemoOptions,
  { tokenizer }: LanguageModel,
  split: "train" | "heldout",
): Promise<TokenFile> {
  report.stage(`tokens of ${text.join(", ")}, ${split}`);
  return openTextTokens({ text, split, tokenizer, signal, log: report.stage });
}

async function trainStage(
  device: Device,
  options: DemoOptions,
  lm: LanguageModel,
  tokens: TokenFile,
): Promise<Sae> {
  const { hook, features, k, train, buffer, out, report, text, version, commit, signal } = options;
  report.stage(`training ${features} features, ${k} of them active per token, on ${hook}`);
  const first = Math.min(buffer, train.tokens);
  let record: TrainRecord | undefined;
  const { sae, finishedBefore } = await trainSaeRun(device, {
    source: {
      kind: "live",
      lm,
      hook,
      tokens,
      text: `${text.join(", ")} (train)`,
      onRows: (n) => {
        if (!record) report.work("filling the shuffle buffer", Math.min(n, first), first);
      },
    },
    config: { features, activation: { kind: "topk", k } },
    train,
    buffer,
    out: pathsIn(out).sae,
    version,
    commit,
    owner: "sluice demo",
    logEvery: 10,
    signal,
    onMetrics: (r) => {
      record = r;
    },
    onStep: ({ tokens: done, loss }) =>
      report.work("training", done, train.tokens, {
        loss: loss.toFixed(2),
        "explained variance": record?.explained_variance.toFixed(3) ?? "–",
      }),
  });
  if (finishedBefore)
    report.stage(`${pathsIn(out).sae} holds this SAE already: measured again, not trained again`);
  return sae;
}

async function measureStage(
  device: Device,
  { hook, evalTokens, report, signal }: DemoOptions,
  lm: LanguageModel,
  sae: Sae,
  text: TokenFile,
): Promise<SaeEvaluation> {
  report.stage("measuring on held-out text, also with the SAE inside the model");
  const labels = {
    mean: "taking the mean",
    activations: "measuring reconstructions",
    model: "measuring the model",
  };
  const [evaluation] = await evaluateOnModel(
    device,
    sae,
    { lm, hook, text },
    {
      tokens: evalTokens,
      signal,
      onProgress: ({ part, tokens, total }) => report.work(labels[part], tokens, total),
    },
  );
  return evaluation;
}

async function readStage(
  { hook, readTokens, cards, report, signal }: DemoOptions,
  lm: LanguageModel,
  sae: Sae,
  text: TokenFile,
): Promise<ReportData["cards"]> {
  report.stage("reading the text for the passages that each feature fires on");
  const packer = windowsOf(lm, text, { shuffle: true, seed: 1 });
  const windows = Math.min(packer.windows, Math.ceil(readTokens / packer.context));
  const total = windows * packer.context;
  const onProgress = (n: number) => report.work("reading", n, total);
  const table = await collectFirings({ lm, sae, hook, packer, windows, signal, onProgress });
  return featureCards(lm, sae, table, { hook, count: cards });
}

async function write(options: DemoOptions, found: Findings): Promise<DemoResult["files"]> {
  const files = pathsIn(options.out);
  const html = renderReport(reportData(options, found));
  await writeJson(files.metrics, found.metrics);
  await writeAtomic(files.report, html);
  return files;
}

interface Findings {
  readonly lm: LanguageModel;
  readonly evaluation: SaeEvaluation;
  readonly metrics: Readonly<Record<string, number>>;
  readonly cards: ReportData["cards"];
  readonly laps: readonly { name: string; seconds: number }[];
}

function reportData(options: DemoOptions, found: Findings): ReportData {
  const { lm, metrics, evaluation, cards, laps } = found;
  const { spec } = lm.model;
  const trained = formatCount(options.train.tokens);
  const records = readJsonLines(join(pathsIn(options.out).sae, "metrics.jsonl")) as TrainRecord[];
  return {
    title: `${groups(options.features)} features of ${options.hook}`,
    summary:
      `A TopK sparse autoencoder with ${groups(options.features)} features, ${options.k} of them active per token, was trained on ` +
      `${trained} activations of ${lm.name} at ${options.hook} over ${quoted(options.text)}. On held-out text it explains ` +
      `${(100 * metrics.explained_variance).toFixed(1)}% of the variance; with it in place, the model keeps ` +
      `${(100 * metrics.loss_recovered).toFixed(1)}% of the loss that zeroing the layer would destroy.`,
    createdAt: new Date().toISOString(),
    version: options.version,
    facts: [
      [
        "model",
        `${lm.name}: ${spec.nLayers} layers, D = ${spec.dModel}, vocabulary ${groups(spec.vocabSize)}`,
      ],
      ["hook", options.hook],
      ["text", options.text.join(", ")],
      ["SAE", `TopK, F = ${groups(options.features)}, k = ${options.k}`],
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
    cardsNote:
      "Passages and densities are from the part of the text that the SAE was trained on. Raised and lowered logits are the " +
      "direct path from the decoder row through the final norm, among the tokens that this text holds.",
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

const groups = (n: number): string => n.toLocaleString("en-US");
const quoted = (names: readonly string[]): string => names.map((name) => `“${name}”`).join(", ");

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
