/**
 * A list of option sets in a config file: what stands beside the list is the common default, and a field that is given as a list
 * where one value is expected makes a grid.
 */
import { didYouMean, usageError } from "../util/index.ts";
import type { GivenOptions } from "./command.ts";
import type { EntryPath } from "./config-file.ts";
import type { Field } from "./flags.ts";

export interface GridItem {
  /** The entry's own, with the fields that vary. */
  readonly name: string;
  /** The same without the seed. */
  readonly setting: string;
  readonly values: Readonly<Record<string, unknown>>;
  /** Where a field's value stands in the file. */
  readonly place: (field: string) => string;
}

export interface GridOptions {
  /** Name of the list. */
  readonly key: string;
  /** Fields of an entry, in the order in which names are made of them and values looked at. */
  readonly fields: readonly Field[];
  /** Names of the fields that only the whole has. */
  readonly common: readonly string[];
  /** Whether a common default means anything for an entry with these values; its own are taken as they are. */
  readonly applies: (field: string, values: Readonly<Record<string, unknown>>) => boolean;
}

/** The field that tells apart what is otherwise the same. */
const SEED = "seed";

/** Every combination of every entry, under a name of its own. */
export function expandGrid(given: GivenOptions, options: GridOptions): GridItem[] {
  const { key } = options;
  const entries = given.values[key];
  if (!Array.isArray(entries) || entries.length === 0)
    throw usageError(`${given.place([key])}${key}: a list was expected, each item with a name`);
  const items = entries.flatMap((entry, i) => itemsOf(entry, i, given, options));
  const seen = new Map<string, GridItem>();
  for (const item of items) {
    const twin = seen.get(item.name);
    if (twin) throw usageError(`${item.place("name")}${key}: the name ${item.name} is given twice`);
    seen.set(item.name, item);
  }
  return items;
}

interface Entry {
  readonly name: string;
  /** By field: its value and where it stands. */
  readonly own: ReadonlyMap<string, { readonly value: unknown; readonly path: EntryPath }>;
}

function readEntry(found: unknown, i: number, given: GivenOptions, options: GridOptions): Entry {
  const { key, fields, common } = options;
  const at = (...path: string[]): string => given.place([key, i, ...path]);
  if (typeof found !== "object" || found === null || Array.isArray(found))
    throw usageError(`${at()}${key}: item ${i + 1} is no set of options, such as {name: a, k: 32}`);
  const { name, ...rest } = found as Record<string, unknown>;
  if (typeof name !== "string" || name === "")
    throw usageError(
      `${name === undefined ? at() : at("name")}${key}: item ${i + 1} needs a name, a text (in quotes if it looks like a number)`,
    );
  const own = new Map<string, { value: unknown; path: EntryPath }>();
  for (const [spelled, value] of Object.entries(rest)) {
    const field = fields.find((f) => f.name === spelled || f.flag === spelled);
    if (!field && common.includes(spelled)) {
      throw usageError(`${at(spelled)}${name}: ${spelled} is the same for all; put it beside ${key}`);
    }
    if (!field) {
      const names = ["name", ...fields.map((f) => f.name)];
      throw usageError(`${at(spelled)}${name}: unknown option "${spelled}"${didYouMean(spelled, names)}`);
    }
    own.set(field.name, { value, path: [key, i, spelled] });
  }
  return { name, own };
}

function itemsOf(entry: unknown, i: number, given: GivenOptions, options: GridOptions): GridItem[] {
  const { name, own } = readEntry(entry, i, given, options);
  const pathOf = (field: string): EntryPath =>
    own.get(field)?.path ?? (field === "name" ? [options.key, i] : [field]);
  let made: { values: Record<string, unknown>; parts: string[]; seedless: string[] }[] = [
    { values: {}, parts: [name], seedless: [name] },
  ];
  for (const field of options.fields) {
    const found = own.has(field.name) ? own.get(field.name)!.value : given.values[field.name];
    if (found === undefined) continue;
    const value = field.kind === "list" && !Array.isArray(found) ? [found] : found; // one thing is a list of one
    const choices = choicesOf(field, value);
    if (choices?.length === 0)
      throw usageError(`${given.place(pathOf(field.name))}${name}: ${field.name} is an empty list`);
    made = made.flatMap((one) => {
      if (!own.has(field.name) && !options.applies(field.name, one.values)) return [one];
      if (!choices) return [{ ...one, values: { ...one.values, [field.name]: value } }];
      return choices.map((choice) => {
        const part = partOf(field, choice);
        return {
          values: { ...one.values, [field.name]: choice },
          parts: [...one.parts, part],
          seedless: field.name === SEED ? one.seedless : [...one.seedless, part],
        };
      });
    });
  }
  return made.map(({ values, parts, seedless }) => ({
    name: parts.join("-"),
    setting: seedless.join("-"),
    values,
    place: (field) => given.place(pathOf(field)),
  }));
}

/** The values of a field that varies; undefined where it has one. */
function choicesOf(field: Field, value: unknown): readonly unknown[] | undefined {
  if (!Array.isArray(value)) return undefined;
  if (field.kind !== "list") return value;
  return value.some((item) => Array.isArray(item)) ? value : undefined;
}

/** How a name tells a value: `k16`, `l1=2`, `hierarchical`, `no-skip`. */
function partOf({ name }: Field, value: unknown): string {
  if (typeof value === "boolean") return value ? name : `no-${name}`;
  if (typeof value === "string") return value.replace(/[^\w.]+/g, "_");
  const text = Array.isArray(value) ? value.join("+") : String(value);
  return `${name}${/\d$/.test(name) ? "=" : ""}${text}`;
}
