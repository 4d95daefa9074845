import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { commandName, packageCommit, shellWord } from "../../src/cli/package.ts";
import { temporaryFolder } from "../temporary.ts";

test("command lines to copy begin with what the program was called by", () => {
  const script = { npm_package_name: "sluice", npm_command: "run-script" };
  assert.equal(commandName({}), "sluice");
  assert.equal(commandName({ ...script, npm_lifecycle_event: "sluice" }), "npm run --silent sluice --");
  assert.equal(commandName({ ...script, npm_lifecycle_event: "demo" }), "npm run --silent sluice --");
  assert.equal(commandName({ ...script, npm_command: "test", npm_lifecycle_event: "test" }), "sluice");
  assert.equal(
    commandName({ ...script, npm_package_name: "other", npm_lifecycle_event: "demo" }),
    "sluice",
    "a script of another package",
  );
  assert.equal(commandName({ npm_command: "exec", npm_lifecycle_event: "npx" }), "npx sluice");
});

test("words that a shell would take apart are quoted", () => {
  assert.equal(shellWord("out/sae-1.0"), "out/sae-1.0");
  assert.equal(shellWord("my acts"), "'my acts'");
  assert.equal(shellWord("it's $HOME"), "'it'\\''s $HOME'");
  assert.equal(shellWord(""), "''");
});

test("the commit of a clone is read from its branch, packed or not, and from a worktree", () => {
  using temp = temporaryFolder();
  const at = (...parts: string[]) => path.join(temp.path, ...parts);
  const write = (file: string, text: string) => {
    fs.mkdirSync(path.dirname(file), { recursive: true });
    fs.writeFileSync(file, text);
  };
  const a = "a".repeat(40);
  const b = "b".repeat(40);
  assert.equal(packageCommit(temp.path), undefined);
  write(at(".git", "HEAD"), "ref: refs/heads/main\n");
  assert.equal(packageCommit(temp.path), undefined, "a branch without a commit");
  write(at(".git", "packed-refs"), `# pack-refs with: peeled\n${b} refs/heads/main\n`);
  assert.equal(packageCommit(temp.path), b);
  write(at(".git", "refs", "heads", "main"), `${a}\n`);
  assert.equal(packageCommit(temp.path), a);
  write(at("tree", ".git"), "gitdir: ../.git/worktrees/tree\n");
  write(at(".git", "worktrees", "tree", "HEAD"), "ref: refs/heads/main\n");
  write(at(".git", "worktrees", "tree", "commondir"), "../..\n");
  assert.equal(packageCommit(at("tree")), a);
  write(at(".git", "HEAD"), `${b}\n`);
  assert.equal(packageCommit(temp.path), b, "no branch");
});
