/**
 * Sparse probing on texts whose features were written down by hand.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CodeRowsBuilder, measureSparseProbing } from "../../src/interpret/index.ts";
import { Rng } from "../../src/util/index.ts";
import { BACKENDS, withDevice } from "../sae/helpers.ts";

/**
 * 120 texts of three classes. Feature 5 tells class "a", features 6 and 7 half of class "b" each, nothing tells "c" from "a"
 * and "b" but their silence; the class also stands in the first three of eight dimensions, together.
 */
function texts() {
  const rng = new Rng(2);
  const n = 120;
  const D = 8;
  const x = rng.fillNormal(new Float32Array(n * D));
  const builder = new CodeRowsBuilder(12);
  const label = new Int32Array(n);
  const test = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    label[i] = i % 3;
    test[i] = i % 5 === 4 ? 1 : 0;
    x[i * D + label[i]] += 5;
    if (rng.uniform() < 0.5) builder.add(1, rng.uniform());
    if (label[i] === 0) builder.add(5, 1 + rng.uniform());
    if (label[i] === 1) builder.add(i % 6 === 1 ? 6 : 7, 2);
    if (rng.uniform() < 0.5) builder.add(9, rng.uniform());
    builder.endRow();
  }
  const groups = Int32Array.from({ length: n }, (_, i) => i);
  return { x, codes: builder.finish(), label, test, groups, classNames: ["a", "b", "c"] };
}

for (const backend of BACKENDS) {
  test(`accuracy counts the features that a class needs, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const [a, b, c] = await measureSparseProbing(device, texts(), { ks: [1, 2] });
      assert.deepEqual([a.train, a.test], [64, 16]);
      assert.equal(a.features[0], 5);
      assert.deepEqual(a.sparse, [1, 1]);
      assert.deepEqual(new Set(b.features), new Set([6, 7]));
      assert.ok(b.sparse[0] > 0.6 && b.sparse[0] < 0.9, `${b.sparse[0]} of one of two features`);
      assert.equal(b.sparse[1], 1);
      assert.equal(c.features[0], 5);
      for (const found of [a, b, c]) {
        assert.ok(found.dense >= 0.9, `${found.name}: ${found.dense}`);
        assert.ok(found.dimensions[0] >= 0.9, `${found.name}: ${found.dimensions[0]}`);
      }
    }));

  test(`labels that have nothing to do with the texts are told by chance, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const given = texts();
      const rng = new Rng(9);
      const label = Int32Array.from(given.label, () => rng.int(3));
      const found = await measureSparseProbing(device, { ...given, label }, { ks: [1] });
      const mean = found.reduce((sum, { dense, sparse }) => sum + dense + sparse[0], 0) / 6;
      assert.ok(mean > 0.3 && mean < 0.7, `${mean}`);
    }));

  test(`a class without texts to test on is refused by name, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const given = texts();
      const test = given.test.map((side, i) => (given.label[i] === 1 ? 0 : side));
      await assert.rejects(
        measureSparseProbing(device, { ...given, test }),
        /b has 0 texts to test on beside \d+ others/,
      );
    }));
}
