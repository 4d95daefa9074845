import assert from "node:assert/strict";
import { test } from "node:test";
import { createRowFilter, takeRows } from "../../src/store/index.ts";

const x = Float32Array.of(3, 4, 0, 1, 1, 0, 600, 800, 0, 2);
const tokens = Int32Array.of(0, 7, 8, 9, 0);

test("without rules every row stays", () => {
  const filter = createRowFilter();
  assert.deepEqual([...filter.select(x, 2)], [0, 1, 2, 3, 4]);
  assert.deepEqual(filter.counts, { seen: 5, kept: 5, token: 0, norm: 0 });
});

test("rows of excluded tokens go", () => {
  const filter = createRowFilter({ excludeTokens: [0, 8] });
  const rows = filter.select(x, 2, tokens);
  assert.deepEqual([...rows], [1, 3]);
  assert.deepEqual([...takeRows(x, 2, rows)], [0, 1, 600, 800]);
  filter.select(x, 2, tokens);
  assert.deepEqual(filter.counts, { seen: 10, kept: 4, token: 6, norm: 0 });
  assert.throws(() => filter.select(x, 2), /5 rows need 5 token ids, 0 were given/);
});

test("rows far above the median norm go, the median being that of the rows that the token rule keeps", () => {
  assert.deepEqual([...createRowFilter({ maxNorm: { multiple: 10 } }).select(x, 2)], [0, 1, 2, 4]);
  const filter = createRowFilter({ excludeTokens: [0], maxNorm: { multiple: 2 } });
  assert.deepEqual([...filter.select(x, 2, tokens)], [1, 2]);
  assert.deepEqual(filter.counts, { seen: 5, kept: 2, token: 2, norm: 1 });
});

test("the mean may be the measure", () => {
  const mean = createRowFilter({ maxNorm: { multiple: 4, of: "mean" } });
  assert.deepEqual([...mean.select(x, 2)], [0, 1, 2, 4]);
  const wide = createRowFilter({ maxNorm: { multiple: 5, of: "mean" } });
  assert.equal(wide.select(x, 2).length, 5);
});

test("a multiple that is not positive is refused", () => {
  assert.throws(() => createRowFilter({ maxNorm: { multiple: 0 } }), /maxNorm\.multiple=0 must be positive/);
});

test("a norm that is no number is an error that names row and dimension, unless the token rule takes the row out", () => {
  const broken = Float32Array.of(1, 1, 1, 0, 1, Number.NaN, 1, 1, 1, 1);
  const filter = createRowFilter({ maxNorm: { multiple: 10 } });
  assert.throws(() => filter.select(broken, 2), /row 2 holds NaN at dimension 1/);
  broken[5] = Number.NEGATIVE_INFINITY;
  assert.throws(() => filter.select(broken, 2), /row 2 holds -Infinity at dimension 1/);
  const named = ({ row }: { row: number }) => new Error(`window ${row}`);
  assert.throws(() => filter.select(broken, 2, undefined, named), /window 2/);
  const without = createRowFilter({ excludeTokens: [8], maxNorm: { multiple: 10 } });
  assert.deepEqual([...without.select(broken, 2, tokens)], [0, 1, 3, 4]);
});
