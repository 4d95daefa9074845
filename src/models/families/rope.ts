/**
 * Rotary positions of a `config.json`: `rope_parameters` of transformers 5, or `rope_scaling` beside a theta of 4.x.
 */
import { inputError } from "../../util/index.ts";
import type { Llama3Scaling, RopeFrequencies, RopeSpec } from "../spec.ts";
import type { ConfigReader } from "./config.ts";

export interface RopeKeys {
  /** Key of theta in the spelling of 4.x; default `rope_theta`. */
  readonly theta?: string;
  readonly defaultTheta?: number;
  /** Key of the share that turns, in that spelling, and its default; without, everything turns and no key is read. */
  readonly fraction?: { readonly key: string; readonly otherwise: number };
}

/** The rotation of all layers. */
export function ropeSpec(c: ConfigReader, keys: RopeKeys = {}): RopeSpec {
  const { fraction } = keys;
  const share = fraction ? c.number(fraction.key, fraction.otherwise) : 1;
  const theta = c.number(keys.theta ?? "rope_theta", keys.defaultTheta ?? 10000);
  if (fraction) {
    // 4.x writes both names of a value
    c.only("partial_rotary_factor", share);
    c.only("rope_theta", theta);
  }
  const parameters = ropeObject(c);
  const own = fraction && parameters ? parameters.number("partial_rotary_factor", share) : share;
  return { kind: "rope", ...frequencies(parameters, theta), fraction: own };
}

/** A rotation of the layers without a window and one of those with it, as `rope_parameters` by layer type or in 4.x. */
export function ropeByLayerType(c: ConfigReader, full: number, windowed: number): RopeSpec {
  const theta = c.number("rope_theta", full);
  const local = c.number("rope_local_base_freq", windowed);
  const byType = c.object("rope_parameters");
  const legacy = c.object("rope_scaling");
  if (byType && legacy) throw bothSpellings();
  const spec: RopeSpec = {
    kind: "rope",
    ...frequencies(byType ? byType.object("full_attention") : legacy, theta),
    fraction: 1,
    windowed: frequencies(byType?.object("sliding_attention"), local),
  };
  byType?.finish();
  return spec;
}

function ropeObject(c: ConfigReader): ConfigReader | undefined {
  const parameters = c.object("rope_parameters");
  const scaling = c.object("rope_scaling");
  if (parameters && scaling) throw bothSpellings();
  return parameters ?? scaling;
}

const bothSpellings = () =>
  inputError(
    "config.json: rope_parameters and rope_scaling are both set; keep the one that the model was made with",
  );

/** Theta and scaling of one object; it holds nothing else. */
function frequencies(c: ConfigReader | undefined, otherwise: number): RopeFrequencies {
  if (!c) return { theta: otherwise };
  const theta = c.number("rope_theta", otherwise);
  const older = c.get("type");
  const kind = c.get("rope_type") ?? older ?? "default";
  const scaling = scalingOf(c, kind);
  c.finish();
  return scaling ? { theta, scaling } : { theta };
}

function scalingOf(c: ConfigReader, kind: unknown): RopeFrequencies["scaling"] {
  switch (kind) {
    case "default":
      return undefined;
    case "linear":
      return { kind: "linear", factor: factor(c) };
    case "llama3":
      return llama3(c);
    default:
      throw inputError(
        `config.json: rope type ${JSON.stringify(kind)} is not supported; known are default, linear, llama3`,
      );
  }
}

function factor(c: ConfigReader): number {
  const value = c.number("factor");
  if (value > 0) return value;
  throw inputError(`config.json: the factor of the rope scaling is ${value}, expected more than 0`);
}

function llama3(c: ConfigReader): Llama3Scaling {
  return {
    kind: "llama3",
    factor: factor(c),
    lowFreqFactor: c.number("low_freq_factor"),
    highFreqFactor: c.number("high_freq_factor"),
    originalContext: c.number("original_max_position_embeddings"),
  };
}
