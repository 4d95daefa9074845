import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  openJsonLines,
  readJson,
  readJsonLines,
  removeStaleTemps,
  SluiceError,
  writeAtomic,
  writeAtomicSync,
  writeJson,
} from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

const full = (): Error =>
  Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });

test("a file is replaced in one step and folders on the way are made", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a", "b", "x.txt");
  await writeAtomic(file, "one");
  await writeAtomic(file, async (write) => {
    await write("two");
    assert.equal(fs.readFileSync(file, "utf8"), "one");
    await write(Uint8Array.of(33));
  });
  assert.equal(fs.readFileSync(file, "utf8"), "two!");
  writeAtomicSync(file, (write) => write("three"));
  assert.equal(fs.readFileSync(file, "utf8"), "three");
  assert.deepEqual(fs.readdirSync(path.dirname(file)), ["x.txt"]);
});

test("when the disk is full the old file stays and the half-written one goes", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.txt");
  await writeAtomic(file, "old");
  const expected = (error: Error) => {
    assert.ok(error instanceof SluiceError);
    assert.equal(error.code, "io");
    assert.match(error.message, /cannot write .*x\.txt: the disk is full/);
    return true;
  };
  await assert.rejects(
    writeAtomic(file, async (write) => {
      await write("half");
      throw full();
    }),
    expected,
  );
  assert.throws(
    () =>
      writeAtomicSync(file, (write) => {
        write("half");
        throw full();
      }),
    expected,
  );
  assert.equal(fs.readFileSync(file, "utf8"), "old");
  assert.deepEqual(fs.readdirSync(temp.path), ["x.txt"]);
});

test("a real full device gives the same error", (t) => {
  if (!fs.existsSync("/dev/full")) return t.skip("this system has no /dev/full");
  using temp = temporaryFolder();
  const file = path.join(temp.path, "log.jsonl");
  fs.symlinkSync("/dev/full", file);
  const log = openJsonLines(file);
  assert.throws(() => log.append({ a: 1 }), /cannot write .*log\.jsonl: the disk is full.*ENOSPC/);
  log.close();
});

test("a folder that cannot be made is named", async () => {
  using temp = temporaryFolder();
  fs.writeFileSync(path.join(temp.path, "file"), "");
  await assert.rejects(writeAtomic(path.join(temp.path, "file", "x"), "a"), /cannot write .*file/);
});

test("temporary files of a killed process are removed, nothing else", async () => {
  using temp = temporaryFolder();
  const own = `.y.json.tmp-${process.pid}-1`;
  const dead = ".x.json.tmp-999999999-1"; // no process has so large a number
  for (const name of [dead, own, "x.json", ".hidden"]) fs.writeFileSync(path.join(temp.path, name), "");
  assert.deepEqual(removeStaleTemps(temp.path), [dead]);
  assert.deepEqual(fs.readdirSync(temp.path).sort(), [".hidden", own, "x.json"]);
  assert.deepEqual(removeStaleTemps(path.join(temp.path, "none")), []);
});

test("JSON is read with its path in every error", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "a.json");
  await writeJson(file, { a: [1] });
  assert.deepEqual(readJson(file), { a: [1] });
  fs.writeFileSync(file, '\uFEFF{"b":2}');
  assert.deepEqual(readJson(file), { b: 2 });
  fs.writeFileSync(file, '{"a":');
  assert.throws(() => readJson(file), /a\.json: not valid JSON/);
  assert.throws(() => readJson(path.join(temp.path, "b.json")), /cannot read .*b\.json: no such file/);
});

test("JSON lines: a line cut off by a crash is dropped, and writing goes on behind the last whole one", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "metrics.jsonl");
  const first = openJsonLines(file);
  first.append({ step: 1 });
  first.append({ step: 2, text: "é" });
  first.close();
  fs.appendFileSync(file, '{"step":3,"lo');
  assert.deepEqual(readJsonLines(file), [{ step: 1 }, { step: 2, text: "é" }]);
  const second = openJsonLines(file);
  second.append({ step: 3 });
  second.close();
  assert.equal(fs.readFileSync(file, "utf8"), '{"step":1}\n{"step":2,"text":"é"}\n{"step":3}\n');
});

test("JSON lines: on resume, records that will be made again are cut off", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "metrics.jsonl");
  const log = openJsonLines(file);
  for (let step = 1; step <= 5; step++) log.append({ step });
  log.close();
  openJsonLines(file, { keep: (record: { step: number }) => record.step <= 3 }).close();
  assert.deepEqual(readJsonLines(file), [{ step: 1 }, { step: 2 }, { step: 3 }]);
});

test("JSON lines: a bad line in the middle is named", () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "x.jsonl");
  fs.writeFileSync(file, '{"a":1}\n{oops}\n{"a":2}\n');
  assert.throws(() => readJsonLines(file), /x\.jsonl: line 2 is not valid JSON/);
});
