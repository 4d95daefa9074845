import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TokenFile, TokenFileWriter } from "../../src/text/index.ts";

function write(name: string, documents: number[][], vocabSize = 4096): string {
  const path = join(mkdtempSync(join(tmpdir(), "sluice-tokens-")), name);
  const writer = new TokenFileWriter(path, { vocabSize, tokenizer: "abc", source: "test" });
  for (const document of documents) writer.add(document);
  writer.close();
  return path;
}

test("documents come back as they were written, in 16 and in 32 bits", () => {
  for (const [vocabSize, dtype] of [
    [4096, "uint16"],
    [100_000, "uint32"],
  ] as const) {
    const documents = [[1, 2, 3], [vocabSize - 1], Array.from({ length: 5000 }, (_, i) => i % vocabSize)];
    const file = TokenFile.open(write("a.tokens", documents, vocabSize), { tokenizer: "abc" });
    assert.equal(file.header.dtype, dtype);
    assert.equal(file.tokens, 5004);
    assert.deepEqual(
      documents.map((_, i) => [...file.document(i)]),
      documents,
    );
    assert.deepEqual([...file.read(2, 3)], [3, vocabSize - 1, 0]);
    assert.throws(() => file.read(5000, 5), /tokens 5000 to 5005 asked for, but there are 5004/);
    file.close();
  }
});

test("a file grows past the write buffer", () => {
  const document = Array.from({ length: 700_000 }, (_, i) => i % 4096);
  const file = TokenFile.open(write("big.tokens", [document, document]));
  assert.equal(file.tokens, 1_400_000);
  assert.equal(file.read(1_399_999, 1)[0], 699_999 % 4096);
  file.close();
});

test("interrupted writing leaves no file", () => {
  const path = join(mkdtempSync(join(tmpdir(), "sluice-tokens-")), "x.tokens");
  const writer = new TokenFileWriter(path, { vocabSize: 10, tokenizer: "abc", source: "test" });
  writer.add([1, 2]);
  assert.throws(() => writer.add([10]), /token id 10 is outside the vocabulary of 10/);
  assert.throws(() => TokenFile.open(writer.partial), /not a token file, or its writing was interrupted/);
  writer.discard();
  assert.ok(!existsSync(path) && !existsSync(writer.partial));
});

test("truncated, foreign and damaged files are refused by name", () => {
  const truncated = write("t.tokens", [[1, 2, 3]]);
  truncateSync(truncated, 4100);
  assert.throws(() => TokenFile.open(truncated), /t\.tokens: truncated: 4100 bytes, the header says 4106/);
  truncateSync(truncated, 100);
  assert.throws(() => TokenFile.open(truncated), /not a token file/);
  const foreign = write("f.tokens", [[1]]);
  writeFileSync(foreign, "hello");
  assert.throws(() => TokenFile.open(foreign), /f\.tokens: not a token file/);
  const other = write("o.tokens", [[1]]);
  assert.throws(() => TokenFile.open(other, { tokenizer: "xyz" }), /was made with another tokenizer/);
  assert.throws(() => TokenFile.open(join(tmpdir(), "sluice-no-such.tokens")), /no-such\.tokens/);
  const damaged = write("d.tokens", [[1, 2], [3]]);
  const bytes = readFileSync(damaged);
  bytes.writeUInt32LE(7, bytes.length - 4);
  writeFileSync(damaged, bytes);
  assert.throws(
    () => TokenFile.open(damaged),
    /d\.tokens: damaged: its documents have 9 tokens, the header says 3/,
  );
  const outside = write("v.tokens", [[1, 2]]);
  const changed = readFileSync(outside);
  changed.writeUInt16LE(5000, 4096);
  writeFileSync(outside, changed);
  assert.throws(() => TokenFile.open(outside).read(0, 2), /damaged: token id 5000 near token 0/);
});

test("a damaged byte anywhere in the header is an error or changes only the source's name", () => {
  const path = write("h.tokens", [[1, 2, 3], [4]]);
  const good = readFileSync(path);
  const length = good.indexOf("}") + 1;
  for (let at = 0; at < length; at++) {
    const bad = Buffer.from(good);
    bad[at] ^= 0x15;
    writeFileSync(path, bad);
    try {
      const file = TokenFile.open(path, { tokenizer: "abc" });
      assert.deepEqual([...file.read(0, 4)], [1, 2, 3, 4]);
      file.close();
    } catch (error) {
      assert.match((error as Error).message, /h\.tokens/);
    }
  }
});

test("a token file may be closed twice, and another file that got its number stays open", () => {
  const path = write("c.tokens", [[1, 2, 3]]);
  const file = TokenFile.open(path);
  file.close();
  const other = TokenFile.open(path);
  file.close();
  assert.deepEqual([...other.read(0, 3)], [1, 2, 3]);
  other.close();
});
