/**
 * Training that starts from an SAE instead of from scratch: all of it goes on learning (fine-tuning), or it is extended by new
 * features, beside which its own may stay as they are. n tokens · F features of the start, G after it.
 */
import { add, type Device, greater, sparseSum, sum } from "../tensor/index.ts";
import { type Rng, usageError } from "../util/index.ts";
import { type SaeConfig, saeConfig } from "./config.ts";
import { createSae } from "./create.ts";
import type { Sample } from "./init.ts";
import {
  disposeCodes,
  disposeSae,
  encode,
  featureRows,
  foldInput,
  hostParams,
  mapParams,
  type Notes,
  type PerParam,
  paramShapes,
  type Sae,
} from "./sae.ts";

/** How features beyond those of the start begin: like those of a fresh SAE, or as copies of the most active ones. */
export const NEW_FEATURES = ["random", "most-active"] as const;
export type NewFeatures = (typeof NEW_FEATURES)[number];

export interface WarmStart {
  /** Of raw inputs. */
  readonly sae: Sae;
  /** Default random. */
  readonly newFeatures?: NewFeatures;
  /** The start's features and the decoder bias stay as they are, up to the rounding of scales; only new features are trained. */
  readonly freeze?: boolean;
}

/** Features that are not trained: the first ones. */
export const frozenFeatures = (start: WarmStart | undefined): number =>
  start?.freeze ? start.sae.config.features : 0;

/** Refuses a start from which an SAE of this config cannot be made. */
export function checkStart({ sae, newFeatures, freeze }: WarmStart, config: SaeConfig): void {
  const { config: from } = sae;
  const shared = ["dIn", "dOut", "transcoder", "skip", "decoderBias", "applyBDecToInput"] as const;
  for (const name of shared) {
    if (config[name] === from[name]) continue;
    throw usageError(`sae training: the SAE to start from has ${name} ${from[name]}, not ${config[name]}`);
  }
  if (JSON.stringify(config.encoder) !== JSON.stringify(from.encoder)) {
    throw usageError(
      `sae training: the SAE to start from has another encoder (${JSON.stringify(from.encoder)}, not ${JSON.stringify(config.encoder)})`,
    );
  }
  const [before, after] = [from.activation.kind, config.activation.kind];
  if (before !== after && (before === "gated" || after === "gated"))
    throw usageError(
      `sae training: a ${after} SAE cannot start from a ${before} one: a gate has its own parameters`,
    );
  const added = config.features - from.features;
  if (added < 0) {
    throw usageError(
      `sae training: the SAE to start from has ${from.features} features, more than ${config.features}; features can only be added`,
    );
  }
  if (newFeatures && added === 0)
    throw usageError(
      `sae training: all ${from.features} features are the start's; raise features to add some`,
    );
  if (newFeatures === "most-active" && config.encoder.kind !== "dense") {
    throw usageError(
      "sae training: kron features share their encoder rows, so the most active ones cannot be copied; start new ones at random",
    );
  }
  if (!freeze) return;
  if (added === 0)
    throw usageError("sae training: every feature is frozen; raise features to have some to train");
  if (after !== "topk" && after !== "batchtopk")
    throw usageError(`sae training: features can be frozen in topk and batchtopk SAEs, not in ${after}`);
}

export interface StartOptions {
  readonly rng: Rng;
  /** Factors on inputs and targets that the training applies. */
  readonly scales: { readonly input: number; readonly target: number };
  /** Raw inputs that activity is counted on. */
  readonly sample: Sample;
  /** Where jumprelu's thresholds start if the SAE has none. */
  readonly threshold: number;
  readonly unitDecoder: boolean;
  readonly metadata: Notes;
}

/** The SAE that training begins with, of scaled inputs. Its tensors live until `disposeSae`. */
export async function startFrom(
  device: Device,
  config: SaeConfig,
  start: WarmStart,
  { rng, scales, sample, threshold, unitDecoder, metadata }: StartOptions,
): Promise<Sae> {
  checkStart(start, config);
  const own = await scaledArrays(device, start.sae, scales);
  if (unitDecoder) refuseOtherNorms(own.wDec, config.dOut);
  const count = config.features - start.sae.config.features;
  const added =
    count === 0
      ? undefined
      : start.newFeatures === "most-active"
        ? copies(own, await mostActive(device, start.sae, sample, count), start.sae.config)
        : await freshRows(device, config, count, rng);
  const shapes = paramShapes(config);
  const params = mapParams(shapes, (shape, name) => {
    const joined = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const from = name === "logThreshold" ? own.threshold?.map(Math.log) : own[name];
    const fill = name === "logThreshold" ? Math.log(threshold) : 0;
    joined.fill(fill);
    if (from) joined.set(from);
    const rest = added?.[name];
    if (from && rest && joined.length > from.length) joined.set(rest, from.length);
    return device.tensor(joined, shape).keep();
  });
  return { config, params, metadata };
}

async function scaledArrays(
  device: Device,
  sae: Sae,
  scales: StartOptions["scales"],
): Promise<PerParam<Float32Array>> {
  const scaled = device.scope(() => foldInput(sae, 1 / scales.input, 1 / scales.target));
  try {
    return await hostParams(scaled.params);
  } finally {
    disposeSae(scaled);
  }
}

/** Rows are kept at unit length: others would be changed by the first step. */
function refuseOtherNorms(wDec: Float32Array, width: number): void {
  let [least, most] = [Number.POSITIVE_INFINITY, 0];
  for (let at = 0; at < wDec.length; at += width) {
    const norm = Math.hypot(...wDec.subarray(at, at + width));
    [least, most] = [Math.min(least, norm), Math.max(most, norm)];
  }
  if (least > 0.99 && most < 1.01) return;
  throw usageError(
    `sae training: decoder rows are kept at unit length, but those of the SAE to start from have norms of ${least.toFixed(3)} to ${most.toFixed(3)}; leave them free (--no-unit-decoder)`,
  );
}

/** Rows of an SAE of so many features that starts from scratch. */
async function freshRows(
  device: Device,
  config: SaeConfig,
  features: number,
  rng: Rng,
): Promise<PerParam<Float32Array>> {
  const activation = "k" in config.activation ? { kind: "relu" as const } : config.activation; // k may be more than these
  const fresh = createSae(device, saeConfig({ ...config, features, activation }), { rng: rng.fork("added") });
  try {
    return await hostParams(fresh.params);
  } finally {
    disposeSae(fresh);
  }
}

/** The same rows once more, of every parameter that has a row for each feature. */
function copies(
  own: PerParam<Float32Array>,
  chosen: readonly number[],
  { features }: SaeConfig,
): PerParam<Float32Array> {
  return mapParams(featureRows(own), (data) => {
    const width = data.length / features;
    const out = new Float32Array(chosen.length * width);
    chosen.forEach((f, i) => void out.set(data.subarray(f * width, (f + 1) * width), i * width));
    return out;
  });
}

/** Rows encoded at a time. */
const CHUNK = 4096;

/** The features that fire on most rows of the sample, most active first; of equals the one with the lower index. */
export async function mostActive(
  device: Device,
  sae: Sae,
  { x, rows, width }: Sample,
  count: number,
): Promise<number[]> {
  const { features } = sae.config;
  if (count > features)
    throw usageError(`sae training: ${count} copies of the most active features, but there are ${features}`);
  const firings = new Float64Array(features);
  for (let at = 0; at < rows; at += CHUNK) {
    const n = Math.min(CHUNK, rows - at);
    const counts = device.scope(() => {
      const codes = encode(sae, device.tensor(x.subarray(at * width, (at + n) * width), [n, width]));
      const active = greater(codes.values, 0);
      const total =
        codes.kind === "sparse" ? sparseSum(active, codes.indices, features) : sum(active, { axes: [0] });
      disposeCodes(codes);
      return add(total, 0);
    });
    const found = await counts.floats();
    counts.dispose();
    for (let f = 0; f < features; f++) firings[f] += found[f];
  }
  const order = Array.from(firings.keys()).sort((a, b) => firings[b] - firings[a] || a - b);
  return order.slice(0, count);
}
