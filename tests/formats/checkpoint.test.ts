import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  fromFloat32,
  openCheckpoint,
  openModelFolder,
  toFloat32,
  writeCheckpoint,
} from "../../src/formats/index.ts";
import { temporaryFolder } from "../temporary.ts";

const tensors = {
  a: fromFloat32(Float32Array.of(1, 2), [2]),
  b: fromFloat32(Float32Array.of(3, 4, 5), [3]),
  c: fromFloat32(Float32Array.of(6), [1]),
};

test("a small checkpoint is one file, a large one is split, and both read alike", async () => {
  using temp = temporaryFolder();
  assert.deepEqual(await writeCheckpoint(temp.path, tensors), ["model.safetensors"]);
  const one = openCheckpoint(temp.path);
  assert.deepEqual([...toFloat32(one.readSync("b"))], [3, 4, 5]);
  one.close();

  const files = await writeCheckpoint(temp.path, tensors, { maxShardBytes: 16 });
  assert.deepEqual(files, [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
  ]);
  assert.deepEqual(fs.readdirSync(temp.path).sort(), files);
  const index = JSON.parse(fs.readFileSync(path.join(temp.path, files[2]), "utf8"));
  assert.deepEqual(index, {
    metadata: { total_size: 24 },
    weight_map: { a: files[0], b: files[1], c: files[1] },
  });
  const split = openCheckpoint(temp.path);
  assert.deepEqual(split.names(), ["a", "b", "c"]);
  assert.deepEqual([...toFloat32(await split.read("c"))], [6]);
  assert.deepEqual(split.info("b").shape, [3]);
  assert.throws(() => split.readSync("bb"), /no tensor "bb"; did you mean/);
  split.close();
});

test("a missing shard, a wrong index and a path in the index are named", async () => {
  using temp = temporaryFolder();
  const files = await writeCheckpoint(temp.path, tensors, { maxShardBytes: 16 });
  const indexPath = path.join(temp.path, files[2]);
  const index = JSON.parse(fs.readFileSync(indexPath, "utf8"));
  const withMap = (map: unknown) =>
    fs.writeFileSync(indexPath, JSON.stringify({ ...index, weight_map: map }));

  withMap({ ...index.weight_map, c: files[0] });
  assert.throws(() => openCheckpoint(temp.path).readSync("c"), /says that "c" is in .*00001.*but it is not/);
  withMap({ c: "../secret.safetensors" });
  assert.throws(() => openCheckpoint(temp.path), /"c" is said to be in "\.\.\/secret\.safetensors"/);
  withMap(undefined);
  assert.throws(() => openCheckpoint(temp.path), /weight_map is missing/);
  withMap(index.weight_map);
  fs.rmSync(path.join(temp.path, files[1]));
  assert.throws(() => openCheckpoint(temp.path), /shard model-00002-of-00002.safetensors is missing/);
});

test("a folder without weights says so, and names a pickle if there is one", () => {
  using temp = temporaryFolder();
  assert.throws(() => openCheckpoint(path.join(temp.path, "no")), /cannot open .*no such file/);
  fs.writeFileSync(path.join(temp.path, "pytorch_model.bin"), "");
  assert.throws(() => openCheckpoint(temp.path), /pytorch_model.bin is not readable here/);
  assert.throws(() => openModelFolder(temp.path), /no config.json/);
  fs.writeFileSync(path.join(temp.path, "config.json"), "[1]");
  fs.rmSync(path.join(temp.path, "pytorch_model.bin"));
  assert.throws(() => openModelFolder(temp.path), /neither model.safetensors nor/);
});

test("the content hash tells weights apart", async () => {
  using temp = temporaryFolder();
  const hashOf = async (value: number) => {
    await writeCheckpoint(temp.path, { a: fromFloat32(Float32Array.of(value), [1]) });
    const open = openCheckpoint(temp.path);
    const hash = await open.contentHash();
    open.close();
    return hash;
  };
  assert.equal(await hashOf(1), await hashOf(1));
  assert.notEqual(await hashOf(1), await hashOf(2));
});
