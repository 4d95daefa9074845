import assert from "node:assert/strict";
import { mkdtemp, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { deflateSync, gzipSync } from "node:zlib";
import {
  corpusByName,
  corpusDocuments,
  type Document,
  ensureCorpus,
  listCorpora,
} from "../../src/text/index.ts";
import { htmlToText, osisToText, podToText, roffToText, rstToText, unwrap } from "../../src/text/markup.ts";
import { detokenise } from "../../src/text/readers/brown.ts";
import { looksGenerated, stripLicenceHeader } from "../../src/text/readers/code.ts";
import { dictdNumber, synsetLine } from "../../src/text/readers/lexical.ts";
import { statements } from "../../src/text/readers/metamath.ts";
import { characterVector, rdbObjects } from "../../src/text/readers/rdata.ts";
import { swordBlocks } from "../../src/text/readers/sword.ts";
import { tarEntries, untar } from "../../src/text/untar.ts";

async function all(documents: AsyncIterable<Document>): Promise<Document[]> {
  const list: Document[] = [];
  for await (const document of documents) list.push(document);
  return list;
}

test("the catalogue has unique names, licences and held-out rules", () => {
  const corpora = listCorpora();
  assert.equal(new Set(corpora.map(({ name }) => name)).size, corpora.length);
  for (const { name, licence, heldOut, source } of corpora) {
    assert.ok(licence.length > 2, name);
    assert.ok(
      source.packages.every(({ version }) => /^\d/.test(version)),
      name,
    );
    if (heldOut.kind === "hash") assert.ok(heldOut.share > 0 && heldOut.share <= 0.1, name);
  }
});

test("an unknown corpus is answered with the nearest name", () => {
  assert.throws(() => corpusByName("browm"), /no corpus is called "browm"; did you mean brown\?/);
});

test("sotu has 233 speeches, of which the held-out ones are in no training split", async () => {
  const speeches = await all(corpusDocuments("sotu"));
  assert.equal(speeches.length, 233);
  assert.match(speeches[0].text, /^Fellow[- ]Citizens of the Senate/i);
  const train = new Set((await all(corpusDocuments("sotu", { split: "train" }))).map(({ id }) => id));
  const heldOut = await all(corpusDocuments("sotu", { split: "heldout" }));
  assert.ok(heldOut.length >= 3);
  assert.equal(train.size + heldOut.length, 233);
  assert.ok(heldOut.every(({ id }) => !train.has(id)));
});

test("brown reads as running text with its genre", async () => {
  const texts = await all(corpusDocuments("brown"));
  assert.equal(texts.length, 500);
  assert.equal(new Set(texts.map(({ meta }) => meta?.genre)).size, 15);
  assert.match(
    texts[0].text,
    /^The Fulton County Grand Jury said Friday an investigation of Atlanta's recent primary election produced "no evidence" that any irregularities took place\.\n\n/,
  );
  assert.ok(texts.every(({ text }) => !/\/[a-z]{2}\b.*\/[a-z]{2}\b/.test(text.slice(0, 200))));
});

test("a manifest counts documents and characters and is read back", async () => {
  const cacheDir = await mkdtemp(join(tmpdir(), "sluice-cache-"));
  const first = await ensureCorpus("moby-dick", { cacheDir });
  assert.equal(first.manifest.documents, 138);
  assert.ok(first.manifest.characters > 1_100_000);
  assert.match(first.manifest.sha256, /^[0-9a-f]{64}$/);
  assert.deepEqual((await ensureCorpus("moby-dick", { cacheDir })).manifest, first.manifest);
});

test("tagged words become text: quotes, brackets and punctuation stick where they belong", () => {
  assert.equal(
    detokenise("``/`` Yes/rb ,/, ''/'' he/pps said/vbd (/( twice/rb )/) ;/; ;/; 1/2/cd"),
    '"Yes," he said (twice); 1/2',
  );
});

test("hard-wrapped lines are joined and indented ones stay", () => {
  assert.equal(
    unwrap("One two\nthree.\n\n\nFour\nfive:\n    code a\n    code b\n"),
    "One two three.\n\nFour five:\n    code a\n    code b",
  );
  assert.equal(unwrap("a\r\nb"), "a b");
});

test("markup turns into plain text", () => {
  assert.equal(
    htmlToText("<head><title>x</title></head><p>A &amp;&nbsp;<b>B</b>&#8212;c</p><p>D<br>E</p>"),
    "A & B—c\n\nD\nE",
  );
  assert.equal(
    osisToText('<title>T</title><w lemma="x">In</w> the<note>n</note> day<div type="x-p" eID="1"/>Next'),
    "T\n\nIn the day\n\nNext",
  );
  assert.equal(
    podToText("=head1 NAME\n\nB<perl> - the I<L<x|perlx>>\nlanguage C<< a->b >>\n\n  code\n\n=cut\n"),
    "NAME\n\nperl - the x language a->b\n\n  code",
  );
  assert.equal(rstToText("A :ref:`label <x>` and ``code``\nmore."), "A label and `code` more.");
  assert.equal(
    roffToText(".TH X 1\n.SH NAME\nx \\- does\n.B things\nnow\n.PP\n\\fIy\\fP"),
    "NAME\n\nx - does things now\n\ny",
  );
});

test("dictionary lines are read", () => {
  assert.equal(
    synsetLine("00005930 03 n 02 dwarf 0 small_person 1 001 @ 0 n 0 | a plant that is small  "),
    "dwarf, small person: a plant that is small",
  );
  assert.equal(dictdNumber("BA"), 64);
  assert.equal(dictdNumber("kWP"), 36 * 4096 + 22 * 64 + 15);
});

test("metamath comments lose their markup and keep the statement", () => {
  const [one] = statements(
    "$( Deduction form of ~ dvelimf for ` A = B ` .  (Contributed by NM, 7-Apr-2004.) $)\n x1 $p |- ( A\n -> B ) $= ? $.",
  );
  assert.deepEqual(one, { id: "x1", text: "Deduction form of dvelimf for A = B.\n|- ( A -> B )" });
});

test("minified code is recognised and licence headers are dropped", () => {
  assert.ok(looksGenerated("x".repeat(2000)));
  assert.ok(!looksGenerated("const a = 1;\n".repeat(30)));
  assert.equal(stripLicenceHeader(`/* Copyright ${"x".repeat(300)} */\ncode`), "\ncode");
  assert.equal(stripLicenceHeader("/* short */\ncode"), "/* short */\ncode");
});

test("a SWORD block that ends outside its file is named", () => {
  const block = deflateSync(Buffer.from("In the beginning"));
  const index = Buffer.alloc(24);
  index.writeUInt32LE(block.length, 4);
  assert.deepEqual(swordBlocks(index, block, "ot"), ["In the beginning", ""]);
  index.writeUInt32LE(5, 0);
  assert.throws(() => swordBlocks(index, block, "ot"), /ot: SWORD block 0 ends at byte/);
});

test("an R character vector is read from its serialisation", () => {
  const strings = ["EMMA", "", "By Jane Austen"];
  const parts = [Buffer.from("580a000000030004020100030500000000055554462d380000001000000003", "hex")];
  for (const text of strings) {
    const header = Buffer.from("0004000900000000", "hex");
    header.writeInt32BE(text.length, 4);
    parts.push(header, Buffer.from(text));
  }
  const object = Buffer.concat(parts);
  assert.deepEqual(characterVector(object), strings);
  const compressed = deflateSync(object);
  const rdb = Buffer.concat([Buffer.alloc(4), compressed, Buffer.alloc(4), compressed]);
  assert.equal([...rdbObjects(rdb, "x.rdb")].length, 2);
  assert.throws(() => [...rdbObjects(Buffer.alloc(20), "x.rdb")], /x\.rdb: no zlib stream at byte 4/);
});

function tarFile(path: string, data: string): Buffer {
  const header = Buffer.alloc(512);
  header.write(path, 0);
  header.write(data.length.toString(8).padStart(11, "0"), 124);
  header.write("0", 156);
  return Buffer.concat([header, Buffer.from(data), Buffer.alloc((512 - (data.length % 512)) % 512)]);
}

test("tar entries are read, and paths that leave the package are refused", async () => {
  const tgz = gzipSync(
    Buffer.concat([tarFile("package/a.txt", "hello"), tarFile("package/b/c", ""), Buffer.alloc(1024)]),
  );
  assert.deepEqual(
    [...tarEntries(tgz, "x")].map(({ path, data }) => [path, data.toString()]),
    [
      ["package/a.txt", "hello"],
      ["package/b/c", ""],
    ],
  );
  const folder = await mkdtemp(join(tmpdir(), "sluice-tar-"));
  await assert.rejects(untar(gzipSync(tarFile("package/../../x", "")), folder, "x"), /leaves the package/);
  assert.throws(
    () => [...tarEntries(gzipSync(tarFile("package/a", "hello").subarray(0, 513)), "x")],
    /damaged tar header/,
  );
  assert.throws(() => [...tarEntries(Buffer.from("no"), "x")], /not a gzip file/);
});

test("parsers of foreign bytes never loop or crash on noise", () => {
  let seed = 7;
  const random = () => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed / 2 ** 32;
  };
  const alphabet = "<>&;#x1/ \n\t$()~`.\\\"'=abfTHP{}%|:";
  for (let round = 0; round < 300; round++) {
    const text = Array.from({ length: 200 }, () => alphabet[Math.floor(random() * alphabet.length)]).join("");
    for (const clean of [htmlToText, osisToText, podToText, rstToText, roffToText, unwrap, detokenise]) {
      assert.equal(typeof clean(text), "string");
    }
    for (const { text: found } of statements(text)) assert.ok(found.length > 0);
    const bytes = Buffer.from(Uint8Array.from({ length: 200 }, () => Math.floor(random() * 256)));
    assert.ok(Array.isArray(characterVector(bytes)));
    assert.throws(() => swordBlocks(bytes, Buffer.alloc(10), "noise"));
    assert.throws(() => [...tarEntries(bytes, "noise")]);
  }
});

test("without npm or apt the installation says what is missing", async () => {
  const cacheDir = await mkdtemp(join(tmpdir(), "sluice-cache-"));
  const path = process.env.PATH;
  process.env.PATH = join(cacheDir, "nothing");
  try {
    await assert.rejects(
      ensureCorpus("spdx", { cacheDir }),
      /corpus spdx could not be installed: `npm` was not found: npm comes with Node\.js/,
    );
    await assert.rejects(
      ensureCorpus("jargon", { cacheDir }),
      /corpus jargon could not be installed: `apt-get` was not found: this corpus is a Debian package/,
    );
  } finally {
    process.env.PATH = path;
  }
  assert.deepEqual((await readdir(cacheDir, { recursive: true })).sort(), ["deb", "npm"]);
});
