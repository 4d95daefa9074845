/**
 * What runs/lime-lm.ts makes of finished runs: pairs by seed, curves read between their points, widths for a depth.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type LmTrainRecord, parameterCount } from "../../src/models/index.ts";
import { type LmRun, type LmSizes, llamaOf } from "../../src/recipes/lm-train.ts";
import { readJsonLines } from "../../src/util/index.ts";

/** One validation of a run. */
export interface CurvePoint {
  readonly tokens: number;
  /** Of training, up to here. */
  readonly flops: number;
  /** Mean over the held-out texts, nats a token. */
  readonly loss: number;
}

export interface FoundRun {
  readonly arm: string;
  /** Layers, of the runs of the depth sweep. */
  readonly depth?: number;
  readonly lr: string;
  readonly seed: number;
  readonly run: LmRun;
  readonly curve: readonly CurvePoint[];
}

/** The runs of a folder that are done; none where there is no such folder. */
export function readRuns(out: string): FoundRun[] {
  if (!existsSync(out)) return [];
  return readdirSync(out)
    .sort()
    .flatMap((name): FoundRun[] => {
      const [, arm, depth, lr, seed] = /^(.+?)(?:-depth(\d+))?-lr([\d.e-]+)-seed(\d+)$/.exec(name) ?? [];
      const file = join(out, name, "run.json");
      if (arm === undefined || !existsSync(file)) return [];
      const run = JSON.parse(readFileSync(file, "utf8")) as LmRun;
      const records = readJsonLines(join(out, name, "metrics.jsonl")) as LmTrainRecord[];
      const curve = curveOf(records, run.flops.training);
      if (curve.length === 0) throw new Error(`${join(out, name)}: no validation in metrics.jsonl`);
      const layers = depth === undefined ? undefined : Number(depth);
      return [{ arm, ...(layers && { depth: layers }), lr, seed: Number(seed), run, curve }];
    });
}

/** The validations among the records of `metrics.jsonl`. */
export function curveOf(
  records: readonly Pick<LmTrainRecord, "tokens" | "validation">[],
  flopsPerToken: number,
): CurvePoint[] {
  return records.flatMap(({ tokens, validation }) => {
    if (!validation) return [];
    const losses = Object.values(validation);
    const loss = losses.reduce((a, b) => a + b, 0) / losses.length;
    return [{ tokens, flops: tokens * flopsPerToken, loss }];
  });
}

/** The last point of a run. */
export const finalPoint = ({ curve }: Pick<FoundRun, "curve">): CurvePoint => curve[curve.length - 1];

/** The loss after so many FLOPs, on straight lines between validations; undefined outside of them. */
export function lossAt(curve: readonly CurvePoint[], flops: number): number | undefined {
  const after = curve.findIndex((p) => p.flops >= flops);
  if (after < 0) return undefined;
  const b = curve[after];
  if (b.flops === flops) return b.loss;
  if (after === 0) return undefined;
  const a = curve[after - 1];
  return a.loss + ((b.loss - a.loss) * (flops - a.flops)) / (b.flops - a.flops);
}

/** The FLOPs after which a loss is first reached, on straight lines between validations; undefined if it is not. */
export function flopsToReach(curve: readonly CurvePoint[], loss: number): number | undefined {
  const after = curve.findIndex((p) => p.loss <= loss);
  if (after < 0) return undefined;
  const b = curve[after];
  if (after === 0) return b.flops;
  const a = curve[after - 1];
  return a.flops + ((b.flops - a.flops) * (a.loss - loss)) / (a.loss - b.loss);
}

export interface Pair<Run> {
  readonly seed: number;
  readonly plain: Run;
  readonly other: Run;
}

/** Runs of an arm, each beside the plain one of its seed; those without one are left out. */
export function pairsOf<Run extends { readonly arm: string; readonly seed: number }>(
  runs: readonly Run[],
  arm: string,
): Pair<Run>[] {
  const plains = new Map(runs.filter((r) => r.arm === "plain").map((r) => [r.seed, r]));
  return runs.flatMap((other) => {
    const plain = plains.get(other.seed);
    return other.arm === arm && plain ? [{ seed: other.seed, plain, other }] : [];
  });
}

/** What a pair says: negative differences and positive gains are to the arm's credit. */
export interface Comparison {
  /** Final loss minus plain's, after the same tokens. */
  readonly atTokens: number;
  /** The arm's loss after as many FLOPs as plain had in all, minus plain's final loss; undefined where it had fewer. */
  readonly atFlops?: number;
  /** Plain's FLOPs over those after which the arm is at plain's final loss, minus 1; undefined if it never is. */
  readonly gain?: number;
}

export function comparePair({ plain, other }: Pair<Pick<FoundRun, "curve">>): Comparison {
  const [a, b] = [finalPoint(plain), finalPoint(other)];
  if (a.tokens !== b.tokens)
    throw new Error(`runs of ${a.tokens} and of ${b.tokens} tokens cannot be compared at equal tokens`);
  const loss = lossAt(other.curve, a.flops);
  const reached = flopsToReach(other.curve, a.loss);
  return {
    atTokens: b.loss - a.loss,
    ...(loss !== undefined && { atFlops: loss - a.loss }),
    ...(reached !== undefined && { gain: a.flops / reached - 1 }),
  };
}

/** Of some learning rates, the one at which the plain model of a seed has the lowest final loss. */
export function bestRate(runs: readonly FoundRun[], seed: number, rates: readonly string[]): string {
  const [best] = runs
    .filter((r) => r.arm === "plain" && r.depth === undefined && r.seed === seed && rates.includes(r.lr))
    .sort((a, b) => finalPoint(a).loss - finalPoint(b).loss);
  if (!best) throw new Error(`no plain run of seed ${seed} at ${rates.join(", ")} is done`);
  return best.lr;
}

/** Largest deviation of a depth's parameters from those of the reference, as a share. */
const TOLERANCE = 0.03;

/**
 * Width and MLP of a model of `layers` layers whose blocks have as many parameters as the reference's: the multiple of 2 · heads
 * nearest to d · √(reference's layers / layers), so that a head's width is even, and the MLP that makes up the rest.
 */
export function sizesAtDepth(reference: LmSizes, layers: number): LmSizes {
  if (layers === reference.layers) return reference;
  const step = 2 * reference.heads;
  const ideal = reference.d * Math.sqrt(reference.layers / layers);
  const d = Math.max(step, step * Math.round(ideal / step));
  const blocks = (ffn: number, sizes = { ...reference, layers, d, ffn }): number =>
    parameterCount(llamaOf(sizes, { vocabSize: 1, eosTokens: [] })).blocks;
  const wanted = blocks(reference.ffn, reference);
  const each = blocks(2) - blocks(1);
  const ffn = Math.round(1 + (wanted - blocks(1)) / each);
  const share = blocks(Math.max(1, ffn)) / wanted - 1;
  if (ffn < d || Math.abs(share) > TOLERANCE)
    throw new Error(
      `${layers} layers of ${wanted} parameters in all: width ${d} would need an MLP of ${ffn}; take fewer layers or a wider reference`,
    );
  return { ...reference, layers, d, ffn };
}
