/**
 * A restricted reader of pickles, protocol 2: the part that torch.save writes of state dicts. It runs no Python and calls
 * nothing: besides plain values it only knows how to make an ordered dict and to note where a tensor's numbers are. Every other
 * global and every other opcode is refused by name.
 */
import { brief, inputError } from "../util/index.ts";
import { elementCount, FILE_ITEM_SIZE, type FileDType, MAX_RANK } from "./named-array.ts";

/** Where the numbers of a tensor are: elements of a storage, by offset and strides. */
export class PickledTensor {
  readonly storage: PickledStorage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];

  constructor(storage: PickledStorage, offset: number, shape: readonly number[], strides: readonly number[]) {
    this.storage = storage;
    this.offset = offset;
    this.shape = shape;
    this.strides = strides;
  }
}

export class PickledStorage {
  readonly dtype: FileDType;
  /** Name of its entry under `data/`. */
  readonly key: string;
  /** Elements. */
  readonly length: number;

  constructor(dtype: FileDType, key: string, length: number) {
    this.dtype = dtype;
    this.key = key;
    this.length = length;
  }
}

export class PickledTuple {
  readonly items: readonly PickleValue[];
  constructor(items: readonly PickleValue[]) {
    this.items = items;
  }
}

/** Dicts are maps, lists are arrays; integers beyond 2^53 are refused. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | PickleValue[]
  | PickledTuple
  | Map<PickleValue, PickleValue>
  | PickledTensor;

const STORAGES: Readonly<Record<string, FileDType>> = {
  "torch FloatStorage": "f32",
  "torch DoubleStorage": "f64",
  "torch HalfStorage": "f16",
  "torch BFloat16Storage": "bf16",
  "torch IntStorage": "i32",
  "torch LongStorage": "i64",
  "torch ByteStorage": "u8",
  "torch BoolStorage": "bool",
};
const CALLS = [
  "collections OrderedDict",
  "torch._utils _rebuild_tensor_v2",
  "torch._utils _rebuild_parameter",
] as const;

/** A name that may stand where Python would look one up. */
class Global {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

const MARK: unique symbol = Symbol("mark");
type OnStack = PickleValue | Global | PickledStorage | typeof MARK;

const MAX_STEPS = 2_000_000;
const MAX_STACK = 100_000;

/** The value of a pickle. `where` begins the messages. */
export function parsePickle(where: string, bytes: Uint8Array): PickleValue {
  return new Unpickler(where, bytes).run();
}

class Unpickler {
  readonly #where: string;
  readonly #bytes: Buffer;
  readonly #stack: OnStack[] = [];
  /** Where the marks on the stack are. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, OnStack>();
  #at = 0;

  constructor(where: string, bytes: Uint8Array) {
    this.#where = where;
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): PickleValue {
    for (let step = 0; step < MAX_STEPS; step++) {
      const opcode = this.#byte();
      if (opcode === STOP) return this.#result();
      const apply = OPCODES[opcode];
      if (!apply) {
        const name = FORBIDDEN[opcode];
        const known = name ? ` (${name}), which can call Python code,` : "";
        throw this.error(
          `opcode 0x${opcode.toString(16).padStart(2, "0")}${known} at byte ${this.#at - 1} is not allowed in weights`,
        );
      }
      apply(this);
      if (this.#stack.length > MAX_STACK) throw this.error("is nested too deeply");
    }
    throw this.error(`takes more than ${MAX_STEPS} steps`);
  }

  error(text: string): Error {
    return inputError(`${this.#where}: the pickle ${text}`);
  }

  #result(): PickleValue {
    const value = this.value();
    if (this.#stack.length > 0) throw this.error("ends with values left over (damaged?)");
    return value;
  }

  take(length: number): Buffer {
    if (length > this.#bytes.length - this.#at) throw this.error("ends early (truncated?)");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  #byte(): number {
    return this.take(1)[0];
  }

  line(): string {
    const end = this.#bytes.indexOf(10, this.#at);
    if (end < 0 || end - this.#at > 256) throw this.error("has a name without an end");
    const text = this.#bytes.toString("utf8", this.#at, end);
    this.#at = end + 1;
    return text;
  }

  push(value: OnStack): void {
    this.#stack.push(value);
  }

  mark(): void {
    this.#marks.push(this.#stack.length);
    this.#stack.push(MARK);
  }

  #pop(): Exclude<OnStack, typeof MARK> {
    const value = this.#stack.pop();
    if (value === undefined) throw this.error("takes a value from an empty stack (damaged?)");
    if (value === MARK) throw this.error("has a mark where a value is needed (damaged?)");
    return value;
  }

  /** A plain value; a name or a storage alone is none. */
  value(): PickleValue {
    const value = this.#pop();
    if (value instanceof Global) throw this.error(`uses ${shown(value.name)} as a value`);
    if (value instanceof PickledStorage) throw this.error("has a storage outside a tensor");
    return value;
  }

  /** What was pushed since the last mark. */
  sinceMark(): OnStack[] {
    const from = this.#marks.pop();
    if (from === undefined) throw this.error("has no mark where one is needed (damaged?)");
    return this.#stack.splice(from).slice(1);
  }

  valuesSinceMark(): PickleValue[] {
    return this.sinceMark().map((value) => {
      if (typeof value === "symbol" || value instanceof Global || value instanceof PickledStorage)
        throw this.error("has something that is not a value in a list or dict");
      return value;
    });
  }

  /** Tuples may hold names and storages: those of a tensor's call do. */
  tuple(items: OnStack[]): void {
    this.push(new PickledTuple(items as PickleValue[]));
  }

  pops(count: number): OnStack[] {
    return Array.from({ length: count }, () => this.#pop()).reverse();
  }

  list(): PickleValue[] {
    const list = this.value();
    if (!Array.isArray(list)) throw this.error("appends to something that is no list");
    return list;
  }

  dict(): Map<PickleValue, PickleValue> {
    const dict = this.value();
    if (!(dict instanceof Map)) throw this.error("sets an item of something that is no dict");
    return dict;
  }

  set(dict: Map<PickleValue, PickleValue>, items: readonly PickleValue[]): void {
    if (items.length % 2 !== 0) throw this.error("has a key without a value");
    for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
  }

  remember(index: number): void {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK)
      throw this.error("remembers a value that is not there (damaged?)");
    this.#memo.set(index, value);
  }

  recall(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw this.error(`recalls value ${index}, which it never remembered`);
    this.push(value);
  }

  global(name: string): void {
    if (!Object.hasOwn(STORAGES, name) && !(CALLS as readonly string[]).includes(name)) {
      throw this.error(
        `asks for ${shown(name)}, which is not part of a state dict; a file of weights needs only tensors. ` +
          "If you trust it, load it in Python and save its state dict again",
      );
    }
    this.push(new Global(name));
  }

  /** Calls of the three names that are allowed. */
  reduce(): void {
    const args = this.#pop();
    const callee = this.#pop();
    if (!(callee instanceof Global) || !(args instanceof PickledTuple))
      throw this.error("calls something that is not a name");
    const items = args.items as readonly OnStack[];
    switch (callee.name) {
      case "collections OrderedDict":
        if (items.length > 0) throw this.error("makes an OrderedDict from arguments");
        this.push(new Map());
        return;
      case "torch._utils _rebuild_tensor_v2":
        this.push(this.#tensor(items));
        return;
      case "torch._utils _rebuild_parameter":
        if (!(items[0] instanceof PickledTensor))
          throw this.error("makes a parameter of something that is no tensor");
        this.push(items[0]);
        return;
      default:
        throw this.error(`calls ${shown(callee.name)}`);
    }
  }

  #tensor(items: readonly OnStack[]): PickledTensor {
    const [storage, offset, size, stride] = items;
    if (!(storage instanceof PickledStorage)) throw this.error("makes a tensor without a storage");
    const shape = this.#counts(size, "shape");
    const strides = this.#counts(stride, "strides");
    if (!isCount(offset) || shape.length !== strides.length || shape.length > MAX_RANK) {
      throw this.error(
        `makes a tensor of shape ${brief(shape)}, strides ${brief(strides)} at ${brief(offset)}`,
      );
    }
    const count = elementCount(shape);
    const last = shape.reduce((at, n, i) => at + Math.max(n - 1, 0) * strides[i], offset);
    if (count > storage.length || (count > 0 && last >= storage.length)) {
      throw this.error(
        `makes a tensor of shape [${shape}], strides [${strides}] at ${offset} of a storage of ${storage.length} elements`,
      );
    }
    return new PickledTensor(storage, offset, shape, strides);
  }

  #counts(value: OnStack, what: string): readonly number[] {
    if (!(value instanceof PickledTuple) || !value.items.every(isCount))
      throw this.error(`makes a tensor whose ${what} are not whole numbers`);
    return value.items as readonly number[];
  }

  /** `('storage', torch.FloatStorage, '0', 'cpu', 6)` */
  persistent(): void {
    const id = this.#pop();
    const [kind, type, key, , length] = id instanceof PickledTuple ? (id.items as readonly OnStack[]) : [];
    const dtype =
      type instanceof Global && Object.hasOwn(STORAGES, type.name) ? STORAGES[type.name] : undefined;
    if (kind !== "storage" || !dtype || typeof key !== "string" || !isCount(length))
      throw this.error("refers to something outside that is no storage of numbers");
    if (!/^[0-9]{1,9}$/.test(key)) throw this.error(`refers to the storage ${brief(key)}`);
    if (!Number.isSafeInteger(length * FILE_ITEM_SIZE[dtype]))
      throw this.error(`refers to a storage of ${length} elements`);
    this.push(new PickledStorage(dtype, key, length));
  }

  /** Attributes are only set on state dicts, where they are versions of modules; they are dropped. */
  build(): void {
    const state = this.value();
    const target = this.#stack.at(-1);
    if (!(target instanceof Map) || !(state instanceof Map))
      throw this.error("sets attributes (BUILD) of something that is no state dict, which is not allowed");
  }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

const shown = (name: string): string => brief(name.replace(" ", "."));

const STOP = 0x2e;

/** Opcodes that make objects or call; named so that the message can say what was tried. */
const FORBIDDEN: Readonly<Record<number, string>> = {
  105: "INST",
  111: "OBJ",
  129: "NEWOBJ",
  146: "NEWOBJ_EX",
  147: "STACK_GLOBAL",
  130: "EXT1",
  131: "EXT2",
  132: "EXT4",
  80: "PERSID",
};

function long(u: Unpickler, bytes: Buffer): number {
  if (bytes.length > 8) throw u.error(`has a number of ${bytes.length} bytes`);
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
  if (bytes.length > 0 && bytes[bytes.length - 1] & 0x80) value -= 1n << BigInt(8 * bytes.length);
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw u.error(`has the number ${value}, which is beyond 2^53`);
  return number;
}

const OPCODES: Readonly<Record<number, (u: Unpickler) => void>> = {
  // PROTO
  128: (u) => {
    const protocol = u.take(1)[0];
    if (protocol > 2) throw u.error(`is of protocol ${protocol}; torch.save writes 2, and only that is read`);
  },
  40: (u) => u.mark(), // MARK
  78: (u) => u.push(null), // NONE
  136: (u) => u.push(true), // NEWTRUE
  137: (u) => u.push(false), // NEWFALSE
  74: (u) => u.push(u.take(4).readInt32LE()), // BININT
  75: (u) => u.push(u.take(1)[0]), // BININT1
  77: (u) => u.push(u.take(2).readUInt16LE()), // BININT2
  138: (u) => u.push(long(u, u.take(u.take(1)[0]))), // LONG1
  71: (u) => u.push(u.take(8).readDoubleBE()), // BINFLOAT
  88: (u) => u.push(u.take(u.take(4).readUInt32LE()).toString("utf8")), // BINUNICODE
  93: (u) => u.push([]), // EMPTY_LIST
  125: (u) => u.push(new Map()), // EMPTY_DICT
  41: (u) => u.tuple([]), // EMPTY_TUPLE
  133: (u) => u.tuple(u.pops(1)), // TUPLE1
  134: (u) => u.tuple(u.pops(2)), // TUPLE2
  135: (u) => u.tuple(u.pops(3)), // TUPLE3
  116: (u) => u.tuple(u.sinceMark()), // TUPLE
  // APPEND
  97: (u) => {
    const item = u.value();
    const list = u.list();
    list.push(item);
    u.push(list);
  },
  // APPENDS
  101: (u) => {
    const items = u.valuesSinceMark();
    const list = u.list();
    for (const item of items) list.push(item);
    u.push(list);
  },
  // SETITEM
  115: (u) => {
    const value = u.value();
    const key = u.value();
    const dict = u.dict();
    u.set(dict, [key, value]);
    u.push(dict);
  },
  // SETITEMS
  117: (u) => {
    const items = u.valuesSinceMark();
    const dict = u.dict();
    u.set(dict, items);
    u.push(dict);
  },
  113: (u) => u.remember(u.take(1)[0]), // BINPUT
  114: (u) => u.remember(u.take(4).readUInt32LE()), // LONG_BINPUT
  104: (u) => u.recall(u.take(1)[0]), // BINGET
  106: (u) => u.recall(u.take(4).readUInt32LE()), // LONG_BINGET
  99: (u) => u.global(`${u.line()} ${u.line()}`), // GLOBAL
  82: (u) => u.reduce(), // REDUCE
  81: (u) => u.persistent(), // BINPERSID
  98: (u) => u.build(), // BUILD
};
