/**
 * Text: corpora, user files, tokenizers, token files and packing.
 */
export {
  type BpeModel,
  type BpeTrainOptions,
  defaultSpecialTokens,
  trainBpe,
  WordCounter,
} from "./bpe-trainer.ts";
export { corpusByName, isCorpus, listCorpora } from "./catalogue.ts";
export { type ChatMessage, type ChatOptions, ChatTemplate } from "./chat.ts";
export { corpusDocuments, isHeldOut } from "./corpus.ts";
export { mix32 } from "./hashing.ts";
export {
  type CorpusManifest,
  defaultCacheDir,
  ensureCorpus,
  type InstalledCorpus,
  type InstalledPackage,
  type InstallOptions,
} from "./install.ts";
export {
  type LabelledDocument,
  type LabelledSet,
  labelledDocuments,
  labelledSet,
  listLabelledSets,
} from "./labelled.ts";
export { LazyTokens, type LazyTokensOptions } from "./lazy-tokens.ts";
export {
  buildTokenMix,
  checkMix,
  type MixConfig,
  type MixOptions,
  type MixPart,
  type MixReport,
  sampleWords,
  trainMixTokenizer,
} from "./mix.ts";
export {
  noText,
  type OpenTextOptions,
  openText,
  pinText,
  type TextPart,
  type TextSource,
  textFingerprint,
  textParts,
} from "./open-text.ts";
export {
  firstDocuments,
  type LazyText,
  MemoryTokens,
  type PackedBatch,
  type PackerState,
  type PackOptions,
  TokenPacker,
  type TokenSource,
  type TrainingWindows,
  type WindowSource,
} from "./packing.ts";
export { type PackedSample, SamplePacker, type SamplePackOptions } from "./sample-packing.ts";
export { StridedWindows, type StrideOptions } from "./strided.ts";
export { TokenFile, type TokenFileHeader, type TokenFileInfo, TokenFileWriter } from "./token-file.ts";
export { collectTokens, type TokenizeOptions, type TokenizeProgress, tokenizeDocuments } from "./tokenize.ts";
export { type EncodeOptions, loadTokenizer, Tokenizer } from "./tokenizer.ts";
export { bpeTokenizerConfig, bpeTokenizerJson, saveBpe } from "./tokenizer-json.ts";
export type { Corpus, CorpusSource, Document, Domain, HeldOutRule, Split } from "./types.ts";
export type { InvalidUtf8 } from "./utf8.ts";
