import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { openArrays, writeZip } from "../../src/formats/index.ts";
import { temporaryFolder } from "../temporary.ts";

/** A safetensors file with one tensor, whose header is padded to a length. */
function padded(length: number): Buffer {
  const json = JSON.stringify({ w: { dtype: "F32", shape: [1], data_offsets: [0, 4] } }).padEnd(length);
  const first = Buffer.alloc(8);
  first.writeUInt32LE(length);
  return Buffer.concat([first, Buffer.from(json), Buffer.alloc(4)]);
}

test("a safetensors file is one whatever the length of its header looks like", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x");
  // 0x80 0x01 begins a pickle, 0x50 0x4b 0x03 a zip
  for (const length of [0x80, 0x180, 0x280, 0x034b50]) {
    fs.writeFileSync(file, padded(length));
    const arrays = openArrays(file);
    assert.equal(arrays.container, "safetensors");
    assert.deepEqual(arrays.names(), ["w"]);
    arrays.close();
  }
});

/** What `torch.save({key: 1}, file)` writes, with the key as pickle opcodes. */
const dictOf = (key: string): Buffer => Buffer.from(`\x80\x02}${key}K\x01s.`, "latin1");

test("state dicts with keys that are no names are refused", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.pt");
  const open = async (key: string) => {
    await writeZip(file, [["a/data.pkl", dictOf(key)]]);
    openArrays(file).close();
  };
  await open("X\x01\0\0\0a");
  await assert.rejects(open("K\x05"), /has the key 5, no name; save the state dict/);
  await assert.rejects(open("X\x02\0\0\0\x1b["), /"\\u001b\[" is no name for an array/);
});
