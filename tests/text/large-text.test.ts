/**
 * Text at scale: Parquet, gzip and zstd, from the disk and from datasets of the hub (a local server), in bounded memory.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { DuckDBInstance } from "@duckdb/node-api";
import type { HubOptions } from "../../src/hub/index.ts";
import {
  type Document,
  type OpenTextOptions,
  openText,
  pinText,
  textFingerprint,
} from "../../src/text/index.ts";
import { COMMIT, hubServer } from "../hub/hub-server.ts";
import { temporaryFolder } from "../temporary.ts";

async function read(spec: string | string[], options: OpenTextOptions = {}): Promise<Document[]> {
  const list: Document[] = [];
  for await (const document of await openText(spec, options)) list.push(document);
  return list;
}

const textsOf = async (spec: string, options: OpenTextOptions = {}) =>
  (await read(spec, options)).map(({ text }) => text);

async function sql(statement: string): Promise<void> {
  const instance = await DuckDBInstance.create(":memory:");
  const connection = await instance.connect();
  try {
    await connection.run(statement);
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

const ROWS = 5000;
/** Row i: `i жил-был … `, repeated (i mod 7) + 1 times; every hundredth has no value. */
const line = (i: number): string => `${i} жил-был 🦆 `.repeat((i % 7) + 1);
const SELECT = `SELECT i AS n, CASE WHEN i % 100 = 99 THEN NULL ELSE repeat(i || ' жил-был 🦆 ', i % 7 + 1) END AS text,
  ['a', 'b'] AS list, 'kind ' || (i % 3) AS kind FROM range(${ROWS}) t(i) ORDER BY i`;
const expected = Array.from({ length: ROWS }, (_, i) => i)
  .filter((i) => i % 100 !== 99)
  .map(line);

const writeParquet = (file: string, options = "") =>
  sql(`COPY (${SELECT}) TO '${file}' (FORMAT parquet, ROW_GROUP_SIZE 2048${options})`);

test("a Parquet column is read in order, whatever it is packed and encoded with", async () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "a.parquet");
  for (const how of ["uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"]) {
    await writeParquet(file, `, COMPRESSION ${how}`);
    const found = await read(file);
    assert.deepEqual(
      found.map((d) => d.text),
      expected,
      how,
    );
    assert.deepEqual([found[0].id, found[99].id], ["a.parquet:1", "a.parquet:101"]);
  }
  await writeParquet(file, ", PARQUET_VERSION V2");
  assert.deepEqual(await textsOf(file), expected);
  const kinds = await textsOf(file, { field: "kind" }); // a dictionary
  assert.deepEqual(
    kinds,
    Array.from({ length: ROWS }, (_, i) => `kind ${i % 3}`),
  );
});

test("a column that is not there, or holds no text, is an error that names those that do", async () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "a.parquet");
  await writeParquet(file);
  await assert.rejects(
    read(file, { field: "body" }),
    /a\.parquet has no column "body"; it has n, text, list, kind \(--field names it\)/,
  );
  await assert.rejects(read(file, { field: "n" }), /"n" holds INT64, no text; columns of text: text, kind/);
  await assert.rejects(read(file, { field: "list" }), /"list" holds lists or records, no text/);
});

test("damage in a Parquet file is named by row group; invalid UTF-8 too", async () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "a.parquet");
  await writeParquet(file, ", COMPRESSION uncompressed");
  const whole = fs.readFileSync(file);
  fs.writeFileSync(file, whole.subarray(0, whole.length - 100));
  await assert.rejects(read(file), /a\.parquet: no Parquet file, damaged or cut off/);
  fs.writeFileSync(file, "no parquet");
  await assert.rejects(read(file), /no Parquet file/);
  const spoilt = Buffer.from(whole);
  const at = spoilt.indexOf(Buffer.from("3000 жил-был"));
  assert.ok(at > 0);
  spoilt[at + 5] = 0xff;
  fs.writeFileSync(file, spoilt);
  await assert.rejects(read(file), /row group 2 of 3, column "text": invalid UTF-8 at byte \d+ \(0xff\)/);
  assert.equal((await read(file, { invalid: "replace" })).length, expected.length);
  await sql(
    `COPY (SELECT text FROM (${SELECT})) TO '${file}' (FORMAT parquet, ROW_GROUP_SIZE 2048, COMPRESSION zstd)`,
  );
  const packed = fs.readFileSync(file);
  packed.fill(0x55, 300, 3000);
  fs.writeFileSync(file, packed);
  await assert.rejects(read(file), /row group 1 of 3, column "text": damaged at byte \d+/);
});

test("gzip and zstd are unpacked as they are read; what is damaged or cut off is named", async () => {
  using temp = temporaryFolder();
  const plain = expected.map((text) => JSON.stringify({ text })).join("\n");
  const gz = join(temp.path, "a.jsonl.gz");
  fs.writeFileSync(gz, Buffer.concat([gzipSync(plain.slice(0, 1000)), gzipSync(plain.slice(1000))]));
  assert.deepEqual(await textsOf(gz), expected);
  const zst = join(temp.path, "b.json.zst");
  await sql(
    `COPY (SELECT text FROM (${SELECT}) WHERE text IS NOT NULL ORDER BY n) TO '${zst}' (FORMAT json, COMPRESSION zstd)`,
  );
  assert.equal(fs.readFileSync(zst).readUInt32LE(0), 0xfd2fb528);
  assert.deepEqual(await textsOf(zst), expected);
  assert.equal((await read(temp.path)).length, 2 * expected.length, "a folder has both");
  fs.writeFileSync(join(temp.path, "c.txt.gz"), gzipSync("plain text"));
  assert.deepEqual(await read(join(temp.path, "c.txt.gz")), [{ id: "c.txt.gz", text: "plain text" }]);
  for (const file of [gz, zst]) {
    const whole = fs.readFileSync(file);
    fs.writeFileSync(file, whole.subarray(0, whole.length - 40));
    await assert.rejects(read(file), /no (gzip|zstd) file, damaged or cut off, after .* of content/);
    fs.writeFileSync(file, "none of it");
    await assert.rejects(read(file), /no (gzip|zstd) file, damaged or cut off, after 0 B/);
  }
});

test("the same records are held out of every format", async () => {
  using temp = temporaryFolder();
  const parquet = join(temp.path, "a.parquet");
  await writeParquet(parquet);
  const lines = join(temp.path, "a.jsonl.gz");
  fs.writeFileSync(lines, gzipSync(expected.map((text) => JSON.stringify({ text })).join("\n")));
  const held = await textsOf(parquet, { split: "heldout" });
  assert.ok(held.length > 0.02 * ROWS && held.length < 0.04 * ROWS, `${held.length}`);
  assert.deepEqual(await textsOf(lines, { split: "heldout" }), held);
  assert.equal((await read(parquet, { split: "train" })).length + held.length, expected.length);
});

test("texts of a dataset on the hub: a file, a pattern, a folder; downloaded when their turn comes", async () => {
  using temp = temporaryFolder();
  const files = {
    "README.md": "the card",
    "data/train-0.jsonl.gz": gzipSync('{"text":"zero"}\n'),
    "data/train-1.jsonl.gz": gzipSync('{"text":"one"}\n'),
    "data/test.jsonl": '{"text":"test"}\n',
    "image.png": "no text",
  };
  await using server = await hubServer([
    { type: "dataset", name: "org/texts", files, lfs: ["data/train-1.jsonl.gz"] },
  ]);
  const settings = { endpoint: server.endpoint, cacheDir: join(temp.path, "hub"), offline: false };
  const hub: HubOptions = { settings, backoffMs: 1 };
  const texts = (path: string) => textsOf(`hf://datasets/org/texts${path}`, { hub });
  assert.deepEqual(await texts("/data/train-*.jsonl.gz"), ["zero", "one"]);
  assert.deepEqual(await texts("/data/test.jsonl"), ["test"]);
  assert.deepEqual(await texts(""), ["test", "zero", "one"]);
  assert.deepEqual(await texts(`@${COMMIT}/data`), ["test", "zero", "one"]);
  assert.ok(
    fs.existsSync(join(settings.cacheDir, "datasets--org--texts", "snapshots", COMMIT, "data", "test.jsonl")),
  );
  assert.ok(!server.seen.some(({ path }) => path.includes("README") || path.includes("image")));
  await assert.rejects(texts("/data/tran-*.gz"), /tran-\*\.gz: no file of text; .*train-0/);
  await assert.rejects(texts("@v9/data"), /dataset org\/texts has no revision "v9"/);
  await assert.rejects(read("hf://org/texts"), /a text on the hub is named as in hf:\/\/datasets/);

  const spec = "hf://datasets/org/texts/data/*.jsonl";
  const pinned = await pinText(spec, { hub });
  assert.equal(pinned, `hf://datasets/org/texts@${COMMIT}/data/*.jsonl`);
  const online = await textFingerprint(pinned, { hub });
  server.seen.length = 0;
  const offline = { hub: { settings: { ...settings, offline: true } } };
  assert.deepEqual(await textFingerprint(spec, offline), online);
  assert.deepEqual(await textsOf(spec, offline), ["test"]);
  assert.deepEqual(server.seen, []);
});

/** What a process of its own says: the most memory that tokenising took above the start, in MB. */
function memoryOf(file: string, out: string): number {
  const code = `
    import { loadTokenizer, openText, tokenizeDocuments } from "${new URL("../../src/text/index.js", import.meta.url)}";
    const tokenizer = await loadTokenizer("models/brook");
    let start = 0, most = 0;
    const look = () => { most = Math.max(most, process.memoryUsage().rss); };
    setInterval(look, 5).unref();
    async function* watched(documents) {
      let n = 0;
      for await (const document of documents) {
        yield document;
        if (++n % 64 === 0) await new Promise(setImmediate);
        if (n === 2000) { look(); start = process.memoryUsage().rss; most = start; }
      }
    }
    const documents = watched(await openText(process.argv[1]));
    const { tokens } = await tokenizeDocuments(documents, tokenizer, process.argv[2], { source: "test" });
    look();
    console.log(JSON.stringify({ tokens, grown: (most - start) / 1e6 }));`;
  const args = [
    "--max-semi-space-size=4",
    "--max-old-space-size=80",
    "--input-type=module",
    "-e",
    code,
    file,
    out,
  ];
  const root = new URL("../../../", import.meta.url);
  const { tokens, grown } = JSON.parse(execFileSync(process.execPath, args, { cwd: root, encoding: "utf8" }));
  assert.ok(tokens > 5e6, `${tokens} tokens`);
  return grown;
}

test("tokenising 50 MB takes no more memory than 32 MB above its beginning, in every format", {
  timeout: 300_000,
}, async () => {
  using temp = temporaryFolder();
  const texts = `SELECT i, repeat('the river ' || (i * 7919 % 100003) || ' falls over gold and gravel; ', 32) AS text FROM range(36000) t(i)`;
  const copy = (name: string, options: string) =>
    sql(`COPY (SELECT text FROM (${texts}) ORDER BY i) TO '${join(temp.path, name)}' (${options})`);
  await copy("a.jsonl", "FORMAT json");
  await copy("a.jsonl.zst", "FORMAT json, COMPRESSION zstd");
  // One row group.
  await copy("a.parquet", "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 1000000");
  assert.ok(fs.statSync(join(temp.path, "a.jsonl")).size > 50e6);
  for (const name of ["a.jsonl", "a.jsonl.zst", "a.parquet"]) {
    const grown = memoryOf(join(temp.path, name), join(temp.path, "out.tokens"));
    assert.ok(grown < 32, `${name}: ${grown.toFixed(1)} MB`);
  }
});
