/**
 * The build of the native kernels when the compiler fails: an installation goes on, `npm run native` does not.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "./temporary.ts";

const script = fileURLToPath(new URL("../../scripts/build-native.mjs", import.meta.url));

/** Runs the script in a package under `parents` where node-gyp always fails. */
function failing(parents: readonly string[], ...args: string[]) {
  using temp = temporaryFolder();
  const root = join(temp.path, ...parents, "sluice");
  for (const folder of ["scripts", join("native", "src")]) mkdirSync(join(root, folder), { recursive: true });
  cpSync(script, join(root, "scripts", "build-native.mjs"));
  const gyp = join(temp.path, "node-gyp.js");
  writeFileSync(gyp, 'console.error("gyp ERR! find Python no Python"); process.exit(1);');
  const { SLUICE_SKIP_NATIVE: _, ...env } = process.env;
  return spawnSync(process.execPath, [join(root, "scripts", "build-native.mjs"), ...args], {
    encoding: "utf8",
    env: { ...env, npm_config_node_gyp: gyp },
  });
}

test("an installation goes on without the kernels and says how to build them", () => {
  const { status, stderr } = failing(["node_modules"]);
  assert.equal(status, 0);
  assert.match(stderr, /could not be built \(find Python no Python\).* then run `npm rebuild sluice`/);
});

test("npm run native fails when they cannot be built", () => {
  const { status, stderr } = failing([], "--force");
  assert.equal(status, 1);
  assert.match(stderr, /then run `npm run native`/);
});
