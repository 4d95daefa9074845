/**
 * A file of named arrays of any kind that is read here: safetensors, .npz, or a state dict of torch. Which one it is, is
 * decided by what the file holds, not by its name.
 */
import { brief, inputError, usageError } from "../util/index.ts";
import { checkArrayName, type NamedArray } from "./named-array.ts";
import { parseNpy } from "./npz.ts";
import { PickledTensor, type PickleValue } from "./pickle.ts";
import { openSafetensors } from "./safetensors.ts";
import { firstBytes, isLegacyTorch, TorchFile } from "./torch-file.ts";
import { ZipFile } from "./zip.ts";

export type ArrayContainer = "safetensors" | "npz" | "torch";

export interface ArrayFile {
  readonly container: ArrayContainer;
  readonly path: string;
  names(): string[];
  has(name: string): boolean;
  read(name: string): NamedArray;
  /** What stands beside the arrays: strings, numbers and dicts of a torch file. */
  readonly values: ReadonlyMap<string, PickleValue>;
  close(): void;
}

const isZip = (first: Uint8Array): boolean =>
  first[0] === 0x50 && first[1] === 0x4b && (first[2] === 3 || first[2] === 5);

/** What the first bytes look like; undefined for what holds no arrays. */
export function sniffArrays(path: string): "zip" | "safetensors" | "legacy" | undefined {
  const first = firstBytes(path, 16);
  // Before the others: the length of a header (eight bytes) may begin like a pickle or a zip, and neither of them has these.
  if (first.length > 8 && first[8] === 0x7b && first[7] === 0 && first[6] === 0) return "safetensors";
  if (isZip(first)) return "zip";
  return first[0] === 0x80 && first.length > 2 && first[1] <= 5 ? "legacy" : undefined;
}

/** Opens by content; a file that is none of them is refused with what it looks like. */
export function openArrays(path: string): ArrayFile {
  const kind = sniffArrays(path);
  if (kind === "legacy") throw legacy(path);
  if (kind === "zip") return openZip(path);
  const file = openSafetensors(path);
  return {
    container: "safetensors",
    path,
    names: () => file.names(),
    has: (name) => file.has(name),
    read: (name) => file.readSync(name),
    values: new Map(),
    close: () => file.close(),
  };
}

function legacy(path: string): Error {
  const again = "load it in Python and save it again: torch.save(torch.load(path, weights_only=True), path)";
  return inputError(
    isLegacyTorch(firstBytes(path, 16))
      ? `${path}: was saved in the format of torch before 1.6, which is not read; ${again}`
      : `${path}: is a bare pickle; only the zip files of torch.save are read; ${again}`,
  );
}

function openZip(path: string): ArrayFile {
  const zip = new ZipFile(path);
  const arrays = zip.names().filter((name) => name.endsWith(".npy"));
  if (arrays.length === 0) {
    zip.close();
    return openTorch(path);
  }
  const entries = new Map(arrays.map((name) => [name.slice(0, -".npy".length), name]));
  return {
    container: "npz",
    path,
    names: () => [...entries.keys()],
    has: (name) => entries.has(name),
    read: (name) => {
      const entry = entries.get(name);
      if (entry === undefined) throw inputError(`${path}: no array "${name}"`);
      return parseNpy(`${path}: ${entry}`, zip.read(entry));
    },
    values: new Map(),
    close: () => zip.close(),
  };
}

function openTorch(path: string): ArrayFile {
  const file = new TorchFile(path);
  const tensors = new Map<string, PickledTensor>();
  const values = new Map<string, PickleValue>();
  try {
    for (const [key, value] of stateDict(path, file.root)) {
      if (value instanceof PickledTensor) tensors.set(key, value);
      else values.set(key, value);
    }
  } catch (error) {
    file.close();
    throw error;
  }
  return {
    container: "torch",
    path,
    names: () => [...tensors.keys()],
    has: (name) => tensors.has(name),
    read: (name) => {
      const tensor = tensors.get(name);
      if (!tensor) throw usageError(`${path}: no tensor "${name}"`);
      return file.tensor(tensor);
    },
    values,
    close: () => file.close(),
  };
}

function* stateDict(path: string, root: PickleValue): Generator<[string, PickleValue]> {
  const again = "save the state dict: torch.save(model.state_dict(), path)";
  if (!(root instanceof Map)) throw inputError(`${path}: does not hold a dict; ${again}`);
  for (const [key, value] of root) {
    if (typeof key !== "string") throw inputError(`${path}: has the key ${brief(key)}, no name; ${again}`);
    checkArrayName(path, key);
    yield [key, value];
  }
}
