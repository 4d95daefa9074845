/**
 * SAE Boost (arXiv 2507.12990): small residual SAEs beside a frozen base. Each reads x, was trained on the base's error
 * x − x̂ over one domain, and has no decoder bias; their outputs are added to the base's. Training is `trainSae` with `base`.
 * B tokens · D width · F features of the base · G of a part.
 */
import {
  add,
  concat,
  greater,
  matmul,
  max,
  reshape,
  sub,
  type Tensor,
  transpose,
  where,
} from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import { saeConfig } from "./config.ts";
import { type Codes, decode, encode, type Sae } from "./sae.ts";

export interface BoostedSae {
  readonly base: Sae;
  /** In any order: they sum. */
  readonly parts: readonly Sae[];
}

/** An SAE alone or with parts that sum. */
export type AnySae = Sae | BoostedSae;

/** The same as base and parts. */
export const inParts = (sae: AnySae): BoostedSae => ("base" in sae ? sae : { base: sae, parts: [] });

/** Features of base and parts together; those of the parts follow in their order. */
export const featuresOf = (sae: AnySae): number => {
  const { base, parts } = inParts(sae);
  return parts.reduce((n, { config }) => n + config.features, base.config.features);
};

/** Refuses parts that do not fit the base. */
export function boostedSae(base: Sae, parts: readonly Sae[]): BoostedSae {
  const { dIn, transcoder } = base.config;
  if (transcoder) throw usageError("boost: the base is a transcoder; its error is not one of its input");
  for (const { config } of parts) {
    if (config.dIn !== dIn || config.dOut !== dIn) {
      throw usageError(`boost: a part of width ${config.dIn} → ${config.dOut} for a base of width ${dIn}`);
    }
    if (config.decoderBias) {
      throw usageError(
        "boost: the part has a decoder bias, which would shift every token; a residual part has none",
      );
    }
  }
  return { base, parts };
}

/** Base and parts together: [B, D]. On tokens where no residual feature is active it is the base's output, bit for bit. */
export function reconstructBoosted(
  boosted: BoostedSae,
  x: Tensor,
  { k }: { readonly k?: number } = {},
): Tensor {
  return x.device.scope(() => {
    const { base, parts } = boosted;
    return addParts(
      boosted,
      decode(base, encode(base, x, { k }), x),
      parts.map((part) => encode(part, x)),
    );
  });
}

/** The base's output [B, D] and what the parts' codes add to it. */
export function addParts({ parts }: BoostedSae, output: Tensor, codes: readonly Codes[]): Tensor {
  return parts.reduce(
    (sum, part, i) => where(isActive(codes[i]), add(sum, decode(part, codes[i])), sum),
    output,
  );
}

/** 1 for tokens with an active feature, [B, 1]. */
const isActive = ({ values }: Codes): Tensor =>
  reshape(greater(max(values, { axes: [1] }), 0), [values.shape[0], 1]);

/**
 * One jumprelu SAE that computes the same: features of the base, then of each part, with their own thresholds. Exact up to the
 * rounding of sums in another order. A top-k base has no thresholds, and a kron encoder no rows of its own: both are refused.
 */
export function stitch({ base, parts }: BoostedSae): Sae {
  const all = [base, ...parts];
  for (const { config } of all) {
    const { kind } = config.activation;
    if (kind !== "jumprelu" && kind !== "relu") {
      throw usageError(
        `stitch: a ${kind} SAE keeps features by rank or gate, so no thresholds make one SAE of it and its parts; save them as parts`,
      );
    }
    if (config.encoder.kind !== "dense")
      throw usageError(`stitch: a ${config.encoder.kind} encoder cannot be joined to another`);
  }
  const { device } = base.params.wEnc;
  const features = all.reduce((n, { config }) => n + config.features, 0);
  const config = saeConfig({
    dIn: base.config.dIn,
    features,
    activation: { kind: "jumprelu" },
    applyBDecToInput: false,
  });
  const params = device.scope(() => ({
    wEnc: concat(
      all.map(({ params }) => params.wEnc),
      0,
    ).keep(),
    bEnc: concat(all.map(biasOfRaw), 0).keep(),
    wDec: concat(
      all.map(({ params }) => params.wDec),
      0,
    ).keep(),
    bDec: add(base.params.bDec ?? device.zeros([config.dOut]), 0).keep(),
    threshold: concat(
      all.map(({ params, config }) => params.threshold ?? device.zeros([config.features])),
      0,
    ).keep(),
  }));
  return { config, params, metadata: base.metadata };
}

/** The encoder bias for inputs from which no b_dec is subtracted: b_enc − W_enc b_dec. */
function biasOfRaw({ config, params }: Sae): Tensor {
  const { bEnc, bDec, wEnc } = params;
  if (!config.applyBDecToInput || !bDec) return bEnc;
  return sub(bEnc, reshape(matmul(reshape(bDec, [1, bDec.size]), transpose(wEnc)), bEnc.shape));
}
