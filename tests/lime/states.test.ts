/**
 * States, entropies and routes of small models.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  layerEntropies,
  layerStates,
  matrixEntropy,
  routerShares,
  standardize,
} from "../../src/lime/index.ts";
import { isRouter } from "../../src/models/params.ts";
import { tinyModel, tinySpec, withDevice } from "../models/helpers.ts";

const SEQUENCES = [
  [1, 5, 9, 2, 8, 3],
  [1, 7, 4, 4],
];

test("states are those of the hook points, and what a layer reads differs from what it makes where it is routed", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: { kind: "learned" } });
    const [values, read, hidden] = [
      await layerStates(model, SEQUENCES, { kind: "values" }),
      await layerStates(model, SEQUENCES, { kind: "read" }),
      await layerStates(model, SEQUENCES, { kind: "hidden" }),
    ];
    assert.equal(values.length, tinySpec.nLayers);
    assert.equal(values[0].width, tinySpec.nKvHeads * tinySpec.headDim);
    assert.equal(hidden[0].width, tinySpec.dModel);
    for (const [l, { sequences, width }] of read.entries()) {
      assert.deepEqual(
        sequences.map((s) => s.length),
        SEQUENCES.map((s) => s.length * width),
      );
      if (l === 0) assert.deepEqual(sequences, values[0].sequences);
      else assert.notDeepEqual(sequences, values[l].sequences);
    }
    model.dispose();
  }));

test("entropies are of the standardised states, their mean and spread over sequences", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device);
    const [{ width, sequences }] = await layerStates(model, SEQUENCES, { kind: "hidden" });
    const [a, b] = standardize(sequences, width).map((z) => matrixEntropy(z, width));
    const [first] = await layerEntropies(model, SEQUENCES, { kind: "hidden" });
    assert.ok(Math.abs(first.mean - (a + b) / 2) < 1e-12);
    assert.ok(Math.abs(first.std - Math.abs(a - b) / Math.SQRT2) < 1e-12);
    assert.ok(first.mean > 0 && first.mean <= Math.log(6));
    model.dispose();
  }));

test("shares of a router are of absolute weights by source layer", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, { kvRouting: { kind: "learned", first: 1 } });
    const last = model.slots.filter(isRouter).at(-1)!;
    const [heads, width] = last.shape;
    const sources = width / heads;
    const router = Float32Array.from({ length: heads * width }, (_, i) =>
      Math.floor((i % width) / heads) === 0 ? -3 : 1,
    );
    device.write(last.tensor, router);
    const routes = await routerShares(model);
    assert.equal(routes.length, tinySpec.nLayers - 1);
    const { layer, shares } = routes.at(-1)!;
    assert.equal(layer, tinySpec.nLayers - 1);
    assert.equal(shares.length, tinySpec.nLayers);
    const total = 3 + sources - 1;
    assert.ok(Math.abs(shares[0] - 3 / total) < 1e-6);
    assert.ok(Math.abs(shares.reduce((a, b) => a + b, 0) - 1) < 1e-6);
    const plain = tinyModel(device);
    await assert.rejects(routerShares(plain), /no learned routers/);
    for (const m of [model, plain]) m.dispose();
  }));
