/**
 * A command's options from three places: the schema's defaults, the --config file, the flags. The later one wins.
 */
import type { z } from "zod";
import { didYouMean, usageError } from "../util/index.ts";
import type { Command, CommandContext, CommandResult, CommandSchema, GivenOptions } from "./command.ts";
import { readConfigFile } from "./config-file.ts";
import { type Field, fieldsOf } from "./flags.ts";

/** Options as given to a job: there is no file to point at. */
export const plainOptions = (values: Readonly<Record<string, unknown>>): GivenOptions => ({
  values,
  place: () => "",
});

/** What a config file and the flags say, by the fields' names. A key of the file may be a field's name or its flag. */
export async function givenOptions(
  command: Command,
  path: string | undefined,
  flags: Readonly<Record<string, unknown>>,
): Promise<GivenOptions> {
  if (path === undefined) return plainOptions(flags);
  const file = await readConfigFile(path);
  const fields = fieldsOf(command.schema);
  const names = [...fields.map((f) => f.name), ...(command.many ? [command.many.key] : [])];
  const values: Record<string, unknown> = {};
  const keys = new Map<unknown, string>(); // by name, as the file spells them
  for (const [key, entry] of Object.entries(file.values)) {
    const name = names.find((n) => n === key) ?? fields.find((f) => f.flag === key)?.name;
    const place = file.place([key]);
    if (name === undefined) {
      throw usageError(`--config ${place}: unknown option "${key}"${didYouMean(key, names)}`);
    }
    if (keys.has(name))
      throw usageError(`--config ${place}: ${name} was given already, as ${keys.get(name)}`);
    keys.set(name, key);
    values[name] = entry;
  }
  return {
    file: path,
    values: { ...values, ...flags },
    place: ([name, ...rest]) =>
      keys.has(name) && !(name in flags) ? `--config ${file.place([keys.get(name)!, ...rest])}: ` : "",
  };
}

function describeIssue(issue: z.core.$ZodIssue, fields: readonly Field[], given: GivenOptions): string {
  const field = fields.find((f) => f.name === issue.path[0]);
  if (!field) return issue.message;
  const value = given.values[field.name];
  if (value === undefined) return `--${field.flag} is missing: ${field.description}`;
  return `${given.place([field.name])}--${field.flag} ${JSON.stringify(value)}: ${issue.message}`;
}

/**
 * Validates what was given and fills in the defaults; throws a usage error that names every bad option. One thing where a list is
 * wanted is a list of one, as on the command line.
 */
export function resolveOptions<S extends CommandSchema>(schema: S, given: GivenOptions): z.output<S> {
  const fields = fieldsOf(schema);
  const lists = new Set(fields.filter(({ kind }) => kind === "list").map(({ name }) => name));
  const values = Object.entries(given.values).map(([name, value]) => {
    const single = lists.has(name) && value !== undefined && value !== null && !Array.isArray(value);
    return [name, single ? [value] : value];
  });
  const result = schema.strict().safeParse(Object.fromEntries(values));
  if (result.success) return result.data as z.output<S>;
  const lines = result.error.issues.map((issue) => describeIssue(issue, fields, given));
  throw usageError([...new Set(lines)].join("\n"));
}

/** Runs a command, once or for the many things that a config file names. */
export function runCommandWith(
  // biome-ignore lint/suspicious/noExplicitAny: commands of all schemas
  command: Command<any>,
  given: GivenOptions,
  context: CommandContext,
): Promise<CommandResult> {
  if (command.many && given.values[command.many.key] !== undefined) return command.many.run(given, context);
  return command.run(resolveOptions(command.schema, given), context);
}
