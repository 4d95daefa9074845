/**
 * The package itself: its files, its version and commit, and how its program is called.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** Path inside the package; its root is the nearest folder upwards with a package.json. */
export function packagePath(...parts: string[]): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error("sluice: no package.json above the program");
    folder = parent;
  }
  return join(folder, ...parts);
}

/** As package.json says. */
export function packageVersion(): string {
  return (JSON.parse(readFileSync(packagePath("package.json"), "utf8")) as { version: string }).version;
}

/**
 * Commit that the package was cloned at; undefined where it was installed. Reads .git without running git, so changes that
 * were not committed do not show.
 */
export function packageCommit(root: string = packagePath()): string | undefined {
  try {
    const git = gitFolder(join(root, ".git"));
    const head = readFileSync(join(git, "HEAD"), "utf8").trim();
    const ref = /^ref: (.+)$/.exec(head)?.[1];
    const commit = ref === undefined ? head : readRef(git, ref);
    return commit !== undefined && /^[0-9a-f]{40,64}$/.test(commit) ? commit : undefined;
  } catch {
    return undefined; // no clone, or one that only git can read
  }
}

/** `.git` is a folder, or in a worktree a file that names one. */
function gitFolder(path: string): string {
  if (statSync(path).isDirectory()) return path;
  const named = /^gitdir: (.+)$/m.exec(readFileSync(path, "utf8"))?.[1] ?? "";
  return resolve(dirname(path), named);
}

/** A worktree shares the branches of its clone, which `commondir` leads to. */
function readRef(git: string, ref: string): string | undefined {
  const shared = join(git, "commondir");
  const common = existsSync(shared) ? resolve(git, readFileSync(shared, "utf8").trim()) : git;
  for (const folder of [git, common]) {
    if (existsSync(join(folder, ref))) return readFileSync(join(folder, ref), "utf8").trim();
  }
  const packed = readFileSync(join(common, "packed-refs"), "utf8").split("\n");
  return packed.find((line) => line.endsWith(` ${ref}`))?.split(" ")[0];
}

/** How this program is called, for command lines to copy: `sluice`, or the npm script that it was run by. */
export function commandName(env: NodeJS.ProcessEnv = process.env): string {
  const { npm_package_name: name, npm_lifecycle_event: script, npm_command: command } = env;
  if (command === "exec") return "npx sluice";
  if (name === "sluice" && (script === "sluice" || script === "demo")) return "npm run --silent sluice --";
  return "sluice";
}

/** A word of a command line, quoted where a POSIX shell would take it apart. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
