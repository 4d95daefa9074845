/**
 * One command's argv and help, through commander, whose options are generated from the command's schema.
 */
import { CommanderError, Option, Command as Parser } from "commander";
import { usageError } from "../util/index.ts";
import type { Command } from "./command.ts";
import { type Field, fieldsOf, parseField, placeholder, showDefault } from "./flags.ts";
import { wrap } from "./overview.ts";

/** What every command takes besides its own options. */
export interface GlobalFlags {
  readonly config?: string;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly debug: boolean;
  readonly help: boolean;
}

const GLOBAL = "Common options:";
const GLOBAL_NAMES = ["config", "json", "quiet", "debug", "help"];

export interface ParsedArguments {
  readonly globals: GlobalFlags;
  /** Only what was typed; defaults come from the schema. */
  readonly flags: Record<string, unknown>;
}

/** A default that the code works out stands in brackets at the end of the description; the help shows it as any other. */
function describeField(field: Field): string {
  const shown = showDefault(field);
  if (field.required) return `${field.description} (required)`;
  if (shown !== undefined) return `${field.description} (default: ${shown})`;
  return field.description.replace(/ \[([^\]]+)\]$/, " (default: $1)");
}

/** A boolean gets both spellings; the help shows the one that changes something. A list may be given piece by piece. */
function addField(parser: Parser, field: Field): void {
  if (GLOBAL_NAMES.includes(field.name)) throw new Error(`parser: every command has --${field.flag} already`);
  const group = `${field.group}:`;
  if (field.kind !== "boolean") {
    const option = new Option(`--${field.flag} ${placeholder(field)}`, describeField(field));
    if (field.kind === "list") {
      option.argParser((text: string, before?: readonly string[]) =>
        before === undefined ? [text] : [...before, text],
      );
    }
    parser.addOption(option.helpGroup(group));
    return;
  }
  const on = field.defaultValue === true;
  const yes = new Option(`--${field.flag}`, field.description).helpGroup(group).hideHelp(on);
  const no = new Option(`--no-${field.flag}`, `do not ${field.description}`).helpGroup(group).hideHelp(!on);
  parser.addOption(yes).addOption(no);
}

// biome-ignore lint/suspicious/noExplicitAny: commands of all schemas
function buildParser(command: Command<any>, fields: readonly Field[], width: number): Parser {
  const parser = new Parser(`sluice ${command.name}`)
    .description(command.description)
    .helpOption(false)
    .exitOverride()
    .configureOutput({ writeOut: () => {}, writeErr: () => {} })
    .configureHelp({ helpWidth: width, showGlobalOptions: false });
  const usage = (command.positional ?? []).map((name) => {
    const field = fields.find((f) => f.name === name);
    if (!field) throw new Error(`parser: positional "${name}" is no field of ${command.name}`);
    return `[${field.flag}${field.kind === "list" ? "…" : ""}]`;
  });
  parser
    .usage([...usage, "[options]"].join(" "))
    .argument("[arguments...]")
    .allowExcessArguments(true);
  for (const field of fields) addField(parser, field);
  for (const [flags, text] of [
    ["--config <file>", "YAML or JSON file with any of the options above; flags win over it"],
    ["--json", "print the result as one JSON object on stdout, and nothing else there"],
    ["-q, --quiet", "no progress and no messages on stderr"],
    ["--debug", "show the stack of an error"],
    ["-h, --help", "show this help"],
  ]) {
    parser.addOption(new Option(flags, text).helpGroup(GLOBAL));
  }
  return parser;
}

// biome-ignore lint/suspicious/noExplicitAny: commands of all schemas
export function helpOf(command: Command<any>, width: number): string {
  const parser = buildParser(command, fieldsOf(command.schema), width);
  // The catch-all argument is explained by the usage line.
  parser.configureHelp({ helpWidth: width, visibleArguments: () => [] });
  const examples = command.examples.map((line) => `  $ ${line}`).join("\n");
  const { many } = command;
  const indent = " ".repeat((many?.key.length ?? 0) + 4);
  const inFile = many ? `  ${many.key}  ${wrap(many.description, width - indent.length, indent)}` : "";
  return `${parser.helpInformation()}${many ? `\nOnly in the --config file:\n${inFile}\n` : ""}${examples ? `\nExamples:\n${examples}\n` : ""}`;
}

/** Positional words go to their fields in order; a last field that is a list takes all that are left. */
function assignPositional(
  // biome-ignore lint/suspicious/noExplicitAny: commands of all schemas
  command: Command<any>,
  fields: readonly Field[],
  words: readonly string[],
  flags: Record<string, unknown>,
): void {
  const names: readonly string[] = command.positional ?? [];
  let at = 0;
  for (const name of names) {
    if (at >= words.length) return;
    const field = fields.find((f) => f.name === name) as Field;
    if (name in flags) throw usageError(`${name} was given twice: "${words[at]}" and --${field.flag}`);
    if (field.kind === "list") {
      flags[name] = words.slice(at).flatMap((word) => parseField(field, word));
      return;
    }
    flags[name] = parseField(field, words[at++]);
  }
  if (at < words.length) {
    throw usageError(`unexpected "${words[at]}"; see sluice ${command.name} --help`);
  }
}

/** Reads argv (after the command's name). Throws a usage error, with the nearest flag, for what it does not know. */
// biome-ignore lint/suspicious/noExplicitAny: commands of all schemas
export function parseArguments(command: Command<any>, argv: readonly string[]): ParsedArguments {
  const fields = fieldsOf(command.schema);
  const parser = buildParser(command, fields, 80);
  try {
    parser.parse([...argv], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    throw usageError(`${error.message.replace(/^error: /, "")}; see sluice ${command.name} --help`);
  }
  const typed = parser.opts();
  const flags: Record<string, unknown> = {};
  for (const field of fields) {
    if (parser.getOptionValueSource(field.name) !== "cli") continue;
    const value = typed[field.name];
    if (field.kind === "boolean") flags[field.name] = value;
    else if (field.kind !== "list") flags[field.name] = parseField(field, value);
    else flags[field.name] = (value as string[]).flatMap((text) => parseField(field, text));
  }
  const globals = {
    config: typed.config,
    json: typed.json === true,
    quiet: typed.quiet === true,
    debug: typed.debug === true,
    help: typed.help === true,
  };
  if (!globals.help) assignPositional(command, fields, parser.args, flags);
  return { globals, flags };
}
