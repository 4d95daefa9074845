/**
 * What a command is: a name, a schema that its flags, config file and defaults come from, and a function to run.
 */
import type { z } from "zod";
import type { Progress, ProgressOptions } from "../util/index.ts";

/** What a command may use of the outside world. Progress and messages go to stderr, `write` to stdout. */
export interface CommandContext {
  /** Raised by the first Ctrl-C: save and throw `interruptedError`. */
  readonly signal: AbortSignal;
  readonly json: boolean;
  readonly quiet: boolean;
  /** Options that were set by a flag or the config file, not by their default; names as in the schema. */
  readonly given: ReadonlySet<string>;
  /** A line for the person, on stderr; silent with --quiet. */
  log(message: string): void;
  /** Text as it comes, on stdout (generated tokens); silent with --json. */
  write(text: string): void;
  /** A progress line on stderr; silent with --quiet. */
  progress(options: Omit<ProgressOptions, "stream">): Progress;
}

/** What a command found. With --json `json` is all that stdout gets; otherwise `text` is. */
export interface CommandResult {
  readonly json: Readonly<Record<string, unknown>>;
  readonly text?: string;
  /** The work is done, but what it found should stop a script (exit code 1). */
  readonly failed?: boolean;
}

/** What a person gave, before it is checked; names as in the schema. */
export interface GivenOptions {
  /** The config file. */
  readonly file?: string;
  readonly values: Readonly<Record<string, unknown>>;
  /** `--config sweep.yaml:12: ` for an entry that a config file holds, to begin a message with; else empty. */
  readonly place: (path: readonly (string | number)[]) => string;
}

/** Fields that flags can express: numbers, strings, booleans, enums, and lists of them. */
export type CommandSchema = z.ZodObject;

export interface Command<S extends CommandSchema = CommandSchema> {
  /** As typed: `sae train`. */
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** A paragraph for `--help`. */
  readonly description: string;
  /** Every field has `.describe()` with its unit; `.meta({ group })` puts it under a heading of the help. */
  readonly schema: S;
  /** Fields that may be given without their flag, in order; the last may take the rest if it is a list. */
  readonly positional?: readonly (keyof z.output<S> & string)[];
  /** Whole command lines, each with a `# remark` if it needs one. */
  readonly examples: readonly string[];
  run(options: z.output<S>, context: CommandContext): Promise<CommandResult>;
  /** A key that only a config file can hold; with it the command does this instead. */
  readonly many?: ManyAtOnce;
}

export interface ManyAtOnce {
  readonly key: string;
  /** For `--help`. */
  readonly description: string;
  run(given: GivenOptions, context: CommandContext): Promise<CommandResult>;
}

/** A command whose `run` gets its options typed from the schema. */
export function defineCommand<S extends CommandSchema>(command: Command<S>): Command<S> {
  return command;
}

/** A line of the catalogue: enough for the overview, with the command itself loaded when it is called. */
export interface CatalogueEntry {
  readonly name: string;
  readonly summary: string;
  // biome-ignore lint/suspicious/noExplicitAny: a catalogue holds commands of all schemas
  load(): Promise<Command<any>>;
}
