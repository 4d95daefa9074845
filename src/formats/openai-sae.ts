/**
 * OpenAI's GPT-2 autoencoders: a torch state dict with encoder.weight [F, D], decoder.weight [D, F], pre_bias (subtracted from
 * the input and added to the output) and the activation by name. Those with TopK take every token through a LayerNorm first,
 * which an Sae has no step for: they are refused, or read as SAEs of normalised inputs where the user allows it.
 */
import { brief, inputError } from "../util/index.ts";
import type { PickleValue } from "./pickle.ts";
import {
  Fields,
  type PlainActivation,
  type PlainSae,
  placeOf,
  type ReadSaeOptions,
  type SaeSource,
  withFactor,
} from "./plain-sae.ts";

/** Statistics of the training; nothing is computed from them. */
const STATISTICS = ["stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"];

export function readOpenAi({ path: place, weights }: SaeSource, options: ReadSaeOptions): PlainSae {
  const fields = new Fields(weights);
  const { data: wEnc, rows: features, columns: dIn } = fields.matrix("encoder.weight");
  const { data: wDec } = fields.turned("decoder.weight", dIn, features);
  const bDec = fields.vector("pre_bias", dIn);
  const bEnc = fields.vector("latent_bias", features);
  fields.skip(...STATISTICS);
  fields.done("OpenAI's autoencoders");
  const { activation, normalised } = activationOf(place, weights.values, features);
  const warnings = [...fields.warnings];
  if (normalised) {
    const lost =
      "a TopK autoencoder of this format takes (x − mean) / (std + 1e-5) of every token, and multiplies its output by the same " +
      "std and adds the mean; an Sae has no such step";
    if (!options.lossy) {
      throw inputError(
        `${place}: ${lost}. With lossy (--lossy of \`sluice sae convert\`) it is read as an SAE of inputs that are normalised so already`,
      );
    }
    warnings.push(`${place}: ${lost}; what was read is the SAE of inputs that are normalised so already`);
  }
  const sae: PlainSae = {
    dIn,
    dOut: dIn,
    features,
    activation,
    applyBDecToInput: true,
    transcoder: false,
    skip: false,
    wEnc,
    bEnc,
    wDec,
    bDec,
    metadata: placeOf(options, {}),
    origin: { format: "openai", ...(normalised && { input: "layer_norm" }) },
    warnings,
  };
  return withFactor(sae, options);
}

function activationOf(
  place: string,
  values: ReadonlyMap<string, PickleValue>,
  features: number,
): { activation: PlainActivation; normalised: boolean } {
  const name = values.get("activation") ?? "ReLU"; // their own reader's default: the first files do not name it
  if (name === "ReLU") return { activation: { kind: "relu" }, normalised: false };
  if (name !== "TopK") {
    throw inputError(`${place}: activation ${brief(name)} is not supported; supported: ReLU, TopK`);
  }
  const state = values.get("activation_state_dict");
  const entries = state instanceof Map ? state : new Map<PickleValue, PickleValue>();
  const k = entries.get("k");
  if (!Number.isSafeInteger(k) || (k as number) < 1 || (k as number) > features) {
    throw inputError(
      `${place}: k of activation_state_dict must be a whole number from 1 to ${features}, not ${brief(k)}`,
    );
  }
  const after = entries.get("postact_fn");
  if (after !== undefined && after !== "ReLU") {
    throw inputError(
      `${place}: postact_fn ${brief(after)} is not supported: without ReLU, negative features would be kept`,
    );
  }
  return { activation: { kind: "topk", k: k as number }, normalised: true };
}
