/**
 * Loading in pieces: every type that a file may hold becomes every type that a model may hold, whole and in place, and memory
 * stays near that of the weights.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import * as path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { fromFloat32, type LazyArray, writeCheckpoint } from "../../src/formats/index.ts";
import { familyOf, llamaConfig, llamaNames } from "../../src/models/families/index.ts";
import { loadTransformer } from "../../src/models/index.ts";
import { paramSlots } from "../../src/models/params.ts";
import type { LoadedIn, LoadWork } from "../../src/recipes/bench-load-process.ts";
import { sizeOf } from "../../src/tensor/index.ts";
import { writeJson } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { BACKENDS, tinySpec, withDevice } from "./helpers.ts";

/** Numbers that every float type holds exactly. */
const exact = (n: number, seed: number) =>
  Float32Array.from({ length: n }, (_, i) => (((i * 37 + seed * 11) % 255) - 127) / 128);

for (const backend of BACKENDS) {
  test(`every type of a file becomes every type of a model, over several pieces, on ${backend}`, () =>
    withDevice(backend, async (device) => {
      using temp = temporaryFolder();
      const spec = { ...tinySpec, vocabSize: 40_011 }; // 2.4 pieces of f32 that end in the middle of a row
      assert.ok(spec.vocabSize * spec.dModel * 4 > 2 << 20);
      const slots = paramSlots(spec, llamaNames);
      await writeJson(path.join(temp.path, "config.json"), llamaConfig(spec));
      for (const stored of ["f64", "f32", "f16", "bf16"] as const) {
        const arrays = slots.map(
          ({ name, shape }, i) => [name, fromFloat32(exact(sizeOf(shape), i), shape, stored)] as const,
        );
        await writeCheckpoint(temp.path, Object.fromEntries(arrays));
        for (const dtype of ["f32", "f16", "bf16"] as const) {
          const model = await loadTransformer(device, temp.path, { dtype });
          for (const [i, { name, tensor, matrix, shape }] of model.slots.entries()) {
            assert.equal(tensor.dtype, matrix ? dtype : "f32");
            const got = await tensor.floats();
            const want = exact(sizeOf(shape), i);
            assert.ok(
              got.length === want.length && got.every((v, at) => v === want[at]),
              `${stored} ${name}`,
            );
          }
          model.dispose();
        }
      }
    }));
}

const program = fileURLToPath(new URL("../../src/recipes/bench-load-process.js", import.meta.url));

for (const [stored, dtype] of [
  ["f32", "f32"],
  ["bf16", "bf16"],
  ["f32", "bf16"],
] as const) {
  test(`a GPT-2 in ${stored} loaded as ${dtype} takes at most 1.2 times its weights`, async () => {
    using temp = temporaryFolder();
    const config = { model_type: "gpt2", vocab_size: 30_000, n_embd: 512, n_layer: 8, n_head: 8 };
    const family = familyOf(config);
    const arrays = new Map<string, LazyArray>();
    for (const slot of paramSlots(family.spec(config), family.names)) {
      const { name, shape } = slot.stored ?? slot;
      const load = () => fromFloat32(new Float32Array(sizeOf(shape)), shape, stored);
      arrays.set(name, { dtype: stored, shape, load });
    }
    await writeJson(path.join(temp.path, "config.json"), config);
    await writeCheckpoint(temp.path, arrays);
    const work: LoadWork = { folder: temp.path, dtype, tokens: 4, threads: 2 };
    const out = execFileSync(process.execPath, [program, JSON.stringify(work)], { encoding: "utf8" });
    const { heldMb, startMb, peakMb } = JSON.parse(out) as LoadedIn;
    const most = stored === "f32" && dtype === "f32" ? 150 : 75;
    assert.ok(heldMb > most, `${heldMb} MB are held`);
    assert.ok(peakMb - startMb < 1.2 * heldMb, `${peakMb - startMb} MB for ${heldMb}`);
  });
}
