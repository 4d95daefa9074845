/**
 * The README is right: its program prints what it says, its commands exist, its folders and files are there.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { catalogue } from "../src/cli/catalogue.ts";
import { parseArguments } from "../src/cli/parser.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const readme = readFileSync(join(root, "README.md"), "utf8");
const names = catalogue.map((entry) => entry.name);

/** Command lines of the indented blocks, without the prompt and what follows two spaces. */
const lines = [...readme.matchAll(/^ {4}sluice (.*)$/gm)].map((match) => match[1].split(/\s{2,}/)[0]);

test("the program of the README prints what its last line says", () => {
  const program = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  const expected = /\/\/ (.*)\s*$/.exec(program)?.[1];
  // Inside the package, so that `sluice/tensor` is found.
  const file = join(root, "dist", "readme-program.mjs");
  writeFileSync(file, program);
  try {
    assert.equal(execFileSync(process.execPath, [file], { encoding: "utf8" }).trim(), expected);
  } finally {
    rmSync(file);
  }
});

test("every command in the README's list exists, and every command is in the list", () => {
  const listed = lines
    .filter((line) => !line.includes("--"))
    .flatMap((line) => {
      const [group, members] = line.split(" ");
      return members ? members.split("|").map((member) => `${group} ${member}`) : [group];
    });
  const missing = listed.filter((name) => !names.some((n) => n === name || n.startsWith(`${name} `)));
  assert.deepEqual(missing, [], "listed, but not in the catalogue");
  const unlisted = names.filter((name) => !listed.some((l) => name === l || name.startsWith(`${l} `)));
  assert.deepEqual(unlisted, [], "in the catalogue, but not listed");
});

test("the README's example command lines parse", async () => {
  for (const line of lines.filter((l) => l.includes("--"))) {
    const words = line.split(" ");
    const entry = catalogue.find((e) => line.startsWith(`${e.name} `));
    assert.ok(entry, `no command for: ${line}`);
    parseArguments(await entry.load(), words.slice(entry.name.split(" ").length));
  }
});

test("the entry points in the README are those of package.json", () => {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const table = readme.split("| entry point")[1].split("\n\n")[0];
  const listed = [...table.matchAll(/`sluice\/(\w+)`/g)].map((match) => match[1]);
  const exported = Object.keys(manifest.exports)
    .map((name) => name.replace("./", ""))
    .filter((name) => name !== "package.json" && name !== "util");
  assert.deepEqual(listed.sort(), exported.sort());
});

test("the README's links lead to files", () => {
  for (const [, target] of readme.matchAll(/\]\(([^):#]+)\)/g))
    assert.ok(existsSync(join(root, target)), target);
});
