/**
 * Text: corpora, user files, tokenizers, token files and packing.
 */
export { type BpeModel, type BpeTrainOptions, WordCounter, defaultSpecialTokens, trainBpe } from "./bpe-trainer.ts";
export { corpusByName, isCorpus, listCorpora } from "./catalogue.ts";
export { corpusDocuments, isHeldOut } from "./corpus.ts";
export {
  type CorpusManifest,
  type InstallOptions,
  type InstalledCorpus,
  type InstalledPackage,
  defaultCacheDir,
  ensureCorpus,
} from "./install.ts";
export { type MixConfig, type MixOptions, type MixPart, type MixReport, buildTokenMix, checkMix, sampleWords } from "./mix.ts";
export { type OpenTextOptions, type TextSource, openText } from "./open-text.ts";
export {
  MemoryTokens,
  type PackOptions,
  type PackedBatch,
  type PackerState,
  TokenPacker,
  type TokenSource,
} from "./packing.ts";
export { TextError, nearestNames } from "./text-error.ts";
export { TokenFile, type TokenFileHeader, type TokenFileInfo, TokenFileWriter } from "./token-file.ts";
export { type TokenizeOptions, tokenizeDocuments } from "./tokenize.ts";
export { type EncodeOptions, Tokenizer, loadTokenizer } from "./tokenizer.ts";
export { bpeTokenizerConfig, bpeTokenizerJson, saveBpe } from "./tokenizer-json.ts";
export type { Corpus, CorpusSource, Document, Domain, HeldOutRule, Split } from "./types.ts";
export type { InvalidUtf8 } from "./utf8.ts";
