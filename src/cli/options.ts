/**
 * A command's options from three places: the schema's defaults, the --config file, the flags. The later one wins.
 */
import { readFile } from "node:fs/promises";
import type { z } from "zod";
import { didYouMean, inputError, ioError, usageError } from "../util/index.ts";
import type { Command, CommandSchema } from "./command.ts";
import { type Field, fieldsOf } from "./flags.ts";

/** Fields of a config file, checked against the schema's names. A key may be a field's name or its flag. */
export async function readConfig(path: string, fields: readonly Field[]): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw ioError(`read --config ${path}`, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw inputError(`--config ${path}: not valid JSON: ${(error as Error).message}`, error);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw usageError(`--config ${path}: a JSON object with the command's options was expected`);
  }
  const config: Record<string, unknown> = {};
  for (const [key, entry] of Object.entries(value)) {
    const field = fields.find((f) => f.name === key || f.flag === key);
    if (!field) {
      const names = fields.map((f) => f.name);
      throw usageError(`--config ${path}: unknown option "${key}"${didYouMean(key, names)}`);
    }
    config[field.name] = entry;
  }
  return config;
}

function describeIssue(issue: z.core.$ZodIssue, fields: readonly Field[], value: unknown): string {
  const field = fields.find((f) => f.name === issue.path[0]);
  if (!field) return issue.message;
  if (value === undefined) return `--${field.flag} is missing: ${field.description}`;
  return `--${field.flag} ${JSON.stringify(value)}: ${issue.message}`;
}

/** Validates config and flags together and fills in the defaults; throws a usage error that names every bad option. */
export function resolveOptions<S extends CommandSchema>(
  command: Command<S>,
  config: Readonly<Record<string, unknown>>,
  flags: Readonly<Record<string, unknown>>,
): z.output<S> {
  const merged: Record<string, unknown> = { ...config, ...flags };
  const result = command.schema.strict().safeParse(merged);
  if (result.success) return result.data as z.output<S>;
  const fields = fieldsOf(command.schema);
  const lines = result.error.issues.map((issue) =>
    describeIssue(issue, fields, merged[String(issue.path[0])]),
  );
  throw usageError([...new Set(lines)].join("\n"));
}
