/**
 * The whole story in minutes: one SAE for every k on the bundled model, measured on held-out text at several of them, with a
 * page to look at. Writes `metrics.json`, `report.html` and the SAE itself.
 */
import { join } from "node:path";
import type { HubOptions } from "../hub/index.ts";
import { densityHistogram, type ReportData, renderReport } from "../report/index.ts";
import { disposeSae, type Sae, type SaeTrainInput, type TrainRecord } from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import {
  formatCount,
  interruptedError,
  readJsonLines,
  SluiceError,
  usageError,
  writeAtomic,
  writeJson,
} from "../util/index.ts";
import { collectFirings, featureCards } from "./features.ts";
import { type LanguageModel, openLanguageModel, windowsOf } from "./language-model.ts";
import { evaluateOnModel, type SaeEvaluation } from "./sae-eval.ts";
import { trainSaeRun } from "./sae-train.ts";
import { openTextTokens, type TextTokens } from "./text-tokens.ts";

export interface DemoOptions {
  readonly modelFolder: string;
  /** Where the model is one of the hub. */
  readonly hub?: HubOptions;
  readonly text: readonly string[];
  readonly hook: string;
  readonly features: number;
  /** K: active features per token, at most so many where the objective is hierarchical. */
  readonly k: number;
  readonly train: SaeTrainInput;
  /** Active features per token to measure at; default K and what is left of it by halving, and K alone with another objective. */
  readonly budgets?: readonly number[];
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

type Metrics = Readonly<Record<string, number>>;
type Measured = Metrics & { readonly k: number };

export interface DemoResult {
  /** At one k, which it names, and at all that were measured. */
  readonly metrics: Measured;
  readonly budgets: readonly Measured[];
  readonly files: { readonly metrics: string; readonly report: string; readonly sae: string };
  readonly seconds: number;
}

/**
 * Trains, measures, reads, and writes the page. Stopped during the training it keeps a checkpoint, and later the SAE: the
 * next run with the same options goes on from there.
 */
export async function runDemo(device: Device, options: DemoOptions): Promise<DemoResult> {
  const { report } = options;
  const all = budgetsOf(options);
  const clock = stopwatch();
  report.stage(`opening ${options.modelFolder} and the text ${options.text.join(", ")}`);
  const lm = await openLanguageModel(device, options.modelFolder, { hub: options.hub });
  const texts: TextTokens[] = [];
  let sae: Sae | undefined;
  try {
    for (const split of ["train", "heldout"] as const) texts.push(await openSplit(options, lm, split));
    const [train, heldOut] = texts;
    clock.lap("model and text");
    sae = await trainStage(device, options, lm, train);
    clock.lap("training");
    const budgets = await measureStage(device, { ...options, budgets: all }, lm, sae, heldOut);
    clock.lap("evaluation");
    const shown = budgets[all.indexOf(shownOf(all))];
    const cards = await readStage(options, lm, sae, train, { all, shown: shown.k });
    clock.lap("features");
    const files = await write(options, { lm, budgets, shown, cards, laps: clock.laps });
    return {
      metrics: metricsOf(shown),
      budgets: budgets.map(metricsOf),
      files,
      seconds: clock.total(),
    };
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

/** How often K is halved for the default budgets: 64, 32, 16, 8, 4. */
const HALVINGS = 4;
/** Numbers come first for this k, a usual one, or for the next smaller that was measured. */
const USUAL_K = 32;

/** Ascending. */
function budgetsOf({ k, train, budgets }: DemoOptions): number[] {
  const halved = Array.from({ length: 1 + HALVINGS }, (_, i) => Math.ceil(k / 2 ** i));
  const all = budgets ?? (train.objective === "hierarchical" ? halved : [k]);
  const above = all.find((one) => one > k);
  if (above !== undefined) {
    throw usageError(
      `demo: the SAE has at most k=${k} active features, so it cannot be measured at ${above}`,
    );
  }
  return [...new Set(all)].sort((a, b) => a - b);
}

const shownOf = (budgets: readonly number[]): number => budgets.findLast((k) => k <= USUAL_K) ?? budgets[0];

type Evaluated = SaeEvaluation & { readonly k: number };

const metricsOf = ({ k, metrics, splice }: Evaluated): Measured => ({ k, ...metrics, ...splice });

const pathsIn = (out: string) => ({
  metrics: join(out, "metrics.json"),
  report: join(out, "report.html"),
  sae: join(out, "sae"),
});

function openSplit(
  { text, report, hub, signal }: DemoOptions,
  { tokenizer }: LanguageModel,
  split: "train" | "heldout",
): Promise<TextTokens> {
  report.stage(`tokens of ${text.join(", ")}, ${split}`);
  return openTextTokens({ text, split, tokenizer, hub, signal, log: report.stage });
}

async function trainStage(
  device: Device,
  options: DemoOptions,
  lm: LanguageModel,
  tokens: TextTokens,
): Promise<Sae> {
  const { hook, features, k, train, buffer, out, report, text, version, commit, signal } = options;
  const active = train.objective === "hierarchical" ? `any number up to ${k}` : k;
  report.stage(`training ${features} features, ${active} of them active per token, on ${hook}`);
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
  { hook, evalTokens, budgets, report, signal }: DemoOptions & { budgets: readonly number[] },
  lm: LanguageModel,
  sae: Sae,
  text: TextTokens,
): Promise<Evaluated[]> {
  report.stage(
    `measuring on held-out text, also with the SAE inside the model, at k = ${budgets.join(", ")}`,
  );
  const labels = {
    mean: "taking the mean",
    activations: "measuring reconstructions",
    model: "measuring the model",
  };
  const evaluations = await evaluateOnModel(
    device,
    sae,
    { lm, hook, text },
    {
      tokens: evalTokens,
      budgets,
      signal,
      onProgress: ({ part, tokens, total }) => report.work(labels[part], tokens, total),
    },
  );
  return evaluations.map((evaluation, i) => ({ ...evaluation, k: budgets[i] }));
}

async function readStage(
  { hook, readTokens, cards, report, signal }: DemoOptions,
  lm: LanguageModel,
  sae: Sae,
  text: TextTokens,
  budgets: { readonly all: readonly number[]; readonly shown: number },
): Promise<ReportData["cards"]> {
  report.stage("reading the text for the passages that each feature fires on");
  const packer = windowsOf(lm, text, { shuffle: true, seed: 1 });
  const windows = Math.min(packer.windows, Math.ceil(readTokens / packer.context));
  const total = windows * packer.context;
  const onProgress = (n: number) => report.work("reading", n, total);
  const table = await collectFirings({ lm, sae, hook, packer, windows, signal, onProgress });
  return featureCards(lm, sae, table, { hook, count: cards, ...(budgets.all.length > 1 && { budgets }) });
}

async function write(options: DemoOptions, found: Findings): Promise<DemoResult["files"]> {
  const files = pathsIn(options.out);
  const html = renderReport(reportData(options, found));
  await writeJson(files.metrics, { ...metricsOf(found.shown), budgets: found.budgets.map(metricsOf) });
  await writeAtomic(files.report, html);
  return files;
}

interface Findings {
  readonly lm: LanguageModel;
  readonly budgets: readonly Evaluated[];
  /** That whose numbers are given first. */
  readonly shown: Evaluated;
  readonly cards: ReportData["cards"];
  readonly laps: readonly { name: string; seconds: number }[];
}

function reportData(options: DemoOptions, found: Findings): ReportData {
  const { lm, budgets, shown, cards, laps } = found;
  const { features, k } = options;
  const { spec } = lm.model;
  const trained = formatCount(options.train.tokens);
  const records = readJsonLines(join(pathsIn(options.out).sae, "metrics.jsonl")) as TrainRecord[];
  const forEveryK = options.train.objective === "hierarchical";
  return {
    title: `${groups(features)} features of ${options.hook}`,
    summary: summary(options, found),
    createdAt: new Date().toISOString(),
    version: options.version,
    facts: [
      [
        "model",
        `${lm.name}: ${spec.nLayers} layers, D = ${spec.dModel}, vocabulary ${groups(spec.vocabSize)}`,
      ],
      ["hook", options.hook],
      ["text", options.text.join(", ")],
      [
        "SAE",
        `${forEveryK ? "HierarchicalTopK" : "TopK"}, F = ${groups(features)}, ${forEveryK ? "K" : "k"} = ${k}`,
      ],
      ["trained on", `${trained} tokens`],
      ["measured on", `${formatCount(shown.metrics.tokens)} held-out tokens`],
    ],
    features,
    ...pageNumbers(shown),
    ...(budgets.length > 1 && { k: shown.k, budgets: budgets.map((b) => ({ k: b.k, ...pageNumbers(b) })) }),
    curves: {
      tokens: records.map((r) => r.tokens),
      loss: records.map((r) => r.loss),
      explainedVariance: records.map((r) => r.explained_variance),
      l0: records.map((r) => r.l0),
      deadFraction: records.map((r) => r.dead_fraction),
      learningRate: records.map((r) => r.lr),
    },
    ...(forEveryK && {
      curvesNote: `The loss is the mean over all budgets up to ${k}; the rest is measured with ${k} features per token.`,
    }),
    cardsNote:
      "Passages and densities are from the part of the text that the SAE was trained on. Raised and lowered logits are the " +
      "direct path from the decoder row through the final norm, among the tokens that this text holds.",
    cards,
    run: {
      command: options.command,
      config: { hook: options.hook, features, k, ...options.train },
      timings: laps,
      machine: `${lm.model.device.backend.threads} threads, ${lm.model.device.name} kernels, node ${process.versions.node}`,
    },
  };
}

const pageNumbers = (evaluation: Evaluated) => {
  const { k: _, ...metrics } = metricsOf(evaluation);
  return { metrics, density: densityHistogram(evaluation.accumulator.density()) };
};

/** What was trained, on what, and what came out. */
function summary({ features, k, hook, text, train }: DemoOptions, { lm, budgets, shown }: Findings): string {
  const percent = (share = Number.NaN): string => `${(100 * share).toFixed(1)}%`;
  const forEveryK = train.objective === "hierarchical";
  const kept = ({ metrics, splice }: Evaluated) => ({
    variance: percent(metrics.explained_variance),
    loss: percent(splice?.loss_recovered),
  });
  const what = forEveryK
    ? `A HierarchicalTopK sparse autoencoder (arXiv 2505.24473), one for every number k of active features per token up to ${k},`
    : `A TopK sparse autoencoder, k = ${k} active features per token,`;
  const { variance, loss } = kept(shown);
  const at = budgets.length > 1 ? ` with k = ${shown.k}` : "";
  const few = budgets[0];
  const fewer = few === shown ? "" : ` With k = ${few.k} it is ${kept(few).variance} and ${kept(few).loss}.`;
  return (
    `${what} was trained with ${groups(features)} features on ${formatCount(train.tokens)} activations of ${lm.name} at ${hook} ` +
    `over ${quoted(text)}. On held-out text it explains ${variance} of the variance${at}; with it in place, the model keeps ` +
    `${loss} of the loss that zeroing the layer would destroy.${fewer}`
  );
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
