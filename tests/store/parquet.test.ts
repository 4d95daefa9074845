/**
 * Parquet files: what is written comes back, and what fails leaves nothing.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fromParquet, ParquetSession, type Row } from "../../src/store/index.ts";
import { temporaryFolder } from "../temporary.ts";

const COLUMNS = {
  id: "INTEGER",
  word: "VARCHAR",
  share: "DOUBLE",
  is: "BOOLEAN",
  bytes: "BLOB",
  ids: "INTEGER[]",
  values: "FLOAT[]",
} as const;

async function withSession<R>(work: (session: ParquetSession) => Promise<R>, memory?: number): Promise<R> {
  const session = await ParquetSession.open({ memory });
  try {
    return await work(session);
  } finally {
    session.close();
  }
}

test("all types come back, missing values and empty lists included, over more rows than a chunk", async () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "it's", "a table.parquet");
  const rows = Array.from(
    { length: 5000 },
    (_, i): Row =>
      i % 7 === 3
        ? [i, null, null, null, null, null, null]
        : [
            i,
            `wörd'${i}`,
            i / 3,
            i % 2 === 0,
            Uint8Array.of(i % 256, 255),
            Int32Array.from({ length: i % 5 }, (_, j) => j - i),
            new Float32Array(i % 3).fill(0.1),
          ],
  );
  await withSession(async (session) => {
    assert.equal(await session.write(file, COLUMNS, rows.toReversed(), { orderBy: "id" }), 5000);
    const read = await session.rows<Record<string, unknown>>(`SELECT * FROM ${fromParquet([file])}`);
    for (const [i, row] of read.entries()) {
      assert.deepEqual(
        Object.values(row).map((v) => (v instanceof Uint8Array ? [...v] : v)),
        rows[i].map((v) => (ArrayBuffer.isView(v) ? Array.from(v as unknown as ArrayLike<number>) : v)),
      );
    }
    const [{ word }] = await session.rows<{ word: string }>(
      `SELECT word FROM ${fromParquet([file, file])} WHERE id = $1 LIMIT 1`,
      [12],
    );
    assert.equal(word, "wörd'12");
    let count = 0;
    for await (const [ids] of session.columns(`SELECT id FROM ${fromParquet([file])}`)) count += ids.length;
    assert.equal(count, 5000);
  });
  assert.deepEqual(readdirSync(join(temp.path, "it's")), ["a table.parquet"]);
});

test("a failed write leaves nothing, and an older file as it was", async () => {
  using temp = temporaryFolder();
  const file = join(temp.path, "t.parquet");
  await withSession(async (session) => {
    const failing = function* (): Generator<Row> {
      yield [1];
      throw new Error("no more");
    };
    await assert.rejects(session.write(file, { id: "INTEGER" }, failing()), /no more/);
    await assert.rejects(session.copy("SELECT nothing FROM nowhere", file), /cannot write .*t\.parquet/);
    assert.deepEqual(readdirSync(temp.path), []);
    await session.write(file, { id: "INTEGER" }, [[5]]);
    await assert.rejects(session.copy("SELECT 1/0 AS id FROM range(error('late'))", file), /cannot write/);
    assert.deepEqual(await session.rows(`SELECT id FROM ${fromParquet([file])}`), [{ id: 5 }]);
    await assert.rejects(session.rows("SELECT * FROM 'missing.parquet'"), /cannot read or write Parquet/);
  });
  assert.equal(existsSync(join(temp.path, "t.parquet")), true);
});

test("a query that needs more memory than it may have says so", async () => {
  using temp = temporaryFolder();
  await withSession(
    (session) =>
      assert.rejects(
        session.copy(
          "SELECT hash(i) AS h FROM range(20000000) t(i) ORDER BY h",
          join(temp.path, "big.parquet"),
        ),
        /DuckDB needs more than the 30\.0 MB that it may use; allow it more/,
      ),
    30e6,
  );
  assert.deepEqual(readdirSync(temp.path), []);
});
