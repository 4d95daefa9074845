/**
 * What a language model is trained on: a mix of corpora, any text, or token files; its tokenizer; its held-out texts by name.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { copyFile, mkdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { findTokenizer, type HubOptions, isDatasetPath } from "../hub/index.ts";
import {
  buildTokenMix,
  firstDocuments,
  loadTokenizer,
  type MixConfig,
  type MixReport,
  openText,
  saveBpe,
  TokenFile,
  type Tokenizer,
  type TokenSource,
  trainBpe,
  trainMixTokenizer,
  WordCounter,
} from "../text/index.ts";
import { inputError, readJson, SluiceError, usageError } from "../util/index.ts";
import { openTextTokens, type TextTokens } from "./text-tokens.ts";

export type LmTextSource =
  /** Tokenised into `data/` of the run folder. */
  | { readonly kind: "mix"; readonly config: MixConfig }
  /** Corpora, files, folders; the held-out documents of the same validate. */
  | { readonly kind: "text"; readonly text: readonly string[]; readonly field?: string }
  /** Token files made earlier; `heldOut` are files or folders of them. Needs the tokenizer they were made with. */
  | { readonly kind: "tokens"; readonly train: string; readonly heldOut: readonly string[] };

export interface LmDataOptions {
  readonly source: LmTextSource;
  /** Folder with `tokenizer.json`, or a model's id on the hub; without it one is trained on the text. */
  readonly tokenizer?: string;
  /** Ids of a tokenizer that is trained, special tokens included. */
  readonly vocab: number;
  /** Run folder: gets the tokenizer's files, and the mix's tokens. */
  readonly out: string;
  /** The model's context, written into the tokenizer's config. */
  readonly context: number;
  /** Tokens that the run reads, where it is known: of texts of the hub no more than is needed for them is downloaded. */
  readonly reads?: { readonly train?: number; readonly heldOut?: number };
  /** Texts and tokenizers of the hub: progress, settings. */
  readonly hub?: HubOptions;
  readonly signal?: AbortSignal;
  readonly log?: (message: string) => void;
  /** Called now and then; `label` says what is being done. */
  readonly onProgress?: (label: string, done: number, unit: "tokens" | "merges") => void;
}

export interface LmData {
  readonly tokenizer: Tokenizer;
  readonly train: TextTokens;
  readonly heldOut: Readonly<Record<string, TokenSource>>;
  /** What the training text is made of, where it is a mix. */
  readonly mix?: MixReport;
  close(): void;
}

const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
] as const;
/** Characters of text that a tokenizer is trained on at most. */
const SAMPLE = 32_000_000;
/** Of a text of the hub: as many as its tokens may have, and so many at least. */
const CHARACTERS_PER_TOKEN = 8;
const LEAST_SAMPLE = 1_000_000;

/** Opens, and where needed first makes, tokenizer and tokens. A second call finds them made. The caller closes the files. */
export async function openLmData(options: LmDataOptions): Promise<LmData> {
  const tokenizer = await openTokenizer(options);
  const opened: TextTokens[] = [];
  try {
    return await openTokens(options, tokenizer, opened);
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

/** The run's tokenizer: its own from an earlier start, the named one copied, or a new one. */
export async function openTokenizer(options: LmDataOptions): Promise<Tokenizer> {
  const { tokenizer, out, hub, signal, log } = options;
  if (tokenizer !== undefined) {
    const { folder } = (await findTokenizer(tokenizer, { signal, log, ...hub })) ?? { folder: tokenizer };
    const wanted = await loadTokenizer(folder);
    await mkdir(out, { recursive: true });
    if (resolve(folder) !== resolve(out)) {
      for (const name of TOKENIZER_FILES) {
        if (existsSync(join(folder, name))) await copyFile(join(folder, name), join(out, name));
      }
    }
    return wanted;
  }
  await mkdir(out, { recursive: true });
  if (existsSync(join(out, TOKENIZER_FILES[0]))) return loadTokenizer(out);
  return trainTokenizer(options);
}

async function trainTokenizer(options: LmDataOptions): Promise<Tokenizer> {
  const { source, vocab, out, context, reads, hub, signal, log, onProgress } = options;
  const onMerge = (merges: number) => onProgress?.("training the tokenizer", merges, "merges");
  switch (source.kind) {
    case "mix":
      return trainMixTokenizer(source.config, out, { maxLength: context, signal, log, onProgress: onMerge });
    case "text": {
      const counter = new WordCounter();
      let read = 0;
      const sample = source.text.some(isDatasetPath)
        ? Math.min(SAMPLE, Math.max(LEAST_SAMPLE, CHARACTERS_PER_TOKEN * (reads?.train ?? SAMPLE)))
        : SAMPLE;
      const documents = await openText(source.text, {
        split: "train",
        field: source.field,
        hub,
        signal,
        log,
      });
      for await (const { text } of documents) {
        counter.add(text.slice(0, sample - read));
        read += text.length;
        if (read >= sample) break;
      }
      const bpe = trainBpe(counter.counts, { vocabSize: vocab, onProgress: onMerge });
      await saveBpe(bpe, out, context);
      return loadTokenizer(out);
    }
    case "tokens":
      throw usageError("lm train: token files need the tokenizer they were made with: --tokenizer FOLDER");
    default:
      return source satisfies never;
  }
}

async function openTokens(
  options: LmDataOptions,
  tokenizer: Tokenizer,
  opened: TextTokens[],
): Promise<LmData> {
  const { source } = options;
  const open = (path: string) => {
    const file = TokenFile.open(path, { tokenizer: tokenizer.hash });
    opened.push(file);
    return file;
  };
  const data = (train: TextTokens, heldOut: Record<string, TokenSource>, mix?: MixReport): LmData => ({
    tokenizer,
    train,
    heldOut,
    mix,
    close: () => {
      for (const file of opened) file.close();
    },
  });
  switch (source.kind) {
    case "mix": {
      const folder = join(options.out, "data");
      const mix = await ensureMix(source.config, folder, tokenizer, options);
      return data(open(join(folder, "train.tokens")), openFiles([join(folder, "heldout")], open), mix);
    }
    case "text": {
      const { reads, hub, signal, log } = options;
      const onProgress = ({ tokens }: { tokens: number }) =>
        options.onProgress?.("tokenizing", tokens, "tokens");
      const ask = { field: source.field, tokenizer, hub, signal, log, onProgress };
      const train = await openTextTokens({ ...ask, text: source.text, split: "train" });
      opened.push(train);
      const heldOut: Record<string, TokenSource> = {};
      for (const name of source.text) {
        const open = async (): Promise<TokenSource> => {
          const file = await openTextTokens({ ...ask, text: [name], split: "heldout" });
          opened.push(file);
          return file.lazy ? firstDocuments(file, reads?.heldOut ?? Number.POSITIVE_INFINITY) : file;
        };
        const file = await open().catch(noHeldOut(options));
        if (file) heldOut[name] = file;
      }
      return data(train, heldOut);
    }
    case "tokens":
      return data(open(source.train), openFiles(source.heldOut, open));
    default:
      return source satisfies never;
  }
}

/** A text of few documents may have none held out: that is said, and validation goes without it. */
function noHeldOut({ log }: LmDataOptions): (error: unknown) => undefined {
  return (error) => {
    if (!(error instanceof SluiceError) || error.code !== "input") throw error;
    log?.(`no validation: ${error.message}`);
    return undefined;
  };
}

/** The mix's tokens, made unless they are there for the same mix and tokenizer. */
async function ensureMix(
  config: MixConfig,
  folder: string,
  tokenizer: Tokenizer,
  { signal, log, onProgress }: LmDataOptions,
): Promise<MixReport> {
  const file = join(folder, "mix.json");
  if (existsSync(file) && existsSync(join(folder, "train.tokens"))) {
    const made = readJson(file) as MixReport & { config: MixConfig; tokenizer: string };
    if (made.tokenizer === tokenizer.hash && JSON.stringify(made.config) === JSON.stringify(config))
      return made;
    log?.(`${folder} holds another mix; it is made again`);
  }
  return buildTokenMix(config, tokenizer, folder, {
    signal,
    log,
    onProgress: ({ corpus, split, tokens }) =>
      onProgress?.(`tokenizing ${corpus}, ${split}`, tokens, "tokens"),
  });
}

/** Opens token files, and those of folders, by their names without the ending. */
export function openFiles(
  paths: readonly string[],
  open: (path: string) => TokenFile,
): Record<string, TokenFile> {
  const files: Record<string, TokenFile> = {};
  for (const path of paths.flatMap(tokenFilesOf)) {
    const name = basename(path).replace(/\.tokens$/, "");
    if (files[name]) throw usageError(`two token files are called "${name}": ${path}`);
    files[name] = open(path);
  }
  return files;
}

function tokenFilesOf(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  const names = readdirSync(path).filter((name) => name.endsWith(".tokens"));
  if (names.length === 0) throw inputError(`${path} has no token files (*.tokens)`);
  return names.sort().map((name) => join(path, name));
}
