/**
 * Absorption on tokens written down by hand, and on SAEs that were built to absorb a known share of a class.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { absorptionFraction, isFullyAbsorbed, measureAbsorption } from "../../src/interpret/absorption.ts";
import { disposeSae, type Sae, saeConfig } from "../../src/sae/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { BACKENDS, withDevice } from "../sae/helpers.ts";

/** A token of projection 10 on which feature 0 (the class's own) and others write. */
const token = (writes: readonly number[], cosines = writes.map(() => 0.5)) => ({
  projection: 10,
  features: writes.map((_, f) => f),
  writes,
  cosines,
});

test("absorption fraction: what others write in the place of the class's own feature", () => {
  assert.equal(absorptionFraction(token([10, 5]), [0]), 0); // nothing is missing
  assert.equal(absorptionFraction(token([7, 3]), [0]), 0); // others write less than 0.4
  assert.equal(absorptionFraction(token([6, 4]), [0]), 0.4);
  assert.equal(absorptionFraction(token([5, 9]), [0]), 0.5); // counts up to what is missing
  assert.equal(absorptionFraction(token([2, 3, 3]), [0]), 0.75);
  assert.equal(absorptionFraction(token([0, 4]), [0]), 1);
  assert.equal(absorptionFraction(token([3, 4]), []), 0.7 / 0.7); // no feature of its own fires
  assert.equal(absorptionFraction(token([2, 2, 2, 2]), [9]), 1); // the three strongest: 6 of 10
  assert.equal(absorptionFraction(token([1, 1, 1, 1, 1]), [9]), 0); // 3 of 10
});

test("absorption fraction: features hardly along the probe, and tokens against it, do not count", () => {
  assert.equal(absorptionFraction(token([0, 8], [0.9, 0.09]), [0]), 0);
  assert.equal(absorptionFraction({ ...token([0, 8]), projection: -10 }, [0]), 0);
});

test("full absorption: the class's own feature is silent and one other writes 0.4 of the projection", () => {
  const silent = { projection: 10, features: [3, 4], writes: [4, 1], cosines: [0.5, 0.5] };
  assert.equal(isFullyAbsorbed(silent, [0]), true);
  assert.equal(isFullyAbsorbed(silent, [4]), false); // 4 fires, however little
  assert.equal(isFullyAbsorbed({ ...silent, writes: [3.9, 3.9] }, [0]), false); // no single one
  assert.equal(isFullyAbsorbed({ ...silent, cosines: [0.02, 0.5] }, [0]), false);
  assert.equal(isFullyAbsorbed({ ...silent, projection: -10 }, [0]), false);
  assert.equal(isFullyAbsorbed({ projection: 10, features: [], writes: [], cosines: [] }, [0]), false);
});

// 48 tokens: 16 of class a, 16 of class b, 16 of none, four samples of each. An activation is 4 × the direction of its class,
// 3 × the direction of its token and a little noise; all directions are axes.
const TYPES = 48;
const D = TYPES + 3;
const classOf = (type: number) => Math.floor(type / 16);

function samples() {
  const rng = new Rng(1);
  const rows = TYPES * 4;
  const x = rng.fillNormal(new Float32Array(rows * D), 0, 0.05);
  const is = new Uint8Array(rows * 2);
  const groups = new Int32Array(rows);
  const test = new Uint8Array(rows);
  for (let i = 0; i < rows; i++) {
    const type = Math.floor(i / 4);
    x[i * D + type] += 3;
    x[i * D + TYPES + classOf(type)] += 4;
    if (classOf(type) < 2) is[i * 2 + classOf(type)] = 1;
    groups[i] = type;
    test[i] = type % 2;
  }
  return { x, labels: { rows, classes: 2, is }, groups, test, classNames: ["a", "b"] };
}

/** Features 0, 1: the classes; then one a token. On `absorbed` tokens the class's is silent and the token's writes `part` of it. */
function builtSae(device: Device, absorbed: readonly number[], part: number): Sae {
  const F = TYPES + 2;
  const [enc, dec] = [new Float32Array(F * D), new Float32Array(F * D)];
  for (let f = 0; f < F; f++) {
    const axis = f < 2 ? TYPES + f : f - 2;
    enc[f * D + axis] = 1;
    dec[f * D + axis] = 1;
  }
  for (const type of absorbed) {
    const c = classOf(type);
    enc[c * D + type] = (-4 * part) / 3; // 4 − part · 4 is left of the class's feature on this token
    dec[(type + 2) * D + TYPES + c] = (4 * part) / 3; // which is what its own feature, of value 3, adds
  }
  const config = saeConfig({ dIn: D, features: F, activation: { kind: "relu" }, applyBDecToInput: false });
  const params = {
    wEnc: device.tensor(enc, [F, D]).keep(),
    bEnc: device.full([F], -0.3).keep(),
    wDec: device.tensor(dec, [F, D]).keep(),
    bDec: device.zeros([D]).keep(),
  };
  return { config, params, metadata: {} };
}

for (const backend of BACKENDS) {
  const measured = async (device: Device, absorbed: readonly number[], part: number) => {
    const sae = builtSae(device, absorbed, part);
    const given = samples();
    const [{ classes }] = await measureAbsorption(device, [sae], given);
    disposeSae(sae);
    return classes;
  };

  test(`an SAE with a feature for each class and each token absorbs nothing, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      for (const found of await measured(device, [], 0)) {
        assert.deepEqual(found.features, [found.name === "a" ? 0 : 1]);
        assert.deepEqual([found.train, found.test, found.truePositives], [32, 32, 32]);
        assert.equal(found.probe.f1, 1);
        assert.equal(found.sparseF1[0], 1);
        assert.deepEqual([found.fraction, found.full], [0, 0]);
      }
    }));

  test(`absorption is the share of the tokens on which a token's feature took the class's place, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      // Two of the eight tokens of a to test on, which are the odd ones.
      const [a, b] = await measured(device, [1, 3], 1);
      assert.deepEqual(a.features, [0]);
      assert.deepEqual([a.truePositives, a.fraction, a.full], [32, 0.25, 0.25]);
      assert.deepEqual([b.fraction, b.full], [0, 0]);
    }));

  test(`where the class's feature still fires, absorption is partial and never full, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      const [a] = await measured(device, [0, 1, 2, 3], 0.6);
      assert.equal(a.full, 0);
      // About 0.6 of the direction on a quarter of the tokens; the bias of −0.3 takes a little of the class's feature.
      assert.ok(Math.abs(a.fraction - 0.25 * 0.6) < 0.03, `${a.fraction}`);
    }));
}
