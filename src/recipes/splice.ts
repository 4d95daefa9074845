/**
 * What an SAE costs its model: cross-entropy and KL with the activation at its hook replaced by the reconstruction, by zero
 * and by the mean, all over the same windows and in nats per token.
 * B windows · T tokens of a window · V vocabulary · D width at the hook
 */
import { setImmediate } from "node:timers/promises";
import { type Edit, replaceWith, resolveHook, type Transformer } from "../models/index.ts";
import { type AnySae, inParts, lossRecovered, reconstructBoosted } from "../sae/index.ts";
import {
  exp,
  logSoftmax,
  mul,
  reshape,
  softmaxCrossEntropy,
  sub,
  sum,
  type Tensor,
  where,
} from "../tensor/index.ts";
import type { PackedBatch } from "../text/index.ts";
import { ColumnMoments, inputError, throwIfAborted } from "../util/index.ts";

/** Cross-entropies are means over the positions that have a target, KLs over all positions. */
export interface SpliceMetrics {
  /** Cross-entropy of the untouched model. */
  readonly ce_clean: number;
  /** With the reconstruction in place of the activation. */
  readonly ce_spliced: number;
  /** With zeros in its place. */
  readonly ce_zero: number;
  /** With the mean activation of the measured tokens in its place. */
  readonly ce_mean: number;
  /** (ce_zero - ce_spliced) / (ce_zero - ce_clean) */
  readonly loss_recovered: number;
  /** (ce_mean - ce_spliced) / (ce_mean - ce_clean) */
  readonly loss_recovered_mean: number;
  /** KL(clean ‖ spliced) of the next-token distributions. */
  readonly kl: number;
  /** The same for zero and for mean ablation. */
  readonly kl_zero: number;
  readonly kl_mean: number;
  /** Positions with a target. */
  readonly ce_tokens: number;
}

export interface SpliceOptions {
  readonly model: Transformer;
  readonly sae: AnySae;
  /** Where the reconstruction is put. */
  readonly hook: string;
  /** Where a transcoder reads, before `hook` in the forward pass; default `hook`. */
  readonly reads?: string;
  /** Gives the windows; without `mean` twice, the same ones each time. */
  readonly batches: () => Iterable<PackedBatch>;
  /** Mean activation to put in place, [D]; otherwise it is taken in a pass over the windows before. */
  readonly mean?: Float32Array;
  /** T */
  readonly context: number;
  /** Positions whose activation stays as it is in every variant and is left out of the mean: BOS and its like. */
  readonly keep: (token: number, position: number) => boolean;
  /** Active features per token, one set of metrics for each; undefined (the default) is the SAE's own k. */
  readonly budgets?: readonly (number | undefined)[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

/** Bytes that one tensor of logits may have: about eight of them live at once. */
const LOGIT_BYTES = 32e6;

/** Windows whose logits fit into memory side by side; at most 8. */
export function spliceBatch({ spec }: Transformer, context: number): number {
  return Math.min(8, Math.max(1, Math.floor(LOGIT_BYTES / (4 * context * spec.vocabSize))));
}

/** Runs the model clean, spliced at every budget, and with the two ablations. */
export async function spliceMetrics(options: SpliceOptions): Promise<SpliceMetrics[]> {
  const { batches, signal, onProgress, budgets = [undefined] } = options;
  const hook = resolveHook(options.model.spec, options.hook);
  const mean = options.model.device.tensor(options.mean ?? (await meanActivation(options, hook))).keep();
  const none = (): Cost => ({ ce: 0, kl: 0 });
  const totals: Totals = {
    clean: 0,
    targets: 0,
    positions: 0,
    zero: none(),
    mean: none(),
    spliced: budgets.map(none),
  };
  try {
    for (const packed of batches()) {
      throwIfAborted(signal);
      await addBatch(totals, packed, { ...options, hook, mean, budgets });
      onProgress?.(totals.positions);
      await setImmediate();
    }
  } finally {
    mean.dispose();
  }
  return totals.spliced.map((spliced) => summary(totals, spliced));
}

/** Sums over tokens. */
interface Cost {
  ce: number;
  kl: number;
}

interface Totals {
  clean: number;
  targets: number;
  positions: number;
  readonly zero: Cost;
  readonly mean: Cost;
  /** By budget. */
  readonly spliced: readonly Cost[];
}

function summary({ clean, targets, positions, zero, mean }: Totals, spliced: Cost): SpliceMetrics {
  const [ce_clean, ce_spliced, ce_zero, ce_mean] = [clean, spliced.ce, zero.ce, mean.ce].map(
    (total) => total / targets,
  );
  return {
    ce_clean,
    ce_spliced,
    ce_zero,
    ce_mean,
    loss_recovered: lossRecovered({ clean: ce_clean, spliced: ce_spliced, ablated: ce_zero }),
    loss_recovered_mean: lossRecovered({ clean: ce_clean, spliced: ce_spliced, ablated: ce_mean }),
    kl: spliced.kl / positions,
    kl_zero: zero.kl / positions,
    kl_mean: mean.kl / positions,
    ce_tokens: targets,
  };
}

/** 1 where the activation is replaced, [B, T] row-major. */
const replaced = (
  { keep, context }: Pick<SpliceOptions, "keep" | "context">,
  { tokens }: PackedBatch,
): Float32Array => Float32Array.from(tokens, (token, i) => (keep(token, i % context) ? 0 : 1));

/** Mean of the activation over the positions that are replaced, [D]. */
async function meanActivation(options: SpliceOptions, hook: string): Promise<Float32Array> {
  const { model, context, batches, signal } = options;
  const { device } = model;
  let moments: ColumnMoments | undefined;
  for (const packed of batches()) {
    throwIfAborted(signal);
    const x = device.scope(() => {
      const tokens = device.tensor(packed.tokens, [packed.tokens.length / context, context], "i32");
      return model.forward(tokens, { capture: [hook], stopEarly: true }).captured[hook];
    });
    const width = x.size / packed.tokens.length;
    const data = await x.floats();
    x.dispose();
    moments ??= new ColumnMoments(width);
    const rows = replaced(options, packed);
    for (let i = 0; i < rows.length; i++) {
      if (rows[i]) moments.addRows(data.subarray(i * width, (i + 1) * width));
    }
    await setImmediate();
  }
  if (!moments || moments.count === 0) throw inputError("sae evaluation: the text has no tokens to measure");
  return Float32Array.from(moments.mean);
}

async function addBatch(
  totals: Totals,
  packed: PackedBatch,
  options: Omit<SpliceOptions, "mean" | "budgets"> & {
    hook: string;
    mean: Tensor;
    budgets: readonly (number | undefined)[];
  },
): Promise<void> {
  const { model, sae, hook, context: T, mean, budgets } = options;
  const { device } = model;
  const boosted = inParts(sae);
  const n = packed.tokens.length;
  const numbers = device.scope(() => {
    const tokens = device.tensor(packed.tokens, [n / T, T], "i32");
    const targets = device.tensor(packed.targets, [n], "i32");
    const mask = device.tensor(replaced(options, packed), [n / T, T]);
    const reads = options.reads === undefined ? hook : resolveHook(model.spec, options.reads);
    let seen: Tensor | undefined; // of this pass, where the transcoder reads
    const edits: Edit[] = [
      replaceWith(0),
      (x, context) => replaceWith(reshape(mean, x.shape.slice(2)))(x, context),
      ...budgets.map(
        (k): Edit =>
          (x) =>
            reshape(reconstructBoosted(boosted, reshape(seen ?? x, [n, -1]), { k }), x.shape),
      ),
    ];
    const logitsOf = (edit?: Edit): Tensor => {
      const only: Edit | undefined = edit && ((x, context) => keepRows(x, edit(x, context), mask));
      const watch: Edit = (x) => {
        seen = x;
        return x;
      };
      const points = only && { ...(reads !== hook && { [reads]: watch }), [hook]: only };
      const { logits } = model.forward(tokens, points ? { edit: points } : {});
      if (!logits) throw new Error("splice: no logits");
      return reshape(logits, [n, -1]); // [B · T, V]
    };
    const clean = logitsOf();
    const logP = logSoftmax(clean);
    const p = exp(logP);
    const measured = edits.flatMap((edit) =>
      device.scope(() => {
        const logits = logitsOf(edit);
        return [sum(softmaxCrossEntropy(logits, targets)), sum(mul(p, sub(logP, logSoftmax(logits))))];
      }),
    );
    return [sum(softmaxCrossEntropy(clean, targets)), ...measured];
  });
  const [clean, ...rest] = await Promise.all(numbers.map((t) => t.item()));
  for (const t of numbers) t.dispose();
  totals.clean += clean;
  [totals.zero, totals.mean, ...totals.spliced].forEach((cost, i) => {
    cost.ce += rest[2 * i];
    cost.kl += rest[2 * i + 1];
  });
  totals.positions += n;
  for (const t of packed.targets) if (t >= 0) totals.targets++;
}

/** `after` where mask [B, T] is 1, `before` elsewhere. */
function keepRows(before: Tensor, after: Tensor, mask: Tensor): Tensor {
  const wide = reshape(mask, [...mask.shape, ...before.shape.slice(2).map(() => 1)]);
  return where(wide, after, before);
}
