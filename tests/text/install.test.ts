import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { corpusByName, listCorpora, textFingerprint } from "../../src/text/index.ts";
import { installPackages } from "../../src/text/install.ts";
import { temporaryFolder } from "../temporary.ts";

const deb = listCorpora().find(({ source }) => source.kind === "deb" && source.packages.length === 1)!;
const { name, version } = deb.source.packages[0];

/** A package as an earlier run left it in the cache. */
function shelve(cacheDir: string, installed: string): void {
  const folder = join(cacheDir, "deb", `${name}_${installed.replaceAll(":", "%3a")}`);
  mkdirSync(join(folder, "content"), { recursive: true });
  writeFileSync(join(folder, "sha256"), "abc\n");
}

test("a cache folder that cannot be used is named, with the way to another", async () => {
  using temp = temporaryFolder();
  const cacheDir = join(temp.path, "file");
  writeFileSync(cacheDir, "in the way");
  await assert.rejects(installPackages(deb, { cacheDir }), {
    code: "io",
    message: new RegExp(
      `^corpus ${deb.name} could not be installed: cannot install ${name} into .*file \\(SLUICE_CACHE chooses another\\): .*(ENOTDIR|EEXIST)`,
    ),
  });
});

test("another version in the cache is taken with a word each time; of several the newest", async () => {
  using temp = temporaryFolder();
  const cacheDir = temp.path;
  for (const installed of ["0.9-1", "0.10-1", "0.2-1"]) shelve(cacheDir, installed);
  const lines: string[] = [];
  for (let time = 0; time < 2; time++) {
    const [found] = await installPackages(deb, { cacheDir, log: (line) => lines.push(line) });
    assert.equal(found.version, "0.10-1");
  }
  const line = `${name}: the catalogue was written for ${version}; this is 0.10-1`;
  assert.deepEqual(lines, [line, line]);
  shelve(cacheDir, "1:0.1-1");
  assert.equal((await installPackages(deb, { cacheDir }))[0].version, "1:0.1-1");
});

test("a version that is not the catalogue's is part of the fingerprint, the catalogue's own is not", async () => {
  using temp = temporaryFolder();
  const cacheDir = temp.path;
  const plain = await textFingerprint(deb.name, { cacheDir });
  const { source, heldOut } = corpusByName(deb.name);
  assert.deepEqual(Object.keys(plain as object), ["source", "reader", "heldOut"]);
  assert.deepEqual((plain as { source: unknown }).source, source);
  assert.deepEqual((plain as { heldOut: unknown }).heldOut, heldOut);
  shelve(cacheDir, "0.10-1");
  assert.deepEqual(await textFingerprint(deb.name, { cacheDir }), {
    ...(plain as object),
    installed: { [name]: "0.10-1" },
  });
  shelve(cacheDir, version);
  assert.deepEqual(await textFingerprint(deb.name, { cacheDir }), plain);
});
