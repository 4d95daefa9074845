/**
 * From argv to an exit code: finds the command, reads its options, runs it, prints what it found.
 * 0 done, 1 failed, 2 wrong usage, 130 interrupted.
 */
import {
  createProgress,
  didYouMean,
  exitCodeOf,
  interruptedError,
  type ProgressStream,
  type SluiceError,
  silentProgress,
  usageError,
} from "../util/index.ts";
import type { CatalogueEntry, CommandContext, CommandResult } from "./command.ts";
import { overview } from "./overview.ts";

export interface CliOptions {
  readonly catalogue: readonly CatalogueEntry[];
  readonly version: string;
  readonly stdout: ProgressStream;
  readonly stderr: ProgressStream;
  /** Called with a handler for interruptions; returns how to take it off again. */
  onInterrupt?(handler: () => void): () => void;
  /** Ends the process at once, for the second interruption. */
  exitNow?(code: number): void;
}

const EARLY_FLAGS = ["--config", "--json", "--quiet", "-q", "--debug", "--help", "-h"];
const WIDTH = { least: 60, most: 110, otherwise: 100 };

const widthOf = (stream: ProgressStream): number =>
  Math.min(WIDTH.most, Math.max(WIDTH.least, stream.columns ?? WIDTH.otherwise));

/** The entry with the longest name that argv begins with, and what follows it. */
function findCommand(
  catalogue: readonly CatalogueEntry[],
  words: readonly string[],
): { entry: CatalogueEntry; rest: readonly string[] } | undefined {
  const deepest = Math.max(...catalogue.map((e) => e.name.split(" ").length));
  for (let depth = Math.min(deepest, words.length); depth > 0; depth--) {
    const entry = catalogue.find((e) => e.name === words.slice(0, depth).join(" "));
    if (entry) return { entry, rest: words.slice(depth) };
  }
  return undefined;
}

function unknownCommand(catalogue: readonly CatalogueEntry[], argv: readonly string[]): SluiceError {
  const words = argv.filter((arg) => !arg.startsWith("-"));
  const names = catalogue.map((e) => e.name);
  const group = names.filter((name) => name.startsWith(`${words[0]} `));
  const typed = words.slice(0, group.length > 0 ? 2 : 1).join(" ");
  return usageError(`unknown command "${typed}"${didYouMean(typed, group.length > 0 ? group : names)}`);
}

/** Help that needs no command loaded: `sluice`, `sluice --help`, `sluice help …`, `sluice sae`. */
function plainHelp(options: CliOptions, argv: readonly string[]): string | undefined {
  const words = argv.filter((arg) => arg !== "--help" && arg !== "-h");
  const width = widthOf(options.stdout);
  if (words.length === 0) return overview(options.catalogue, options.version, width);
  const group = options.catalogue.filter((e) => e.name.startsWith(`${words.join(" ")} `));
  return group.length > 0 ? overview(group, options.version, width, words.join(" ")) : undefined;
}

/** Common flags may stand before the command; --config brings its file. */
function splitEarly(argv: readonly string[]): { early: readonly string[]; words: readonly string[] } {
  let at = 0;
  while (at < argv.length && argv[at].startsWith("-")) {
    const [flag] = argv[at].split("=");
    if (!EARLY_FLAGS.includes(flag)) {
      throw usageError(
        `${flag}: before the command only ${EARLY_FLAGS.join(", ")} may stand; name the command first, see sluice --help`,
      );
    }
    at += argv[at] === "--config" ? 2 : 1;
  }
  if (at >= argv.length) throw usageError(`${argv[0]}: name a command too; see sluice --help`);
  return { early: argv.slice(0, at), words: argv.slice(at) };
}

async function runCommand(options: CliOptions, argv: readonly string[]): Promise<number> {
  const { early, words } = splitEarly(argv);
  const found = findCommand(options.catalogue, words);
  if (!found) throw unknownCommand(options.catalogue, words);

  const [command, { helpOf, parseArguments }, { givenOptions, runCommandWith }] = await Promise.all([
    found.entry.load(),
    import("./parser.ts"),
    import("./options.ts"),
  ]);
  const { globals, flags } = parseArguments(command, [...early, ...found.rest]);
  if (globals.help) {
    options.stdout.write(helpOf(command, widthOf(options.stdout)));
    return 0;
  }
  const given = await givenOptions(command, globals.config, flags);

  const controller = new AbortController();
  const release = options.onInterrupt?.(() => {
    if (controller.signal.aborted) {
      options.stderr.write("\nstopped at once\n");
      options.exitNow?.(130);
      return;
    }
    options.stderr.write("\ninterrupted: stopping after this step; Ctrl-C again stops at once\n");
    controller.abort(interruptedError("interrupted"));
  });
  const context: CommandContext = {
    signal: controller.signal,
    json: globals.json,
    quiet: globals.quiet,
    given: new Set(Object.keys(given.values)),
    log: (message) => void (globals.quiet || options.stderr.write(`${message}\n`)),
    write: (text) => void (globals.json || options.stdout.write(text)),
    progress: (wanted) =>
      globals.quiet ? silentProgress : createProgress({ ...wanted, stream: options.stderr }),
  };
  try {
    const result: CommandResult = await runCommandWith(command, given, context);
    printResult(result, globals.json, options.stdout);
    return result.failed ? 1 : 0;
  } finally {
    release?.();
  }
}

function printResult(result: CommandResult, json: boolean, stdout: ProgressStream): void {
  if (json) stdout.write(`${JSON.stringify(result.json, null, stdout.isTTY ? 2 : undefined)}\n`);
  else if (result.text) stdout.write(result.text.endsWith("\n") ? result.text : `${result.text}\n`);
}

function reportError(error: unknown, debug: boolean, stderr: ProgressStream): number {
  const message = error instanceof Error ? error.message : String(error);
  const bug =
    !(error instanceof Error) || ["TypeError", "ReferenceError", "AssertionError"].includes(error.name);
  const code = error instanceof Error && error.name === "AbortError" ? 130 : exitCodeOf(error);
  stderr.write(`${code === 130 ? "" : "error: "}${message || "unknown error"}\n`);
  if (debug && error instanceof Error) {
    stderr.write(`${error.stack ?? ""}\n`);
    if (error.cause instanceof Error)
      stderr.write(`caused by: ${error.cause.stack ?? error.cause.message}\n`);
  } else if (bug) {
    stderr.write("this looks like a bug in sluice; --debug shows where it happened\n");
  }
  return code;
}

/** Runs one command line and returns its exit code; never throws. */
export async function runCli(argv: readonly string[], options: CliOptions): Promise<number> {
  const debug = argv.includes("--debug");
  try {
    const args = argv[0] === "help" ? [...argv.slice(1), "--help"] : argv;
    if (args.length === 1 && (args[0] === "--version" || args[0] === "-V")) {
      options.stdout.write(`${options.version}\n`);
      return 0;
    }
    const help = plainHelp(options, args);
    if (help !== undefined) {
      options.stdout.write(help);
      return 0;
    }
    return await runCommand(options, args);
  } catch (error) {
    return reportError(error, debug, options.stderr);
  }
}
