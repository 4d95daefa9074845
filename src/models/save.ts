/**
 * Writing a model as a folder in Hugging Face's layout, and naming its parameters by a hash.
 */
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { fromFloat32, type LazyArray, writeCheckpoint } from "../formats/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { usageError, writeJson } from "../util/index.ts";
import { familyOf, type Json, llamaConfig } from "./families/index.ts";
import type { StoredFloat } from "./load.ts";
import type { ParamSlot } from "./params.ts";
import { type StoredSlot, toStored } from "./stored.ts";
import type { Transformer } from "./transformer.ts";

export interface SaveOptions {
  /** How all numbers are stored; default f32. */
  readonly dtype?: StoredFloat;
  /** More keys of `config.json`. */
  readonly extra?: Readonly<Record<string, unknown>>;
  /** More keys of `generation_config.json`. */
  readonly generation?: Readonly<Record<string, unknown>>;
}

/**
 * Writes `model.safetensors`, `config.json` and `generation_config.json`. Tokenizer files are the caller's. A model that came
 * with a config goes back under it, in its family's names and layouts; any other one is written as a llama, and a spec that no
 * llama config.json can describe is refused before anything is written.
 */
export async function saveTransformer(
  model: Transformer,
  folder: string,
  { dtype = "f32", extra = {}, generation = {} }: SaveOptions = {},
): Promise<void> {
  const described = configOf(model);
  await mkdir(folder, { recursive: true });
  await writeCheckpoint(folder, fileTensors(model, dtype));
  const { dtype: _, torch_dtype: __, ...kept } = described;
  // transformers 5 calls the key `dtype` and reads both, 4 only the older one.
  const config: Record<string, unknown> = { ...kept, torch_dtype: TORCH[dtype], ...extra };
  await writeJson(join(folder, "config.json"), config);
  const { bos_token_id, eos_token_id } = config;
  await writeJson(join(folder, "generation_config.json"), { bos_token_id, eos_token_id, ...generation });
}

function configOf({ config, spec }: Transformer): Json {
  if (!config) return llamaConfig(spec);
  if (!isDeepStrictEqual(familyOf(config).spec(config), spec)) {
    throw usageError(
      "saveTransformer: the model's spec is no longer that of the config it came with; give it a config that describes it",
    );
  }
  return config;
}

/** What the file holds, made when its turn to be written comes. */
function fileTensors({ slots, device }: Transformer, dtype: StoredFloat): Map<string, LazyArray> {
  const byName = new Map<string, (ParamSlot & { readonly tensor: Tensor })[]>();
  for (const slot of slots) {
    const name = slot.stored?.name ?? slot.name;
    byName.set(name, [...(byName.get(name) ?? []), slot]);
  }
  const whole = (held: readonly (ParamSlot & { readonly tensor: Tensor })[]): Tensor =>
    held[0].stored
      ? toStored(held.map(({ tensor, ...slot }) => ({ slot: slot as StoredSlot, tensor })))
      : held[0].tensor;
  const lazy = ([name, held]: [string, (ParamSlot & { readonly tensor: Tensor })[]]): [string, LazyArray] => {
    const shape = held[0].stored?.shape ?? held[0].shape;
    const load = async () => {
      const tensor = device.scope(() => whole(held));
      try {
        return fromFloat32(await tensor.floats(), shape, dtype);
      } finally {
        if (held[0].stored) tensor.dispose();
      }
    };
    return [name, { dtype, shape, load }];
  };
  return new Map([...byName].map(lazy));
}

/** Storage types as PyTorch names them. */
const TORCH = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const satisfies Record<
  StoredFloat,
  string
>;

/** Hash of all parameters as held: tells whether two models are the same, whatever files they came from. */
export async function hashTransformer(model: Transformer): Promise<string> {
  const hash = createHash("sha256");
  for (const { name, tensor } of model.slots) {
    const data = await tensor.data();
    hash.update(name);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}
