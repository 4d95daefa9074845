/**
 * Reading a `config.json`: every key is asked for by a family, stated to have one supported value, or known to change no
 * number. Any other key that is set is refused by name.
 */
import { inputError } from "../../util/index.ts";
import { checkSpec, type ModelSpec } from "../spec.ts";

export type Json = Readonly<Record<string, unknown>>;

/** Keys that change no number of the forward pass, in any family. */
const IRRELEVANT = [
  ...["architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "torchscript"],
  ...["use_cache", "cache_implementation", "pad_token_id", "initializer_range", "attention_dropout"],
  ...["_name_or_path", "name_or_path", "_attn_implementation_autoset", "task_specific_params"],
  ...["output_attentions", "output_hidden_states", "return_dict", "is_decoder", "id2label", "label2id"],
  "transformers.js_config",
];

const shown = (value: unknown): string => JSON.stringify(value) ?? "missing";

/** The keys of one config; remembers which were asked for. */
export class ConfigReader {
  readonly #kind: string;
  readonly #config: Json;
  readonly #path: string;
  readonly #known: Set<string>;

  /** `kind` names the model in errors, `path` the place of a nested object. */
  constructor(kind: string, config: Json, path = "") {
    this.#kind = kind;
    this.#config = config;
    this.#path = path;
    this.#known = new Set(path ? [] : IRRELEVANT);
  }

  /** The value as it stands; null and undefined are told apart. */
  get(key: string): unknown {
    this.#known.add(key);
    return this.#config[key];
  }

  number(key: string, otherwise?: number): number {
    const value = this.get(key) ?? otherwise;
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.#wrong(key, "expected a number");
    return value;
  }

  /** A number, or undefined where the config says null; `otherwise` where it says nothing. */
  optional(key: string, otherwise?: number): number | undefined {
    const value = this.get(key);
    if (value === null || (value === undefined && otherwise === undefined)) return undefined;
    return this.number(key, otherwise);
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.get(key) ?? otherwise;
    if (typeof value !== "boolean") throw this.#wrong(key, "expected true or false");
    return value;
  }

  /** What a name stands for. */
  choice<T>(key: string, choices: Readonly<Record<string, T>>, otherwise?: string): T {
    const value = this.get(key) ?? otherwise;
    if (typeof value === "string" && Object.hasOwn(choices, value)) return choices[value];
    throw this.#unsupported(key, Object.keys(choices).map(shown).join(", "));
  }

  /** Refuses every value of a key but one; a key that is missing or null has that value. */
  only(key: string, value: string | number | boolean | null): void {
    if ((this.get(key) ?? value) !== value) throw this.#unsupported(key, shown(value));
  }

  /** Keys of this family that change no number. */
  ignore(...keys: readonly string[]): void {
    for (const key of keys) this.#known.add(key);
  }

  /** An object under a key, to be read and finished like this one; undefined without. */
  object(key: string): ConfigReader | undefined {
    const value = this.get(key) ?? undefined;
    if (value === undefined) return undefined;
    if (typeof value !== "object" || Array.isArray(value)) throw this.#wrong(key, "expected an object");
    return new ConfigReader(this.#kind, value as Json, `${this.#path}${key}.`);
  }

  /** Refuses what nobody asked for. */
  finish(): void {
    for (const [key, value] of Object.entries(this.#config)) {
      if (this.#known.has(key) || value === null) continue;
      throw inputError(
        `config.json: ${this.#path}${key} = ${shown(value)} is not known for a ${this.#kind} model, and might change what it computes`,
      );
    }
  }

  #wrong(key: string, expected: string) {
    return inputError(`config.json: ${this.#path}${key} is ${shown(this.#config[key])}, ${expected}`);
  }

  #unsupported(key: string, only: string) {
    return inputError(
      `config.json: ${this.#path}${key} = ${shown(this.#config[key])} is not supported, only ${only}`,
    );
  }
}

/** The spec of a config by a family's reader; whatever the reader did not ask for is refused. */
export function specReader(
  kind: string,
  read: (config: ConfigReader) => ModelSpec,
): (config: Json) => ModelSpec {
  return (config) => {
    const reader = new ConfigReader(kind, config);
    const spec = read(reader);
    reader.finish();
    return checkSpec(spec);
  };
}

/** `bos_token_id` and `eos_token_id`, which may be a list. */
export function specialTokens(c: ConfigReader): Pick<ModelSpec, "bosToken" | "eosTokens"> {
  const bos = c.get("bos_token_id");
  const eos = c.get("eos_token_id") ?? [];
  return {
    bosToken: typeof bos === "number" ? bos : undefined,
    eosTokens: (Array.isArray(eos) ? eos : [eos]) as number[],
  };
}

/** Activations as configs name them. */
export const GELUS = {
  gelu: "gelu",
  gelu_new: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
} as const;

/** Windows of the layers by `layer_types`; without it by `slides`, in layer order. */
export function windowPattern(
  c: ConfigReader,
  nLayers: number,
  window: number | undefined,
  slides: (layer: number) => boolean,
): number[] {
  const types = c.get("layer_types") ?? undefined;
  if (types !== undefined && (!Array.isArray(types) || types.length !== nLayers))
    throw inputError(`config.json: layer_types is ${shown(types)}, expected a list of ${nLayers}`);
  return Array.from({ length: nLayers }, (_, l) => {
    const type = types ? types[l] : slides(l) ? "sliding_attention" : "full_attention";
    if (type === "full_attention") return 0;
    if (type !== "sliding_attention") {
      throw inputError(
        `config.json: layer_types[${l}] = ${shown(type)} is not supported, only "full_attention", "sliding_attention"`,
      );
    }
    if (!window || window < 0)
      throw inputError(`config.json: layer ${l} slides, but there is no sliding_window; give its width`);
    return window;
  });
}
