import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import * as zlib from "node:zlib";
import { crc32, writeZip, ZipFile } from "../../src/formats/index.ts";
import { SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

interface Entry {
  name: string;
  /** Bytes in the archive. */
  data: Uint8Array;
  method?: number;
  size?: number;
  crc?: number;
  flags?: number;
  /** Instead of where it is. */
  offset?: number;
  compressedSize?: number;
  localName?: string;
  extra?: Buffer;
}

/** An archive that says whatever the test wants it to say. */
function archive(
  entries: readonly Entry[],
  end: { count?: number; size?: number; offset?: number } = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const e of entries) {
    const { name, data, method = 0, flags = 0, localName = name, extra = Buffer.alloc(0) } = e;
    const { size = data.length, compressedSize = data.length, crc = crc32(data) } = e;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(method, 8);
    local.writeUInt16LE(Buffer.byteLength(localName), 26);
    const whole = Buffer.concat([local, Buffer.from(localName), data]);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(compressedSize, 20);
    central.writeUInt32LE(size, 24);
    central.writeUInt16LE(Buffer.byteLength(name), 28);
    central.writeUInt16LE(extra.length, 30);
    central.writeUInt32LE(e.offset ?? at, 42);
    directory.push(Buffer.concat([central, Buffer.from(name), extra]));
    parts.push(whole);
    at += whole.length;
  }
  const central = Buffer.concat(directory);
  const tail = Buffer.alloc(22);
  tail.writeUInt32LE(0x06054b50, 0);
  tail.writeUInt16LE(end.count ?? entries.length, 8);
  tail.writeUInt16LE(end.count ?? entries.length, 10);
  tail.writeUInt32LE(end.size ?? central.length, 12);
  tail.writeUInt32LE(end.offset ?? at, 16);
  return Buffer.concat([...parts, central, tail]);
}

const hello = Buffer.from("hello");

function opened(
  bytes: Buffer,
  work: (zip: ZipFile) => void = (zip) => zip.names().map((n) => zip.read(n)),
): void {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a.zip");
  fs.writeFileSync(file, bytes);
  const zip = new ZipFile(file);
  try {
    work(zip);
  } finally {
    zip.close();
  }
}

function refused(bytes: Buffer, message: RegExp): void {
  assert.throws(
    () => opened(bytes),
    (error) => error instanceof SluiceError && error.code === "input" && message.test(error.message),
    String(message),
  );
}

test("stored and deflated entries come back, folders are left out", () => {
  const text = Buffer.from("abc".repeat(1000));
  const packed = zlib.deflateRawSync(text);
  const zip = archive([
    { name: "a/", data: Buffer.alloc(0) },
    { name: "a/b", data: hello },
    { name: "c", data: packed, method: 8, size: text.length, crc: crc32(text) },
  ]);
  opened(zip, (file) => {
    assert.deepEqual(file.names(), ["a/b", "c"]);
    assert.deepEqual(Buffer.from(file.read("a/b")), hello);
    assert.deepEqual(Buffer.from(file.read("c")), text);
    assert.throws(() => file.read("c", 100), /is 3000 bytes; at most 100 are expected/);
    assert.throws(() => file.read("d"), /no entry "d"/);
  });
});

test("written archives come back, aligned, with and without zip64, and equal content gives equal bytes", async () => {
  using temp = temporaryFolder();
  for (const zip64 of [false, true]) {
    const file = path.join(temp.path, `${zip64}.zip`);
    const entries = [
      ["x/one", hello],
      ["x/two", Buffer.alloc(300, 7)],
      ["x/none", Buffer.alloc(0)],
    ] as const;
    await writeZip(file, entries, { zip64 });
    const zip = new ZipFile(file);
    for (const [name, content] of entries)
      assert.deepEqual(Buffer.from(zip.read(name)), Buffer.from(content));
    zip.close();
    const bytes = fs.readFileSync(file);
    assert.equal(bytes.indexOf(hello) % 64, 0);
    await writeZip(`${file}2`, entries, { zip64 });
    assert.deepEqual(fs.readFileSync(`${file}2`), bytes);
  }
});

test("damaged archives are refused with what is wrong", () => {
  const good = archive([{ name: "a", data: hello }]);
  refused(good.subarray(0, 20), /without its directory \(truncated/);
  refused(Buffer.alloc(0), /without its directory/);
  refused(archive([{ name: "a", data: hello, crc: 1 }]), /does not match its check sum/);
  refused(archive([{ name: "a", data: hello, localName: "b" }]), /is called "b" by its own header/);
  refused(archive([{ name: "a", data: hello }], { count: 2 }), /ends after 1 of 2 entries/);
  refused(archive([{ name: "a", data: hello }], { offset: 1_000_000 }), /lies beyond its own end/);
  refused(archive([{ name: "a", data: hello, method: 8 }]), /cannot be decompressed|holds/);
  refused(archive([{ name: "a", data: hello, method: 14 }]), /compressed by method 14/);
  refused(archive([{ name: "a", data: hello, flags: 1 }]), /is encrypted/);
  refused(
    archive([
      { name: "a", data: hello },
      { name: "a", data: hello },
    ]),
    /the entry "a" is there twice/,
  );
});

test("names that lead out of the archive are refused", () => {
  for (const name of ["../a", "a/../../b", "/etc/passwd", "a\\b"]) {
    refused(archive([{ name, data: hello }]), /names must stay inside the archive/);
  }
  for (const name of ["a\0b", "\u001b]0;title", "n".repeat(2000)])
    refused(archive([{ name, data: hello }]), /is no name for an array/);
});

test("entries that overlap or lie in the directory are refused", () => {
  refused(
    archive([
      { name: "a", data: hello },
      { name: "b", data: hello, offset: 0, localName: "a" },
    ]),
    /overlaps the entry/,
  );
  refused(
    archive([{ name: "a", data: hello, compressedSize: 500, size: 500 }]),
    /does not fit before the directory/,
  );
  refused(archive([{ name: "a", data: hello, size: 500 }]), /is stored, but has two sizes/);
});

test("zip bombs are refused before anything is decompressed, and lies about sizes while it is", () => {
  const zeros = Buffer.alloc(65 << 20);
  const packed = zlib.deflateRawSync(zeros, { level: 1 });
  const bomb = { name: "a", data: packed, method: 8, size: zeros.length, crc: 0 };
  refused(archive([bomb]), /would grow from \d+ to 68157440 bytes.*zip bomb/);
  refused(archive([{ ...bomb, size: 1000 }]), /holds more than the 1000 bytes that it announces/);
  const small = { ...bomb, size: 40 << 20 };
  refused(
    archive([
      { ...small, name: "a" },
      { ...small, name: "b" },
    ]),
    /83886080 bytes would come out of \d+/,
  );
  const many = Array.from({ length: 10_001 }, (_, i) => ({ name: String(i), data: Buffer.alloc(0) }));
  refused(archive(many), /10001 entries are announced/);
});

test("zip64 sizes beyond 2^53 are refused", () => {
  const extra = Buffer.alloc(20);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(16, 2);
  extra.writeBigUInt64LE(2n ** 60n, 4);
  const huge = { name: "a", data: hello, extra, size: 0xffffffff, compressedSize: 0xffffffff };
  refused(archive([huge]), /a size or offset of 1152921504606846976 bytes is announced/);
  refused(
    archive([{ ...huge, extra: extra.subarray(0, 10) }]),
    /does not fit before|is stored, but has two sizes/,
  );
});

test("the check sum is that of zlib, in one go and in stretches", () => {
  const bytes = Buffer.from("123456789");
  assert.equal(crc32(bytes), 0xcbf43926);
  assert.equal(crc32(bytes.subarray(4), crc32(bytes.subarray(0, 4))), 0xcbf43926);
});
