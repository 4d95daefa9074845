/**
 * Matrix Rényi entropy against the golden cases and against what is known exactly.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { gramEigenvalues, matrixEntropy, standardize } from "../../src/lime/index.ts";
import { golden, goldenJson } from "../golden.ts";

const expected = golden("lime", "renyi.safetensors");
const exact = goldenJson<{ alphas: number[]; cases: Record<string, number> }>("lime", "renyi_exact.json");
const kinds = [...new Set(expected.names().map((name) => name.split(".")[0]))];

/** Sequence `s` of a tensor [sequences, T, D]. */
function sequence(name: string, s: number): Float32Array {
  const [, T, D] = expected.shape(name);
  return expected.floats(name).slice(s * T * D, (s + 1) * T * D);
}

const near = (got: number, want: number, what: string, tolerance = 1e-5) =>
  assert.ok(Math.abs(got - want) <= tolerance, `${what}: ${got}, expected ${want}`);

test("eigenvalues and entropies of the golden sequences, wide and tall, for every order", () => {
  assert.ok(kinds.length >= 2);
  for (const kind of kinds) {
    for (const form of ["raw", "standardized"]) {
      const name = `${kind}.${form}`;
      const [sequences, , D] = expected.shape(name);
      const entropies = expected.floats(`${name}.entropy`);
      const eigenvalues = expected.floats(`${name}.eigenvalues`);
      const each = eigenvalues.length / sequences;
      for (let s = 0; s < sequences; s++) {
        const found = gramEigenvalues(sequence(name, s), D);
        assert.equal(found.length, each);
        for (let i = 0; i < each; i++) {
          const want = eigenvalues[s * each + i];
          near(found[i], want, `${name}: eigenvalue ${i} of ${s}`, 1e-5 * eigenvalues[s * each]);
        }
        for (const [a, order] of exact.alphas.entries())
          near(matrixEntropy(sequence(name, s), D, order), entropies[a * sequences + s], `${name} ${order}`);
      }
    }
  }
});

test("standardisation is over all sequences and tokens", () => {
  for (const kind of kinds) {
    const [sequences, , D] = expected.shape(`${kind}.raw`);
    const raw = Array.from({ length: sequences }, (_, s) => sequence(`${kind}.raw`, s));
    for (const [s, found] of standardize(raw, D).entries()) {
      const want = sequence(`${kind}.standardized`, s);
      assert.ok(
        found.every((v, i) => Math.abs(v - want[i]) < 1e-5),
        `${kind} ${s}`,
      );
    }
  }
});

test("what is known exactly: diagonal, orthogonal and rank-one states, and the limit at order 1", () => {
  const { cases } = exact;
  near(matrixEntropy([2, 0, 0, 1], 2, 0.5), cases["Z = diag(2, 1), a = 0.5"], "diagonal", 1e-9);
  const identity = (n: number, d: number) =>
    Array.from({ length: n * d }, (_, i) => Number(i % d === Math.floor(i / d)));
  for (const order of exact.alphas) {
    near(
      matrixEntropy(identity(7, 9), 9, order),
      cases["orthogonal rows of equal length, t = 7"],
      "orthogonal",
      1e-9,
    );
    near(matrixEntropy([1, 2, 3, 2, 4, 6], 3, order), cases["rank one"], "rank one", 1e-6);
    near(matrixEntropy(identity(4, 4), 4, order), Math.log(4), "identity", 1e-9);
  }
  const states = sequence(`${kinds[0]}.raw`, 0);
  const D = expected.shape(`${kinds[0]}.raw`)[2];
  near(matrixEntropy(states, D, 1), matrixEntropy(states, D, 1 + 1e-7), "limit", 1e-6);
  assert.equal(matrixEntropy([0, 0, 0, 0], 2), 0);
});

test("states that are no matrix of numbers are refused", () => {
  assert.throws(() => matrixEntropy([1, 2, 3], 2), /3 numbers are no rows of 2/);
  assert.throws(() => matrixEntropy([1, Number.NaN], 2), /hold NaN at index 1/);
  assert.throws(() => matrixEntropy([1, 2], 2, 0), /order=0/);
  assert.throws(() => standardize([[1, 2]], 2), /1 rows of 2/);
});
