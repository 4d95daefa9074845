import assert from "node:assert/strict";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
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

test("JSON lines are held out record by record, and several texts follow one another", async () => {
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

/** About `bytes` of paragraphs, each different. */
function paragraphs(bytes: number): string {
  let text = "";
  for (let i = 0; text.length < bytes; i++)
    text += `Paragraph ${i} ${"of some words ".repeat(5 + (i % 40))}\n\n`;
  return text;
}

test("one text file has both splits, disjoint and together the whole", async () => {
  const text = paragraphs(100 << 10);
  const root = await folder({ "a.txt": text, "short.txt": "One.\n\nTwo.\n" });
  const file = join(root, "a.txt");
  const [train, heldOut] = [await read(file, { split: "train" }), await read(file, { split: "heldout" })];
  const names = (documents: Document[]) =>
    documents.flatMap((one) => [...one.text.matchAll(/Paragraph \d+/g)].map(([name]) => name));
  const [trained, held] = [new Set(names(train)), new Set(names(heldOut))];
  assert.ok(held.size > 0 && trained.size > 10 * held.size, `${trained.size} and ${held.size} paragraphs`);
  assert.deepEqual(
    [...held].filter((name) => trained.has(name)),
    [],
  );
  assert.equal(trained.size + held.size, new Set(names(await read(file))).size);
  const length = (documents: Document[]) => documents.reduce((n, one) => n + one.text.length, 0);
  assert.equal(length(train) + length(heldOut), text.length);
  const short = await read(join(root, "short.txt"), { split: "train" });
  assert.deepEqual(short, [{ id: "short.txt", text: "One.\n\nTwo.\n" }]);
});

test("what is held out depends on the text, not on how its path is typed or what it is called", async () => {
  const lines = Array.from({ length: 300 }, (_, i) => `{"text":"record ${i}"}`).join("\n");
  const root = await folder({ "sub/a.txt": paragraphs(90_000), "sub/b.jsonl": lines });
  const other = await folder({ "renamed/c.txt": paragraphs(90_000), "renamed/d.jsonl": lines });
  const held = async (spec: string) =>
    (await read(spec, { split: "heldout" })).map(({ text }) => text).join("\n");
  const whole = await held(root);
  for (const spec of [`${root}/`, `${root}/./`, join(root, "sub"), relative(".", join(root, "sub")), other])
    assert.equal(await held(spec), whole, spec);
  const files = [await held(join(root, "sub", "a.txt")), await held(`${root}/sub/../sub/b.jsonl`)];
  assert.equal(files.join("\n"), whole);
});

test("a block holds at least one character", async () => {
  const root = await folder({ "a.txt": "€𝄞é".repeat(5) });
  const pieces = await read(join(root, "a.txt"), { blockBytes: 4 });
  assert.equal(pieces.map(({ text }) => text).join(""), "€𝄞é".repeat(5));
  for (const blockBytes of [1, 3, 4.5, Number.NaN])
    await assert.rejects(read(join(root, "a.txt"), { blockBytes }), /a\.txt: blockBytes=.*at least 4/);
});
