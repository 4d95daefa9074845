/**
 * Reading a model's parameters out of a folder in Hugging Face's layout. Files are read in pieces straight into the device's
 * memory: while it loads, a model takes the room of its weights, of the largest tensor that has to be turned, and of two pieces.
 */
import {
  FILE_ITEM_SIZE,
  type FileDType,
  type NamedArray,
  openModelFolder,
  type TensorSource,
  toFloat32,
} from "../formats/index.ts";
import { assign, cast, type Device, type DType, ITEM_SIZE, reshape, type Tensor } from "../tensor/index.ts";
import { inputError } from "../util/index.ts";
import { assemble } from "./build.ts";
import { type Family, familyOf } from "./families/index.ts";
import { type ParamSlot, paramSlots } from "./params.ts";
import { fromStored, type StoredSlot } from "./stored.ts";
import type { Transformer } from "./transformer.ts";

export type StoredFloat = Exclude<DType, "i32">;

export interface LoadOptions {
  /** How matrices are held; norms and biases stay f32. Default f32. Arithmetic is f32 either way. */
  readonly dtype?: StoredFloat;
}

/**
 * Loads a folder with `config.json` and `model.safetensors` (one file or shards).
 * A missing, surplus or misshapen tensor is an error that names it.
 */
export async function loadTransformer(
  device: Device,
  folder: string,
  { dtype = "f32" }: LoadOptions = {},
): Promise<Transformer> {
  const { config, weights } = openModelFolder(folder);
  const tensors: Tensor[] = [];
  let reader: Reader | undefined;
  try {
    const family = familyOf(config);
    const spec = family.spec(config);
    const slots = paramSlots(spec, family.names);
    const inFile = fileNames(weights, family);
    checkTensors(folder, weights, { slots, family, inFile });
    reader = new Reader(device, weights);
    for (const slot of slots) {
      tensors.push(await reader.parameter(slot, inFile(sourceOf(slot).name), slot.matrix ? dtype : "f32"));
    }
    return assemble(device, spec, { slots, tensors, config });
  } catch (error) {
    for (const t of tensors) t.dispose();
    throw error;
  } finally {
    reader?.close();
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

/** Bytes of a piece; a multiple of every item size. */
const PIECE = 1 << 20;

/** Bytes that are read at once where a device reads files itself. */
const STRETCH = 64 << 20;

/** Tensors of a file as parameters on a device. */
class Reader {
  readonly #device: Device;
  readonly #weights: TensorSource;
  /** One is read into while the other goes to the device. */
  readonly #pieces = [new Uint8Array(PIECE), new Uint8Array(PIECE)];
  /** The last tensor that parameters are cut out of: the next one may come from it too. */
  #whole: { readonly name: string; readonly tensor: Tensor } | undefined;

  constructor(device: Device, weights: TensorSource) {
    this.#device = device;
    this.#weights = weights;
  }

  /** A parameter that lives until it is disposed. Numbers in the wanted type are taken bit by bit. */
  async parameter(slot: ParamSlot, name: string, dtype: StoredFloat): Promise<Tensor> {
    const { shape, stored } = slot;
    if (!stored) return this.#read(name, dtype);
    if (this.#whole?.name !== name) {
      this.close();
      this.#whole = { name, tensor: await this.#read(name, dtype) };
    }
    const { tensor } = this.#whole as { tensor: Tensor };
    const cut: StoredSlot = { shape, stored };
    return this.#device.scope(() => fromStored(cut, tensor)).keep();
  }

  async #read(name: string, dtype: StoredFloat): Promise<Tensor> {
    const { dtype: stored, shape, byteLength } = this.#weights.info(name);
    const tensor = this.#device.empty(shape, dtype).keep();
    if (stored === dtype && this.#device.readsFiles) return await this.#readWhole(name, tensor);
    const read = async (at: number): Promise<Uint8Array> => {
      const piece = this.#pieces[(at / PIECE) % 2].subarray(0, Math.min(PIECE, byteLength - at));
      await this.#weights.readInto(name, at, piece);
      return piece;
    };
    let next = read(0);
    try {
      for (let at = 0; at < byteLength; at += PIECE) {
        const piece = await next;
        if (at + PIECE < byteLength) {
          next = read(at + PIECE);
          next.catch(() => {}); // thrown when its turn comes
        }
        put(tensor, at / FILE_ITEM_SIZE[stored], piece, stored);
      }
      return tensor;
    } catch (error) {
      await next.catch(() => {}); // nothing is read any more when the file is closed
      tensor.dispose();
      throw error;
    }
  }

  /** Straight into the tensor's memory; the event loop gets its turn in between. */
  async #readWhole(name: string, tensor: Tensor): Promise<Tensor> {
    const item = ITEM_SIZE[tensor.dtype];
    try {
      for (let at = 0; at < tensor.bytes; at += STRETCH) {
        const length = Math.min(STRETCH, tensor.bytes - at);
        this.#weights.readWith(name, { at, length }, (part) =>
          this.#device.readFile(tensor, at / item, part),
        );
        await new Promise(setImmediate);
      }
      return tensor;
    } catch (error) {
      tensor.dispose();
      throw error;
    }
  }

  close(): void {
    this.#whole?.tensor.dispose();
    this.#whole = undefined;
  }
}

/** Writes numbers of a file's type into a tensor, from an element on. */
function put(tensor: Tensor, first: number, bytes: Uint8Array, stored: FileDType): void {
  const { device, dtype } = tensor;
  if (stored === dtype) device.writeBytes(tensor, first, bytes);
  else {
    device.scope(() => {
      const piece = cast(numbersOf(device, bytes, stored), dtype);
      assign(reshape(tensor, [tensor.size]), piece, [first]);
    });
  }
}

/** A piece as a tensor that computes: f16 and bf16 as they are, anything else as f32. */
function numbersOf(device: Device, data: Uint8Array, dtype: FileDType): Tensor {
  const shape = [data.length / FILE_ITEM_SIZE[dtype]];
  if (dtype === "f32" || dtype === "f16" || dtype === "bf16") {
    const piece = device.empty(shape, dtype);
    device.writeBytes(piece, 0, data);
    return piece;
  }
  const array: NamedArray = { dtype, shape, data };
  return device.tensor(toFloat32(array), shape);
}
