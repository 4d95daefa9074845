/**
 * Making a transformer: from random numbers, or from a folder in Hugging Face's layout; and writing one back.
 */
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import {
  fromFloat32,
  type NamedArray,
  openModelFolder,
  type TensorSource,
  toFloat32,
  typedView,
  writeCheckpoint,
} from "../formats/index.ts";
import { type Device, type DType, sizeOf, type Tensor } from "../tensor/index.ts";
import { inputError, type Rng, writeJson } from "../util/index.ts";
import { type Family, familyOf, llamaConfig, llamaNames } from "./families/index.ts";
import { assembleParams, type ParamSlot, paramSlots } from "./params.ts";
import { checkSpec, type ModelSpec } from "./spec.ts";
import { fromStored } from "./stored.ts";
import { Transformer } from "./transformer.ts";

type StoredFloat = Exclude<DType, "i32">;

export interface LoadOptions {
  /** How matrices are held; norms and biases stay f32. Default f32. Arithmetic is f32 either way. */
  readonly dtype?: StoredFloat;
}

/**
 * A transformer with fresh parameters, named as Llama's: matrices normal with deviation `std`, residual outputs scaled down;
 * gains begin at 1 and biases at 0.
 */
export function createTransformer(
  device: Device,
  spec: ModelSpec,
  { rng, std = 0.02 }: { rng: Rng; std?: number },
): Transformer {
  checkSpec(spec);
  const slots = paramSlots(spec, llamaNames);
  const tensors = slots.map((slot) => {
    const data = new Float32Array(sizeOf(slot.shape));
    if (!slot.matrix) data.fill(slot.start);
    else rng.fork(slot.name).fillNormal(data, 0, std * residualScale(spec, slot));
    return device.tensor(data, slot.shape).keep();
  });
  return assemble(device, spec, slots, tensors);
}

/** GPT-2's rule: matrices that write into the stream start smaller by √(2 L), so that its variance does not grow. */
function residualScale(spec: ModelSpec, { role }: ParamSlot): number {
  const writes = typeof role === "object" && (role.role === "wO" || role.role === "wDown");
  return writes ? (2 * spec.nLayers) ** -0.5 : 1;
}

function assemble(device: Device, spec: ModelSpec, slots: ParamSlot[], tensors: Tensor[]): Transformer {
  return new Transformer(
    device,
    spec,
    assembleParams(spec, slots, tensors),
    slots.map((slot, i) => ({ ...slot, tensor: tensors[i] })),
  );
}

/**
 * Loads a folder with `config.json` and `model.safetensors` (one file or shards). Weights are read one by one.
 * A missing, surplus or misshapen tensor is an error that names it.
 */
export async function loadTransformer(
  device: Device,
  folder: string,
  { dtype = "f32" }: LoadOptions = {},
): Promise<Transformer> {
  const { config, weights } = openModelFolder(folder);
  const tensors: Tensor[] = [];
  try {
    const family = familyOf(config);
    const spec = family.spec(config);
    const slots = paramSlots(spec, family.names);
    const inFile = fileNames(weights, family);
    checkTensors(folder, weights, { slots, family, inFile });
    const read = lastRead(weights);
    for (const slot of slots) {
      const array = await read(inFile(sourceOf(slot).name));
      tensors.push(upload(device, slot, array, slot.matrix ? dtype : "f32").keep());
    }
    return assemble(device, spec, slots, tensors);
  } catch (error) {
    for (const t of tensors) t.dispose();
    throw error;
  } finally {
    weights.close();
  }
}

/** The tensor of the file that a parameter comes from. */
const sourceOf = (slot: ParamSlot): { name: string; shape: readonly number[] } => slot.stored ?? slot;

/** Name of a tensor in this checkpoint: one of the bare model leaves out the family's prefix. */
function fileNames(weights: TensorSource, { prefix }: Family): (name: string) => string {
  const bare = !weights.names().some((name) => name.startsWith(prefix));
  return (name) => (bare && name.startsWith(prefix) ? name.slice(prefix.length) : name);
}

/** Reads tensors and keeps the last one, out of which the next parameter may come too. */
function lastRead(weights: TensorSource): (name: string) => Promise<NamedArray> {
  let last: { name: string; array: NamedArray } | undefined;
  return async (name) => {
    if (last?.name !== name) last = { name, array: await weights.read(name) };
    return last.array;
  };
}

/** Before anything is read: every parameter is there in its shape, and nothing else but a tied head stored all the same. */
function checkTensors(
  folder: string,
  weights: TensorSource,
  options: { slots: readonly ParamSlot[]; family: Family; inFile: (name: string) => string },
): void {
  const { slots, family, inFile } = options;
  const known = new Set([...slots.map((s) => sourceOf(s).name), family.names.head].map(inFile));
  const isBuffer = (name: string) =>
    family.buffers.test(name.startsWith(family.prefix) ? name.slice(family.prefix.length) : name);
  const surplus = weights.names().filter((n) => !known.has(n) && !isBuffer(n));
  if (surplus.length) {
    throw inputError(
      `${folder}: the checkpoint holds ${surplus.slice(0, 3).join(", ")}, which this model has no place for`,
    );
  }
  for (const slot of slots) {
    const source = sourceOf(slot);
    const name = inFile(source.name);
    if (!weights.has(name)) throw inputError(`${folder}: the checkpoint has no tensor ${name}`);
    const { shape } = weights.info(name);
    if (shape.length !== source.shape.length || shape.some((d, i) => d !== source.shape[i]))
      throw inputError(`${folder}: ${name} is [${shape}], expected [${source.shape}]`);
  }
}

/** A parameter out of the tensor that holds it. Bits in the wanted type are taken as they are. */
function upload(device: Device, slot: ParamSlot, array: NamedArray, dtype: StoredFloat): Tensor {
  const { stored, shape } = slot;
  const take = <T extends Float32Array | Uint16Array>(data: T): T =>
    stored ? fromStored({ shape, stored }, data) : data;
  if (array.dtype === dtype) {
    const bits = typedView(array as NamedArray & { dtype: StoredFloat });
    return device.tensor(take(bits as Float32Array | Uint16Array), shape, dtype);
  }
  return device.tensor(take(toFloat32(array)), shape, dtype);
}

export interface SaveOptions {
  /** How all numbers are stored; default f32. */
  readonly dtype?: StoredFloat;
  /** More keys of `config.json`. */
  readonly extra?: Readonly<Record<string, unknown>>;
  /** More keys of `generation_config.json`. */
  readonly generation?: Readonly<Record<string, unknown>>;
}

/**
 * Writes `model.safetensors`, `config.json` and `generation_config.json`. Tokenizer files are the caller's. A spec that a llama
 * config.json cannot describe is refused before anything is written.
 */
export async function saveTransformer(
  model: Transformer,
  folder: string,
  { dtype = "f32", extra = {}, generation = {} }: SaveOptions = {},
): Promise<void> {
  const described = llamaConfig(model.spec);
  await mkdir(folder, { recursive: true });
  const arrays: Record<string, NamedArray> = {};
  for (const { name, tensor } of model.slots) {
    arrays[name] = fromFloat32(await tensor.floats(), tensor.shape, dtype);
  }
  await writeCheckpoint(folder, arrays);
  const config: Record<string, unknown> = {
    ...described,
    torch_dtype: TORCH[dtype],
    ...extra,
  };
  await writeJson(join(folder, "config.json"), config);
  const { bos_token_id, eos_token_id } = config;
  await writeJson(join(folder, "generation_config.json"), { bos_token_id, eos_token_id, ...generation });
}

/** Storage types as PyTorch names them. */
const TORCH = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const satisfies Record<
  StoredFloat,
  string
>;

/** Hash of all parameters as held: names a model in activation indices and SAE files. */
export async function hashTransformer(model: Transformer): Promise<string> {
  const hash = createHash("sha256");
  for (const { name, tensor } of model.slots) {
    const data = await tensor.data();
    hash.update(name);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex").slice(0, 16);
}
