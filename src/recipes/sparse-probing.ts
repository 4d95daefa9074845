/**
 * Sparse probing of an SAE on a language model: labelled texts through model and SAE, pooled over their tokens.
 * B texts of a block · T tokens of the longest · D width.
 */
import { setImmediate } from "node:timers/promises";
import {
  type ClassProbing,
  type CodeRows,
  CodeRowsBuilder,
  encodeRows,
  measureSparseProbing,
} from "../interpret/index.ts";
import { resolveHook } from "../models/index.ts";
import { type AnySae, featuresOf, inParts } from "../sae/index.ts";
import { reshape } from "../tensor/index.ts";
import type { LabelledDocument } from "../text/index.ts";
import { inputError, Rng, throwIfAborted, usageError } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";
import { rowWidth } from "./live-activations.ts";
import { refuseOtherModel, refuseOtherWidth } from "./sae-eval.ts";

export interface SparseProbingRun {
  readonly lm: LanguageModel;
  readonly sae: AnySae;
  readonly hook: string;
  readonly documents: AsyncIterable<LabelledDocument>;
  /** Tokens of a passage, BOS included. */
  readonly context: number;
  /** Passages taken from the beginning of a document, at most. */
  readonly passages: number;
  /** Passages of a class, at most. */
  readonly samples: number;
  /** Share of the groups of documents that is kept from training. */
  readonly testShare: number;
  readonly ks: readonly number[];
  /** Active features per token of a topk SAE; default its own. */
  readonly k?: number;
  readonly seed: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (passages: number, total: number) => void;
}

/** Passages with fewer tokens say too little. */
const LEAST_TOKENS = 4;
const BLOCK = 16;

interface Passage {
  readonly ids: Int32Array;
  readonly label: number;
  readonly group: number;
}

export async function sparseProbingOnTexts(run: SparseProbingRun): Promise<ClassProbing[]> {
  const { lm, sae, hook, seed, ks, signal } = run;
  const { base } = inParts(sae);
  refuseOtherModel(base, lm.hash, `this is ${lm.name}`);
  refuseOtherWidth(base, rowWidth(lm.model, hook), `${lm.name} at ${hook}`);
  if (base.config.transcoder)
    throw usageError("a transcoder's features do not reconstruct the point it reads");
  const { passages, classNames } = await choosePassages(run);
  const { x, codes } = await pooled(run, passages);
  const groups = Int32Array.from(passages, (p) => p.group);
  const held = heldOutGroups(groups, run.testShare, seed);
  return measureSparseProbing(
    lm.model.device,
    {
      x,
      codes,
      label: Int32Array.from(passages, (p) => p.label),
      classNames,
      groups,
      test: Uint8Array.from(groups, (group) => (held.has(group) ? 1 : 0)),
    },
    { ks, seed, signal },
  );
}

/** Passages of every class, drawn at random where there are too many. */
async function choosePassages(run: SparseProbingRun): Promise<{ passages: Passage[]; classNames: string[] }> {
  const { lm, documents, context, samples, seed, signal } = run;
  const { tokenizer, model } = lm;
  const start = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
  const size = Math.min(context, model.spec.contextLength) - start.length;
  const byClass = new Map<string, { text: string; group: number }[]>();
  const groups = new Map<string, number>();
  for await (const { text, label, group } of documents) {
    throwIfAborted(signal);
    if (!groups.has(group)) groups.set(group, groups.size);
    const texts = byClass.get(label) ?? [];
    byClass.set(label, texts);
    texts.push({ text, group: groups.get(group) as number });
  }
  if (byClass.size < 2) {
    throw inputError(
      `sparse probing needs texts of two classes or more; there are ${byClass.size} (${[...byClass.keys()].join(", ")})`,
    );
  }
  const rng = new Rng(seed).fork("passages");
  const classNames = [...byClass.keys()];
  const passages = classNames.flatMap((name, label) => {
    const found: Passage[] = [];
    for (const { text, group } of rng.fork(name).shuffle([...(byClass.get(name) ?? [])])) {
      const ids = tokenizer.encode(text.slice(0, size * run.passages * 8), { plain: tokenizer.fast });
      for (let n = 0; n < run.passages && found.length < samples; n++) {
        const part = ids.subarray(n * size, (n + 1) * size);
        if (part.length < LEAST_TOKENS) break;
        found.push({ ids: Int32Array.of(...start, ...part), label, group });
      }
      if (found.length === samples) break;
    }
    return found;
  });
  return { passages, classNames };
}

/** Groups to test on. */
function heldOutGroups(groups: Int32Array, share: number, seed: number): Set<number> {
  const shuffled = new Rng(seed).fork("held-out groups").shuffle([...new Set(groups)]);
  return new Set(shuffled.slice(0, Math.round(share * shuffled.length)));
}

/** Means over the tokens of each passage; special tokens do not count. */
async function pooled(
  run: SparseProbingRun,
  passages: readonly Passage[],
): Promise<{ x: Float32Array; codes: CodeRows }> {
  const { lm, sae, k, signal, onProgress } = run;
  const D = rowWidth(lm.model, run.hook);
  const F = featuresOf(sae);
  const x = new Float32Array(passages.length * D);
  const builder = new CodeRowsBuilder(F);
  const sums = new Float64Array(F);
  for (let at = 0; at < passages.length; at += BLOCK) {
    throwIfAborted(signal);
    const block = passages.slice(at, at + BLOCK);
    const { rows, owners } = await tokenRows(run, block);
    const codes = await encodeRows(lm.model.device, sae, rows, { k });
    for (let p = 0, row = 0; p < block.length; p++) {
      const first = row;
      sums.fill(0);
      const mean = x.subarray((at + p) * D, (at + p + 1) * D);
      for (; owners[row] === p; row++) {
        for (let d = 0; d < D; d++) mean[d] += rows[row * D + d];
        for (let s = codes.offsets[row]; s < codes.offsets[row + 1]; s++)
          sums[codes.features[s]] += codes.values[s];
      }
      const count = row - first;
      for (let d = 0; d < D; d++) mean[d] /= count;
      for (let f = 0; f < F; f++) if (sums[f] > 0) builder.add(f, sums[f] / count);
      builder.endRow();
    }
    onProgress?.(at + block.length, passages.length);
    await setImmediate();
  }
  return { x, codes: builder.finish() };
}

/** Activations of the tokens of a block that count, [n, D], and which passage each is of, [n]. */
async function tokenRows(
  { lm, hook }: SparseProbingRun,
  block: readonly Passage[],
): Promise<{ rows: Float32Array; owners: Int32Array }> {
  const { model, tokenizer } = lm;
  const T = Math.max(...block.map(({ ids }) => ids.length));
  const padded = new Int32Array(block.length * T); // later tokens change nothing before them
  block.forEach(({ ids }, p) => {
    padded.set(ids, p * T);
  });
  const point = resolveHook(model.spec, hook);
  const { device } = model;
  const captured = device.scope(() => {
    const tokens = device.tensor(padded, [block.length, T], "i32");
    return reshape(model.forward(tokens, { capture: [point], stopEarly: true }).captured[point], [
      block.length * T,
      -1,
    ]);
  });
  const D = captured.shape[1];
  const all = await captured.floats();
  captured.dispose();
  const kept = block.flatMap(({ ids }, p) =>
    Array.from(ids.keys()).flatMap((t) => (tokenizer.specialIds.has(ids[t]) ? [] : [[p, p * T + t]])),
  );
  const rows = new Float32Array(kept.length * D);
  kept.forEach(([, from], i) => {
    rows.set(all.subarray(from * D, (from + 1) * D), i * D);
  });
  return { rows, owners: Int32Array.from(kept, ([p]) => p) };
}
