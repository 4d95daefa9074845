export * from "./array-file.ts";
export * from "./checkpoint.ts";
export { DICT_CLASSES, type DictClass, writeDictionaryLearning } from "./dictionary-learning.ts";
export { writeGemmaScope } from "./gemma-scope.ts";
export * from "./hf-model.ts";
export { writeLlamaScope } from "./llama-scope.ts";
export * from "./named-array.ts";
export { parseNpy, writeNpz } from "./npz.ts";
export * from "./pickle.ts";
export {
  foldNormalization,
  type JsonObject,
  Losses,
  objectOf,
  optionHint,
  type PlainActivation,
  type PlainSae,
  type PlainTensors,
  placeOf,
  type ReadSaeOptions,
  SAE_FORMATS,
  type SaeFormat,
  WRITABLE_SAE_FORMATS,
  type WritableSaeFormat,
} from "./plain-sae.ts";
export { findSae, readSaeFiles, type SaeFiles, saeFormatTitle } from "./sae-file.ts";
export * from "./sae-lens.ts";
export { type SaeLensArchitecture, type SaeLensConfig, saeLensTraits } from "./sae-lens-config.ts";
export { findReleases, SAE_RELEASES, type SaeRelease } from "./sae-releases.ts";
export * from "./safetensors.ts";
export type { TensorInfo, TensorShape } from "./safetensors-header.ts";
export { writeSparsify } from "./sparsify.ts";
export { TorchFile, writeTorch } from "./torch-file.ts";
export { crc32, type WriteZipOptions, writeZip, type ZipContent, type ZipEntry, ZipFile } from "./zip.ts";
