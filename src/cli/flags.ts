/**
 * Flags from a zod schema: camelCase fields become --kebab-case, and each kind of field knows how to read its text.
 */
import { existsSync } from "node:fs";
import type { z } from "zod";
import { didYouMean, formatCount, usageError } from "../util/index.ts";
import type { CommandSchema } from "./command.ts";

export type FieldKind = "number" | "integer" | "string" | "boolean" | "enum" | "list";

/** One field of a schema as the command line sees it. */
export interface Field {
  /** camelCase, as in the schema and in config files. */
  readonly name: string;
  /** kebab-case, without the dashes. */
  readonly flag: string;
  readonly kind: FieldKind;
  /** Of a list: the kind of its items. */
  readonly item?: FieldKind;
  readonly choices?: readonly string[];
  readonly description: string;
  readonly group: string;
  readonly required: boolean;
  readonly defaultValue?: unknown;
}

export const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);

interface Definition {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly in?: z.ZodType;
  readonly element?: z.ZodType;
  readonly entries?: Record<string, string>;
  readonly values?: readonly unknown[];
  readonly defaultValue?: unknown;
  readonly checks?: readonly { readonly _zod: { readonly def: { readonly format?: string } } }[];
  readonly format?: string;
}

const definition = (type: z.ZodType): Definition => type._zod.def as unknown as Definition;

interface Unwrapped {
  readonly inner: z.ZodType;
  readonly description?: string;
  readonly group?: string;
  readonly optional: boolean;
  readonly defaultValue?: unknown;
}

/** Takes off `.default()`, `.optional()` and pipes; the outermost description and group win. */
function unwrap(type: z.ZodType): Unwrapped {
  const def = definition(type);
  const meta = type.meta() as { description?: string; group?: string } | undefined;
  const own = { description: meta?.description, group: meta?.group };
  const next = def.innerType ?? (def.type === "pipe" ? def.in : undefined);
  if (!next) return { inner: type, optional: false, ...own };
  const below = unwrap(next);
  return {
    inner: below.inner,
    description: own.description ?? below.description,
    group: own.group ?? below.group,
    optional: def.type === "optional" || def.type === "default" || def.type === "prefault" || below.optional,
    defaultValue: "defaultValue" in def ? def.defaultValue : below.defaultValue,
  };
}

function kindOf(
  type: z.ZodType,
  name: string,
): { kind: FieldKind; item?: FieldKind; choices?: readonly string[] } {
  const def = definition(type);
  switch (def.type) {
    case "boolean":
    case "string":
      return { kind: def.type };
    case "number": {
      const integer = [def.format, ...(def.checks ?? []).map((c) => c._zod.def.format)].some(
        (f) => f === "safeint",
      );
      return { kind: integer ? "integer" : "number" };
    }
    case "enum":
      return { kind: "enum", choices: Object.values(def.entries ?? {}) };
    case "literal":
      return { kind: "enum", choices: (def.values ?? []).map(String) };
    case "array": {
      const { kind, choices } = kindOf(unwrap(def.element as z.ZodType).inner, name);
      return { kind: "list", item: kind, choices };
    }
    default:
      throw new Error(`flags: field "${name}" is a zod ${def.type}, which no flag can express`);
  }
}

/** The fields of a schema, in its order. */
export function fieldsOf(schema: CommandSchema): Field[] {
  return Object.entries(schema.shape).map(([name, type]) => {
    const { inner, description, group, optional, defaultValue } = unwrap(type as z.ZodType);
    if (!description) throw new Error(`flags: field "${name}" has no description`);
    const required = !optional;
    return {
      name,
      flag: kebab(name),
      ...kindOf(inner, name),
      description,
      group: group ?? "Options",
      required,
      defaultValue,
    };
  });
}

const SUFFIX: Record<string, number> = {
  "": 1,
  k: 1e3,
  K: 1e3,
  m: 1e6,
  M: 1e6,
  g: 1e9,
  G: 1e9,
  b: 1e9,
  B: 1e9,
};

/** `500k`, `2M`, `1.5e-4`, `4_096` and `1/32` as numbers; `undefined` if it is none. */
export function parseNumber(text: string): number | undefined {
  const digits = text.trim().replaceAll("_", "");
  const ratio = /^(\d+)\/(\d+)$/.exec(digits);
  if (ratio) return Number(ratio[1]) / Number(ratio[2]);
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([kKmMgGbB]?)$/.exec(digits);
  if (!match) return undefined;
  const value = Number(match[1]) * SUFFIX[match[2]];
  const rounded = Math.round(value);
  return match[2] && Math.abs(value - rounded) < 1e-6 ? rounded : value;
}

function parseScalar(field: Field, kind: FieldKind, text: string): unknown {
  switch (kind) {
    case "number":
    case "integer": {
      const value = parseNumber(text);
      if (value === undefined || !Number.isFinite(value)) {
        throw usageError(`--${field.flag} ${text}: a number was expected, such as 32, 500k, 2M or 3e-4`);
      }
      if (kind === "integer" && !Number.isInteger(value)) {
        throw usageError(`--${field.flag} ${text}: a whole number was expected`);
      }
      return value;
    }
    case "enum":
      if (!field.choices?.includes(text)) {
        throw usageError(`--${field.flag} ${text}: unknown choice${didYouMean(text, field.choices ?? [])}`);
      }
      return text;
    case "boolean":
      if (text === "true" || text === "false") return text === "true";
      throw usageError(`--${field.flag} ${text}: use --${field.flag} or --no-${field.flag}`);
    default:
      return text;
  }
}

/** The value that the text of a flag stands for; lists are separated by commas, but a path that exists is one item. */
export function parseField(field: Field, text: string): unknown {
  if (field.kind !== "list") return parseScalar(field, field.kind, text);
  if (field.item === "string" && text.includes(",") && existsSync(text)) return [text];
  const parts = text.split(",").map((part) => part.trim());
  return parts.filter((part) => part !== "").map((part) => parseScalar(field, field.item ?? "string", part));
}

/** `<n>`, `<text>`, `<topk|relu>`: what stands after the flag in the help. */
export function placeholder(field: Field): string {
  const word: Record<FieldKind, string> = {
    number: "<x>",
    integer: "<n>",
    string: "<text>",
    boolean: "",
    enum: `<${field.choices?.join("|")}>`,
    list: field.item === "integer" || field.item === "number" ? "<n,n,…>" : "<a,b,…>",
  };
  return word[field.kind];
}

/** A default as a person would type it. */
export function showDefault(field: Field): string | undefined {
  const value = field.defaultValue;
  if (value === undefined || value === null || value === "" || value === false) return undefined;
  if (Array.isArray(value)) return value.join(",") || undefined;
  if (typeof value !== "number" || Math.abs(value) < 10_000) return String(value);
  const short = formatCount(value).replace(/\.0+(?=\D|$)|(\.\d*?)0+(?=\D|$)/, "$1");
  return parseNumber(short) === value ? short : String(value);
}
