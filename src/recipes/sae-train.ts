/**
 * Training an SAE from activations on disk or from a live model, into a run folder:
 * `cfg.json` and `sae_weights.safetensors` (SAELens), `run.json`, `metrics.jsonl`, `checkpoints/`.
 */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import {
  type OpenSource,
  type SaeTrainInput,
  saveSae,
  type TrainProgress,
  type TrainRecord,
  type TrainResult,
  trainSae,
} from "../sae/index.ts";
import { type ActivationStore, openActivations } from "../store/index.ts";
import type { Device } from "../tensor/index.ts";
import type { TokenSource } from "../text/index.ts";
import { inputError, writeJson } from "../util/index.ts";
import { type LanguageModel, windowsOf } from "./language-model.ts";
import { openLiveSource, rowWidth } from "./live-activations.ts";

/** Where activations come from. */
export type SaeSource =
  | { readonly kind: "store"; readonly folder: string; readonly hook?: string }
  | {
      readonly kind: "live";
      readonly lm: LanguageModel;
      readonly hook: string;
      readonly tokens: TokenSource;
      /** Names the text in the SAE's metadata. */
      readonly text: string;
      readonly context?: number;
      /** Windows of a forward pass. */
      readonly windows?: number;
      /** Rows leave when their norm exceeds this multiple of the median; 0 keeps all. */
      readonly maxNorm?: number;
    };

export interface SaeRunOptions {
  readonly source: SaeSource;
  readonly arch: "topk";
  readonly features: number;
  readonly k: number;
  readonly train: SaeTrainInput;
  /** Rows held for shuffling. */
  readonly buffer: number;
  readonly out: string;
  /** Minutes between checkpoints. */
  readonly checkpointMinutes?: number;
  /** Steps between records. */
  readonly logEvery?: number;
  readonly signal?: AbortSignal;
  readonly onMetrics?: (record: TrainRecord) => void;
  readonly onStep?: (progress: TrainProgress) => void;
}

interface Opened {
  readonly width: number;
  readonly openSource: OpenSource;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Rows of one pass, if known. */
  readonly rows?: number;
  close(): void;
}

/** Trains, saves, and gives back the SAE of raw inputs, which the caller disposes. A folder with a checkpoint is continued. */
export async function trainSaeRun(device: Device, options: SaeRunOptions): Promise<TrainResult> {
  const { out, train, features, k, buffer } = options;
  const opened = await openSource(options, train.seed ?? 0, Math.min(train.batch ?? 4096, buffer));
  await mkdir(out, { recursive: true });
  try {
    const checkpoints = join(out, "checkpoints");
    const result = await trainSae(device, {
      config: { dIn: opened.width, features, activation: { kind: options.arch, k } },
      train,
      openSource: opened.openSource,
      metadata: opened.metadata,
      logEvery: options.logEvery,
      onMetrics: options.onMetrics,
      onStep: options.onStep,
      metricsFile: join(out, "metrics.jsonl"),
      checkpoint: { folder: checkpoints, everyMinutes: options.checkpointMinutes ?? 10 },
      resume: existsSync(checkpoints),
      signal: options.signal,
    });
    await saveSae(out, result.sae);
    await writeJson(join(out, "run.json"), {
      schema: 1,
      arch: options.arch,
      features,
      k,
      width: opened.width,
      source: opened.metadata,
      buffer,
      train: result.train,
      steps: result.steps,
      tokens: result.tokens,
      input_scale: result.inputScale,
      final: result.record,
    });
    return result;
  } finally {
    opened.close();
  }
}

async function openSource({ source, buffer }: SaeRunOptions, seed: number, batch: number): Promise<Opened> {
  switch (source.kind) {
    case "store":
      return fromStore(await openActivations(source.folder, { hook: source.hook }), seed, batch, buffer);
    case "live":
      return fromModel(source, seed, batch, buffer);
    default:
      return source satisfies never;
  }
}

/** Every epoch is shuffled anew; the run stops when it has its tokens. */
function fromStore(store: ActivationStore, seed: number, batch: number, window: number): Opened {
  const { hook, model, source } = store.index;
  return {
    width: store.width,
    rows: store.rows,
    metadata: { model_name: model.id, model_hash: model.hash, hook_name: hook, dataset_path: source },
    openSource: (state) => {
      const resume = state?.json as { epoch: number; row: number } | undefined;
      const stream = store.shuffled({ batch, seed, window, epochs: Number.POSITIVE_INFINITY, resume });
      return {
        [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator](),
        state: () => ({ json: stream.state() }),
      };
    },
    close: () => store.close(),
  };
}

function fromModel(
  source: Extract<SaeSource, { kind: "live" }>,
  seed: number,
  batch: number,
  capacity: number,
): Opened {
  const { lm, hook, tokens, text, context = lm.model.spec.contextLength, windows, maxNorm = 0 } = source;
  const width = rowWidth(lm.model, hook);
  if (batch * 2 > capacity) {
    throw inputError(
      `sae train: a buffer of ${capacity} rows is too small for batches of ${batch}; use at least ${2 * batch}`,
    );
  }
  return {
    width,
    metadata: {
      model_name: lm.name,
      model_hash: lm.hash,
      hook_name: hook,
      dataset_path: text,
      context_size: context,
      prepend_bos: lm.tokenizer.bosId !== undefined,
      exclude_special_tokens: true,
    },
    openSource: openLiveSource({
      model: lm.model,
      packer: windowsOf(lm, tokens, { context, shuffle: true, seed }),
      hooks: [hook],
      windows,
      epochs: Number.POSITIVE_INFINITY,
      filter: {
        excludeTokens: lm.tokenizer.specialIds,
        maxNorm: maxNorm ? { multiple: maxNorm } : undefined,
      },
      capacity,
      batch,
      seed,
    }),
    close: () => {},
  };
}
