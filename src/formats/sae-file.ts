/**
 * Which files of a folder are an SAE, and of which format: decided by what they hold (names of tensors, keys of configs), not
 * by what they are called. Readers of all formats but SAELens', which has a richer one of its own.
 */
import * as fs from "node:fs";
import * as path from "node:path";
import { inputError, ioError, SluiceError } from "../util/index.ts";
import { type ArrayFile, openArrays, sniffArrays } from "./array-file.ts";
import { dictClassesOf, readDictionaryLearning } from "./dictionary-learning.ts";
import { readGemmaScope, readGemmaScope2 } from "./gemma-scope.ts";
import { hasLogThreshold, readLlamaScope, readLlamascopium } from "./llama-scope.ts";
import { readOpenAi } from "./openai-sae.ts";
import {
  type JsonObject,
  objectOf,
  type PlainSae,
  type ReadSaeOptions,
  readConfig,
  type SaeFormat,
  type SaeSource,
} from "./plain-sae.ts";
import { isSaeLensFolder } from "./sae-lens.ts";
import { readSparsify } from "./sparsify.ts";

interface Recogniser {
  /** As people call it. */
  readonly title: string;
  /** Whether a file has the tensors of this format. */
  tensors(names: readonly string[], weights: ArrayFile): boolean;
  /** The config beside the weights; absent from formats that have none. */
  readonly config?: {
    /** What it is usually called. */
    readonly name: string;
    readonly required: boolean;
    matches(json: JsonObject): boolean;
  };
  read?(source: SaeSource, options: ReadSaeOptions): PlainSae;
}

const has = (names: readonly string[], ...wanted: readonly string[]): boolean =>
  wanted.every((name) => names.includes(name));

const LINEAR = ["encoder.weight", "encoder.bias", "decoder.weight"] as const;

const FORMATS: Readonly<Record<SaeFormat, Recogniser>> = {
  "sae-lens": {
    title: "SAELens",
    tensors: (names, { container }) => container === "safetensors" && has(names, "W_enc", "W_dec"),
    config: {
      name: "cfg.json",
      required: true,
      matches: (json) => "d_in" in json && "d_sae" in json,
    },
  },
  "dictionary-learning": {
    title: "dictionary_learning",
    tensors: (names, { container }) =>
      dictClassesOf(names).length > 0 &&
      (container === "torch" || !(names.includes("decoder.bias") || names.includes("W_enc"))),
    config: {
      name: "config.json",
      required: false,
      matches: (json) => objectOf(json, "trainer") !== undefined,
    },
    read: readDictionaryLearning,
  },
  sparsify: {
    title: "sparsify",
    tensors: (names) => has(names, "encoder.weight", "encoder.bias", "W_dec", "b_dec"),
    config: {
      name: "cfg.json",
      required: true,
      matches: (json) => "d_in" in json && "k" in json && !("d_sae" in json),
    },
    read: readSparsify,
  },
  "gemma-scope": {
    title: "Gemma Scope",
    tensors: (names, { container }) =>
      container === "npz" && (has(names, "W_enc", "W_dec") || has(names, "w_enc", "w_dec")),
    read: readGemmaScope,
  },
  "gemma-scope-2": {
    title: "Gemma Scope 2",
    tensors: (names, { container }) => container === "safetensors" && has(names, "w_enc", "w_dec"),
    config: { name: "config.json", required: false, matches: (json) => "hf_hook_point_in" in json },
    read: readGemmaScope2,
  },
  "llama-scope": {
    title: "Llama Scope",
    tensors: (names, { container }) =>
      container === "safetensors" && has(names, ...LINEAR) && !hasLogThreshold(names),
    config: {
      name: "hyperparams.json",
      required: true,
      matches: (json) => "d_model" in json && ("jump_relu_threshold" in json || "act_fn" in json),
    },
    read: readLlamaScope,
  },
  "llama-scope-r1": {
    title: "Llama Scope R1-distill",
    tensors: (names) => has(names, ...LINEAR) && hasLogThreshold(names),
    config: { name: "config.json", required: true, matches: (json) => "d_model" in json },
    read: readLlamaScope,
  },
  llamascopium: {
    title: "llamascopium",
    tensors: (names) => has(names, "W_E", "W_D"),
    config: { name: "config.json", required: true, matches: (json) => "d_model" in json },
    read: readLlamascopium,
  },
  openai: {
    title: "OpenAI's autoencoders",
    tensors: (names) => has(names, "encoder.weight", "pre_bias", "latent_bias"),
    read: readOpenAi,
  },
};

/** As people call it. */
export const saeFormatTitle = (format: SaeFormat): string => FORMATS[format].title;

/** The files of an SAE. */
export interface SaeFiles {
  readonly format: SaeFormat;
  readonly weights: string;
  readonly config?: string;
}

const MAX_FILES = 500;

/** Finds the SAE in a folder, or of a file of weights. */
export function findSae(place: string): SaeFiles {
  const stat = fs.statSync(place, { throwIfNoEntry: false });
  if (!stat) throw ioError(`open the SAE ${place}`, { code: "ENOENT" });
  if (stat.isFile()) {
    const folder = path.dirname(path.resolve(place));
    const above = path.basename(folder) === "checkpoints" ? [path.dirname(folder)] : [];
    const found = recognise(place, [folder, ...above]);
    if (!found) throw unknown(place, place);
    return found;
  }
  if (!stat.isDirectory()) throw inputError(`${place}: is neither a file nor a folder`);
  return findInFolder(place);
}

function findInFolder(folder: string): SaeFiles {
  const checkpoints = path.join(folder, "checkpoints");
  const own = weightsIn(folder);
  const nested = own.length === 0 && fs.existsSync(checkpoints) ? weightsIn(checkpoints) : [];
  const candidates = [...own, ...nested];
  const found: SaeFiles[] = [];
  const errors: unknown[] = [];
  for (const file of candidates) {
    try {
      const sae = recognise(file, nested.length > 0 ? [checkpoints, folder] : [folder]);
      if (sae) found.push(sae);
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error;
      errors.push(error);
    }
  }
  if (found.length === 1) return found[0];
  if (found.length > 1) {
    const names = found.map(({ weights }) => path.relative(folder, weights));
    throw inputError(`${folder}: holds several SAEs: ${names.join(", ")}; name one of the files`);
  }
  if (isSaeLensFolder(folder)) {
    // Its own reader says best what is wrong.
    return {
      format: "sae-lens",
      weights: path.join(folder, "sae_weights.safetensors"),
      config: path.join(folder, "cfg.json"),
    };
  }
  if (errors.length > 0) throw errors[0];
  if (own.length > 0) throw unknown(folder, own[0]);
  throw inputError(
    `${folder}: there is no SAE here: neither cfg.json and sae_weights.safetensors of ours or SAELens, nor weights of another format (\`sluice sae convert --help\` lists them)`,
  );
}

/** Files that look like weights by their first bytes, or, where these are damaged, by their name. */
function weightsIn(folder: string): string[] {
  return filesIn(folder).filter((file) => {
    const name = path.basename(file);
    if (name.startsWith(".")) return false;
    return /\.(safetensors|npz|pt)$/.test(name) || sniffArrays(file) !== undefined;
  });
}

function filesIn(folder: string): string[] {
  let entries: fs.Dirent[];
  try {
    entries = fs.readdirSync(folder, { withFileTypes: true });
  } catch (cause) {
    throw ioError(`open the SAE ${folder}`, cause);
  }
  const files = entries
    .map((entry) => path.join(folder, entry.name))
    .filter((file) => fs.statSync(file, { throwIfNoEntry: false })?.isFile())
    .sort();
  if (files.length > MAX_FILES)
    throw inputError(`${folder}: holds ${files.length} files; name the one that is the SAE`);
  return files;
}

/** The format of one file; undefined if its tensors are of none. */
function recognise(file: string, folders: readonly string[]): SaeFiles | undefined {
  const weights = openArrays(file);
  let fitting: SaeFormat[];
  try {
    const names = weights.names();
    if (has(names, "encoder_linear.weight", "decoder_linear.weight")) {
      throw inputError(
        `${file}: has the tensors of Goodfire's SAEs, whose file does not say which activation they have; this format is not read`,
      );
    }
    fitting = (Object.keys(FORMATS) as SaeFormat[]).filter((format) =>
      FORMATS[format].tensors(names, weights),
    );
  } finally {
    weights.close();
  }
  if (fitting.length === 0) return undefined;
  const missing: string[] = [];
  const found: SaeFiles[] = [];
  for (const format of fitting) {
    const { config, title } = FORMATS[format];
    const json = config && configIn(folders, config);
    if (config?.required && json === undefined) missing.push(`${title} (${config.name})`);
    else found.push({ format, weights: file, ...(json !== undefined && { config: json }) });
  }
  if (found.length === 1) return found[0];
  // Where tensors fit several, the one with a config of its own it is.
  const sure = found.filter(({ config }) => config !== undefined);
  if (sure.length === 1) return sure[0];
  if (found.length > 1) {
    const titles = found.map(({ format }) => FORMATS[format].title);
    throw inputError(`${file}: may be of ${titles.join(" or ")}; put its config beside it`);
  }
  throw inputError(
    `${file}: has the tensors of ${missing.join(" or ")}, but no JSON file in ${folders[0]} is its config (usually called as in brackets), which says what is computed; put it there`,
  );
}

/** The JSON file with a format's config: the one that is called so, else the only one that looks like it. */
function configIn(folders: readonly string[], config: NonNullable<Recogniser["config"]>): string | undefined {
  for (const folder of folders) {
    const usual = path.join(folder, config.name);
    if (fs.existsSync(usual) && config.matches(readConfig(usual))) return usual;
    const others = filesIn(folder).filter((file) => {
      if (file === usual || !file.endsWith(".json")) return false;
      try {
        return config.matches(readConfig(file));
      } catch {
        return false;
      }
    });
    if (others.length === 1) return others[0];
    if (others.length > 1) {
      const names = others.map((file) => path.basename(file)).join(", ");
      throw inputError(`${folder}: ${names} may each be the config; call the right one ${config.name}`);
    }
  }
  return undefined;
}

function unknown(place: string, file: string): Error {
  const weights = openArrays(file);
  try {
    const names = weights.names();
    const some = (all: readonly string[]) => `${all.slice(0, 8).join(", ")}${all.length > 8 ? ", …" : ""}`;
    const others = [...weights.values.keys()];
    const inside = others.length > 0 ? ` but ${some(others)}; save the dict of tensors alone` : "";
    return inputError(
      `${place}: no SAE of a known format; ${path.basename(file)} holds ${names.length > 0 ? some(names) : `no tensors${inside}`}`,
    );
  } finally {
    weights.close();
  }
}

/** Reads an SAE of any format but SAELens'. */
export function readSaeFiles(
  place: string,
  { format, weights: file, config }: SaeFiles,
  options: ReadSaeOptions = {},
): PlainSae {
  const { read } = FORMATS[format];
  if (!read) throw inputError(`${place}: readSaeFiles does not read ${format}; use readSaeLens`);
  const weights = openArrays(file);
  try {
    return read(
      {
        path: place,
        weights,
        ...(config !== undefined && { config: { file: config, json: readConfig(config) } }),
      },
      options,
    );
  } finally {
    weights.close();
  }
}
