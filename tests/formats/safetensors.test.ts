import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  fromFloat32,
  fromInt32,
  type NamedArray,
  openSafetensors,
  readSafetensors,
  readSafetensorsSync,
  toFloat32,
  writeSafetensors,
} from "../../src/formats/index.ts";
import { Rng, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

/** Bytes of a file with this header text and data. */
function raw(header: string, data: Uint8Array = new Uint8Array(0), length?: number): Buffer {
  const json = Buffer.from(header);
  const first = Buffer.alloc(8);
  first.writeBigUInt64LE(BigInt(length ?? json.length));
  return Buffer.concat([first, json, data]);
}

function refused(bytes: Uint8Array): string {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "bad.safetensors");
  fs.writeFileSync(file, bytes);
  try {
    openSafetensors(file).close();
  } catch (error) {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, "input");
    assert.match(error.message, /bad\.safetensors/);
    return error.message;
  }
  assert.fail("the file was accepted");
}

const entry = (dtype: string, shape: unknown, offsets: unknown): string =>
  JSON.stringify({ dtype, shape, data_offsets: offsets });

test("tensors and metadata come back as they were written", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a", "x.safetensors");
  const x = new Rng(1).fillNormal(new Float32Array(6));
  const tensors = {
    w: fromFloat32(x, [2, 3]),
    h: fromFloat32(x, [6], "f16"),
    b: fromFloat32(x, [3, 2], "bf16"),
    i: fromInt32(Int32Array.of(1, -2, 3)),
    flag: { dtype: "bool", shape: [], data: Uint8Array.of(1) } as NamedArray,
    empty: fromFloat32(new Float32Array(0), [0, 4]),
  };
  await writeSafetensors(file, tensors, { format: "pt", note: 'é "quoted"' });
  const sync = readSafetensorsSync(file);
  const back = await readSafetensors(file);
  for (const [name, array] of Object.entries(tensors)) {
    assert.deepEqual(back.get(name), {
      dtype: array.dtype,
      shape: array.shape,
      data: new Uint8Array(array.data),
    });
    assert.deepEqual(sync.get(name), back.get(name));
  }
  const open = openSafetensors(file);
  assert.deepEqual(open.metadata, { format: "pt", note: 'é "quoted"' });
  for (const name of open.names())
    assert.equal(open.info(name).start % Math.min(4, open.info(name).byteLength || 1), 0);
  open.close();
  assert.throws(() => open.readSync("w"), /read after close/);
});

test("rows are read without the rest of the tensor", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.safetensors");
  await writeSafetensors(file, { w: fromFloat32(Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7), [4, 2]) });
  const open = openSafetensors(file);
  const rows = open.readRowsSync("w", 1, 2);
  assert.deepEqual(rows.shape, [2, 2]);
  assert.deepEqual([...toFloat32(rows)], [2, 3, 4, 5]);
  assert.deepEqual(await open.readRows("w", 1, 2), rows);
  assert.throws(() => open.readRowsSync("w", 3, 2), /rows 3\.\.5 are not in "w" \[4,2\]/);
  open.close();
});

test("a lazy tensor is made when it is written, and must be what was announced", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.safetensors");
  const order: string[] = [];
  const lazy = (name: string) => ({
    dtype: "f32" as const,
    shape: [2],
    load: () => {
      order.push(name);
      return fromFloat32(Float32Array.of(1, 2), [2]);
    },
  });
  await writeSafetensors(file, { b: lazy("b"), a: lazy("a") });
  assert.deepEqual(order, ["a", "b"]);
  const before = fs.readFileSync(file);
  const wrong = { dtype: "f32" as const, shape: [3], load: () => fromFloat32(new Float32Array(2), [2]) };
  await assert.rejects(writeSafetensors(file, { wrong }), /"wrong" was announced as f32 \[3\] \(12 bytes\)/);
  assert.deepEqual(fs.readFileSync(file), before);
  assert.deepEqual(fs.readdirSync(temp.path), ["x.safetensors"]);
});

test("an unknown tensor is refused with the nearest names", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.safetensors");
  await writeSafetensors(file, { W_enc: fromFloat32(new Float32Array(1), [1]) });
  const open = openSafetensors(file);
  assert.throws(() => open.readSync("w_enc"), /no tensor "w_enc"; did you mean W_enc\?/);
  open.close();
});

test("a missing file and a folder are named", () => {
  using temp = temporaryFolder();
  assert.throws(() => openSafetensors(path.join(temp.path, "no.safetensors")), /no\.safetensors.*ENOENT/);
  assert.throws(() => openSafetensors(temp.path), SluiceError);
});

test("damaged headers are refused with what is wrong", () => {
  const four = new Uint8Array(4);
  assert.match(refused(Buffer.alloc(0)), /only 0 bytes/);
  assert.match(refused(Buffer.from("abc")), /only 3 bytes/);
  assert.match(refused(raw("{}", four, 1e9)), /header of 1000000000 bytes is announced; this is not/);
  assert.match(refused(raw("{}", four, 7)), /header of 7 bytes is announced, but only 6 follow/);
  assert.match(refused(raw("", four, 0)), /0 bytes is announced/);
  assert.match(refused(Buffer.alloc(64, 0xff)), /not a safetensors file/);
  assert.match(refused(raw('{"a":')), /not valid JSON/);
  assert.match(refused(raw("[1, 2]")), /not a JSON object/);
  assert.match(
    refused(Buffer.concat([raw("").fill(3, 0, 1), Buffer.from("{\xff}", "latin1")])),
    /not valid JSON/,
  );
  assert.match(refused(raw('{"__metadata__":{"a":1}}')), /__metadata__ "a" is not a string/);
  assert.match(refused(raw('{"__metadata__":"x"}')), /__metadata__.*not an object/);
});

test("bad entries are refused with the name of the tensor", () => {
  const four = new Uint8Array(4);
  assert.match(refused(raw('{"a":3}', four)), /tensor "a": its entry is not an object/);
  assert.match(refused(raw(`{"a":${entry("F31", [1], [0, 4])}}`, four)), /"a": unknown dtype F31/);
  assert.match(refused(raw(`{"a":${entry("toString", [1], [0, 4])}}`, four)), /unknown dtype toString/);
  assert.match(refused(raw('{"a":{"shape":[1],"data_offsets":[0,4]}}', four)), /dtype is missing/);
  assert.match(refused(raw(`{"a":${entry("F32", [-1], [0, 4])}}`, four)), /shape must be a list/);
  assert.match(refused(raw(`{"a":${entry("F32", [1.5], [0, 4])}}`, four)), /shape must be a list/);
  assert.match(refused(raw(`{"a":${entry("F32", 1, [0, 4])}}`, four)), /shape must be a list/);
  assert.match(refused(raw(`{"a":${entry("F32", [1], [0])}}`, four)), /data_offsets must be two/);
  assert.match(refused(raw(`{"a":${entry("F32", [1], [4, 0])}}`, four)), /takes 4 bytes.*hold -4/);
  assert.match(refused(raw(`{"a":${entry("F32", [2], [0, 4])}}`, four)), /f32 \[2\] takes 8 bytes.*hold 4/);
  assert.match(
    refused(raw(`{"a":${entry("F32", [2 ** 40, 2 ** 40], [0, 4])}}`, four)),
    /shape \[1099511627776,1099511627776\] is too large/,
  );
});

test("tensors must cover the data exactly", () => {
  const a = entry("F32", [1], [0, 4]);
  assert.match(refused(raw(`{"a":${a}}`)), /"a" ends at byte .*truncated/);
  assert.match(refused(raw(`{"a":${a}}`, new Uint8Array(5))), /1 bytes follow the last tensor/);
  assert.match(refused(raw(`{"a":${a},"b":${a}}`, new Uint8Array(4))), /"b" overlaps the tensor before it/);
  const gap = entry("F32", [1], [8, 12]);
  assert.match(refused(raw(`{"a":${a},"b":${gap}}`, new Uint8Array(12))), /"b" leaves a gap before it/);
});

test("duplicate keys are refused, at the top and inside an entry", () => {
  const a = entry("F32", [1], [0, 4]);
  const four = new Uint8Array(4);
  assert.match(refused(raw(`{"a":${a}, "a" :${a}}`, four)), /the key "a" twice/);
  assert.match(refused(raw(`{"a":${a},"\\u0061":${a}}`, four)), /the key "a" twice/);
  const inner = '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}';
  assert.match(refused(raw(inner, four)), /the key "dtype" twice/);
});

test("duplicate keys are refused however far away their colons are", () => {
  const a = entry("F32", [1], [0, 4]);
  const gap = " ".repeat(100);
  assert.match(refused(raw(`{"a"${gap}:${a},"a"${gap}:${a}}`, new Uint8Array(4))), /the key "a" twice/);
});

test("values nested without end are refused in few words", () => {
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  const four = new Uint8Array(4);
  const message = refused(raw(`{"a":{"dtype":"F32","shape":${deep},"data_offsets":[0,4]}}`, four));
  assert.match(message, /shape must be a list of whole numbers, not \[…\]$/);
  const axes = Array.from({ length: 9 }, () => 1);
  assert.match(refused(raw(`{"a":${entry("F32", axes, [0, 4])}}`, four)), /has 9 axes; at most 8/);
});

test("names that are endless or steer a terminal are refused", () => {
  const four = new Uint8Array(4);
  for (const name of ["n".repeat(5000), "\\u001b[2J"]) {
    const message = refused(raw(`{"${name}":${entry("F32", [1], [0, 4])}}`, four));
    assert.match(message, /is no name for an array/);
    assert.ok(message.length < 300 && !message.includes("\u001b"));
  }
});

test("a tensor that is too large to be held is an error, not a crash", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.safetensors");
  const terabyte = 2 ** 40;
  const header = raw(`{"w":${entry("U8", [terabyte], [0, terabyte])}}`);
  fs.writeFileSync(file, header);
  fs.truncateSync(file, header.length + terabyte); // a sparse file: takes no room on the disk
  const open = openSafetensors(file);
  const message = /x\.safetensors: "w" is 1099511627776 bytes, more than can be held in one piece/;
  assert.throws(() => open.readSync("w"), message);
  await assert.rejects(open.read("w"), message);
  open.close();
});

test("a name like __proto__ is only a name", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.safetensors");
  fs.writeFileSync(file, raw(`{"__proto__":${entry("F32", [1], [0, 4])}}`, new Uint8Array(4)));
  const open = openSafetensors(file);
  assert.deepEqual(open.names(), ["__proto__"]);
  open.close();
});

test("mutated and truncated files never do worse than a SluiceError", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "fuzz.safetensors");
  const header =
    `{"__metadata__":{"format":"pt"},"a":${entry("F32", [2, 2], [0, 16])},` +
    `"b":${entry("I32", [3], [16, 28])},"c":${entry("F16", [], [28, 30])}}`;
  const good = raw(header, new Uint8Array(30));
  const pool = Buffer.from('{}[]",:0123456789eE+-.\\u\x00\xff nulltrue_F32', "latin1");
  const rng = new Rng(2024);
  let accepted = 0;
  for (let i = 0; i < 3000; i++) {
    let bytes = Buffer.from(good);
    for (let n = 1 + rng.int(3); n > 0; n--) {
      const at = rng.int(bytes.length);
      const kind = rng.int(5);
      if (kind === 0) bytes = bytes.subarray(0, at);
      else if (kind === 1) bytes[at] = rng.int(256);
      else if (kind === 2) bytes[at] = pool[rng.int(pool.length)];
      else if (kind === 3) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + rng.int(9))]);
      else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(rng.int(at + 1))]);
      if (bytes.length === 0) break;
    }
    fs.writeFileSync(file, bytes);
    try {
      const open = openSafetensors(file);
      for (const name of open.names()) toFloat32(open.readSync(name));
      open.close();
      accepted++;
    } catch (error) {
      assert.ok(error instanceof SluiceError, `${bytes.toString("latin1")}\n${(error as Error).stack}`);
    }
  }
  assert.ok(accepted < 1500, `${accepted} of 3000 were accepted`);
});
