/**
 * What an SAE costs its model: cross-entropy and KL with the activation at its hook replaced by the reconstruction, by zero
 * and by the mean, all over the same windows and in nats per token.
 * B windows · T tokens of a window · V vocabulary · D width at the hook
 */
import { setImmediate } from "node:timers/promises";
import { type Edit, type EditContext, replaceWith, resolveHook, type Transformer } from "../models/index.ts";
import { type AnySae, type BoostedSae, inParts, lossRecovered, reconstructBoosted } from "../sae/index.ts";
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

/** An SAE and where it is put. */
export interface SplicedSae {
  readonly sae: AnySae;
  /** Where the reconstruction is put. */
  readonly hook: string;
  /** Where a transcoder reads, before `hook` in the forward pass; default `hook`. */
  readonly reads?: string;
  /** Mean activation to put in place, [D], the same for all SAEs at a hook; otherwise it is taken in a pass over the windows. */
  readonly mean?: Float32Array;
  /** Active features per token, one set of metrics for each; undefined (the default) is the SAE's own k. */
  readonly budgets?: readonly (number | undefined)[];
}

export interface SpliceRun {
  readonly model: Transformer;
  /** Gives the windows; without `mean` twice, the same ones each time. */
  readonly batches: () => Iterable<PackedBatch>;
  /** T */
  readonly context: number;
  /** Positions whose activation stays as it is in every variant and is left out of the mean: BOS and its like. */
  readonly keep: (token: number, position: number) => boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (tokens: number) => void;
}

export interface SpliceOptions extends SplicedSae, SpliceRun {}

/** Bytes that one tensor of logits may have: about eight of them live at once. */
const LOGIT_BYTES = 32e6;

/** Windows whose logits fit into memory side by side; at most 8. */
export function spliceBatch({ spec }: Transformer, context: number): number {
  return Math.min(8, Math.max(1, Math.floor(LOGIT_BYTES / (4 * context * spec.vocabSize))));
}

/** Runs the model clean, spliced at every budget, and with the two ablations. */
export async function spliceMetrics(options: SpliceOptions): Promise<SpliceMetrics[]> {
  const [metrics] = await spliceSaes([options], options);
  return metrics;
}

/** The same of several SAEs, each by itself in the model: the clean model runs once, and the ablations once for a hook. */
export async function spliceSaes(saes: readonly SplicedSae[], run: SpliceRun): Promise<SpliceMetrics[][]> {
  const { model, batches, signal, onProgress } = run;
  const totals = { clean: 0, targets: 0, positions: 0 };
  const sites = new Map<string, Site>();
  try {
    const inside: Inside[] = [];
    for (const { sae, hook, reads = hook, mean, budgets = [undefined] } of saes) {
      const point = resolveHook(model.spec, hook);
      const site = sites.get(point) ?? {
        hook: point,
        activation: model.device.tensor(mean ?? (await meanActivation(run, point))).keep(),
        zero: noCost(),
        mean: noCost(),
      };
      sites.set(point, site);
      const costs = budgets.map(noCost);
      inside.push({ sae: inParts(sae), site, reads: resolveHook(model.spec, reads), budgets, costs });
    }
    const variants = [...[...sites.values()].flatMap(ablations), ...inside.flatMap(reconstructions)];
    for (const packed of batches()) {
      throwIfAborted(signal);
      await addBatch(totals, packed, variants, run);
      onProgress?.(totals.positions);
      await setImmediate();
    }
    return inside.map(({ site, costs }) => costs.map((spliced) => summary(totals, site, spliced)));
  } finally {
    for (const { activation } of sites.values()) activation.dispose();
  }
}

/** Sums over tokens. */
interface Cost {
  ce: number;
  kl: number;
}

const noCost = (): Cost => ({ ce: 0, kl: 0 });

interface Totals {
  clean: number;
  targets: number;
  positions: number;
}

/** A hook point with its ablations. */
interface Site {
  readonly hook: string;
  /** Mean activation, [D]. */
  readonly activation: Tensor;
  readonly zero: Cost;
  readonly mean: Cost;
}

/** An SAE in the model. */
interface Inside {
  readonly sae: BoostedSae;
  readonly site: Site;
  readonly reads: string;
  readonly budgets: readonly (number | undefined)[];
  /** By budget. */
  readonly costs: readonly Cost[];
}

/** One way to run the model. */
interface Variant {
  readonly hook: string;
  readonly reads?: string;
  /** What stands at `hook` instead of x; `seen` is what passed `reads`. */
  readonly edit: (x: Tensor, context: EditContext, seen: Tensor) => Tensor;
  readonly cost: Cost;
}

const ablations = ({ hook, activation, zero, mean }: Site): Variant[] => [
  { hook, edit: replaceWith(0), cost: zero },
  {
    hook,
    edit: (x, context) => replaceWith(reshape(activation, x.shape.slice(2)))(x, context),
    cost: mean,
  },
];

const reconstructions = ({ sae, site, reads, budgets, costs }: Inside): Variant[] =>
  budgets.map((k, i) => ({
    hook: site.hook,
    reads,
    edit: (x, _, seen) => {
      const rows = reshape(seen, [seen.shape[0] * seen.shape[1], -1]); // [B · T, D]
      return reshape(reconstructBoosted(sae, rows, { k }), x.shape);
    },
    cost: costs[i],
  }));

function summary({ clean, targets, positions }: Totals, { zero, mean }: Site, spliced: Cost): SpliceMetrics {
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
  { keep, context }: Pick<SpliceRun, "keep" | "context">,
  { tokens }: PackedBatch,
): Float32Array => Float32Array.from(tokens, (token, i) => (keep(token, i % context) ? 0 : 1));

/** Mean of the activation over the positions that are replaced, [D]. */
async function meanActivation(options: SpliceRun, hook: string): Promise<Float32Array> {
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
  variants: readonly Variant[],
  run: SpliceRun,
): Promise<void> {
  const { model, context: T } = run;
  const { device } = model;
  const n = packed.tokens.length;
  const numbers = device.scope(() => {
    const tokens = device.tensor(packed.tokens, [n / T, T], "i32");
    const targets = device.tensor(packed.targets, [n], "i32");
    const mask = device.tensor(replaced(run, packed), [n / T, T]);
    const logitsOf = (edit: Readonly<Record<string, Edit>>): Tensor => {
      const { logits } = model.forward(tokens, { edit });
      if (!logits) throw new Error("splice: no logits");
      return reshape(logits, [n, -1]); // [B · T, V]
    };
    const clean = logitsOf({});
    const logP = logSoftmax(clean);
    const p = exp(logP);
    const measured = variants.flatMap((variant) =>
      device.scope(() => {
        const logits = logitsOf(editsOf(variant, mask));
        return [sum(softmaxCrossEntropy(logits, targets)), sum(mul(p, sub(logP, logSoftmax(logits))))];
      }),
    );
    return [sum(softmaxCrossEntropy(clean, targets)), ...measured];
  });
  const [clean, ...rest] = await Promise.all(numbers.map((t) => t.item()));
  for (const t of numbers) t.dispose();
  totals.clean += clean;
  for (const [i, { cost }] of variants.entries()) {
    cost.ce += rest[2 * i];
    cost.kl += rest[2 * i + 1];
  }
  totals.positions += n;
  for (const t of packed.targets) if (t >= 0) totals.targets++;
}

/** The variant as edits of one forward pass, at the positions of the mask [B, T] only. */
function editsOf({ hook, reads = hook, edit }: Variant, mask: Tensor): Record<string, Edit> {
  let seen: Tensor | undefined;
  const put: Edit = (x, context) => keepRows(x, edit(x, context, seen ?? x), mask);
  if (reads === hook) return { [hook]: put };
  const watch: Edit = (x) => {
    seen = x;
    return x;
  };
  return { [reads]: watch, [hook]: put };
}

/** `after` where mask [B, T] is 1, `before` elsewhere. */
function keepRows(before: Tensor, after: Tensor, mask: Tensor): Tensor {
  const wide = reshape(mask, [...mask.shape, ...before.shape.slice(2).map(() => 1)]);
  return where(wide, after, before);
}
