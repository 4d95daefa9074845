/**
 * dictionary_learning (and the SAEBench suites): `ae.pt`, a state dict of torch, and `config.json` with `trainer` and `buffer`.
 * Names and orientation differ between its classes; which class it is stands in `trainer.dict_class`, else in the tensors.
 */
import * as path from "node:path";
import { brief, didYouMean, inputError, usageError, writeJson } from "../util/index.ts";
import { hookOfSubmodule, submoduleOfHook } from "./hook-names.ts";
import { type FloatDType, fromFloat32, fromInt32, type NamedArray, transpose2d } from "./named-array.ts";
import {
  biasOf,
  checkSize,
  Fields,
  type JsonObject,
  type Losses,
  objectOf,
  optionHint,
  type PlainSae,
  placeOf,
  type ReadSaeOptions,
  type SaeSource,
  textOf,
  withCentring,
  withFactor,
} from "./plain-sae.ts";
import { writeTorch } from "./torch-file.ts";

/** Tensors of each class. */
const CLASSES = {
  AutoEncoder: ["bias", "encoder.weight", "encoder.bias", "decoder.weight"],
  AutoEncoderNew: ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"],
  GatedAutoEncoder: ["decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"],
  AutoEncoderTopK: ["k", "threshold", "b_dec", "encoder.weight", "encoder.bias", "decoder.weight"],
  BatchTopKSAE: ["k", "threshold", "b_dec", "encoder.weight", "encoder.bias", "decoder.weight"],
  MatryoshkaBatchTopKSAE: ["k", "threshold", "group_sizes", "W_enc", "b_enc", "W_dec", "b_dec"],
  JumpReluAutoEncoder: ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"],
} as const;

export type DictClass = keyof typeof CLASSES;
export const DICT_CLASSES = Object.keys(CLASSES) as DictClass[];

/** Tensors that a file may lack: older ones have no threshold, and k in the config only. */
const OPTIONAL = new Set(["k", "threshold"]);

/** Classes whose tensors these are; none if the file is of another format. */
export function dictClassesOf(names: readonly string[]): DictClass[] {
  const present = new Set(names);
  return DICT_CLASSES.filter((name) => {
    const tensors: readonly string[] = CLASSES[name];
    const needed = name === "JumpReluAutoEncoder" ? tensors : tensors.filter((t) => !OPTIONAL.has(t));
    return needed.every((t) => present.has(t)) && names.every((t) => tensors.includes(t));
  });
}

function chooseClass({ path: place, weights, config }: SaeSource, options: ReadSaeOptions): DictClass {
  const fitting = dictClassesOf(weights.names());
  const named = options.dictClass ?? textOf(objectOf(config?.json, "trainer"), "dict_class");
  if (named === undefined) {
    if (fitting.length === 1) return fitting[0];
    throw inputError(
      `${place}: its tensors are those of ${fitting.join(" and ")}, which compute differently, and there is no config.json that ` +
        `names trainer.dict_class; give ${optionHint("dictClass")}`,
    );
  }
  if (!(DICT_CLASSES as string[]).includes(named)) {
    throw inputError(
      `${place}: dict_class ${brief(named)} is not supported${didYouMean(named, DICT_CLASSES)}`,
    );
  }
  if (!fitting.includes(named as DictClass)) {
    throw inputError(
      `${place}: dict_class is ${named}, but the tensors are ${weights.names().join(", ")}; a ${named} has ${CLASSES[named as DictClass].join(", ")}`,
    );
  }
  return named as DictClass;
}

export function readDictionaryLearning(source: SaeSource, options: ReadSaeOptions): PlainSae {
  const dictClass = chooseClass(source, options);
  const { weights, config } = source;
  const fields = new Fields(weights);
  const trainer = objectOf(config?.json, "trainer");
  const buffer = objectOf(config?.json, "buffer");
  const batch: boolean = dictClass === "BatchTopKSAE" || dictClass === "MatryoshkaBatchTopKSAE";
  if (options.threshold !== undefined && !batch)
    throw usageError(
      `${source.path}: is of the class ${dictClass}, which has no threshold for all features; leave threshold away`,
    );
  const read = READERS[dictClass](fields, source, options);
  fields.done(`a ${dictClass}`);
  const { features, dIn } = read;
  const file = config?.file ?? source.path;
  if (trainer) {
    checkSize(file, trainer, "activation_dim", dIn);
    checkSize(file, trainer, "dict_size", features);
  }
  const warnings = [...fields.warnings];
  if (typeof trainer?.norm_factor === "number" && options.normFactor === undefined) {
    warnings.push(
      `${file}: norm_factor=${trainer.norm_factor} is taken to be in the biases already, as training leaves it; if not, give ${optionHint("normFactor")}`,
    );
  }
  const contextSize = buffer?.ctx_len;
  const sae: PlainSae = {
    ...read,
    dOut: dIn,
    transcoder: false,
    skip: false,
    metadata: placeOf(
      options,
      { hook: hookOfSubmodule(textOf(trainer, "submodule_name")), model: textOf(trainer, "lm_name") },
      Number.isSafeInteger(contextSize) ? { context_size: contextSize } : {},
    ),
    origin: {
      format: "dictionary-learning",
      dict_class: dictClass,
      ...read.origin,
      ...(trainer && { trainer }),
      ...(buffer && { buffer }),
    },
    warnings,
  };
  return withFactor(sae, options);
}

type Read = Omit<PlainSae, "dOut" | "transcoder" | "skip" | "metadata" | "warnings">;
type Reader = (fields: Fields, source: SaeSource, options: ReadSaeOptions) => Read;

/** encoder.weight [F, D] and decoder.weight [D, F]. */
function linearPair(fields: Fields) {
  const { data: wEnc, rows: features, columns: dIn } = fields.matrix("encoder.weight");
  return { wEnc, features, dIn, wDec: fields.turned("decoder.weight", dIn, features).data };
}

/** W_enc [D, F] and W_dec [F, D]. */
function plainPair(fields: Fields) {
  const { data: wEnc, rows: features, columns: dIn } = fields.turned("W_enc");
  return { wEnc, features, dIn, wDec: fields.matrix("W_dec", features, dIn).data };
}

function kOf(fields: Fields, features: number, { config }: SaeSource): number {
  const trainer = objectOf(config?.json, "trainer");
  const k = fields.has("k") ? fields.scalar("k") : trainer?.k;
  if (k === undefined)
    throw inputError(`${fields.file.path}: k is neither among its tensors nor in trainer.k of a config.json`);
  if (!Number.isSafeInteger(k) || (k as number) < 1 || (k as number) > features) {
    throw inputError(
      `${fields.file.path}: k=${brief(k)} must be a whole number from 1 to the ${features} features`,
    );
  }
  if (config && trainer) checkSize(config.file, trainer, "k", k as number);
  return k as number;
}

/** Inference of BatchTopK: one threshold for all features. */
function batchThreshold(fields: Fields, features: number, options: ReadSaeOptions): Float32Array {
  const stored = fields.has("threshold") ? fields.scalar("threshold") : -1;
  const threshold = options.threshold ?? stored;
  if (!(threshold >= 0)) {
    throw inputError(
      `${fields.file.path}: threshold is ${stored}, which means that training never set it; without one the features of a token ` +
        `depend on its batch. Give ${optionHint("threshold")}, or --dict-class AutoEncoderTopK to take the k largest of each token`,
    );
  }
  return new Float32Array(features).fill(threshold);
}

const READERS: Readonly<Record<DictClass, Reader>> = {
  AutoEncoder(fields) {
    const pair = linearPair(fields);
    return {
      ...pair,
      bEnc: fields.vector("encoder.bias", pair.features),
      bDec: fields.vector("bias", pair.dIn),
      activation: { kind: "relu" },
      applyBDecToInput: true,
      origin: {},
    };
  },
  AutoEncoderNew(fields) {
    const pair = linearPair(fields);
    return {
      ...pair,
      bEnc: fields.vector("encoder.bias", pair.features),
      bDec: fields.vector("decoder.bias", pair.dIn),
      activation: { kind: "relu" },
      applyBDecToInput: false,
      origin: {},
    };
  },
  GatedAutoEncoder(fields) {
    const pair = linearPair(fields);
    const { features } = pair;
    return {
      ...pair,
      bEnc: fields.vector("gate_bias", features),
      bMag: fields.vector("mag_bias", features),
      rMag: fields.vector("r_mag", features),
      bDec: fields.vector("decoder_bias", pair.dIn),
      activation: { kind: "gated" },
      applyBDecToInput: true,
      origin: {},
    };
  },
  AutoEncoderTopK(fields, source) {
    const pair = linearPair(fields);
    const k = kOf(fields, pair.features, source);
    return {
      ...pair,
      bEnc: fields.vector("encoder.bias", pair.features),
      bDec: fields.vector("b_dec", pair.dIn),
      activation: { kind: "topk", k },
      applyBDecToInput: true,
      origin: fields.has("threshold") ? { threshold: fields.scalar("threshold") } : {},
    };
  },
  BatchTopKSAE(fields, source, options) {
    const pair = linearPair(fields);
    return {
      ...pair,
      bEnc: fields.vector("encoder.bias", pair.features),
      bDec: fields.vector("b_dec", pair.dIn),
      threshold: batchThreshold(fields, pair.features, options),
      activation: { kind: "jumprelu" },
      applyBDecToInput: true,
      origin: { k: kOf(fields, pair.features, source) },
    };
  },
  MatryoshkaBatchTopKSAE(fields, source, options) {
    const pair = plainPair(fields);
    const groups = fields.integers("group_sizes");
    return {
      ...pair,
      bEnc: fields.vector("b_enc", pair.features),
      bDec: fields.vector("b_dec", pair.dIn),
      threshold: batchThreshold(fields, pair.features, options),
      activation: { kind: "jumprelu" },
      applyBDecToInput: true,
      origin: { k: kOf(fields, pair.features, source), group_sizes: groups },
    };
  },
  JumpReluAutoEncoder(fields) {
    const pair = plainPair(fields);
    return {
      ...pair,
      bEnc: fields.vector("b_enc", pair.features),
      bDec: fields.vector("b_dec", pair.dIn),
      threshold: fields.vector("threshold", pair.features),
      activation: { kind: "jumprelu" },
      applyBDecToInput: false,
      origin: {},
    };
  },
};

/** Writes `ae.pt` and `config.json`. */
export async function writeDictionaryLearning(
  folder: string,
  given: PlainSae,
  { losses, dtype }: { readonly losses: Losses; readonly dtype: FloatDType },
): Promise<string[]> {
  if (given.transcoder) losses.refuse("the format has no transcoders");
  const own = given.origin.format === "dictionary-learning" ? given.origin : {};
  const dictClass = classFor(given, own, losses);
  const centred = dictClass !== "AutoEncoderNew" && dictClass !== "JumpReluAutoEncoder";
  const sae = withCentring(given, centred, losses);
  const tensors = tensorsOf(dictClass, sae, { own, losses, dtype });
  const config = configOf(dictClass, sae, own, losses);
  losses.list();
  const ordered = Object.fromEntries(CLASSES[dictClass].map((name) => [name, tensors[name]]));
  await writeTorch(path.join(folder, "ae.pt"), ordered);
  await writeJson(path.join(folder, "config.json"), config);
  return ["ae.pt", "config.json"];
}

/** The class that computes the same, without folding biases where there is one. */
function classFor(sae: PlainSae, own: JsonObject, losses: Losses): DictClass {
  switch (sae.activation.kind) {
    case "relu":
      return sae.applyBDecToInput ? "AutoEncoder" : "AutoEncoderNew";
    case "gated":
      return "GatedAutoEncoder";
    case "topk":
      return "AutoEncoderTopK";
    case "jumprelu": {
      const { threshold } = sae;
      const same = threshold?.every((v) => v === threshold[0] && v >= 0) ?? false;
      if (!sae.applyBDecToInput || !same) return "JumpReluAutoEncoder";
      if (own.dict_class === "MatryoshkaBatchTopKSAE") return own.dict_class;
      if (Number.isSafeInteger(sae.origin.k)) return "BatchTopKSAE";
      losses.note("that one threshold serves all features: k, which BatchTopKSAE needs, is unknown");
      return "JumpReluAutoEncoder";
    }
    default:
      return sae.activation satisfies never;
  }
}

function tensorsOf(
  dictClass: DictClass,
  sae: PlainSae,
  { own, losses, dtype }: { own: JsonObject; losses: Losses; dtype: FloatDType },
): Record<string, NamedArray> {
  const { dIn, features, wEnc, wDec, bEnc, threshold, rMag, bMag, activation } = sae;
  const bDec = biasOf(sae, losses);
  const vector = (data: Float32Array): NamedArray => fromFloat32(data, [data.length], dtype);
  const number = (value: unknown): NamedArray => fromFloat32(Float32Array.of(Number(value)), []);
  const k = activation.kind === "topk" ? activation.k : Number(sae.origin.k ?? 0);
  const groups = Array.isArray(own.group_sizes) ? own.group_sizes.map(Number) : [features];
  const scalarThreshold = activation.kind === "topk" ? (own.threshold ?? -1) : threshold?.[0];
  const all: Record<string, () => NamedArray> = {
    "encoder.weight": () => fromFloat32(wEnc, [features, dIn], dtype),
    "encoder.bias": () => vector(bEnc),
    "decoder.weight": () => fromFloat32(transpose2d(wDec, features, dIn), [dIn, features], dtype),
    W_enc: () => fromFloat32(transpose2d(wEnc, features, dIn), [dIn, features], dtype),
    b_enc: () => vector(bEnc),
    W_dec: () => fromFloat32(wDec, [features, dIn], dtype),
    bias: () => vector(bDec),
    b_dec: () => vector(bDec),
    "decoder.bias": () => vector(bDec),
    decoder_bias: () => vector(bDec),
    gate_bias: () => vector(bEnc),
    mag_bias: () => vector(bMag as Float32Array),
    r_mag: () => vector(rMag as Float32Array),
    k: () => fromInt32(Int32Array.of(k), []),
    group_sizes: () => fromInt32(Int32Array.from(groups)),
    threshold: () =>
      dictClass === "JumpReluAutoEncoder" ? vector(threshold as Float32Array) : number(scalarThreshold),
  };
  return Object.fromEntries(CLASSES[dictClass].map((name) => [name, all[name]()]));
}

const TRAINERS: Readonly<Record<DictClass, string>> = {
  AutoEncoder: "StandardTrainer",
  AutoEncoderNew: "StandardTrainerAprilUpdate",
  GatedAutoEncoder: "GatedSAETrainer",
  AutoEncoderTopK: "TopKTrainer",
  BatchTopKSAE: "BatchTopKTrainer",
  MatryoshkaBatchTopKSAE: "MatryoshkaBatchTopKTrainer",
  JumpReluAutoEncoder: "JumpReluTrainer",
};

function configOf(dictClass: DictClass, sae: PlainSae, own: JsonObject, losses: Losses): JsonObject {
  const { metadata, activation } = sae;
  const same = own.dict_class === dictClass;
  if (!same && own.trainer)
    losses.note(`the settings of its training, which were those of a ${own.dict_class}`);
  const { layer, submodule_name, ...before } = (same && objectOf(own, "trainer")) || {
    trainer_class: TRAINERS[dictClass],
    device: "cpu",
    layer: undefined,
    submodule_name: undefined,
  };
  const hook = textOf(metadata, "hook_name");
  const place = hook === undefined ? { layer, submodule: submodule_name } : submoduleOfHook(hook);
  losses.metadata(metadata, [...(place ? ["hook_name"] : []), "model_name", "context_size"]);
  const k = activation.kind === "topk" ? activation.k : sae.origin.k;
  const contextSize = metadata.context_size;
  return {
    trainer: {
      ...before,
      dict_class: dictClass,
      activation_dim: sae.dIn,
      dict_size: sae.features,
      ...(CLASSES[dictClass].includes("k" as never) && { k }),
      ...(place && { layer: place.layer, submodule_name: place.submodule }),
      ...(textOf(metadata, "model_name") && { lm_name: metadata.model_name }),
    },
    buffer: {
      ...(same && objectOf(own, "buffer")),
      d_submodule: sae.dIn,
      ...(Number.isSafeInteger(contextSize) && { ctx_len: contextSize }),
    },
  };
}
