/**
 * What an SAE is and how it is trained, as plain data with one place of validation.
 * B tokens of a batch · D input width · F features · K active features.
 */
import { z } from "zod";
import { usageError } from "../util/index.ts";

/** Which pre-activations survive. `topk` keeps the k largest of relu(pre) of each token (Gao et al. 2024). */
export type Activation = { readonly kind: "topk"; readonly k: number };

export interface SaeConfig {
  /** D, width of the activations. */
  readonly dIn: number;
  /** F, number of features. */
  readonly features: number;
  readonly activation: Activation;
  /** Subtract b_dec from the input before the encoder: Gao et al.'s pre-bias, and SAELens' default for TopK. */
  readonly applyBDecToInput: boolean;
}

const whole = (value: number): boolean => Number.isSafeInteger(value) && value >= 1;

/** Checks an SAE's numbers and fills in `applyBDecToInput: true`. */
export function saeConfig(
  given: Omit<SaeConfig, "applyBDecToInput"> & { readonly applyBDecToInput?: boolean },
): SaeConfig {
  const { dIn, features, activation, applyBDecToInput = true } = given;
  if (!whole(dIn)) throw usageError(`sae: dIn=${dIn} must be a whole number of at least 1`);
  if (!whole(features)) throw usageError(`sae: features=${features} must be a whole number of at least 1`);
  switch (activation.kind) {
    case "topk":
      checkK(activation.k, features);
      break;
    default:
      throw usageError(
        `sae: activation ${JSON.stringify(activation.kind satisfies never)} is unknown; there is: topk`,
      );
  }
  return { dIn, features, activation, applyBDecToInput };
}

/** Throws unless 1 <= k <= features. */
export function checkK(k: number, features: number): void {
  if (!whole(k)) throw usageError(`sae: k=${k} must be a whole number of at least 1`);
  if (k > features)
    throw usageError(`sae: k=${k} is more than the ${features} features; lower k or raise features`);
}

const count = () => z.number().int().min(1);

/** How an SAE is trained. Flat, so that every field can be a flag; all tokens are activation vectors. */
export const saeTrainSchema = z.object({
  tokens: count().describe("activation vectors to train on; the run has floor(tokens / batch) steps"),
  batch: count().default(4096).describe("activation vectors per step"),
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
  decayShare: z
    .number()
    .min(0)
    .max(1)
    .default(0.2)
    .describe("share of the run, at its end, in which lr falls to 0"),
  clip: z.number().positive().default(1).describe("largest norm of the gradient of all parameters together"),
  auxCoefficient: z
    .number()
    .min(0)
    .default(1 / 32)
    .describe("weight of the AuxK loss that revives dead features"),
  auxK: count().optional().describe("dead features that AuxK uses per token [half the input width]"),
  deadAfter: count()
    .optional()
    .describe("tokens without firing after which a feature is dead [10M, or a quarter of a shorter run]"),
  removeParallelGradient: z
    .boolean()
    .default(true)
    .describe("take the part along each decoder row out of its gradient"),
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

/** Every field with its value: what a run is saved with. */
export type SaeTrainConfig = Required<z.output<typeof saeTrainSchema>>;

/** Validates the training options of an SAE and fills in the defaults that depend on its size. */
export function saeTrainConfig(given: SaeTrainInput, { dIn, features }: SaeConfig): SaeTrainConfig {
  const parsed = saeTrainSchema.strict().safeParse(given);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((i) => `${i.path.join(".") || "options"}: ${i.message}`);
    throw usageError(`sae training: ${issues.join("; ")}`);
  }
  const t = parsed.data;
  if (t.batch < 2) {
    throw usageError(
      `sae training: batch=${t.batch} is too small: explained variance and AuxK compare the rows of a batch; use at least 2`,
    );
  }
  if (t.tokens < t.batch) {
    throw usageError(
      `sae training: tokens=${t.tokens} is less than one batch of ${t.batch}; lower the batch or raise the tokens`,
    );
  }
  const steps = Math.floor(t.tokens / t.batch);
  return {
    ...t,
    lr: t.lr ?? 2e-4 / Math.sqrt(features / 2 ** 14),
    warmupSteps: Math.min(t.warmupSteps ?? Math.min(1000, Math.ceil(steps / 10)), steps),
    auxK: Math.min(t.auxK ?? Math.max(1, Math.round(dIn / 2)), features),
    // AuxK during the first, unsettled part of a run kills more features than it revives (measured on brook).
    deadAfter: t.deadAfter ?? Math.min(10_000_000, Math.ceil(t.tokens / 4)),
  };
}

/** `auxK 32 instead of 64`, for every field in which two plain objects differ; nested fields by their path. */
export function differences(saved: unknown, wanted: unknown, path = ""): string[] {
  if (Object.is(saved, wanted)) return [];
  if (!isObject(saved) || !isObject(wanted)) {
    return [`${path} ${JSON.stringify(saved)} instead of ${JSON.stringify(wanted)}`];
  }
  const keys = [...new Set([...Object.keys(saved), ...Object.keys(wanted)])];
  return keys.flatMap((key) => differences(saved[key], wanted[key], path ? `${path}.${key}` : key));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
