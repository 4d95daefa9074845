import assert from "node:assert/strict";
import * as path from "node:path";
import { test } from "node:test";
import {
  fromFloat32,
  fromInt32,
  openArrays,
  PickledTensor,
  PickledTuple,
  parseNpy,
  parsePickle,
  toFloat32,
  typedView,
  writeNpz,
  writeTorch,
} from "../../src/formats/index.ts";
import { SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

/** Opcodes by their letters; numbers are bytes. */
const pickle = (...parts: readonly (string | number)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) => (typeof part === "number" ? Buffer.from([part]) : Buffer.from(part, "latin1"))),
  );
const text = (value: string): string => `X${String.fromCharCode(value.length)}\0\0\0${value}`;

const refused = (bytes: Uint8Array, message: RegExp): void =>
  assert.throws(
    () => parsePickle("f.pt", bytes),
    (error) => error instanceof SluiceError && error.code === "input" && message.test(error.message),
    String(message),
  );

test("plain values come out as they are", () => {
  // {'a': [1, -1, 2.5, None, True], 'b': (1, 'x')}
  const value = parsePickle(
    "f",
    pickle(
      "\x80\x02}(",
      text("a"),
      "](K\x01J\xff\xff\xff\xffG\x40\x04\0\0\0\0\0\0N\x88e",
      text("b"),
      "K\x01",
      text("x"),
      "\x86u.",
    ),
  );
  assert.ok(value instanceof Map);
  assert.deepEqual(value.get("a"), [1, -1, 2.5, null, true]);
  assert.deepEqual(value.get("b"), new PickledTuple([1, "x"]));
  assert.equal(parsePickle("f", pickle("\x80\x02\x8a\x02\x00\x80.")), -32768);
});

test("whatever can run Python is refused by name", () => {
  refused(pickle("\x80\x02cos\nsystem\n(", text("id"), "tR."), /asks for "os\.system"/);
  refused(pickle("\x80\x02cbuiltins\neval\n."), /asks for "builtins\.eval"/);
  refused(pickle("\x80\x02(ios\nsystem\n."), /opcode 0x69 \(INST\)/);
  refused(pickle("\x80\x02(ccollections\nOrderedDict\no."), /opcode 0x6f \(OBJ\)/);
  refused(pickle("\x80\x02ccollections\nOrderedDict\n)\x81."), /opcode 0x81 \(NEWOBJ\)/);
  refused(pickle("\x80\x02", text("os"), text("system"), "\x93."), /opcode 0x93 \(STACK_GLOBAL\)/);
  refused(pickle("\x80\x02\x82\x01."), /opcode 0x82 \(EXT1\)/);
  refused(pickle("\x80\x02]}b."), /sets attributes \(BUILD\) of something that is no state dict/);
  refused(pickle("\x80\x02ctorch\nFloatStorage\n)R."), /calls "torch\.FloatStorage"/);
  refused(pickle("\x80\x04."), /is of protocol 4/);
  refused(pickle("\x80\x02ctorch\nFloatStorage\n."), /uses "torch\.FloatStorage" as a value/);
});

test("damaged pickles are refused", () => {
  refused(pickle(""), /ends early/);
  refused(pickle("\x80\x02X\xff\xff\xff\x7f"), /ends early/);
  refused(pickle("\x80\x02h\x05."), /recalls value 5/);
  refused(pickle("\x80\x02t."), /no mark/);
  refused(pickle("\x80\x02K\x01K\x02."), /values left over/);
  refused(pickle("\x80\x02}(K\x01u."), /key without a value/);
  refused(pickle("\x80\x02K\x01a."), /empty stack|no list/);
  refused(pickle("\x80\x02\x8a\xff", "x".repeat(255), "."), /a number of 255 bytes/);
  refused(pickle("\x80\x02\x8a\x08", "\xff".repeat(7), "\x7f."), /beyond 2\^53/);
  refused(pickle("\x80\x02", "(".repeat(200_000)), /nested too deeply/);
});

/** `_rebuild_tensor_v2(storage of n, offset, shape, strides)` */
const tensor = (n: number, offset: number, shape: readonly number[], strides: readonly number[], key = "0") =>
  pickle(
    "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((",
    text("storage"),
    "ctorch\nFloatStorage\n",
    text(key),
    text("cpu"),
    `K${String.fromCharCode(n)}tQK${String.fromCharCode(offset)}(`,
    ...shape.map((s) => `K${String.fromCharCode(s)}`),
    "t(",
    ...strides.map((s) => `K${String.fromCharCode(s)}`),
    "t\x89ccollections\nOrderedDict\n)RtR.",
  );

test("tensors lie inside their storage, and are not larger than it", () => {
  const good = parsePickle("f", tensor(6, 0, [2, 3], [1, 2]));
  assert.ok(good instanceof PickledTensor);
  assert.deepEqual([good.shape, good.strides, good.storage.length], [[2, 3], [1, 2], 6]);
  refused(tensor(6, 1, [2, 3], [3, 1]), /shape \[2,3\], strides \[3,1\] at 1 of a storage of 6 elements/);
  refused(tensor(1, 0, [200, 200], [0, 0]), /of a storage of 1 elements/);
  refused(tensor(6, 0, [2, 3], [1]), /makes a tensor of shape/);
  refused(tensor(6, 0, [6], [1], "../x"), /refers to the storage "\.\.\/x"/);
});

test("a written state dict comes back bit for bit, whatever its types and shapes", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a.pt");
  const matrix = Float32Array.from({ length: 600 }, (_, i) => Math.fround(Math.sin(i)));
  await writeTorch(file, {
    matrix: fromFloat32(matrix, [2, 300]),
    half: fromFloat32(matrix, [600], "f16"),
    brain: fromFloat32(matrix, [600], "bf16"),
    double: fromFloat32(matrix, [600], "f64"),
    count: fromInt32(Int32Array.of(7), []),
    empty: fromFloat32(new Float32Array(0), [0, 3]),
  });
  const arrays = openArrays(file);
  assert.equal(arrays.container, "torch");
  assert.deepEqual(arrays.names(), ["matrix", "half", "brain", "double", "count", "empty"]);
  assert.deepEqual(toFloat32(arrays.read("matrix")), matrix);
  assert.deepEqual(arrays.read("matrix").shape, [2, 300]);
  assert.deepEqual(toFloat32(arrays.read("double")), matrix);
  const bytes = (data: Uint8Array): Uint8Array => Uint8Array.from(data);
  assert.deepEqual(bytes(arrays.read("half").data), bytes(fromFloat32(matrix, [600], "f16").data));
  assert.deepEqual(bytes(arrays.read("brain").data), bytes(fromFloat32(matrix, [600], "bf16").data));
  assert.deepEqual([...typedView(arrays.read("count") as never)], [7]);
  assert.deepEqual(arrays.read("empty").shape, [0, 3]);
  arrays.close();
});

test("numpy arrays come back, and headers that are not numpy's are refused", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a.npz");
  const data = Float32Array.of(1, 2, 3, 4, 5, 6);
  await writeNpz(file, {
    a: fromFloat32(data, [2, 3]),
    b: fromFloat32(data, [6]),
    c: fromFloat32(data.slice(0, 1), []),
  });
  const arrays = openArrays(file);
  assert.equal(arrays.container, "npz");
  assert.deepEqual(
    ["a", "b", "c"].map((name) => arrays.read(name).shape),
    [[2, 3], [6], []],
  );
  assert.deepEqual(toFloat32(arrays.read("a")), data);
  arrays.close();

  const npy = (header: string, bytes = 24): Uint8Array => {
    const start = Buffer.from("\x93NUMPY\x01\0\0\0", "latin1");
    start.writeUInt16LE(header.length, 8);
    return Buffer.concat([start, Buffer.from(header), Buffer.alloc(bytes)]);
  };
  const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  assert.deepEqual(parseNpy("f", npy(header)).shape, [2, 3]);
  const bad = (text: string, message: RegExp) => assert.throws(() => parseNpy("f", npy(text)), message);
  bad(header.replace("(2, 3)", "(2, 4)"), /takes 32 bytes, but 24 follow/);
  bad(header.replace("(2, 3)", "(99999999999, 99999999999)"), /is too large/);
  bad(header.replace("(2, 3)", "__import__('os')"), /not one that numpy writes/);
  bad(header.replace("<f4", "|O"), /Python objects, which are never loaded/);
  bad(header.replace("<f4", ">f4"), /dtype >f4 is not supported/);
  bad(`${header.slice(0, -1)}${" ".repeat(60_000)}x`, /a header of \d+ bytes/); // matching it would take seconds
  assert.throws(() => parseNpy("f", npy(header).subarray(0, 20)), /header ends beyond the file/);
  assert.throws(() => parseNpy("f", Buffer.from("no")), /is not a \.npy file/);
});
