/**
 * Runs the compiled tests (dist/tests) under node's test runner, whose totals are the last lines.
 * Usage: npm test [-- [words that must occur in the file's path] [--options of node]]
 */
import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, sep } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const words = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const options = process.argv.slice(2).filter((arg) => arg.startsWith("-"));

/** A compiled file whose source is gone is a leftover of an earlier build. */
const hasSource = (file) => existsSync(join(root, file.replace(/\.js$/, ".ts")));

const compiled = join(root, "dist", "tests");
const files = (existsSync(compiled) ? readdirSync(compiled, { recursive: true }) : [])
  .filter((name) => name.endsWith(".test.js"))
  .map((name) => join("tests", name))
  .filter((file) => hasSource(file) && words.every((word) => file.split(sep).join("/").includes(word)))
  .sort()
  .map((file) => join("dist", file));
if (files.length === 0) {
  console.error(
    words.length
      ? `test: no file matches ${words.join(" ")}`
      : "test: nothing in dist/tests; run `npm run build`",
  );
  process.exit(1);
}

const child = spawn(
  process.execPath,
  [
    "--test",
    "--test-reporter=spec",
    `--test-concurrency=${Math.min(2, availableParallelism())}`,
    `--test-timeout=${15 * 60_000}`,
    ...options,
    ...files,
  ],
  { cwd: root, stdio: ["ignore", "inherit", "inherit"] },
);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => process.exit(signal ? 1 : (code ?? 1)));
