/**
 * What an SAE is like, as flags say it: one flat schema for `sae train`, sweeps and benchmarks.
 */
import { z } from "zod";
import { type Activation, ARCHITECTURES, type Sae, type SaeConfigInput, TRAITS } from "../sae/index.ts";
import { usageError } from "../util/index.ts";

const count = () => z.number().int().min(1);

export const saeShapeSchema = z.object({
  arch: z
    .enum(ARCHITECTURES)
    .default("topk")
    .describe("activation: topk and batchtopk keep k, jumprelu has thresholds, relu and gated an L1 penalty"),
  features: count().describe("F, number of features"),
  k: count().default(32).describe("active features per token of topk and batchtopk"),
  encoder: z
    .enum(["dense", "kron"])
    .default("dense")
    .describe("dense: a row per feature; kron: products of pre-latents in heads (KronSAE)"),
  kronM: count().default(4).describe("kron: base pre-latents of a head"),
  kronN: count().default(4).describe("kron: extension pre-latents of a head; a head has m · n features"),
  kronProduct: z
    .enum(["mand", "relu", "raw"])
    .default("mand")
    .describe("kron: √(uv) of positive u and v, relu(u) · relu(v), or u · v"),
});

export type SaeShape = z.output<typeof saeShapeSchema>;

/** The config without the widths, which the activations decide. */
export function configOfShape({
  arch,
  features,
  k,
  encoder,
  kronM,
  kronN,
  kronProduct,
}: SaeShape): Pick<SaeConfigInput, "features" | "activation" | "encoder"> {
  return {
    features,
    activation: activationOf(arch, k),
    encoder:
      encoder === "kron" ? { kind: "kron", m: kronM, n: kronN, product: kronProduct } : { kind: "dense" },
  };
}

/** The config of a training that starts from an SAE: that which it was trained with, but for what is given. */
export function configOfStart(
  { config, provenance }: Sae,
  given: Partial<Pick<SaeShape, "arch" | "features" | "k">>,
): Pick<SaeConfigInput, "features" | "activation" | "encoder" | "applyBDecToInput" | "decoderBias"> {
  const { features, encoder, applyBDecToInput, decoderBias } = config;
  const before = (provenance?.trained_as as Activation | undefined) ?? config.activation;
  const { arch = before.kind, k = "k" in before ? before.k : 32 } = given;
  return {
    ...{ encoder, applyBDecToInput, decoderBias },
    features: given.features ?? features,
    activation: activationOf(arch, k),
  };
}

function activationOf(arch: SaeShape["arch"], k: number): Activation {
  switch (arch) {
    case "topk":
    case "batchtopk":
      return { kind: arch, k };
    case "jumprelu":
      return { kind: arch, log: true }; // as trained
    case "relu":
    case "gated":
      return { kind: arch };
    default:
      return arch satisfies never;
  }
}

/** Refuses a k that was given to an architecture without one; its default says nothing. */
export function refuseIdleK(arch: SaeShape["arch"], given: boolean): void {
  if (given && !TRAITS[arch].counted) {
    throw usageError(
      `--k is for topk and batchtopk; a ${arch} SAE is as sparse as its penalty makes it (--l1, --l0)`,
    );
  }
}
