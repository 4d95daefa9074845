import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { openSafetensors, readSafetensorsSync, writeSafetensors } from "../../src/formats/index.ts";
import {
  type ActivationRows,
  type ActivationSpec,
  ActivationWriter,
  openActivations,
  type ShuffleState,
} from "../../src/store/index.ts";
import { readJson, SluiceError, writeJsonSync } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

const WIDTH = 3;
const spec: ActivationSpec = {
  hook: "blocks.1.hook_resid_post",
  model: { id: "brook", hash: "sha256:00" },
  width: WIDTH,
  dtype: "f32",
  seed: 1,
  source: { text: "sotu", context: 16 },
};

/** Rows first .. first + n; row r holds [r, r / 2, -r] and token r mod 50, in documents of 10 rows. */
function rows(first: number, n: number): ActivationRows {
  const numbers = Int32Array.from({ length: n }, (_, i) => first + i);
  return {
    activations: Float32Array.from({ length: n * WIDTH }, (_, i) => {
      const r = numbers[Math.floor(i / WIDTH)];
      return [r, r / 2, -r][i % WIDTH];
    }),
    tokens: numbers.map((r) => r % 50),
    positions: numbers.map((r) => r % 10),
    documents: numbers.map((r) => Math.floor(r / 10)),
  };
}

async function harvest(
  folder: string,
  total: number,
  shardRows: number,
  step = 7,
  more: Partial<ActivationSpec> = {},
) {
  const writer = await ActivationWriter.open(folder, { ...spec, ...more }, { shardRows });
  for (let r = writer.rows; r < total; r += step) await writer.append(rows(r, Math.min(step, total - r)));
  await writer.finish({ excluded: 3 });
}

const readAll = (folder: string): Map<string, Buffer> =>
  new Map(fs.readdirSync(folder).map((name) => [name, fs.readFileSync(path.join(folder, name))]));

test("rows come back as they were written, across shards", async () => {
  using temp = temporaryFolder();
  await harvest(temp.path, 95, 20);
  assert.deepEqual(fs.readdirSync(temp.path).sort(), [
    "index.json",
    ...[0, 1, 2, 3, 4].map((i) => `shard-0000${i}.safetensors`),
  ]);
  const store = await openActivations(temp.path);
  assert.equal(store.rows, 95);
  assert.equal(store.width, WIDTH);
  assert.deepEqual(store.index.notes, { excluded: 3 });
  assert.deepEqual(await store.readRows(0, 95), rows(0, 95).activations);
  assert.deepEqual(await store.readRows(15, 50), rows(15, 50).activations);
  assert.deepEqual(await store.readLabels("tokens"), rows(0, 95).tokens);
  assert.deepEqual(await store.readLabels("documents", 35, 10), rows(35, 10).documents);
  assert.deepEqual(await store.readLabels("positions", 90), rows(90, 5).positions);
  await assert.rejects(store.readRows(90, 6), /rows 90\.\.96 are not within 0\.\.95/);
  const sizes: number[] = [];
  for await (const batch of store.batches({ batch: 40, tokens: true })) {
    assert.deepEqual(batch.tokens, rows(sizes.length * 40, batch.rows).tokens);
    sizes.push(batch.rows);
  }
  assert.deepEqual(sizes, [40, 40, 15]);
  store.close();
});

test("a shard is a safetensors file with activations, tokens, positions and documents", async () => {
  using temp = temporaryFolder();
  await harvest(temp.path, 10, 8, 4, { dtype: "f16" });
  const file = openSafetensors(path.join(temp.path, "shard-00001.safetensors"));
  assert.deepEqual(file.names().sort(), ["activations", "documents", "positions", "tokens"]);
  assert.deepEqual(file.info("activations").shape, [2, WIDTH]);
  assert.equal(file.info("activations").dtype, "f16");
  assert.equal(file.metadata.hook, spec.hook);
  file.close();
  const store = await openActivations(temp.path);
  assert.deepEqual(await store.readRows(0, 10), rows(0, 10).activations);
  store.close();
});

test("a harvest that was cut off and resumed ends with the same bytes", async () => {
  using temp = temporaryFolder();
  const whole = path.join(temp.path, "whole");
  const cut = path.join(temp.path, "cut");
  await harvest(whole, 95, 20);
  const first = await ActivationWriter.open(cut, spec, { shardRows: 20 });
  await first.append(rows(0, 55));
  fs.writeFileSync(path.join(cut, ".shard-00002.safetensors.tmp-999999999-1"), "half a shard");
  const second = await ActivationWriter.open(cut, spec, { shardRows: 20 });
  assert.equal(second.rows, 40);
  assert.deepEqual(second.last, { document: 3, position: 9 });
  assert.equal(second.complete, false);
  await assert.rejects(openActivations(cut), /has not ended \(40 rows so far\); run it again/);
  await second.append(rows(40, 45));
  const third = await ActivationWriter.open(cut, spec, { shardRows: 20 });
  assert.equal(third.rows, 80);
  await third.append(rows(80, 15));
  await third.finish({ excluded: 3 });
  assert.deepEqual(readAll(cut), readAll(whole));
  await assert.rejects((await ActivationWriter.open(cut, spec)).append(rows(0, 1)), /this store is complete/);
});

test("a shard written but not yet in the index is written again", async () => {
  using temp = temporaryFolder();
  const writer = await ActivationWriter.open(temp.path, spec, { shardRows: 10 });
  await writer.append(rows(0, 10));
  const index = path.join(temp.path, "index.json");
  const before = fs.readFileSync(index);
  await writer.append(rows(10, 10));
  fs.writeFileSync(index, before);
  const again = await ActivationWriter.open(temp.path, spec, { shardRows: 10 });
  assert.equal(again.rows, 10);
  await again.append(rows(10, 10));
  await again.finish();
  const store = await openActivations(temp.path);
  assert.deepEqual(await store.readRows(0, 20), rows(0, 20).activations);
  store.close();
});

test("a folder of another harvest is not continued", async () => {
  using temp = temporaryFolder();
  await harvest(temp.path, 10, 10);
  const refused = (change: Partial<ActivationSpec>, message: RegExp) =>
    assert.rejects(ActivationWriter.open(temp.path, { ...spec, ...change }), message);
  await refused({ hook: "blocks.2.hook_resid_post" }, /hook is "blocks\.1.*", not "blocks\.2/);
  await refused({ model: { id: "brook", hash: "sha256:11" } }, /model is .*sha256:00.*not .*sha256:11/);
  await refused({ width: 4, seed: 2 }, /width is 3, not 4; seed is 1, not 2/);
  await refused({ source: { context: 16, text: "other" } }, /source is/);
  await ActivationWriter.open(temp.path, { ...spec, source: { context: 16, text: "sotu" } });
  await assert.rejects(ActivationWriter.open(temp.path, { ...spec, width: 0 }), SluiceError);
});

test("a truncated, missing, damaged or foreign shard is named and refused", async () => {
  using temp = temporaryFolder();
  const folder = path.join(temp.path, "a");
  const other = path.join(temp.path, "b");
  await harvest(folder, 40, 10);
  await harvest(other, 40, 10, 7, { seed: 2 });
  const shard = path.join(folder, "shard-00002.safetensors");
  const good = fs.readFileSync(shard);
  const refused = async (message: RegExp) => {
    await assert.rejects(openActivations(folder), (error: Error) => {
      assert.ok(error instanceof SluiceError);
      assert.match(error.message, /shard-00002\.safetensors/);
      assert.match(error.message, message);
      return true;
    });
  };
  fs.writeFileSync(shard, good.subarray(0, good.length - 5));
  await refused(
    /is truncated: \d+ bytes, the index says \d+; copy it again .*, or harvest into a new folder/,
  );
  await assert.rejects(ActivationWriter.open(folder, spec), /shard-00002.*is truncated/);
  fs.rmSync(shard);
  await refused(/is missing/);
  fs.copyFileSync(path.join(other, "shard-00002.safetensors"), shard);
  await refused(/belongs to another store/);
  fs.copyFileSync(path.join(folder, "shard-00001.safetensors"), shard);
  await refused(/belongs to another store .*shard 1\); this is .*shard 2/);
  const flipped = Buffer.from(good);
  flipped[flipped.length - 1] ^= 1;
  fs.writeFileSync(shard, flipped);
  await refused(/is damaged: sha256 .*; copy it again .*, or harvest into a new folder/);
  (await openActivations(folder, { verify: false })).close();

  const tensors = readSafetensorsSync(path.join(folder, "shard-00001.safetensors"));
  const file = openSafetensors(path.join(folder, "shard-00001.safetensors"));
  const metadata = { ...file.metadata, shard: "2" };
  file.close();
  const x = tensors.get("activations")!;
  await writeSafetensors(
    shard,
    new Map([...tensors, ["activations", { ...x, shape: [WIDTH, 10] }]]),
    metadata,
  );
  await refused(/holds f32 \[3,10\], the index says f32 \[10,3\]/);
  fs.writeFileSync(shard, good);
  (await openActivations(folder)).close();
});

test("a bad index is refused", async () => {
  using temp = temporaryFolder();
  await assert.rejects(openActivations(path.join(temp.path, "none")), /no such file or folder/);
  await assert.rejects(openActivations(temp.path), /no index\.json; make activations with sluice harvest/);
  await harvest(temp.path, 20, 10);
  const file = path.join(temp.path, "index.json");
  const index = readJson(file) as Record<string, unknown>;
  const refused = async (value: unknown, message: RegExp) => {
    writeJsonSync(file, value);
    await assert.rejects(openActivations(temp.path), message);
  };
  await refused({ ...index, schema: 2 }, /schema 2 is of a newer version/);
  await refused({ ...index, rows: 30 }, /says 30 rows, but its shards have 20/);
  await refused({ ...index, width: "3" }, /not an activation index/);
  await refused([], /not an activation index/);
  const shards = index.shards as { file: string }[];
  await refused(
    { ...index, shards: [{ ...shards[0], file: "../x.safetensors" }, shards[1]] },
    /not an activation index/,
  );
  fs.writeFileSync(file, "{");
  await assert.rejects(openActivations(temp.path), /index\.json: not valid JSON/);
  await refused({ ...index, rows: 0, shards: [] }, /has no rows/);
});

test("several hook points are subfolders, and the wanted one is chosen by name", async () => {
  using temp = temporaryFolder();
  for (const hook of ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]) {
    await harvest(path.join(temp.path, hook), 10, 10, 7, { hook });
  }
  const store = await openActivations(temp.path, { hook: "blocks.0.hook_resid_post" });
  assert.equal(store.index.hook, "blocks.0.hook_resid_post");
  store.close();
  await assert.rejects(openActivations(temp.path), /holds 2 hook points; choose one of blocks\.0/);
  await assert.rejects(
    openActivations(temp.path, { hook: "blocks.0.hook_resid_pst" }),
    /no hook blocks\.0\.hook_resid_pst; did you mean blocks\.0\.hook_resid_post/,
  );
  const one = path.join(temp.path, "blocks.0.hook_resid_post");
  await assert.rejects(openActivations(one, { hook: "x" }), /holds blocks\.0\.hook_resid_post, not x/);
});

test("append refuses arrays that do not agree", async () => {
  using temp = temporaryFolder();
  const writer = await ActivationWriter.open(temp.path, spec, { shardRows: 10 });
  await assert.rejects(writer.append({ ...rows(0, 3), tokens: new Int32Array(2) }), /9 numbers, 2 tokens/);
});

/** First number of every row: the row's own number. */
const rowNumbers = (x: Float32Array): number[] =>
  Array.from({ length: x.length / WIDTH }, (_, i) => x[i * WIDTH]);

for (const window of [262_144, 1024]) {
  test(`shuffled: every row once per epoch, batches from all shards (window ${window})`, async () => {
    using temp = temporaryFolder();
    const total = 10_050;
    await harvest(temp.path, total, 1000, 777);
    const store = await openActivations(temp.path);
    const seen: number[] = [];
    for await (const batch of store.shuffled({ batch: 500, seed: 3, window, tokens: true })) {
      const numbers = rowNumbers(batch.x);
      numbers.forEach((r, i) => {
        assert.equal(batch.tokens![i], r % 50);
      });
      if (window > total && batch.rows === 500) {
        const shards = new Set(numbers.map((r) => Math.floor(r / 1000)));
        for (let s = 0; s < 10; s++) assert.ok(shards.has(s), `no row of shard ${s} in a batch`);
      }
      const middle = numbers.reduce((a, b) => a + b, 0) / batch.rows;
      if (window > total && batch.rows === 500)
        assert.ok(Math.abs(middle - total / 2) < 800, `mean ${middle}`);
      seen.push(...numbers);
    }
    assert.equal(seen.length, total);
    assert.equal(new Set(seen).size, total);
    const neighbours = seen.filter((r, i) => i > 0 && Math.abs(r - seen[i - 1]) === 1).length;
    assert.ok(neighbours < total / 50, `${neighbours} neighbours stayed together`);
    store.close();
  });
}

test("a small window still draws each batch from most shards", async () => {
  using temp = temporaryFolder();
  await harvest(temp.path, 20_480, 2048, 2048);
  const store = await openActivations(temp.path);
  const blocks = new Set<number>();
  const shards = new Set<number>();
  const batch = await store.shuffled({ batch: 512, seed: 1, window: 4096 }).next();
  for (const r of rowNumbers(batch!.x)) {
    blocks.add(Math.floor(r / 128));
    shards.add(Math.floor(r / 2048));
  }
  assert.equal(blocks.size, 32);
  assert.ok(shards.size >= 8, `${shards.size} shards`);
  store.close();
});

test("a shuffled stream continues exactly, within a window, at its end and over epochs", async () => {
  using temp = temporaryFolder();
  await harvest(temp.path, 1000, 300, 100);
  const store = await openActivations(temp.path);
  const options = { batch: 96, seed: 5, epochs: 2, window: 256 };
  const all: { state: ShuffleState; numbers: number[] }[] = [];
  const stream = store.shuffled(options);
  for (
    let state = stream.state(), b = await stream.next();
    b;
    state = stream.state(), b = await stream.next()
  ) {
    all.push({ state, numbers: rowNumbers(b.x) });
  }
  assert.equal(all.flatMap((b) => b.numbers).length, 2000);
  assert.equal(all.at(-1)!.numbers.length, 2000 % 96);
  for (const { state, numbers } of all) {
    const resumed = store.shuffled({ ...options, resume: JSON.parse(JSON.stringify(state)) });
    assert.deepEqual(rowNumbers((await resumed.next())!.x), numbers);
  }
  const [one, two] = [all.slice(0, 10), all.slice(11)].map((part) => part[3].numbers.join());
  assert.notEqual(one, two);
  const other = await store.shuffled({ ...options, seed: 6 }).next();
  assert.notDeepEqual(rowNumbers(other!.x), all[0].numbers);
  const dropped: number[] = [];
  for await (const b of store.shuffled({ ...options, dropLast: true })) dropped.push(b.rows);
  assert.deepEqual(new Set(dropped), new Set([96]));
  assert.throws(() => store.shuffled({ batch: 0, seed: 1 }), /batch=0 must be a positive/);
  assert.throws(() => store.shuffled({ ...options, resume: { epoch: 0, row: 1000 } }), /is at row 1000/);
  store.close();
});

test("NaN in a shard is named by its place when its window is read, and the state stays that before the batch", async () => {
  using temp = temporaryFolder();
  const writer = await ActivationWriter.open(temp.path, spec, { shardRows: 100 });
  const all = rows(0, 300);
  all.activations[177 * WIDTH + 2] = Number.NaN;
  await writer.append(all);
  await writer.finish();
  const store = await openActivations(temp.path);
  const stream = store.shuffled({ batch: 50, seed: 3, window: 128 });
  let handedOut = 0;
  const read = async () => {
    for (let batch = await stream.next(); batch; batch = await stream.next()) handedOut += batch.rows;
  };
  const place = /shard-00001\.safetensors: row 77 \(row 177 of the store\) holds NaN at dimension 2/;
  await assert.rejects(read, place);
  assert.ok(handedOut > 0 && handedOut < 300, "the windows before it are good");
  assert.deepEqual(stream.state(), { epoch: 0, row: handedOut });
  await assert.rejects(read, place);
  await assert.rejects(async () => {
    for await (const { rows: n } of store.batches({ batch: 50 })) assert.equal(n, 50);
  }, place);
  store.close();
});

test("a store without a row can be taken back, one with rows cannot", async () => {
  using temp = temporaryFolder();
  const empty = path.join(temp.path, "empty");
  (await ActivationWriter.open(empty, spec)).discardEmpty();
  assert.equal(fs.existsSync(empty), false);
  const writer = await ActivationWriter.open(temp.path, spec, { shardRows: 5 });
  await writer.append(rows(0, 5));
  writer.discardEmpty();
  assert.ok(fs.existsSync(path.join(temp.path, "index.json")));
});
