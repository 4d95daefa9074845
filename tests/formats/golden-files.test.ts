import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  elementCount,
  openModelFolder,
  openSafetensors,
  toFloat32,
  writeSafetensors,
} from "../../src/formats/index.ts";
import { golden, goldenDir, goldenPath } from "../golden.ts";
import { temporaryFolder } from "../temporary.ts";

function filesBelow(folder: string, pattern: RegExp): string[] {
  return fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => pattern.test(name))
    .map((name) => path.join(folder, name));
}

test("every golden safetensors file opens and every tensor has as many elements as its shape says", () => {
  const files = filesBelow(goldenDir(), /\.safetensors$/);
  assert.ok(files.length > 0);
  for (const name of files) {
    const file = openSafetensors(name);
    for (const tensor of file.names()) {
      const array = file.readSync(tensor);
      assert.equal(toFloat32(array).length, elementCount(array.shape), `${name} ${tensor}`);
    }
    file.close();
  }
});

test("the golden files are the ones of the manifest", (t) => {
  if (!fs.existsSync(goldenPath("manifest.json"))) return t.skip("this set of fixtures has no manifest");
  const manifest = fs.readFileSync(goldenPath("manifest.json"), "utf8");
  for (const name of filesBelow(goldenDir(), /\.safetensors$/)) {
    const hash = createHash("sha256").update(fs.readFileSync(name)).digest("hex");
    assert.ok(manifest.includes(hash), `${name} is not in the manifest as it stands`);
  }
});

test("every golden model folder opens, sharded or not, with finite weights", async () => {
  const families = fs
    .readdirSync(goldenPath("models"), { withFileTypes: true })
    .filter((e) => e.isDirectory());
  for (const family of families) {
    const model = openModelFolder(goldenPath("models", family.name));
    assert.equal(typeof model.config.model_type, "string");
    for (const name of model.tensorNames()) {
      const values = toFloat32(await model.read(name));
      assert.ok(values.every(Number.isFinite), `${family.name} ${name}`);
    }
    assert.match(await model.contentHash(), /^sha256:[0-9a-f]{64}$/);
    model.close();
  }
});

test("every golden file written again has the same bytes as Python wrote", async () => {
  using temp = temporaryFolder();
  for (const source of filesBelow(goldenDir(), /\.safetensors$/)) {
    const file = openSafetensors(source);
    const copy = path.join(temp.path, "copy.safetensors");
    await writeSafetensors(copy, new Map(file.names().map((n) => [n, file.readSync(n)])), file.metadata);
    assert.ok(fs.readFileSync(copy).equals(fs.readFileSync(source)), source);
    file.close();
  }
});

test("the golden helper gives numbers by name", () => {
  const file = golden("sae", "topk.safetensors");
  const [batch, width] = file.shape("x");
  assert.equal(file.floats("x").length, batch * width);
  assert.equal(file.ints("indices").length, batch * file.shape("indices")[1]);
  assert.ok(file.scalar("loss.sse") > 0);
  assert.throws(() => file.floats("y"), /has no tensor y: /);
});
