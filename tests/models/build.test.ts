import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { fromFloat32, openModelFolder, writeCheckpoint } from "../../src/formats/index.ts";
import {
  createTransformer,
  hashTransformer,
  loadTransformer,
  type ModelSpec,
  parameterCount,
  saveTransformer,
  type Transformer,
} from "../../src/models/index.ts";
import { Rng, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertNear, BACKENDS, someTokens, tinyModel, tinySpec, withDevice } from "./helpers.ts";

async function logits(model: Transformer): Promise<Float32Array> {
  const tokens = someTokens(model.device, 2, 6);
  const out = model.device.scope(() => model.forward(tokens).logits!);
  const values = await out.floats();
  for (const t of [tokens, out]) t.dispose();
  return values;
}

const readJson = (...parts: string[]) => JSON.parse(fs.readFileSync(path.join(...parts), "utf8"));

for (const backend of BACKENDS) {
  for (const tiedHead of [true, false]) {
    test(`saved and loaded in f32 is the same model, ${tiedHead ? "tied" : "untied"}, on ${backend}`, () =>
      withDevice(backend, async (device) => {
        using temp = temporaryFolder();
        const model = tinyModel(device, { tiedHead });
        await saveTransformer(model, temp.path);
        const loaded = await loadTransformer(device, temp.path);
        assert.deepEqual(loaded.spec, model.spec);
        assert.equal(await hashTransformer(loaded), await hashTransformer(model));
        assert.deepEqual(await logits(loaded), await logits(model));
        model.dispose();
        loaded.dispose();
      }));
  }

  for (const dtype of ["f16", "bf16"] as const) {
    test(`${dtype} matrices stay ${dtype} from file to product on ${backend}`, () =>
      withDevice(backend, async (device) => {
        using temp = temporaryFolder();
        const model = tinyModel(device);
        await saveTransformer(model, temp.path, { dtype });
        const { weights } = openModelFolder(temp.path);
        assert.ok(weights.names().every((n) => weights.info(n).dtype === dtype));
        weights.close();
        const bytes = device.memory().bytes;
        const half = await loadTransformer(device, temp.path, { dtype });
        assert.ok(half.slots.every((s) => s.tensor.dtype === (s.matrix ? dtype : "f32")));
        const halfBytes = device.memory().bytes - bytes;
        const wide = await loadTransformer(device, temp.path); // the same rounded numbers, held in f32
        assert.ok(halfBytes < 0.65 * (device.memory().bytes - bytes - halfBytes));
        assertNear(await logits(half), await logits(wide), "logits", { absolute: 1e-4, relative: 1e-4 });
        const tolerance = dtype === "f16" ? 0.02 : 0.15;
        assertNear(await logits(half), await logits(model), "rounded", {
          absolute: tolerance,
          relative: tolerance,
        });
        for (const m of [model, half, wide]) m.dispose();
      }));
  }
}

test("the folder is what transformers writes: names, config, generation config", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const model = tinyModel(device);
    await saveTransformer(model, temp.path, {
      dtype: "f16",
      extra: { pad_token_id: 2 },
      generation: { pad_token_id: 2 },
    });
    const config = readJson(temp.path, "config.json");
    assert.equal(config.model_type, "llama");
    assert.deepEqual(config.architectures, ["LlamaForCausalLM"]);
    assert.equal(config.torch_dtype, "float16");
    assert.equal(config.pad_token_id, 2);
    assert.deepEqual(readJson(temp.path, "generation_config.json"), {
      bos_token_id: 0,
      eos_token_id: 1,
      pad_token_id: 2,
    });
    const { weights } = openModelFolder(temp.path);
    const names = weights.names();
    assert.ok(names.includes("model.layers.2.self_attn.q_proj.weight"));
    assert.ok(!names.includes("lm_head.weight"), "a tied head is not stored");
    assert.deepEqual(weights.info("model.layers.0.mlp.down_proj.weight").shape, [16, 24]);
    weights.close();
    model.dispose();
  }));

test("the parameter count is that of the tensors", () =>
  withDevice("native", async (device) => {
    for (const tiedHead of [true, false]) {
      const model = tinyModel(device, { tiedHead, qkvBias: true });
      const sizes = model.slots.reduce((n, s) => n + s.tensor.size, 0);
      assert.equal(parameterCount(model.spec).total, sizes);
      model.dispose();
    }
  }));

test("one seed gives one model; matrices that write into the stream start smaller", () =>
  withDevice("native", async (device) => {
    const make = (seed: number) =>
      createTransformer(device, { ...tinySpec, dModel: 64, dMlp: 128, headDim: 16 }, { rng: new Rng(seed) });
    const [a, b, c] = [make(1), make(1), make(2)];
    assert.equal(await hashTransformer(a), await hashTransformer(b));
    assert.notEqual(await hashTransformer(a), await hashTransformer(c));
    const deviation = async (i: "wQ" | "wDown") => {
      const x = await a.params.blocks[0][i].floats();
      return Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length);
    };
    assertNear([await deviation("wQ")], [0.02], "wQ", { absolute: 1e-3, relative: 0 });
    assertNear([await deviation("wDown")], [0.02 / Math.sqrt(6)], "wDown", { absolute: 1e-3, relative: 0 });
    for (const m of [a, b, c]) m.dispose();
  }));

const refuses = (pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SluiceError, String(error));
  assert.match(error.message, pattern);
  return true;
};

test("a folder that is no such model is refused by name: missing, surplus, misshapen, unknown, corrupt", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const model = tinyModel(device);
    const fresh = async (
      change: (arrays: Map<string, Float32Array>, config: Record<string, unknown>) => void,
    ) => {
      const arrays = new Map<string, Float32Array>();
      for (const s of model.slots) arrays.set(s.name, await s.tensor.floats());
      await saveTransformer(model, temp.path);
      const config = readJson(temp.path, "config.json");
      change(arrays, config);
      fs.writeFileSync(path.join(temp.path, "config.json"), JSON.stringify(config));
      const shape = (name: string, data: Float32Array) =>
        model.slots.find((s) => s.name === name && s.tensor.size === data.length)?.shape ?? [data.length];
      await writeCheckpoint(
        temp.path,
        Object.fromEntries([...arrays].map(([n, data]) => [n, fromFloat32(data, shape(n, data))])),
      );
      return loadTransformer(device, temp.path);
    };
    const name = "model.layers.1.mlp.up_proj.weight";
    await assert.rejects(
      fresh((a) => a.delete(name)),
      refuses(/no tensor model\.layers\.1\.mlp\.up_proj/),
    );
    await assert.rejects(
      fresh((a) => a.set("model.extra", new Float32Array(3))),
      refuses(/model\.extra/),
    );
    await assert.rejects(
      fresh((a) => a.set(name, new Float32Array(7))),
      refuses(/up_proj\.weight is \[7\], expected \[24,16\]/),
    );
    await assert.rejects(
      fresh((_, c) => Object.assign(c, { model_type: "mamba" })),
      refuses(/"mamba" is not supported; known: llama/),
    );
    await assert.rejects(
      fresh((_, c) => Object.assign(c, { hidden_act: "gelu" })),
      refuses(/hidden_act = "gelu" is not supported/),
    );
    await assert.rejects(
      fresh((_, c) => Object.assign(c, { strange: 1 })),
      refuses(/strange = 1 is not known/),
    );
    await assert.rejects(
      fresh((_, c) => Object.assign(c, { num_key_value_heads: 3 })),
      refuses(/4 heads cannot share 3/),
    );
    await saveTransformer(model, temp.path);
    const file = path.join(temp.path, "model.safetensors");
    fs.writeFileSync(file, fs.readFileSync(file).fill(255, 0, 8));
    await assert.rejects(loadTransformer(device, temp.path), refuses(/model\.safetensors/));
    await assert.rejects(
      loadTransformer(device, path.join(temp.path, "nowhere")),
      refuses(/no such file or folder/),
    );
    model.dispose();
  }));

test("a failed load leaves no tensor behind", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const model = tinyModel(device);
    await saveTransformer(model, temp.path);
    model.dispose();
    const config = { ...readJson(temp.path, "config.json"), num_hidden_layers: 4 };
    fs.writeFileSync(path.join(temp.path, "config.json"), JSON.stringify(config));
    await assert.rejects(loadTransformer(device, temp.path), refuses(/no tensor model\.layers\.3/));
  }));

test("a spec that a llama config.json cannot describe is refused by field, and nothing is written", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const changes: Partial<ModelSpec>[] = [
      { attnSoftcap: 50 },
      { windowPattern: [8, 0, 8] },
      { norm: { kind: "rms", eps: 1e-5, offset: 1 } },
      { positions: { kind: "rope", theta: 10000, fraction: 0.5 } },
      { positions: { kind: "rope", theta: 10000, fraction: 1, scaling: { kind: "linear", factor: 2 } } },
      { attnScale: 0.25 },
      { qkvBias: true },
    ];
    const folder = path.join(temp.path, "model");
    for (const change of changes) {
      const model = tinyModel(device, change);
      const [field] = Object.keys(change);
      await assert.rejects(saveTransformer(model, folder), {
        code: "usage",
        message: new RegExp(`cannot describe this model: ${field} .* would be read as`),
      });
      model.dispose();
    }
    assert.equal(fs.existsSync(folder), false);
  }));
