/**
 * The file of --config: YAML or JSON, with the place of every entry for what is to be said about it.
 */
import { readFile } from "node:fs/promises";
import type { ScalarTag } from "yaml";
import { inputError, ioError, usageError } from "../util/index.ts";
import { parseNumber } from "./flags.ts";

/** Names of fields and numbers of list items, from the outside in. */
export type EntryPath = readonly (string | number)[];

export interface ConfigFile {
  readonly values: Readonly<Record<string, unknown>>;
  /** `sweep.yaml:12`; the file alone where the entry is not in it. */
  readonly place: (path: EntryPath) => string;
}

/** Unquoted, a number may be written as on the command line: 500k, 1/32. */
const SHORT_NUMBER: ScalarTag = {
  tag: "tag:yaml.org,2002:int",
  default: true,
  test: /^(?:[+-]?[\d._]+(?:e[+-]?\d+)?[kKmMgGbB]?|\d+\/\d+)$/,
  resolve: (text) => parseNumber(text) ?? text,
};

/** Reads a file whose name ends in .json as JSON, any other as YAML 1.2 with `<<` merges. Aliases stand for their values. */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  let text: string;
  try {
    text = (await readFile(path, "utf8")).replace(/^\uFEFF/, "");
  } catch (error) {
    throw ioError(`read --config ${path}`, error);
  }
  const json = /\.json$/i.test(path);
  const parsed = json ? parseJson(path, text) : undefined;
  const { LineCounter, parseDocument } = await import("yaml"); // takes JSON too, and knows where things stand
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    merge: true,
    prettyErrors: false,
    customTags: [SHORT_NUMBER],
  });
  const lineAt = (offset: number): string => `${path}:${lines.linePos(offset).line}`;
  const [error] = document.errors;
  if (error && (!json || error.code === "DUPLICATE_KEY")) {
    throw inputError(
      `--config ${lineAt(error.pos[0])}: not valid ${json ? "JSON" : "YAML"}: ${error.message}`,
    );
  }
  const values: unknown = parsed ?? document.toJS();
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw usageError(`--config ${path}: the command's options were expected, each under its name`);
  }
  return {
    values: values as Record<string, unknown>,
    place(entry) {
      const node = document.getIn(entry, true) as { range?: readonly number[] | null } | undefined;
      return node?.range ? lineAt(node.range[0]) : path;
    },
  };
}

function parseJson(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const { message } = error as Error;
    const position = /position (\d+)/.exec(message)?.[1];
    const line = text.slice(0, position === undefined ? undefined : Number(position)).split("\n").length;
    throw inputError(`--config ${path}:${line}: not valid JSON: ${message}`, error);
  }
}
