import assert from "node:assert/strict";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Document, type OpenTextOptions, openText } from "../../src/text/index.ts";
import { decodeUtf8, invalidUtf8Offset } from "../../src/text/utf8.ts";

async function folder(files: Record<string, string | Buffer>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "sluice-text-"));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(root, name, ".."), { recursive: true });
    await writeFile(join(root, name), content);
  }
  return root;
}

async function read(spec: string | string[], options: OpenTextOptions = {}): Promise<Document[]> {
  const list: Document[] = [];
  for await (const document of await openText(spec, options)) list.push(document);
  return list;
}

test("a text file is one document, a long one several that join to the whole", async () => {
  const text = "Привет, мир.\nLine two — é.\n\n".repeat(200);
  const root = await folder({ "a.txt": text });
  assert.deepEqual(await read(join(root, "a.txt")), [{ id: "a.txt", text }]);
  for (const blockBytes of [7, 64, 1000]) {
    const pieces = await read(join(root, "a.txt"), { blockBytes });
    assert.ok(pieces.length > 1);
    assert.equal(new Set(pieces.map(({ id }) => id)).size, pieces.length);
    // Pieces of white space alone are left out, so compare without it.
    assert.equal(
      pieces
        .map((piece) => piece.text)
        .join("")
        .replace(/\s/g, ""),
      text.replace(/\s/g, ""),
    );
  }
});

test("JSON lines give their text field; bad lines are named by line and byte", async () => {
  const root = await folder({
    "a.jsonl": '{"text": "one"}\n\n{"text": "two", "n": 1}\n',
    "other.jsonl": '{"body": "b"}\n',
    "bad.jsonl": '{"text": "one"}\n{"text": \n',
  });
  assert.deepEqual(await read(join(root, "a.jsonl")), [
    { id: "a.jsonl:1", text: "one" },
    { id: "a.jsonl:3", text: "two" },
  ]);
  assert.deepEqual(await read(join(root, "other.jsonl"), { field: "body" }), [
    { id: "other.jsonl:1", text: "b" },
  ]);
  await assert.rejects(
    read(join(root, "other.jsonl")),
    /line 1 \(byte 0\) has no text field "text"; it has body/,
  );
  await assert.rejects(read(join(root, "bad.jsonl")), /bad\.jsonl: line 2 \(byte 16\) is not JSON/);
});

test("a folder is read recursively in order, without binaries and node_modules", async () => {
  const root = await folder({
    "b.md": "b",
    "a/x.py": "x",
    "a/y.png": "no",
    "node_modules/z.js": "no",
    "c.jsonl": '{"text":"c"}',
  });
  assert.deepEqual(
    (await read(root)).map(({ id }) => id),
    ["a/x.py", "b.md", "c.jsonl:1"],
  );
});

test("invalid UTF-8 is reported by file and byte, also behind the first block, or replaced", async () => {
  const root = await folder({
    "a.txt": Buffer.concat([Buffer.from("é".repeat(50)), Buffer.from([0xff]), Buffer.from("end")]),
  });
  const file = join(root, "a.txt");
  await assert.rejects(read(file), /a\.txt: invalid UTF-8 at byte 100 \(0xff\)/);
  await assert.rejects(read(file, { blockBytes: 16 }), /invalid UTF-8 at byte 100/);
  assert.equal((await read(file, { invalid: "replace" }))[0].text, `${"é".repeat(50)}\ufffdend`);
  const cut = await folder({ "cut.txt": Buffer.from([0x61, 0xe2, 0x82]) });
  await assert.rejects(read(join(cut, "cut.txt")), /invalid UTF-8 at byte 1 /);
});

test("the UTF-8 check agrees with the platform's decoder on random bytes", () => {
  const strict = new TextDecoder("utf-8", { fatal: true });
  const leads = [
    0x41, 0x80, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0x9f, 0xa0, 0x8f, 0x90,
  ];
  let seed = 1;
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from({ length: 6 }, () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return leads[seed >>> 28];
    });
    let valid = true;
    try {
      strict.decode(bytes);
    } catch {
      valid = false;
    }
    assert.equal(invalidUtf8Offset(bytes) === -1, valid, Buffer.from(bytes).toString("hex"));
  }
  assert.equal(decodeUtf8(Buffer.from("\ufeffa"), "f"), "a");
});

test("empty texts, empty folders and unknown names are clear errors", async () => {
  const root = await folder({ "a.txt": " \n", "b/x.png": "p" });
  await assert.rejects(read(join(root, "a.txt")), /a\.txt has no text/);
  await assert.rejects(read(join(root, "b")), /has no text files/);
  await assert.rejects(
    openText("moby"),
    /no corpus is called "moby", and there is no such file or folder; did you mean moby-dick\?/,
  );
  await assert.rejects(openText([]), /no text was named/);
});

test("user documents are held out by the hash of their ids, and several texts follow one another", async () => {
  const root = await folder({
    "a.jsonl": Array.from({ length: 2000 }, (_, i) => `{"text":"d${i}"}`).join("\n"),
    "b.txt": "last",
  });
  const file = join(root, "a.jsonl");
  const [train, heldOut] = [await read(file, { split: "train" }), await read(file, { split: "heldout" })];
  assert.equal(train.length + heldOut.length, 2000);
  assert.ok(heldOut.length > 30 && heldOut.length < 90, `${heldOut.length} held out`);
  const both = await read([file, join(root, "b.txt")]);
  assert.equal(both.at(-1)?.text, "last");
  const source = await openText(file);
  for (let pass = 0; pass < 2; pass++) {
    let count = 0;
    for await (const _ of source) count++;
    assert.equal(count, 2000);
  }
});
