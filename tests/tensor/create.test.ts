/**
 * Making a device in a package whose kernels were never built: a copy of src/tensor in a folder of its own.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { buildCommand } from "../../src/tensor/native/addon.ts";
import { temporaryFolder } from "../temporary.ts";

const built = fileURLToPath(new URL("../../src", import.meta.url));

/** Runs a program with `createDevice` and `loadAddon` of an installed package without kernels. */
function withoutKernels(program: string): { stdout: string; stderr: string } {
  using temp = temporaryFolder();
  const root = join(temp.path, "node_modules", "sluice");
  mkdirSync(join(root, "native"), { recursive: true });
  writeFileSync(join(root, "native", "binding.gyp"), "{}");
  writeFileSync(join(root, "package.json"), '{ "type": "module" }');
  for (const folder of ["tensor", "util"])
    cpSync(join(built, folder), join(root, folder), { recursive: true });
  const module = (path: string) => JSON.stringify(pathToFileURL(join(root, path)).href);
  const source = `
    import { createDevice } from ${module("tensor/index.js")};
    import { loadAddon } from ${module("tensor/native/addon.js")};
    ${program}
  `;
  const done = spawnSync(process.execPath, ["--input-type=module", "--eval", source], { encoding: "utf8" });
  assert.equal(done.status, 0, done.stderr);
  return done;
}

test("without native kernels a device is ref by default, and says so once", () => {
  const { stdout, stderr } = withoutKernels(
    "for (const _ of [1, 2]) console.log((await createDevice()).name, (await createDevice({ backend: 'auto' })).name);",
  );
  assert.equal(stdout, "ref ref\nref ref\n");
  assert.equal(stderr.match(/SluiceWarning: computing with the slow reference loops: /g)?.length, 1, stderr);
});

test("the fallback goes to onFallback, and the hint fits an installed package", () => {
  const { stdout, stderr } = withoutKernels("await createDevice({ onFallback: console.log })");
  assert.match(stdout, /^computing with the slow reference loops: native backend: no compiled kernels for /);
  assert.match(stdout, /Build them with `npm rebuild sluice` \(needs a C\+\+17 compiler/);
  assert.equal(stderr, "");
});

test("a native device without kernels is refused as an io error", () => {
  const { stdout } = withoutKernels(
    "await createDevice({ backend: 'native' }).catch((e) => console.log(e.name, e.code))",
  );
  assert.equal(stdout, "SluiceError io\n");
});

test("a clone is told to build its own kernels", () => {
  assert.equal(buildCommand(join("home", "me", "sluice")), "npm run native");
  assert.equal(buildCommand(join("app", "node_modules", "sluice")), "npm rebuild sluice");
});
