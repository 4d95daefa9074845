/**
 * The list of commands, for `sluice --help` and for a group such as `sluice sae`.
 */
import type { CatalogueEntry } from "./command.ts";

const TITLE = "sluice: sparse autoencoders, features and steering for language models";

/** Lines of at most `width` characters, all but the first behind `indent`. */
export function wrap(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + word.length + 1 > width) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  return [...lines, line].join(`\n${indent}`);
}

export function overview(
  entries: readonly CatalogueEntry[],
  version: string,
  width: number,
  group?: string,
): string {
  const longest = Math.max(...entries.map((e) => e.name.length));
  const rows = entries.map(({ name, summary }) => {
    const indent = " ".repeat(longest + 4);
    return `  ${name.padEnd(longest)}  ${wrap(summary, width - longest - 4, indent)}`;
  });
  const scope = group ? `${group} ` : "";
  return [
    ...(group ? [] : [`${TITLE} (${version})`, ""]),
    `Usage: sluice ${scope}<command> [options]`,
    "",
    "Commands:",
    ...rows,
    "",
    `sluice ${scope}<command> --help shows a command's options, defaults and examples.`,
    "Every command takes --config <file>, --json, --quiet and --debug.",
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (harvests and trainings save first).",
    "",
  ].join("\n");
}
