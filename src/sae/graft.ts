/**
 * SAE stitching, a baseline of SAE Boost (arXiv 2507.12990): of an SAE and a copy of it that was trained further, the features
 * that changed most are set beside, or in the place of, those they come from. F features · E output width.
 */
import type { Device } from "../tensor/index.ts";
import { usageError } from "../util/index.ts";
import { saeConfig } from "./config.ts";
import { featureRows, hostParams, mapParams, paramShapes, type Sae } from "./sae.ts";

export interface GraftOptions {
  /** How many. */
  readonly features: number;
  /** `append`: the original ones stay too. Default append; the paper's choice is not known. */
  readonly how?: "append" | "replace";
}

/**
 * The base with the features of `changed` that have changed most: those with the least cosine between decoder row and its
 * original, our measure. The decoder bias is the base's. The caller disposes the result.
 */
export async function graft(
  device: Device,
  base: Sae,
  changed: Sae,
  { features, how = "append" }: GraftOptions,
): Promise<{ readonly sae: Sae; readonly grafted: readonly number[] }> {
  refuseOthers(base, changed);
  const { config } = base;
  if (features > config.features)
    throw usageError(`graft: ${features} features of an SAE that has ${config.features}`);
  const [own, other] = await Promise.all([base, changed].map(({ params }) => hostParams(params)));
  const cosines = cosinesOf(own.wDec, other.wDec, config.dOut);
  const order = Array.from(cosines.keys()).sort((a, b) => cosines[a] - cosines[b] || a - b);
  const grafted = order.slice(0, features).sort((a, b) => a - b);
  const wider = saeConfig({ ...config, features: config.features + (how === "append" ? features : 0) });
  const rows = mapParams(featureRows(own), (data, name) => {
    const width = data.length / config.features;
    const out = new Float32Array(wider.features * width);
    out.set(data);
    grafted.forEach((f, i) => {
      const to = how === "append" ? config.features + i : f;
      out.set(other[name]!.subarray(f * width, (f + 1) * width), to * width);
    });
    return out;
  });
  const arrays = { ...own, ...rows };
  const params = mapParams(paramShapes(wider), (shape, name) => device.tensor(arrays[name]!, shape).keep());
  return { sae: { config: wider, params, metadata: base.metadata }, grafted };
}

function refuseOthers({ config: a }: Sae, { config: b }: Sae): void {
  if (a.encoder.kind !== "dense" || b.encoder.kind !== "dense")
    throw usageError("graft: kron features share their encoder rows; only dense encoders can be grafted");
  for (const name of ["dIn", "dOut", "features", "applyBDecToInput", "decoderBias", "transcoder"] as const) {
    if (a[name] === b[name]) continue;
    throw usageError(
      `graft: ${name} is ${a[name]} in the base and ${b[name]} in the other; it must be the base trained further`,
    );
  }
  if (JSON.stringify(a.activation) === JSON.stringify(b.activation)) return;
  throw usageError(
    `graft: the base is a ${a.activation.kind} SAE and the other a ${b.activation.kind} SAE; features keep their own activation`,
  );
}

function cosinesOf(a: Float32Array, b: Float32Array, width: number): Float64Array {
  return Float64Array.from({ length: a.length / width }, (_, f) => {
    let [dot, aa, bb] = [0, 0, 0];
    for (let i = f * width; i < (f + 1) * width; i++) {
      dot += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    return dot / Math.sqrt(Math.max(aa * bb, Number.MIN_VALUE));
  });
}
