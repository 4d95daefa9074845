/**
 * What an SAE costs the model: cross-entropy and KL with the activation at its hook replaced, against zero and mean
 * ablation of the same place. All in nats per token; positions without a target do not count for cross-entropy.
 */
import { setImmediate } from "node:timers/promises";
import { type Edit, replaceWith, resolveHook, type Transformer } from "../models/index.ts";
import { lossRecovered, reconstruct, type Sae } from "../sae/index.ts";
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
import type { PackedBatch, TokenPacker } from "../text/index.ts";
import { ColumnMoments, inputError, throwIfAborted } from "../util/index.ts";

export interface SpliceMetrics {
  /** Cross-entropy of the untouched model. */
  readonly ce_clean: number;
  /** With the reconstruction in place of the activation. */
  readonly ce_spliced: number;
  /** With zeros in its place. */
  readonly ce_zero: number;
  /** With the mean activation over the evaluated tokens in its place. */
  readonly ce_mean: number;
  /** (ce_zero - ce_spliced) / (ce_zero - ce_clean) */
  readonly loss_recovered: number;
  /** (ce_mean - ce_spliced) / (ce_mean - ce_clean) */
  readonly loss_recovered_mean: number;
  /** Mean over positions of KL(clean ‖ spliced) of the next-token distributions. */
  readonly kl: number;
  /** The same for zero and mean ablation. */
  readonly kl_zero: number;
  readonly kl_mean: number;
  /** Positions with a target. */
  readonly ce_tokens: number;
}

export interface SpliceOptions {
  readonly model: Transformer;
  readonly sae: Sae;
  readonly hook: string;
  readonly packer: TokenPacker;
  /** Windows to evaluate, from the start of the text. */
  readonly windows: number;
  /** Tokens whose activation is left as it is, and not measured: BOS and its like. */
  readonly keep: ReadonlySet<number>;
  /** Windows of a forward pass; default 8. */
  readonly batch?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

type Variant = "spliced" | "zero" | "mean";
const VARIANTS = ["spliced", "zero", "mean"] as const satisfies readonly Variant[];

/** Runs the model clean, spliced, and with the two ablations over the same windows. */
export async function spliceMetrics(options: SpliceOptions): Promise<SpliceMetrics> {
  const { packer, signal, onProgress, batch = 8 } = options;
  const windows = Math.min(options.windows, packer.windows);
  if (windows < 1) throw inputError("sae evaluation: the text has no whole window");
  const hook = resolveHook(options.model.spec, options.hook);
  const batches = function* (): Generator<PackedBatch> {
    for (let at = 0; at < windows; at += batch) yield packer.at(at, Math.min(batch, windows - at));
  };
  const mean = await meanActivation(options, hook, batches());
  const totals = {
    clean: 0,
    tokens: 0,
    positions: 0,
    ce: { spliced: 0, zero: 0, mean: 0 },
    kl: { spliced: 0, zero: 0, mean: 0 },
  };
  for (const packed of batches()) {
    throwIfAborted(signal);
    await addBatch(totals, options, hook, packed, mean);
    onProgress?.(totals.positions);
    await setImmediate();
  }
  mean.dispose();
  return summary(totals);
}

interface Totals {
  clean: number;
  /** Positions with a target. */
  tokens: number;
  positions: number;
  readonly ce: Record<Variant, number>;
  readonly kl: Record<Variant, number>;
}

function summary({ clean, tokens, positions, ce, kl }: Totals): SpliceMetrics {
  const per = {
    clean: clean / tokens,
    spliced: ce.spliced / tokens,
    zero: ce.zero / tokens,
    mean: ce.mean / tokens,
  };
  return {
    ce_clean: per.clean,
    ce_spliced: per.spliced,
    ce_zero: per.zero,
    ce_mean: per.mean,
    loss_recovered: lossRecovered({ clean: per.clean, spliced: per.spliced, ablated: per.zero }),
    loss_recovered_mean: lossRecovered({ clean: per.clean, spliced: per.spliced, ablated: per.mean }),
    kl: kl.spliced / positions,
    kl_zero: kl.zero / positions,
    kl_mean: kl.mean / positions,
    ce_tokens: tokens,
  };
}

/** Mean of the activation over the measured positions, [D], kept. */
async function meanActivation(
  { model, keep, packer }: SpliceOptions,
  hook: string,
  batches: Iterable<PackedBatch>,
): Promise<Tensor> {
  let moments: ColumnMoments | undefined;
  for (const packed of batches) {
    const rows = packed.tokens.length / packer.context;
    const x = model.device.scope(() => {
      const tokens = model.device.tensor(packed.tokens, [rows, packer.context], "i32");
      return model.forward(tokens, { capture: [hook], stopEarly: true }).captured[hook];
    });
    const width = x.size / packed.tokens.length;
    const data = await x.floats();
    x.dispose();
    moments ??= new ColumnMoments(width);
    for (let i = 0; i < packed.tokens.length; i++) {
      if (!keep.has(packed.tokens[i])) moments.addRows(data.subarray(i * width, (i + 1) * width));
    }
    await setImmediate();
  }
  if (!moments) throw inputError("sae evaluation: no text");
  const mean = Float32Array.from(moments.mean);
  return model.device.tensor(mean, [mean.length]).keep();
}

async function addBatch(
  totals: Totals,
  { model, sae, keep, packer }: SpliceOptions,
  hook: string,
  packed: PackedBatch,
  mean: Tensor,
): Promise<void> {
  const { device } = model;
  const T = packer.context;
  const rows = packed.tokens.length / T;
  const numbers = device.scope(() => {
    const tokens = device.tensor(packed.tokens, [rows, T], "i32");
    const targets = device.tensor(packed.targets, [rows * T], "i32");
    const measured = device.tensor(
      Float32Array.from(packed.tokens, (t) => (keep.has(t) ? 0 : 1)),
      [rows, T],
    );
    const logitsOf = (edit?: Edit) => {
      const masked: Edit | undefined = edit && ((x, context) => keepRows(x, edit(x, context), measured));
      const { logits } = model.forward(tokens, masked ? { edit: { [hook]: masked } } : {});
      if (!logits) throw new Error("splice: no logits");
      return reshape(logits, [rows * T, -1]);
    };
    const clean = logitsOf();
    const logP = logSoftmax(clean);
    const p = exp(logP);
    const edits: Record<Variant, Edit> = {
      spliced: (x) => reshape(reconstruct(sae, reshape(x, [rows * T, -1])), x.shape),
      zero: replaceWith(0),
      mean: (x) => replaceWith(reshape(mean, x.shape.slice(2)))(x, { point: hook }),
    };
    const out: Tensor[] = [sum(softmaxCrossEntropy(clean, targets))];
    for (const variant of VARIANTS) {
      out.push(
        ...device.scope(() => {
          const logits = logitsOf(edits[variant]);
          return [sum(softmaxCrossEntropy(logits, targets)), sum(mul(p, sub(logP, logSoftmax(logits))))];
        }),
      );
    }
    return out;
  });
  const [clean, ...rest] = await Promise.all(numbers.map((t) => t.item()));
  for (const t of numbers) t.dispose();
  totals.clean += clean;
  VARIANTS.forEach((variant, i) => {
    totals.ce[variant] += rest[2 * i];
    totals.kl[variant] += rest[2 * i + 1];
  });
  totals.positions += packed.tokens.length;
  for (const t of packed.targets) if (t >= 0) totals.tokens++;
}

/** `after` where measured [B, T] is 1, `before` elsewhere. */
function keepRows(before: Tensor, after: Tensor, measured: Tensor): Tensor {
  const mask = reshape(measured, [...measured.shape, ...before.shape.slice(2).map(() => 1)]);
  return where(mask, after, before);
}
