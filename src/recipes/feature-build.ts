/**
 * A feature database from a text: the text through model and SAE once, then tables that a person, a page or a query reads.
 * An interrupted or killed build goes on behind its last save, and ends with the same rows.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { findSae } from "../formats/index.ts";
import {
  bytesPerFeature,
  FeatureBuild,
  type FeatureIndex,
  type ScanOptions,
  type TokenRow,
} from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { lockFolder, type Notes, type Sae } from "../sae/index.ts";
import type { Tokenizer, TokenPacker, TokenSource } from "../text/index.ts";
import { interruptedError, ioError, Rng } from "../util/index.ts";
import { WRITES_STREAM } from "./features.ts";
import { type LanguageModel, modelIdentity, windowsOf } from "./language-model.ts";
import { rowWidth } from "./live-activations.ts";
import { liveCodes } from "./live-codes.ts";
import { refuseOtherModel, refuseOtherWidth, trainedWithout } from "./sae-eval.ts";
import { tokensHash } from "./text-tokens.ts";

export interface FeatureDatabaseOptions {
  readonly lm: LanguageModel;
  readonly sae: Sae;
  /** Names the SAE's weights: see `saeFilesHash`. */
  readonly saeHash: string;
  readonly hook: string;
  readonly text: TokenSource;
  /** What the text is, any JSON: stands in the index. */
  readonly source: Notes;
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  /** Tokens to read, special ones included. */
  readonly tokens: number;
  /** Highest peaks to keep of each feature. */
  readonly top: number;
  /** Peaks to draw of each feature. */
  readonly sample: number;
  /** Tokens on each side of a peak. */
  readonly side: number;
  /** Windows to keep whatever fires in them. */
  readonly controls: number;
  /** Of the order of the text and of all draws. */
  readonly seed: number;
  /** Windows of a forward pass. */
  readonly windows: number;
  /** Ids on which nothing counts as firing; default those left out of the SAE's training. */
  readonly excludeTokens?: ReadonlySet<number>;
  readonly out: string;
  readonly version?: string;
  /** Bytes that DuckDB may use before it spills; default 500 MB. */
  readonly memory?: number;
  /** Minutes of reading that a kill may cost; default 5. */
  readonly saveMinutes?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: { part: "reading" | "describing"; done: number; total: number }) => void;
}

export interface FeatureDatabaseResult {
  readonly index: FeatureIndex;
  /** Contexts that were read before this run began. */
  readonly resumedFrom: number;
  /** The folder held this database already: nothing was done. */
  readonly finishedBefore: boolean;
  /** True when the text ended before `tokens` tokens. */
  readonly exhausted: boolean;
  /** Bytes that the counts of all features took in memory. */
  readonly scanBytes: number;
}

/** Builds the database, or finishes one that was begun with the same options. */
export async function buildFeatureDatabase(options: FeatureDatabaseOptions): Promise<FeatureDatabaseResult> {
  const { lm, sae, hook, out, seed } = options;
  refuseOtherModel(sae, lm.hash, `this is ${lm.name}`);
  refuseOtherWidth(sae, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  const packer = windowsOf(lm, options.text, { context: options.context, shuffle: true, seed });
  const wanted = Math.ceil(options.tokens / packer.context);
  await packer.reach(wanted);
  const until = Math.min(packer.windows, wanted);
  const scan = scanOptions(options, packer, until);
  const settings = settingsOf(options, packer, until, scan);
  const result = { exhausted: wanted > until, scanBytes: bytesPerFeature(scan) * scan.features };
  const before = FeatureBuild.finished(out, settings);
  if (before) return { ...result, index: before, resumedFrom: until, finishedBefore: true };
  const unlock = lockFolder(out);
  try {
    const { version, memory } = options;
    const build = await FeatureBuild.open(out, { scan, settings, version, memory });
    try {
      const resumedFrom = build.scan.contexts;
      await read(build, packer, until, options);
      const index = await describe(build, options);
      return { ...result, index, resumedFrom, finishedBefore: false };
    } finally {
      build.close();
    }
  } finally {
    unlock();
  }
}

async function read(
  build: FeatureBuild,
  packer: TokenPacker,
  until: number,
  options: FeatureDatabaseOptions,
): Promise<void> {
  const { saveMinutes = 5, onProgress } = options;
  const T = packer.context;
  const { scan } = build;
  packer.restore({ epoch: 0, index: scan.contexts });
  const report = () => onProgress?.({ part: "reading", done: scan.contexts * T, total: until * T });
  report();
  let saved = performance.now();
  for await (const block of liveCodes({ ...options, packer, until })) {
    await build.add(block);
    report();
    if (performance.now() - saved > saveMinutes * 60_000) {
      await build.save();
      saved = performance.now();
    }
  }
  if (scan.contexts >= until) return;
  await build.save();
  throw interruptedError(
    `interrupted; ${scan.contexts * T} of ${until * T} tokens are counted in ${build.folder}, and the same command goes on from there`,
  );
}

function describe(build: FeatureBuild, options: FeatureDatabaseOptions): Promise<FeatureIndex> {
  const { lm, sae, hook, signal, onProgress } = options;
  const writes = WRITES_STREAM.test(resolveHook(lm.model.spec, hook));
  const total = sae.config.features;
  return build.finish({
    sae,
    model: writes ? lm.model : undefined,
    vocabulary: vocabularyOf(lm.tokenizer),
    signal,
    onProgress: (done) => onProgress?.({ part: "describing", done, total }),
  });
}

function scanOptions(options: FeatureDatabaseOptions, packer: TokenPacker, until: number): ScanOptions {
  const { lm, sae, top, sample, side, seed, controls, excludeTokens = trainedWithout(sae, lm) } = options;
  const drawn = new Rng(seed).fork("controls").permutation(until).subarray(0, controls);
  return {
    features: sae.config.features,
    vocabSize: lm.model.spec.vocabSize,
    context: packer.context,
    top,
    sample,
    side,
    seed,
    silent: excludeTokens,
    borders: lm.tokenizer.specialIds,
    controls: new Set(drawn),
  };
}

/** All that decides the contents. */
function settingsOf(
  { lm, sae, saeHash, hook, source, text, controls, windows }: FeatureDatabaseOptions,
  packer: TokenPacker,
  until: number,
  { top, sample, side, seed, silent }: ScanOptions,
): Notes {
  return {
    model: modelIdentity(lm),
    sae: { hash: saeHash, features: sae.config.features },
    hook: resolveHook(lm.model.spec, hook),
    text: { ...source, hash: tokensHash(text), context: packer.context },
    contexts: until,
    top,
    sample,
    side,
    controls,
    seed,
    excludeTokens: [...silent].sort((a, b) => a - b),
    windows, // of a forward pass: other ones have other last bits, and so has another backend
    backend: lm.model.device.name,
  };
}

function* vocabularyOf(tokenizer: Tokenizer): Generator<TokenRow> {
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    yield {
      id,
      text: tokenizer.tokenText(id),
      bytes: tokenizer.tokenBytes(id) ?? null,
      special: tokenizer.specialIds.has(id),
    };
  }
}

/** Fingerprint of an SAE's files: its configuration, if it has one, and its weights. */
export async function saeFilesHash(folder: string): Promise<string> {
  const hash = createHash("sha256");
  const { config, weights } = findSae(folder);
  for (const file of [config, weights]) {
    if (file === undefined) continue;
    try {
      for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk);
    } catch (cause) {
      throw ioError(`read ${file}`, cause);
    }
  }
  return `sha256:${hash.digest("hex").slice(0, 32)}`;
}
