/**
 * The nouns of the text layer: documents, corpora and where they come from.
 */

/** One unit of text that is never split between train and held-out. */
export interface Document {
  /** Unique and stable within its corpus, for example `1862_abraham_lincoln_r`. */
  id: string;
  text: string;
  /** What the source says about the document (genre, year, language ...). */
  meta?: Record<string, string>;
}

export type Domain =
  | "general"
  | "reference"
  | "technical"
  | "code"
  | "legal"
  | "biomedical"
  | "maths"
  | "russian";

/** Which half of a corpus: held-out documents are never in `train`. */
export type Split = "train" | "heldout" | "all";

/** Packages a corpus is read from; the corpus needs all of them. */
export interface CorpusSource {
  kind: "npm" | "deb";
  packages: readonly { name: string; version: string }[];
}

/** How held-out documents are chosen: a share by the hash of their id, or by name. */
export type HeldOutRule = { kind: "hash"; share: number } | { kind: "named"; ids: readonly string[] };

/** Which reader turns the package's files into documents, with its options. Paths are relative to the package. */
export type ReaderSpec =
  | { kind: "plain"; folder: string; match: RegExp; exclude?: RegExp; gzip?: boolean; clean: PlainClean }
  | { kind: "chapters-json"; folder: string; match: RegExp }
  | { kind: "brown" }
  | { kind: "code"; folders: Readonly<Record<string, readonly string[]>> }
  | { kind: "spdx" }
  | { kind: "factbook" }
  | { kind: "quran"; language: string; versesPerDocument: number }
  | { kind: "wordnet"; perDocument: number }
  | { kind: "sword"; folder: string; extension: "bz" | "cz" }
  | { kind: "rdata"; file: string }
  | { kind: "html"; folder: string; match: RegExp }
  | { kind: "jargon"; file: string }
  | { kind: "dictd"; folder: string; name: string }
  | { kind: "fortunes"; folder: string; perDocument: number; exclude?: RegExp }
  | { kind: "sqlite"; file: string; sql: string }
  | { kind: "metamath"; folder: string; match: RegExp };

/** What is done to a plain file's text: nothing, hard-wrapped lines joined, or one markup language simplified. */
export type PlainClean = "none" | "unwrap" | "pod" | "rst" | "roff";

export interface Corpus {
  name: string;
  title: string;
  domain: Domain;
  source: CorpusSource;
  /** As the package states it; a package's licence is not always that of the text inside. */
  licence: string;
  reader: ReaderSpec;
  /** What one document is. */
  unit: string;
  heldOut: HeldOutRule;
  /** What a user should know before using it: quality, overlaps with other corpora. */
  note?: string;
}
