/**
 * A sparse autoencoder as plain data, between the files of different libraries: our orientation and names, f32, nothing computed.
 * D input · E output width · F features.
 */
import * as fs from "node:fs";
import { brief, inputError, readJson, usageError } from "../util/index.ts";
import type { ArrayFile } from "./array-file.ts";
import { describeArray, type NamedArray, toFloat32, toInt32, transpose2d } from "./named-array.ts";

export const SAE_FORMATS = [
  "sae-lens",
  "dictionary-learning",
  "sparsify",
  "gemma-scope",
  "gemma-scope-2",
  "llama-scope",
  "llama-scope-r1",
  "llamascopium",
  "openai",
] as const;
export type SaeFormat = (typeof SAE_FORMATS)[number];

/** Those that can be written. */
export const WRITABLE_SAE_FORMATS = [
  "sae-lens",
  "dictionary-learning",
  "sparsify",
  "gemma-scope",
  "llama-scope",
] as const satisfies readonly SaeFormat[];
export type WritableSaeFormat = (typeof WRITABLE_SAE_FORMATS)[number];

export type PlainActivation =
  | { readonly kind: "relu" }
  | { readonly kind: "topk"; readonly k: number }
  | { readonly kind: "jumprelu" }
  | { readonly kind: "gated" };

export interface PlainTensors {
  /** [F, D] */
  readonly wEnc: Float32Array;
  /** [F]; a gated SAE's b_gate. */
  readonly bEnc: Float32Array;
  /** [F, E] */
  readonly wDec: Float32Array;
  /** [E] */
  readonly bDec?: Float32Array;
  /** [F], of jumprelu. */
  readonly threshold?: Float32Array;
  /** [F], of gated. */
  readonly rMag?: Float32Array;
  /** [F], of gated. */
  readonly bMag?: Float32Array;
  /** [E, D] */
  readonly wSkip?: Float32Array;
}

export type JsonObject = Readonly<Record<string, unknown>>;

export interface PlainSae extends PlainTensors {
  readonly dIn: number;
  readonly dOut: number;
  readonly features: number;
  readonly activation: PlainActivation;
  /** Whether b_dec is subtracted from the input before the encoder. */
  readonly applyBDecToInput: boolean;
  readonly transcoder: boolean;
  readonly skip: boolean;
  /** Spelled as SAELens does: hook_name, model_name … */
  readonly metadata: JsonObject;
  /** `format`, and what only that format has a word for; written back to the same format. */
  readonly origin: JsonObject;
  readonly warnings: readonly string[];
}

/** What a format leaves open, or what its reader is to take instead. */
export interface ReadSaeOptions {
  /** Hook point that it reads, for files that do not say. */
  readonly hook?: string;
  /** Hook point of a transcoder's output. */
  readonly hookOut?: string;
  readonly modelName?: string;
  /** What activations were multiplied by before the SAE saw them; 1 says that this is in the weights already. */
  readonly normFactor?: number;
  /** The same of a transcoder's target. */
  readonly normFactorOut?: number;
  /** Class of a dictionary_learning file without a config.json. */
  readonly dictClass?: string;
  /** Threshold of a BatchTopK file that has none. */
  readonly threshold?: number;
  /** Takes what cannot be expressed exactly, with a warning that says what was lost. */
  readonly lossy?: boolean;
}

/** An opened file of weights with the config that belongs to it. */
export interface SaeSource {
  /** What the user named, for messages and for what a path says. */
  readonly path: string;
  readonly weights: ArrayFile;
  readonly config?: { readonly file: string; readonly json: JsonObject };
}

/** The name of each option on the command line, for messages. */
export const optionHint = (name: keyof ReadSaeOptions): string =>
  `${name} (--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)} of \`sluice sae convert\`)`;

/** Tensors of a file by name, each checked against the shape that it must have. */
export class Fields {
  readonly file: ArrayFile;
  readonly warnings: string[] = [];
  readonly #used = new Set<string>();

  constructor(file: ArrayFile) {
    this.file = file;
  }

  #read(name: string): NamedArray {
    if (!this.file.has(name)) {
      throw inputError(
        `${this.file.path}: no tensor "${name}"; there are: ${this.file.names().slice(0, 20).join(", ")}`,
      );
    }
    this.#used.add(name);
    const array = this.file.read(name);
    if (array.dtype === "f64") this.warnings.push(`${name} is stored as f64 and was rounded to f32`);
    return array;
  }

  /** Weights of a shape, in which `undefined` stands for any length; `who` says what the shape is known from. */
  weights(name: string, want: readonly (number | undefined)[], who?: string): NamedArray {
    const array = this.#read(name);
    const { shape, dtype } = array;
    const bad = (expected: string): never => {
      throw inputError(`${this.file.path}: ${name} is ${describeArray(array)}, ${expected}`);
    };
    if (!/^b?f\d/.test(dtype)) bad("expected floating-point numbers");
    const fits = (dims: readonly (number | undefined)[]): boolean =>
      shape.length === dims.length && dims.every((n, i) => n === undefined || n === shape[i]);
    if (!fits(want)) {
      const turned = want.length === 2 && fits([want[1], want[0]]);
      const hint = turned ? "; it is transposed, so this is not the layout that the format has" : "";
      const why = who === undefined ? "" : ` by ${who}`;
      bad(`expected [${want.map((n) => n ?? "any").join(", ")}]${why}${hint}`);
    }
    if (shape.includes(0)) bad("which is empty");
    return array;
  }

  /** [rows, columns] as stored. */
  matrix(
    name: string,
    rows?: number,
    columns?: number,
  ): { data: Float32Array; rows: number; columns: number } {
    const array = this.weights(name, [rows, columns]);
    return { data: toFloat32(array), rows: array.shape[0], columns: array.shape[1] };
  }

  /** The transpose of a matrix of [rows, columns]. */
  turned(
    name: string,
    rows?: number,
    columns?: number,
  ): { data: Float32Array; rows: number; columns: number } {
    const { data, rows: r, columns: c } = this.matrix(name, rows, columns);
    return { data: transpose2d(data, r, c), rows: c, columns: r };
  }

  vector(name: string, length: number): Float32Array {
    return toFloat32(this.weights(name, [length]));
  }

  /** One number, of shape [] or [1]. */
  scalar(name: string): number {
    const array = this.#read(name);
    const values = array.shape.every((n) => n === 1) ? toFloat32(array) : [];
    if (values.length !== 1)
      throw inputError(`${this.file.path}: ${name} is ${describeArray(array)}, expected one number`);
    return values[0];
  }

  /** A short list of whole numbers. */
  integers(name: string): number[] {
    const array = this.#read(name);
    if (array.shape.length !== 1 || array.shape[0] > 10_000)
      throw inputError(
        `${this.file.path}: ${name} is ${describeArray(array)}, expected a short list of whole numbers`,
      );
    return Array.from(toInt32(array));
  }

  has(name: string): boolean {
    return this.file.has(name);
  }

  /** Marks a tensor as known and not needed. */
  skip(...names: string[]): void {
    for (const name of names) this.#used.add(name);
  }

  /** Refuses tensors that nobody asked for: they may change what is computed. */
  done(what: string): void {
    for (const name of this.file.names()) {
      if (!this.#used.has(name))
        throw inputError(`${this.file.path}: tensor "${name}" is not part of ${what}`);
    }
  }
}

/** SAELens' fine-tuning scales, which some files have and which say nothing where all are one. */
export function refuseScaling(fields: Fields, features: number): void {
  if (!fields.has("scaling_factor")) return;
  if (fields.vector("scaling_factor", features).some((v) => Math.abs(v - 1) > 1e-5)) {
    throw inputError(
      `${fields.file.path}: scaling_factor is not all ones; fine-tuning scales are not supported`,
    );
  }
}

const MAX_CONFIG = 1 << 20;
const MAX_DEPTH = 64;

/** The JSON object of a file, which may be neither large nor nested deeply: it is kept, compared and written again. */
export function readConfig(file: string): JsonObject {
  const size = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (size > MAX_CONFIG) throw inputError(`${file}: ${size} bytes are too many for a config`);
  const json = readJson(file);
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw inputError(`${file}: must be a JSON object`);
  let level: unknown[] = [json];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) throw inputError(`${file}: is nested more than ${MAX_DEPTH} levels deep`);
    level = level.flatMap((value) => (typeof value === "object" && value ? Object.values(value) : []));
  }
  return json as JsonObject;
}

/** A positive whole number of a config. */
export function wholeOf(file: string, config: JsonObject, key: string): number {
  const value = config[key];
  if (!Number.isSafeInteger(value) || (value as number) < 1)
    throw inputError(`${file}: ${key} must be a positive whole number, not ${brief(value)}`);
  return value as number;
}

export function flagOf(file: string, config: JsonObject, key: string, missing: boolean): boolean {
  const value = config[key] ?? missing;
  if (typeof value !== "boolean")
    throw inputError(`${file}: ${key} must be true or false, not ${brief(value)}`);
  return value;
}

export const textOf = (config: JsonObject | undefined, key: string): string | undefined => {
  const value = config?.[key];
  return typeof value === "string" && value !== "" ? value : undefined;
};

export function objectOf(config: JsonObject | undefined, key: string): JsonObject | undefined {
  const value = config?.[key];
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as JsonObject)
    : undefined;
}

/** Sizes that a config names must be those of the tensors. */
export function checkSize(file: string, config: JsonObject, key: string, size: number): void {
  const value = config[key];
  if (value !== undefined && value !== null && value !== size)
    throw inputError(`${file}: ${key}=${brief(value)}, but the tensors have ${size}`);
}

/** Where it belongs: what the user says, else what the files say. */
export function placeOf(
  options: ReadSaeOptions,
  found: { readonly hook?: string; readonly hookOut?: string; readonly model?: string },
  more: JsonObject = {},
): JsonObject {
  const hook = options.hook ?? found.hook;
  const hookOut = options.hookOut ?? found.hookOut;
  const model = options.modelName ?? found.model;
  return {
    ...more,
    ...(model !== undefined && { model_name: model }),
    ...(hook !== undefined && { hook_name: hook }),
    ...(hookOut !== undefined && { hook_name_out: hookOut }),
  };
}

/**
 * Decoder rows of a format that promises unit length. Rows that are none while the columns are mean that the matrix is stored
 * the other way round, which its shape cannot show when F = E.
 */
export function checkUnitRows(file: string, wDec: Float32Array, features: number, width: number): string[] {
  const rows = new Float64Array(features);
  const columns = new Float64Array(width);
  for (let f = 0; f < features; f++) {
    for (let e = 0; e < width; e++) {
      const square = wDec[f * width + e] ** 2;
      rows[f] += square;
      columns[e] += square;
    }
  }
  const unit = (squares: Float64Array): boolean => squares.every((s) => Math.abs(Math.sqrt(s) - 1) < 0.01);
  if (unit(rows)) return [];
  if (unit(columns)) {
    throw inputError(
      `${file}: the columns of the decoder have length 1 and its rows do not: it is stored transposed; this is not the layout of the format`,
    );
  }
  return [
    `${file}: the format promises decoder rows of length 1, but they are not; they were taken as they are`,
  ];
}

interface Scaled {
  readonly wEnc: Float32Array;
  readonly wDec: Float32Array;
  readonly bDec?: Float32Array;
  readonly wSkip?: Float32Array;
}

/**
 * Folds scales into the weights: an SAE made for s·x (whose target was t·y) becomes one of x and y. Features keep their
 * values: f = act((s·x − b_dec·a) W_enc + b_enc) with W_enc·s and b_dec/s; the output (f W_dec + b_dec + s·x W_skipᵀ)/t with
 * W_dec/t, b_dec/t and W_skip·s/t. Pure: new arrays.
 */
export function foldNormalization<T extends Scaled>(sae: T, factor: number, factorOut = factor): T {
  for (const s of [factor, factorOut]) {
    if (!(s > 0 && Number.isFinite(s)))
      throw usageError(`a normalisation factor must be a positive number, not ${s}`);
  }
  if (factor === 1 && factorOut === 1) return sae;
  return {
    ...sae,
    wEnc: sae.wEnc.map((v) => v * factor),
    wDec: sae.wDec.map((v) => v / factorOut),
    ...(sae.bDec && { bDec: sae.bDec.map((v) => v / factorOut) }),
    ...(sae.wSkip && { wSkip: sae.wSkip.map((v) => (v * factor) / factorOut) }),
  };
}

/** The same, with a note of the scales where they are not 1. */
export function foldFactor(sae: PlainSae, factor: number, factorOut = factor): PlainSae {
  if (factor !== factorOut && sae.applyBDecToInput)
    throw inputError(
      `input and output are scaled differently (${factor} and ${factorOut}), but b_dec belongs to both`,
    );
  const folded = foldNormalization(sae, factor, factorOut);
  if (folded === sae) return sae;
  const scales = { input_scale: factor, ...(factorOut !== factor && { output_scale: factorOut }) };
  return { ...folded, origin: { ...sae.origin, ...scales } };
}

/** As the user says that activations were scaled, where they do. */
export const withFactor = (sae: PlainSae, { normFactor, normFactorOut }: ReadSaeOptions): PlainSae =>
  normFactor === undefined ? sae : foldFactor(sae, normFactor, normFactorOut);

/** What is lost when an SAE is written in another format: notes are only told, changes of numbers need leave. */
export class Losses {
  readonly #format: string;
  readonly #lossy: boolean;
  readonly #notes: string[] = [];
  readonly #changes: string[] = [];

  constructor(format: string, lossy: boolean) {
    this.#format = format;
    this.#lossy = lossy;
  }

  /** Something that the format has no word for and that changes no number. */
  note(text: string): void {
    this.#notes.push(text);
  }

  /** What is known of where it belongs, of which the format has a place for some; SAELens' own versions say nothing. */
  metadata(metadata: JsonObject, kept: readonly string[]): void {
    const lost = Object.entries(metadata).filter(
      ([key, value]) =>
        value !== null && value !== undefined && !kept.includes(key) && !/^sae_lens_/.test(key),
    );
    for (const [key, value] of lost) this.note(`${key} ${brief(value)}, which it has no place for`);
  }

  /** Something that changes numbers. */
  change(text: string): void {
    this.#changes.push(text);
  }

  refuse(text: string): never {
    throw usageError(`${this.#format}: ${text}`);
  }

  /** What was lost; throws if numbers change and the user did not allow it. */
  list(): string[] {
    if (this.#changes.length > 0 && !this.#lossy) {
      throw usageError(
        `${this.#format}: this SAE cannot be written exactly: ${this.#changes.join("; ")}. Allow it with lossy (--lossy)`,
      );
    }
    return [...this.#changes, ...this.#notes];
  }
}

/** The same SAE with b_dec subtracted from the input, or not: the difference goes into the encoder's biases. */
export function withCentring(sae: PlainSae, wanted: boolean, losses: Losses): PlainSae {
  if (sae.applyBDecToInput === wanted) return sae;
  const { wEnc, bDec, dIn, features } = sae;
  if (!bDec || sae.transcoder) return { ...sae, applyBDecToInput: wanted };
  if (bDec.every((v) => v === 0)) return { ...sae, applyBDecToInput: wanted };
  losses.change(
    wanted
      ? "the format subtracts b_dec from the input and this SAE does not: W_enc·b_dec goes into b_enc, which rounds"
      : "the format does not subtract b_dec from the input and this SAE does: W_enc·b_dec goes into b_enc, which rounds",
  );
  const sign = wanted ? 1 : -1;
  const bEnc = Float32Array.from(sae.bEnc);
  const bMag = sae.bMag && Float32Array.from(sae.bMag);
  for (let f = 0; f < features; f++) {
    let shift = 0;
    for (let d = 0; d < dIn; d++) shift += wEnc[f * dIn + d] * bDec[d];
    bEnc[f] = sae.bEnc[f] + sign * shift;
    if (bMag && sae.bMag && sae.rMag) bMag[f] = sae.bMag[f] + sign * shift * Math.exp(sae.rMag[f]);
  }
  return { ...sae, bEnc, ...(bMag && { bMag }), applyBDecToInput: wanted };
}

/** b_dec, or zeros where there is none. */
export function biasOf(sae: PlainSae, losses: Losses): Float32Array {
  if (sae.bDec) return sae.bDec;
  losses.note("that it has no decoder bias: zeros stand for it");
  return new Float32Array(sae.dOut);
}

/** Thresholds of relu (0) and jumprelu; other activations have none. */
export function thresholdsFor(sae: PlainSae, losses: Losses): Float32Array {
  if (sae.activation.kind === "relu") return new Float32Array(sae.features);
  if (sae.activation.kind === "jumprelu" && sae.threshold) return sae.threshold;
  return losses.refuse(
    `the format has a threshold for every feature; a ${sae.activation.kind} SAE has none, and none would keep the same features`,
  );
}
