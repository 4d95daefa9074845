/**
 * The binary itself, as a process.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { catalogue } from "../../src/cli/catalogue.ts";
import { fieldsOf } from "../../src/cli/flags.ts";
import { helpOf, parseArguments } from "../../src/cli/parser.ts";

const main = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));
const manifest = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));

function sluice(...argv: string[]) {
  return spawnSync(process.execPath, [main, ...argv], { encoding: "utf8", timeout: 120_000 });
}

test("--version is the package's", () => {
  assert.equal(sluice("--version").stdout.trim(), manifest.version);
});

test("wrong usage ends the process with 2", () => {
  const { status, stderr } = sluice("docter");
  assert.equal(status, 2);
  assert.match(stderr, /did you mean doctor\?/);
});

test("doctor --json prints one object whose verdict agrees with the exit code", () => {
  const { status, stdout } = sluice("doctor", "--json", "--no-measure");
  const report = JSON.parse(stdout);
  assert.equal(status, report.ok ? 0 : 1);
  assert.equal(report.checks.node.value, process.versions.node);
  const bad = Object.values<{ state: string; advice?: string }>(report.checks).filter(
    (c) => c.state === "bad",
  );
  for (const check of bad) assert.ok(check.advice);
});

test("every command of the catalogue loads under its own name and summary, with a help that names all its flags", async () => {
  for (const entry of catalogue) {
    const command = await entry.load();
    assert.equal(command.name, entry.name);
    assert.equal(command.summary, entry.summary);
    const help = helpOf(command, 100);
    for (const field of fieldsOf(command.schema))
      assert.ok(help.includes(field.flag), `${entry.name}: ${field.flag}`);
    assert.ok(command.examples.length > 0, `${entry.name} has no example`);
  }
});

test("the examples in every command's help parse", async () => {
  for (const entry of catalogue) {
    const command = await entry.load();
    for (const line of command.examples) {
      const words = line.replace(/\s#.*$/, "").match(/"[^"]*"|'[^']*'|\S+/g) ?? [];
      const argv = words.map((word) => word.replace(/^(["'])(.*)\1$/, "$2"));
      assert.deepEqual(argv.slice(0, 1), ["sluice"], line);
      const own = entry.name.split(" ");
      assert.deepEqual(argv.slice(1, 1 + own.length), own, line);
      parseArguments(command, argv.slice(1 + own.length));
    }
  }
});
