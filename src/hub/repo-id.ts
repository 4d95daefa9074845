/**
 * How a repository of the hub is named: `org/name`, `org/name@revision`, `hf://datasets/org/name@revision/path`.
 */
import { usageError } from "../util/errors.ts";

export interface RepoId {
  readonly type: "model" | "dataset";
  /** `org/name` */
  readonly name: string;
  /** Branch, tag or commit; "main" unless it was named. */
  readonly revision: string;
}

/** A repository, and a file, folder or pattern in it; "" for all of it. */
export interface RepoPath {
  readonly repo: RepoId;
  readonly path: string;
}

const DEFAULT_REVISION = "main";
const SCHEME = "hf://";
const DATASETS = "hf://datasets/";
/** Parts of a name as the hub allows them: no leading or trailing `.` or `-`, at most 96 characters. */
const PART = /^(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?$/;

const isName = (name: string): boolean => {
  const parts = name.split("/");
  return parts.length === 2 && parts.every((part) => PART.test(part));
};

const isRevision = (revision: string): boolean =>
  /^[\w.+-]+(?:\/[\w.+-]+)*$/.test(revision) && !revision.split("/").some((part) => /^\.+$/.test(part));

/** `org/name[@revision]`, with or without `hf://` in front, as a model's id; undefined for anything else. */
export function parseModelId(spec: string): RepoId | undefined {
  const text = spec.startsWith(SCHEME) ? spec.slice(SCHEME.length) : spec;
  const at = text.indexOf("@");
  const name = at < 0 ? text : text.slice(0, at);
  const revision = at < 0 ? DEFAULT_REVISION : text.slice(at + 1);
  return isName(name) && isRevision(revision) ? { type: "model", name, revision } : undefined;
}

/** Whether a text is meant to come from a dataset of the hub. */
export const isDatasetPath = (spec: string): boolean => spec.startsWith(SCHEME);

/**
 * `hf://datasets/org/name[@revision][/path]`; the path may be a pattern (`*`, `**`, `?`). A revision with slashes is `refs/pr/1`,
 * `refs/convert/parquet`, or written with `%2F`.
 */
export function parseDatasetPath(spec: string): RepoPath {
  const match = /^([^/@]+\/[^/@]+)(?:@(refs\/(?:pr\/\d+|convert\/[\w.-]+)|[^/]+))?(?:\/(.*))?$/.exec(
    spec.startsWith(DATASETS) ? spec.slice(DATASETS.length) : "",
  );
  const revision = match?.[2] === undefined ? DEFAULT_REVISION : match[2].replace(/%2f/gi, "/");
  const path = (match?.[3] ?? "").replace(/\/+$/, "");
  if (!match || !isName(match[1]) || !isRevision(revision) || !isSafePath(path, { empty: true })) {
    throw usageError(
      `${spec}: a text on the hub is named as in hf://datasets/org/name, hf://datasets/org/name/data/train.parquet or hf://datasets/org/name@revision/data/*.jsonl.gz`,
    );
  }
  return { repo: { type: "dataset", name: match[1], revision }, path };
}

/** A relative path that stays inside its folder on every system. */
export function isSafePath(path: string, { empty = false } = {}): boolean {
  if (path === "") return empty;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a path from another machine may hold them
  if (/[\\\u0000-\u001f]/.test(path) || /^[A-Za-z]:/.test(path)) return false;
  return path.split("/").every((part) => part !== "" && part !== "." && part !== "..");
}

/** `org/name@revision`, without the revision where it is the default one. */
export function showRepo({ type, name, revision }: RepoId): string {
  return `${type === "dataset" ? "datasets/" : ""}${name}${revision === DEFAULT_REVISION ? "" : `@${revision}`}`;
}
