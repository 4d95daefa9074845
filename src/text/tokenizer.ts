/**
 * A model's tokenizer from a Hugging Face folder (tokenizer.json, tokenizer_config.json). `@huggingface/tokenizers` is the
 * reference for every kind; byte-level BPE of a known shape is encoded by our own encoder, which gives the same ids faster.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as Reference } from "@huggingface/tokenizers";
import { errnoOf, inputError, ioError, usageError } from "../util/errors.ts";
import { type ChatMessage, type ChatOptions, ChatTemplate } from "./chat.ts";
import { FastBpe, vocabularyBytes } from "./fast-bpe.ts";
import { fastPattern, type TokenizerJson } from "./tokenizer-json.ts";
import { invalidUtf8Offset } from "./utf8.ts";

export interface EncodeOptions {
  /** Put BOS in front; false by default. */
  bos?: boolean;
  /** Read the names of special tokens in the text as plain text; false by default. */
  plain?: boolean;
}

export interface TokenizerOptions {
  /** False keeps to the reference; true by default. */
  fast?: boolean;
  /** The model's config.json: its `bos_token_id` and `eos_token_id` count where the tokenizer does not speak of them (GPT-2). */
  model?: Readonly<Record<string, unknown>>;
}

export class Tokenizer {
  /** Ids in all, special tokens included. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  /** Ids of special tokens: they are no text. */
  readonly specialIds: ReadonlySet<number>;
  /** SHA-256 of tokenizer.json, in hexadecimal; token files carry it. */
  readonly hash: string;
  /** Whether our own encoder is used. */
  readonly fast: boolean;
  readonly #chat: ChatTemplate | undefined;
  readonly #reference: Reference;
  /** The same, to which the names of special tokens are text. Made when it is first needed. */
  readonly #withoutSpecial: () => Reference;
  readonly #specialNames: readonly string[];
  readonly #fast: FastBpe | undefined;
  /** Bytes by id; undefined for tokenizers that are not byte-level. */
  readonly #bytes: (Uint8Array | undefined)[] | undefined;
  readonly #names: (string | undefined)[] = [];
  /** What tokens are put behind to be measured: decoders drop the blank at the beginning of a text. */
  #lead: { readonly ids: readonly number[]; readonly bytes: number } | undefined;

  constructor(jsonText: string, config: Record<string, unknown> = {}, options: TokenizerOptions = {}) {
    const json = JSON.parse(jsonText) as TokenizerJson;
    this.#reference = new Reference(json, config);
    this.hash = createHash("sha256").update(jsonText).digest("hex");
    const pattern = fastPattern(json);
    this.#fast = pattern !== undefined && options.fast !== false ? new FastBpe(json, pattern) : undefined;
    this.fast = this.#fast !== undefined;
    this.#bytes = json.decoder?.type === "ByteLevel" ? vocabularyBytes(json) : undefined;
    for (const [token, id] of this.#reference.get_vocab()) if (token !== undefined) this.#names[id] = token;
    this.vocabSize = this.#names.length;
    const added = json.added_tokens ?? [];
    const special = added.filter((token) => token.special);
    this.specialIds = new Set(special.map((token) => token.id));
    this.#specialNames = special.map((token) => token.content).filter((name) => name !== "");
    let plain: Reference | undefined;
    this.#withoutSpecial = () => {
      const rest = added.filter((token) => !token.special);
      plain ??= new Reference({ ...JSON.parse(jsonText), added_tokens: rest }, config);
      return plain;
    };
    const named = (key: string): number | undefined => {
      const value = config[key];
      const content =
        typeof value === "object" && value !== null ? (value as { content?: string }).content : value;
      return typeof content === "string" ? this.idOf(content) : undefined;
    };
    const { model = {} } = options;
    const ofModel = (key: "bos_token" | "eos_token"): number | undefined => {
      const id = key in config ? undefined : model[`${key}_id`];
      return typeof id === "number" && this.#names[id] !== undefined ? id : undefined;
    };
    this.bosId = named("bos_token") ?? ofModel("bos_token");
    this.eosId = named("eos_token") ?? ofModel("eos_token");
    this.padId = named("pad_token");
    this.#chat = ChatTemplate.from(config);
  }

  /** Ids of a text, without special tokens of its own. */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    const reference = () =>
      options.plain && this.#hasSpecial(text) ? this.#withoutSpecial() : this.#reference;
    const ids = this.#fast
      ? this.#fast.encode(text, options.plain)
      : Int32Array.from(reference().encode(text, { add_special_tokens: false }).ids);
    if (!options.bos) return ids;
    if (this.bosId === undefined) throw inputError("encode: this tokenizer has no BOS token");
    const withBos = new Int32Array(ids.length + 1);
    withBos[0] = this.bosId;
    withBos.set(ids, 1);
    return withBos;
  }

  /** Whether the model has a chat template. */
  get canChat(): boolean {
    return this.#chat !== undefined;
  }

  /** A conversation as the text that the model was trained to read. Throws where the model has no chat template. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    if (!this.#chat) {
      throw usageError(
        "this model has no chat template (chat_template in tokenizer_config.json, or chat_template.jinja); it only continues text",
      );
    }
    return this.#chat.render(messages, options);
  }

  /** Ids of a conversation: special tokens of the template are their ids. BOS is there if the template writes it. */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): Int32Array {
    return this.encode(this.applyChatTemplate(messages, options));
  }

  /** Text of the ids; bytes that are no UTF-8 (a character cut in two) become U+FFFD. */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    const all = Array.from(ids);
    for (const id of all) this.#check(id);
    const kept = options.skipSpecial ? all.filter((id) => !this.specialIds.has(id)) : all;
    return kept.length === 0 ? "" : this.#reference.decode(kept, { clean_up_tokenization_spaces: false });
  }

  /** The id of a token as the vocabulary writes it. */
  idOf(token: string): number | undefined {
    return this.#reference.token_to_id(token);
  }

  /** One token for display: its text, or its bytes as `<E2 80>` when they are no whole characters. */
  tokenText(id: number): string {
    this.#check(id);
    const bytes = this.#bytes?.[id];
    if (!bytes) return this.#names[id] ?? `<${id}>`;
    if (invalidUtf8Offset(bytes) < 0) return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    return `<${Array.from(bytes, (byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}>`;
  }

  /** The bytes of a token (a special one: its name in UTF-8); undefined if the tokenizer is not byte-level. */
  tokenBytes(id: number): Uint8Array | undefined {
    this.#check(id);
    return this.#bytes?.[id];
  }

  /** Bytes of text that a token stands for inside a text; 0 for special tokens. */
  textBytes(id: number): number {
    this.#check(id);
    if (this.specialIds.has(id)) return 0;
    if (this.#bytes) return this.#bytes[id]?.length ?? 0;
    if (/^<0x[\dA-F]{2}>$/.test(this.#names[id] ?? "")) return 1;
    this.#lead ??= this.#findLead();
    const { ids, bytes } = this.#lead;
    return Buffer.byteLength(this.decode([...ids, id])) - bytes;
  }

  /** One string per id that together are the text: a character of several tokens belongs to the last of them. */
  pieces(ids: ArrayLike<number>): string[] {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = Array.from(ids, (id) => {
      this.#check(id);
      const bytes = this.#bytes?.[id];
      return this.#bytes ? decoder.decode(bytes ?? new Uint8Array(), { stream: true }) : this.tokenText(id);
    });
    if (pieces.length > 0) pieces[pieces.length - 1] += decoder.decode();
    return pieces;
  }

  /** A token of one letter, if there is one. */
  #findLead() {
    const id = this.#names.findIndex((name, i) => /^[a-z]$/i.test(name ?? "") && !this.specialIds.has(i));
    const ids = id < 0 ? [] : [id];
    return { ids, bytes: Buffer.byteLength(this.decode(ids)) };
  }

  #hasSpecial(text: string): boolean {
    return this.#specialNames.some((name) => text.includes(name));
  }

  #check(id: number): void {
    if (!Number.isInteger(id) || id < 0 || id >= this.vocabSize) {
      throw inputError(`token id ${id} is not in the vocabulary of ${this.vocabSize} tokens`);
    }
  }
}

/**
 * Loads `tokenizer.json` and, if they are there, `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` and
 * `config.json` of a model's folder. `fast: false` keeps to the reference.
 */
export async function loadTokenizer(folder: string, options: { fast?: boolean } = {}): Promise<Tokenizer> {
  const file = join(folder, "tokenizer.json");
  const json = await readFile(file, "utf8").catch((cause: Error) => {
    throw ioError(`read the tokenizer ${file}`, cause);
  });
  const [config, names, model] = await Promise.all(
    ["tokenizer_config.json", "special_tokens_map.json", "config.json"].map((name) =>
      readRecord(join(folder, name)),
    ),
  );
  const template = await readIfThere(join(folder, "chat_template.jinja"));
  const chat = template === undefined ? {} : { chat_template: template };
  try {
    return new Tokenizer(json, { ...names, ...config, ...chat }, { ...options, model });
  } catch (cause) {
    throw inputError(`${file}: ${(cause as Error).message}`, cause);
  }
}

/** An object of JSON; empty where there is no such file. */
async function readRecord(file: string): Promise<Record<string, unknown>> {
  const text = await readIfThere(file);
  try {
    const record: unknown = JSON.parse(text ?? "{}");
    if (typeof record === "object" && record !== null) return record as Record<string, unknown>;
  } catch (cause) {
    throw inputError(`${file}: ${(cause as Error).message}`, cause);
  }
  throw inputError(`${file}: an object was expected`);
}

async function readIfThere(file: string): Promise<string | undefined> {
  return readFile(file, "utf8").catch((cause: Error) => {
    if (errnoOf(cause) === "ENOENT") return undefined;
    throw ioError(`read ${file}`, cause);
  });
}
