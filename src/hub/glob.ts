/**
 * Patterns for paths: `*` and `?` within a folder, `**` over folders, `[a-f]`.
 */
import { usageError } from "../util/errors.ts";

export const isPattern = (path: string): boolean => /[*?[]/.test(path);

/** Whether a path with `/` is one that the pattern means. Time is linear in the path for every pattern without `**`. */
export function matchesPattern(pattern: string, path: string): boolean {
  return matchParts(pattern.split("/"), path.split("/"));
}

/** The folder that everything a pattern can mean lies in; "" for the root. */
export function fixedFolder(pattern: string): string {
  const parts = pattern.split("/");
  const first = parts.findIndex(isPattern);
  return parts.slice(0, first < 0 ? parts.length - 1 : first).join("/");
}

function matchParts(pattern: readonly string[], path: readonly string[]): boolean {
  if (pattern.length === 0) return path.length === 0;
  const [first, ...rest] = pattern;
  if (first === "**") return path.some((_, i) => matchParts(rest, path.slice(i))) || matchParts(rest, []);
  return path.length > 0 && partPattern(first).test(path[0]) && matchParts(rest, path.slice(1));
}

/** One part as a regular expression. A run of `*` is one: nothing backtracks more than the square of the length. */
function partPattern(part: string): RegExp {
  const source = part.replace(/\*+|\?|\[[^\]]+\]|[\s\S]/g, (token) => {
    if (token.startsWith("*")) return ".*";
    if (token === "?") return ".";
    if (token.length > 1)
      return `[${token
        .slice(1, -1)
        .replace(/[\\[\]^]/g, "\\$&")
        .replace(/^!/, "^")}]`;
    return token.replace(/[.*+?^${}()|[\]\\]/, "\\$&");
  });
  try {
    return new RegExp(`^${source}$`, "u");
  } catch {
    throw usageError(`the pattern "${part}" cannot be read: in [a-f] the smaller sign comes first`);
  }
}
