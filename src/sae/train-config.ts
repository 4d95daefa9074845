/**
 * How an SAE is trained: one flat schema, so that every field can be a flag, and the rules of what goes with what.
 * D input width · F features · K active features. All tokens are activation vectors.
 */
import { z } from "zod";
import { usageError } from "../util/index.ts";
import { type Architecture, type SaeConfig, TRAITS } from "./config.ts";

const count = () => z.number().int().min(1);
const share = () => z.number().min(0).max(1);

export const saeTrainSchema = z.object({
  tokens: count().describe("activation vectors to train on; the run has floor(tokens / batch) steps"),
  batch: count().default(4096).describe("activation vectors per step"),
  objective: z
    .enum(["mse", "hierarchical", "matryoshka"])
    .default("mse")
    .describe(
      "what is reconstructed: mse all codes; hierarchical every budget of strongest codes (one SAE for every k); " +
        "matryoshka every prefix of the dictionary",
    ),
  budgets: z
    .array(count())
    .optional()
    .describe("hierarchical: the budgets that are trained, each at most k [all of 1 to k]"),
  levels: z
    .array(count())
    .optional()
    .describe("matryoshka: sizes of the nested dictionaries [features / 16, / 8, / 4, / 2, / 1]"),
  l1: z
    .number()
    .min(0)
    .optional()
    .describe("weight of the L1 penalty of relu (by decoder norm) and gated [2]"),
  l0: z.number().min(0).optional().describe("weight of jumprelu's L0 penalty [2; with a target 50]"),
  targetL0: z
    .number()
    .min(0)
    .optional()
    .describe("jumprelu: penalise l0 · (L0 / target - 1)² instead of l0 · L0; 0 for none"),
  bandwidth: z
    .number()
    .positive()
    .default(0.5)
    .describe("jumprelu: width of the window around a threshold in which it gets gradient"),
  thresholdInit: z.number().positive().default(0.5).describe("jumprelu: where the thresholds start"),
  sparsityWarmup: share()
    .default(0.05)
    .describe("share of the run over which the L1 or L0 penalty rises to its weight"),
  thresholdRate: z
    .number()
    .positive()
    .max(1)
    .default(0.01)
    .describe("batchtopk: share of a step's smallest kept value in the running threshold"),
  lr: z.number().positive().optional().describe("peak learning rate of Adam [2e-4 / sqrt(features / 2^14)]"),
  beta1: z.number().min(0).lt(1).default(0.9).describe("decay of Adam's first moment"),
  beta2: z.number().min(0).lt(1).default(0.999).describe("decay of Adam's second moment"),
  eps: z
    .number()
    .positive()
    .default(6.25e-10)
    .describe("what Adam adds to the root of the second moment; small, as AuxK's gradients are"),
  warmupSteps: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe("steps of rising learning rate [1000, or a tenth of the run if that is less]"),
  decayShare: share().default(0.2).describe("share of the run, at its end, in which lr falls to 0"),
  clip: z.number().positive().default(1).describe("largest norm of the gradient of all parameters together"),
  auxCoefficient: z
    .number()
    .min(0)
    .optional()
    .describe("weight of the AuxK loss that revives dead features [topk and batchtopk 1/32, else 0]"),
  auxK: count().optional().describe("dead features that AuxK uses per token [half the input width]"),
  deadAfter: count()
    .optional()
    .describe("tokens without firing after which a feature is dead [10M, or a quarter of a shorter run]"),
  unitDecoder: z
    .boolean()
    .optional()
    .describe("keep decoder rows at unit length [true, but for relu, whose penalty holds their norm]"),
  removeParallelGradient: z
    .boolean()
    .default(true)
    .describe("take the part along each decoder row out of its gradient, where rows have unit length"),
  bDecInit: z
    .enum(["geometric-median", "mean", "zeros"])
    .default("geometric-median")
    .describe("where the decoder bias starts, from the first batches"),
  inputNorm: z
    .enum(["mean-norm", "none"])
    .default("mean-norm")
    .describe(
      "mean-norm: scale inputs so that their mean norm is sqrt(width); folded into the saved weights",
    ),
  initBatches: count()
    .default(4)
    .describe("first batches that the decoder bias and the input scale are estimated from"),
  seed: z.number().int().min(0).default(0).describe("seed of the initial weights"),
});

export type SaeTrainInput = z.input<typeof saeTrainSchema>;

type Parsed = z.output<typeof saeTrainSchema>;

/** Every field with its value: what a run is saved with. `targetL0` 0: none. */
export type SaeTrainConfig = Required<Parsed>;

/**
 * Validates the training options of an SAE and fills in the defaults that depend on its size. What it returns is valid input, and
 * comes back unchanged.
 */
export function saeTrainConfig(given: SaeTrainInput, config: SaeConfig): SaeTrainConfig {
  const parsed = saeTrainSchema.strict().safeParse(given);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((i) => `${i.path.join(".") || "options"}: ${i.message}`);
    throw usageError(`sae training: ${issues.join("; ")}`);
  }
  const t = parsed.data;
  checkBatch(t);
  const arch = config.activation.kind;
  const penalty = penalties(t, arch);
  const steps = Math.floor(t.tokens / t.batch);
  const { dIn, features } = config;
  const unitDecoder = t.unitDecoder ?? arch !== "relu";
  return {
    ...t,
    ...penalty,
    budgets: budgetsOf(t, config),
    levels: levelsOf(t, config),
    unitDecoder,
    removeParallelGradient: t.removeParallelGradient && unitDecoder,
    lr: t.lr ?? 2e-4 / Math.sqrt(features / 2 ** 14),
    warmupSteps: Math.min(t.warmupSteps ?? Math.min(1000, Math.ceil(steps / 10)), steps),
    auxCoefficient: t.auxCoefficient ?? (TRAITS[arch].counted ? 1 / 32 : 0),
    auxK: Math.min(t.auxK ?? Math.max(1, Math.round(dIn / 2)), features),
    // AuxK during the first, unsettled part of a run kills more features than it revives (measured on brook).
    deadAfter: t.deadAfter ?? Math.min(10_000_000, Math.ceil(t.tokens / 4)),
  };
}

function checkBatch({ batch, tokens }: Parsed): void {
  if (batch < 2) {
    throw usageError(
      `sae training: batch=${batch} is too small: explained variance and AuxK compare the rows of a batch; use at least 2`,
    );
  }
  if (tokens < batch) {
    throw usageError(
      `sae training: tokens=${tokens} is less than one batch of ${batch}; lower the batch or raise the tokens`,
    );
  }
}

/** What makes codes sparse where the activation itself does not. */
function penalties({ l1, l0, targetL0 }: Parsed, arch: Architecture) {
  const takesL1 = arch === "relu" || arch === "gated";
  const takesL0 = arch === "jumprelu";
  const sparse = TRAITS[arch].counted ? `${arch} is sparse by its k` : `${arch} has another penalty`;
  if (l1 && !takesL1)
    throw usageError(`sae training: l1=${l1} with ${arch}: it is for relu and gated; ${sparse}`);
  if ((l0 || targetL0) && !takesL0) {
    throw usageError(`sae training: l0 and targetL0 are for jumprelu, not ${arch}; ${sparse}`);
  }
  if (takesL1 && l1 === 0) throw usageError(`sae training: l1=0 leaves nothing that makes ${arch} sparse`);
  if (takesL0 && l0 === 0) throw usageError("sae training: l0=0 leaves nothing that makes jumprelu sparse");
  // Our choices, made on brook with inputs of mean norm sqrt(D). With the windows and thresholds that libraries start from
  // (0.05 and 0.01) a run of a million tokens stays at hundreds of active features whatever the weight.
  return {
    l1: takesL1 ? (l1 ?? 2) : 0,
    l0: takesL0 ? (l0 ?? (targetL0 ? 50 : 2)) : 0,
    targetL0: targetL0 ?? 0,
  };
}

/** Ascending budgets of the hierarchical objective; none for the others. */
function budgetsOf({ objective, budgets }: Parsed, { activation }: SaeConfig): number[] {
  if (objective !== "hierarchical") {
    if (budgets?.length)
      throw usageError(`sae training: budgets are for the hierarchical objective, not ${objective}`);
    return [];
  }
  if (!TRAITS[activation.kind].ranked || !("k" in activation)) {
    throw usageError(
      `sae training: the hierarchical objective trains prefixes of each token's k strongest features, so it needs topk, ` +
        `not ${activation.kind}, which has no k per token`,
    );
  }
  const { k } = activation;
  if (!budgets?.length) return Array.from({ length: k }, (_, i) => i + 1);
  const sorted = [...new Set(budgets)].sort((a, b) => a - b);
  const largest = sorted[sorted.length - 1];
  if (largest > k)
    throw usageError(`sae training: the budget ${largest} is more than k=${k}; raise k or leave it out`);
  return sorted;
}

/** Ascending sizes of the matryoshka objective, the last one F; none for the others. */
function levelsOf({ objective, levels }: Parsed, { features, encoder }: SaeConfig): number[] {
  if (objective !== "matryoshka") {
    if (levels?.length)
      throw usageError(`sae training: levels are for the matryoshka objective, not ${objective}`);
    return [];
  }
  const head = encoder.kind === "kron" ? encoder.m * encoder.n : 1;
  const sizes = levels?.length
    ? levels
    : [16, 8, 4, 2, 1].map((part) => Math.ceil(features / part / head) * head);
  const sorted = [...new Set(sizes)].sort((a, b) => a - b);
  if (sorted[sorted.length - 1] !== features) {
    throw usageError(
      `sae training: the largest of levels=${sizes.join(",")} must be all ${features} features`,
    );
  }
  const straddled = sorted.find((size) => size % head !== 0);
  if (straddled !== undefined) {
    throw usageError(
      `sae training: the level ${straddled} cuts through a kron head of ${head} features; use multiples of ${head}`,
    );
  }
  return sorted;
}
