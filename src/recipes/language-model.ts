/**
 * A model, in a folder or on the hub, opened for work: transformer, tokenizer, identity.
 */
import { basename, resolve } from "node:path";
import { openModelFolder } from "../formats/index.ts";
import { findModel, type HubOptions } from "../hub/index.ts";
import { type LoadOptions, loadTransformer, type Transformer } from "../models/index.ts";
import type { Device } from "../tensor/index.ts";
import { loadTokenizer, type Tokenizer, TokenPacker, type TokenSource } from "../text/index.ts";
import { inputError } from "../util/index.ts";

export interface LanguageModel {
  /** Last part of the folder's path, or `org/name` on the hub: what stands in files and reports. */
  readonly name: string;
  readonly folder: string;
  /** Hash of config and weights: activations and SAEs name the model by it. */
  readonly hash: string;
  readonly model: Transformer;
  /** How its matrices are held. */
  readonly dtype: NonNullable<LoadOptions["dtype"]>;
  readonly tokenizer: Tokenizer;
  /** Tokens that end what it writes: of its config, and of generation_config.json (where chat models have theirs). */
  readonly endTokens: readonly number[];
}

export interface OpenModelOptions extends LoadOptions {
  /** For a model of the hub: progress, signal, settings. */
  readonly hub?: HubOptions;
}

/**
 * Loads a model by its folder in Hugging Face's layout, or by its id on the hub (`org/name@revision`); a path that exists is a
 * folder. The caller disposes the model.
 */
export async function openLanguageModel(
  device: Device,
  spec: string,
  { hub, dtype = "f32" }: OpenModelOptions = {},
): Promise<LanguageModel> {
  const { folder, name } = (await findModel(spec, hub)) ?? { folder: spec, name: basename(resolve(spec)) };
  const files = openModelFolder(folder);
  const hash = await files.contentHash();
  const { eos_token_id: ends } = files.generationConfig;
  files.close();
  const tokenizer = await loadTokenizer(folder);
  const model = await loadTransformer(device, folder, { dtype });
  if (tokenizer.vocabSize > model.spec.vocabSize) {
    model.dispose();
    throw inputError(
      `${folder}: the tokenizer has ${tokenizer.vocabSize} ids, but the model embeds ${model.spec.vocabSize}; they do not belong together`,
    );
  }
  const generated = (Array.isArray(ends) ? ends : [ends]).filter((id): id is number => Number.isInteger(id));
  const endTokens = [...new Set([...model.spec.eosTokens, ...generated])];
  return { name, folder: resolve(folder), hash, model, dtype, tokenizer, endTokens };
}

/** What a model's numbers come from, for records that a resumed run must agree with: its files, and the type of its matrices. */
export function modelIdentity({ name, hash, dtype }: Pick<LanguageModel, "name" | "hash" | "dtype">): {
  id: string;
  hash: string;
  dtype?: "f16" | "bf16";
} {
  return { id: name, hash, ...(dtype !== "f32" && { dtype }) };
}

export interface WindowOptions {
  /** Tokens of a window, BOS included; default the model's context. */
  readonly context?: number;
  readonly shuffle: boolean;
  readonly seed?: number;
}

/** Windows over a text as the model was trained to read it: BOS first, EOS after each document. */
export function windowsOf(
  { model, tokenizer }: Pick<LanguageModel, "model" | "tokenizer">,
  tokens: TokenSource,
  { context = model.spec.contextLength, shuffle, seed = 0 }: WindowOptions,
): TokenPacker {
  return new TokenPacker(tokens, {
    context,
    bos: tokenizer.bosId ?? null,
    eos: tokenizer.eosId ?? null,
    shuffle,
    seed,
  });
}
