/**
 * Hugging Face's tokenizer.json and tokenizer_config.json for a byte-level BPE: writing them, and recognising those that the
 * fast encoder can take.
 */
import { join } from "node:path";
import { writeAtomic, writeJson } from "../util/fs.ts";
import type { BpeModel } from "./bpe-trainer.ts";
import { byteSymbols, gpt2Pattern, splitPattern } from "./byte-level.ts";

/** The parts of a tokenizer.json that this folder looks at; other parts pass through untouched. */
export interface TokenizerJson {
  added_tokens?: AddedTokenJson[];
  normalizer?: unknown;
  pre_tokenizer?: PreTokenizerJson | null;
  post_processor?: unknown;
  decoder?: { type: string } | null;
  model: {
    type: string;
    vocab: Record<string, number>;
    merges?: (string | [string, string])[];
    [key: string]: unknown;
  };
  [key: string]: unknown;
}

export interface AddedTokenJson {
  id: number;
  content: string;
  special: boolean;
  lstrip: boolean;
  rstrip: boolean;
  single_word: boolean;
  normalized: boolean;
}

interface PreTokenizerJson {
  type: string;
  pretokenizers?: PreTokenizerJson[];
  pattern?: { Regex?: string };
  behavior?: string;
  invert?: boolean;
  add_prefix_space?: boolean;
  use_regex?: boolean;
}

/** tokenizer.json of a trained model. Encoding with special tokens puts BOS (the first special token) in front. */
export function bpeTokenizerJson(bpe: BpeModel): TokenizerJson {
  const [bos] = bpe.specialTokens;
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: bpe.specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: splitPattern }, behavior: "Isolated", invert: false },
        {
          type: "ByteLevel",
          add_prefix_space: false,
          trim_offsets: true,
          use_regex: false,
        } as PreTokenizerJson,
      ],
    },
    post_processor: bos === undefined ? null : bosTemplate(bos),
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true } as {
      type: string;
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(bpe.vocab.map((token, id) => [token, id])),
      merges: bpe.merges.map(([left, right]) => `${left} ${right}`),
    },
  };
}

function bosTemplate(bos: string): unknown {
  const special = { SpecialToken: { id: bos, type_id: 0 } };
  return {
    type: "TemplateProcessing",
    single: [special, { Sequence: { id: "A", type_id: 0 } }],
    pair: [special, { Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: { [bos]: { id: bos, ids: [0], tokens: [bos] } },
  };
}

/** tokenizer_config.json; `maxLength` is the model's context in tokens. */
export function bpeTokenizerConfig(bpe: BpeModel, maxLength: number): Record<string, unknown> {
  const [bos, eos, pad] = bpe.specialTokens;
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    model_max_length: maxLength,
    bos_token: bos ?? null,
    eos_token: eos ?? null,
    pad_token: pad ?? null,
    unk_token: null,
    clean_up_tokenization_spaces: false,
  };
}

/** Writes both files into `folder`, `tokenizer.json` last: where it is, the tokenizer is whole. */
export async function saveBpe(bpe: BpeModel, folder: string, maxLength = 2048): Promise<void> {
  await writeJson(join(folder, "tokenizer_config.json"), bpeTokenizerConfig(bpe, maxLength));
  await writeAtomic(join(folder, "tokenizer.json"), `${JSON.stringify(bpeTokenizerJson(bpe), null, 1)}\n`);
}

/** The word pattern of a byte-level BPE that the fast encoder reproduces exactly; undefined for any other tokenizer. */
export function fastPattern(json: TokenizerJson): string | undefined {
  const { model } = json;
  const plainModel =
    model.type === "BPE" &&
    !model.dropout &&
    !model.unk_token &&
    !model.continuing_subword_prefix &&
    !model.end_of_word_suffix &&
    !model.byte_fallback &&
    !model.ignore_merges &&
    byteSymbols.every((symbol) => model.vocab[symbol] !== undefined);
  const plainTokens = (json.added_tokens ?? []).every(
    (token) => !token.lstrip && !token.rstrip && !token.single_word,
  );
  if (!plainModel || !plainTokens || json.normalizer || json.decoder?.type !== "ByteLevel") return undefined;
  return patternOf(json.pre_tokenizer);
}

function patternOf(pre: PreTokenizerJson | null | undefined): string | undefined {
  if (pre?.type === "ByteLevel") {
    return pre.add_prefix_space === false && pre.use_regex !== false ? gpt2Pattern : undefined;
  }
  const [split, bytes, ...rest] = pre?.type === "Sequence" ? (pre.pretokenizers ?? []) : [];
  const known =
    rest.length === 0 &&
    split?.type === "Split" &&
    split.behavior === "Isolated" &&
    !split.invert &&
    bytes?.type === "ByteLevel" &&
    bytes.add_prefix_space === false &&
    bytes.use_regex === false;
  return known && split.pattern?.Regex === splitPattern ? splitPattern : undefined;
}
