/**
 * Checkpoint families: what a `config.json` becomes, what of it is refused, how a checkpoint may be named and laid out.
 * Configs of public models stand here as the Hub has them, without the keys that say nothing about the model.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { type NamedArray, openModelFolder, toFloat32, writeCheckpoint } from "../../src/formats/index.ts";
import { familyOf } from "../../src/models/families/index.ts";
import {
  createFromConfig,
  hashTransformer,
  loadTransformer,
  type ModelSpec,
  parameterCount,
  saveTransformer,
  Transformer,
} from "../../src/models/index.ts";
import { paramSlots } from "../../src/models/params.ts";
import { rotaryFrequencies } from "../../src/models/rotary.ts";
import { fromStored, type StoredSlot, toStored } from "../../src/models/stored.ts";
import type { Device, DType, Tensor } from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { packageRoot } from "../golden.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertNear, tinyModel, withDevice } from "./helpers.ts";

type Json = Record<string, unknown>;

/** The set in the repository, whatever GOLDEN_DIR says: sizes and names of its models stand here. */
const fixture = (...parts: string[]) => path.join(packageRoot(), "tests", "golden", "models", ...parts);

const NAMES = fs
  .readdirSync(fixture(), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name);

const configOf = (family: string, file = "config.json"): Json =>
  JSON.parse(fs.readFileSync(fixture(family, file), "utf8"));
const specOf = (config: Json): ModelSpec => familyOf(config).spec(config);

test("both spellings of a config are one spec", () => {
  for (const family of NAMES)
    assert.deepEqual(specOf(configOf(family)), specOf(configOf(family, "config.legacy.json")), family);
});

/** Of each family: keys that change what it computes, and what the refusal says. */
const REFUSED: Readonly<Record<string, readonly [Json, RegExp][]>> = {
  llama: [
    [{ hidden_act: "gelu" }, /hidden_act = "gelu" is not supported, only "silu"/],
    [{ attention_bias: true }, /attention_bias = true is not supported, only false/],
    [{ mlp_bias: true }, /mlp_bias = true is not supported/],
    [{ quantization_config: { bits: 4 } }, /quantization_config = \{"bits":4\} is not known for a llama/],
    [{ sliding_window: 128 }, /sliding_window = 128 is not known/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor = 0.5 is not known/],
    [{ rope_parameters: { rope_type: "yarn", factor: 4 } }, /rope type "yarn" is not supported/],
    [
      { rope_parameters: null, rope_scaling: { type: "dynamic", factor: 2 } },
      /rope type "dynamic" is not supported; known are default, linear, llama3/,
    ],
    [
      { rope_parameters: null, rope_scaling: { rope_type: "longrope", short_factor: [1] } },
      /rope type "longrope"/,
    ],
    [
      { rope_parameters: { rope_type: "linear", factor: 2, attention_factor: 0.5 } },
      /rope_parameters\.attention_factor = 0.5 is not known/,
    ],
    [
      { rope_parameters: { rope_type: "linear", factor: 0 } },
      /factor of the rope scaling is 0, expected more/,
    ],
    [{ rope_scaling: { type: "linear", factor: 2 } }, /rope_parameters and rope_scaling are both set/],
    [{ num_key_value_heads: 3 }, /4 heads cannot share 3/],
    [{ vocab_size: "257" }, /vocab_size is "257", expected a number/],
  ],
  mistral: [
    [{ hidden_act: "relu" }, /hidden_act = "relu"/],
    [{ attention_bias: true }, /attention_bias = true/],
    [{ rope_parameters: { rope_type: "yarn" } }, /rope type "yarn"/],
    [{ num_local_experts: 8 }, /num_local_experts = 8 is not known for a mistral model/],
  ],
  qwen2: [
    [{ use_mrope: true }, /use_mrope = true is not supported, only false/],
    [{ attention_bias: false }, /attention_bias = false/],
    [
      { layer_types: ["full_attention", "linear_attention", "full_attention"] },
      /layer_types\[1\] = "linear_attention" is not supported/,
    ],
    [
      { layer_types: ["full_attention", "full_attention", "sliding_attention"] },
      /layer 2 slides, but there is no sliding_window/,
    ],
    [{ layer_types: ["full_attention"] }, /layer_types is \["full_attention"\], expected a list of 3/],
    [{ use_sliding_window: "yes" }, /use_sliding_window is "yes", expected true or false/],
  ],
  qwen3: [
    [{ attention_bias: true }, /attention_bias = true/],
    [{ num_experts: 128 }, /num_experts = 128 is not known for a qwen3 model/],
    [{ rope_parameters: { rope_type: "dynamic" } }, /rope type "dynamic"/],
  ],
  gemma2: [
    [{ hidden_activation: "gelu" }, /hidden_activation = "gelu"/],
    [{ attention_bias: true }, /attention_bias = true/],
    [{ use_bidirectional_attention: true }, /use_bidirectional_attention = true/],
    [{ sliding_window: null }, /layer 0 slides, but there is no sliding_window/],
  ],
  gemma3_text: [
    [{ attn_logit_softcapping: 50 }, /attn_logit_softcapping = 50 is not supported, only null/],
    [
      { rope_parameters: { full_attention: { rope_type: "yarn", factor: 8 } } },
      /rope type "yarn" is not supported/,
    ],
    [{ rope_parameters: { rope_theta: 5 } }, /rope_parameters\.rope_theta = 5 is not known/],
    [{ hidden_activation: "silu" }, /hidden_activation = "silu"/],
    [{ use_bidirectional_attention: true }, /use_bidirectional_attention = true/],
  ],
  gpt2: [
    [{ scale_attn_by_inverse_layer_idx: true }, /scale_attn_by_inverse_layer_idx = true is not supported/],
    [{ reorder_and_upcast_attn: true }, /reorder_and_upcast_attn = true/],
    [{ add_cross_attention: true }, /add_cross_attention = true/],
    [
      { activation_function: "gelu_fast" },
      /activation_function = "gelu_fast" is not supported, only "gelu", "gelu_new", "gelu_pytorch_tanh"/,
    ],
    [{ n_head: 5 }, /headDim is 9.6, expected a positive integer/],
  ],
  gpt_neox: [
    [{ hidden_act: "swish" }, /hidden_act = "swish"/],
    [{ rope_parameters: { rope_type: "longrope" } }, /rope type "longrope"/],
    [{ rope_theta: 5 }, /rope_theta = 5 is not supported, only 10000/],
    [{ position_embedding_type: "alibi" }, /position_embedding_type = "alibi" is not known/],
    [
      { rope_parameters: { rope_type: "default", partial_rotary_factor: 0.19 } },
      /rotary width 3 of 16 is odd/,
    ],
  ],
};

for (const family of NAMES) {
  test(`${family}: what its config cannot mean here is refused by name`, () => {
    assert.ok(REFUSED[family]?.length >= 3);
    for (const [change, message] of REFUSED[family])
      assert.throws(() => specOf({ ...configOf(family), ...change }), { code: "input", message });
  });
}

test("a family that is not there is refused with those that are", () => {
  assert.throws(() => familyOf({ model_type: "gemma3" }), /"gemma3" is not supported; known: .*gemma3_text/);
  assert.throws(() => familyOf({ model_type: "constructor" }), /is not supported/);
});

/** What the config of a public model becomes. */
function expects(config: Json, wanted: Partial<ModelSpec>): void {
  const spec = specOf(config);
  for (const [key, value] of Object.entries(wanted))
    assert.deepEqual(spec[key as keyof ModelSpec], value, key);
}

test("the configs of public models are read", () => {
  expects(
    {
      ...{ model_type: "gpt2", activation_function: "gelu_new", attn_pdrop: 0.1, bos_token_id: 50256 },
      ...{ embd_pdrop: 0.1, eos_token_id: 50256, layer_norm_epsilon: 1e-5, n_ctx: 1024, n_embd: 768 },
      ...{ n_head: 12, n_layer: 12, n_positions: 1024, resid_pdrop: 0.1, summary_activation: null },
      ...{ summary_first_dropout: 0.1, summary_type: "cls_index", summary_use_proj: true, vocab_size: 50257 },
      task_specific_params: { "text-generation": { do_sample: true, max_length: 50 } },
    },
    { headDim: 64, dMlp: 3072, contextLength: 1024, tiedHead: true, attnScale: 0.125 },
  );
  expects(
    {
      ...{ model_type: "gpt_neox", bos_token_id: 0, eos_token_id: 0, hidden_act: "gelu", hidden_size: 512 },
      ...{ intermediate_size: 2048, layer_norm_eps: 1e-5, max_position_embeddings: 2048 },
      ...{ num_attention_heads: 8, num_hidden_layers: 6, rotary_emb_base: 10000, rotary_pct: 0.25 },
      ...{ tie_word_embeddings: false, use_parallel_residual: true, vocab_size: 50304 },
    },
    {
      positions: { kind: "rope", theta: 10000, fraction: 0.25 },
      mlp: { kind: "plain", activation: "gelu" },
      parallelResidual: true,
      eosTokens: [0],
    },
  );
  expects(
    {
      ...{ model_type: "llama", attention_bias: false, bos_token_id: 128000, eos_token_id: [128001, 128008] },
      ...{ head_dim: 64, hidden_act: "silu", hidden_size: 2048, intermediate_size: 8192, mlp_bias: false },
      ...{ max_position_embeddings: 131072, num_attention_heads: 32, num_hidden_layers: 16 },
      ...{ num_key_value_heads: 8, pretraining_tp: 1, rms_norm_eps: 1e-5, rope_theta: 500000 },
      rope_scaling: {
        ...{ factor: 32, high_freq_factor: 4, low_freq_factor: 1, rope_type: "llama3" },
        original_max_position_embeddings: 8192,
      },
      ...{ tie_word_embeddings: true, vocab_size: 128256 },
    },
    {
      positions: {
        ...{ kind: "rope", theta: 500000, fraction: 1 },
        scaling: {
          ...{ kind: "llama3", factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 8192 },
        },
      },
      eosTokens: [128001, 128008],
    },
  );
  const mistral = {
    ...{ model_type: "mistral", hidden_act: "silu", hidden_size: 4096, intermediate_size: 14336 },
    ...{ max_position_embeddings: 32768, num_attention_heads: 32, num_hidden_layers: 2 },
    ...{ num_key_value_heads: 8, rms_norm_eps: 1e-5, rope_theta: 10000, vocab_size: 32000 },
  };
  expects({ ...mistral, sliding_window: 512 }, { windowPattern: [512, 512] });
  expects({ ...mistral, sliding_window: null }, { windowPattern: [0, 0] });
  expects(mistral, { windowPattern: [4096, 4096] }); // the default of transformers
  const qwen = {
    ...{ model_type: "qwen2", attention_dropout: 0, hidden_act: "silu", hidden_size: 896 },
    ...{ intermediate_size: 4864, max_position_embeddings: 32768, max_window_layers: 2 },
    ...{ num_attention_heads: 14, num_hidden_layers: 4, num_key_value_heads: 2, rms_norm_eps: 1e-6 },
    ...{ rope_theta: 1e6, sliding_window: 128, tie_word_embeddings: true, use_mrope: false },
    ...{ use_sliding_window: false, vocab_size: 151936 },
  };
  expects(qwen, { qkvBias: true, windowPattern: [0, 0, 0, 0] });
  expects({ ...qwen, use_sliding_window: true }, { windowPattern: [0, 0, 128, 128] });
  expects(
    { ...qwen, model_type: "qwen3", attention_bias: false, head_dim: null },
    { qkNorm: true, qkvBias: false, headDim: 128, attnScale: 128 ** -0.5 },
  );
  expects(
    {
      ...{ model_type: "gemma2", attention_bias: false, attn_logit_softcapping: 50, bos_token_id: 2 },
      ...{ cache_implementation: "hybrid", eos_token_id: 1, final_logit_softcapping: 30, head_dim: 256 },
      ...{ hidden_act: "gelu_pytorch_tanh", hidden_activation: "gelu_pytorch_tanh", hidden_size: 2304 },
      ...{ intermediate_size: 9216, max_position_embeddings: 8192, num_attention_heads: 8 },
      ...{ num_hidden_layers: 3, num_key_value_heads: 4, query_pre_attn_scalar: 144, rms_norm_eps: 1e-6 },
      ...{ rope_theta: 10000, sliding_window: 4096, vocab_size: 256000 },
    },
    {
      ...{ embedScale: 48, attnScale: 1 / 12, attnSoftcap: 50, logitSoftcap: 30, tiedHead: true },
      windowPattern: [4096, 0, 4096],
      norm: { kind: "rms", eps: 1e-6, offset: 1 },
      normPlacement: "around",
    },
  );
  expects(
    {
      ...{ model_type: "gemma3_text", attn_logit_softcapping: null, eos_token_id: [1, 106], head_dim: 256 },
      ...{ final_logit_softcapping: null, hidden_activation: "gelu_pytorch_tanh", hidden_size: 1152 },
      ...{ intermediate_size: 6912, max_position_embeddings: 32768, num_attention_heads: 4 },
      ...{ num_hidden_layers: 7, num_key_value_heads: 1, query_pre_attn_scalar: 256, rms_norm_eps: 1e-6 },
      ...{ rope_local_base_freq: 10000, rope_scaling: null, rope_theta: 1000000, sliding_window: 512 },
      ...{ sliding_window_pattern: 6, vocab_size: 262144 },
    },
    {
      windowPattern: [512, 512, 512, 512, 512, 0, 512],
      positions: { kind: "rope", theta: 1e6, fraction: 1, windowed: { theta: 10000 } },
      attnSoftcap: 0,
      logitSoftcap: 0,
    },
  );
});

test("linear scaling divides every frequency, llama3 scaling only slow ones, with a ramp between", () => {
  assertNear(rotaryFrequencies(4, { theta: 100 }), [1, 0.1], "plain");
  assertNear(
    rotaryFrequencies(4, { theta: 100, scaling: { kind: "linear", factor: 4 } }),
    [0.25, 0.025],
    "linear",
  );
  // Turns in a context of 20π: 10 f. Kept above 4, divided by 8 below 1, halfway at 2.5.
  const scaling = {
    kind: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalContext: 20 * Math.PI,
  } as const;
  const theta = 1 / 0.0625; // frequencies 1, 0.5, 0.25, 0.125 at width 8
  const half = (0.25 + 0.25 / 8) / 2;
  assertNear(
    rotaryFrequencies(8, { theta, scaling }),
    [1, 0.5, half, (1 - 0.25 / 3) * (0.125 / 8) + (0.25 / 3) * 0.125],
    "llama3",
    { absolute: 1e-12, relative: 0 },
  );
  assertNear(
    rotaryFrequencies(8, { theta, scaling: { ...scaling, originalContext: 10 * Math.PI } }),
    [1, half * 2, 0.25 * ((1 - 0.25 / 3) / 8 + 0.25 / 3), 0.125 / 8],
    "half the context",
    { absolute: 1e-12, relative: 0 },
  );
});

test("a part of a tensor is cut out by blocks or by heads, turned where the file has [in, out], and put back", () =>
  withDevice("native", async (device) => {
    const shape = [4, 2];
    const whole = (of: readonly number[], dtype: DType = "f32") => {
      const numbers = Array.from({ length: of.reduce((a, b) => a * b, 1) }, (_, i) => i);
      return device.tensor(numbers, of, dtype);
    };
    const numbersOf = async (make: () => Tensor) => {
      const tensor = device.scope(make);
      return [...(await tensor.floats().finally(() => tensor.dispose()))];
    };
    const cut = (slot: StoredSlot) => numbersOf(() => fromStored(slot, whole(slot.stored.shape)));
    const rows = (r: number[]) => r.flatMap((n) => [2 * n, 2 * n + 1]);
    const stored = { name: "", shape: [12, 2], transposed: false, groups: 1, parts: 3, part: 1 };
    assert.deepEqual(await cut({ shape, stored }), rows([4, 5, 6, 7]));
    const perHead = { ...stored, groups: 2 };
    assert.deepEqual(await cut({ shape, stored: perHead }), rows([2, 3, 8, 9]));
    const turned = { ...stored, shape: [2, 12], transposed: true };
    assert.deepEqual(await cut({ shape, stored: turned }), [4, 16, 5, 17, 6, 18, 7, 19]);
    assert.deepEqual(
      await cut({ shape: [4], stored: { ...turned, shape: [12], groups: 2 } }),
      [2, 3, 8, 9],
      "bias",
    );
    for (const layout of [stored, perHead, turned]) {
      for (const dtype of ["f32", "bf16"] as const) {
        const back = await numbersOf(() => {
          const parts = [2, 0, 1].map((part) => {
            const slot = { shape, stored: { ...layout, part } };
            return { slot, tensor: fromStored(slot, whole(layout.shape, dtype)) };
          });
          return toStored(parts);
        });
        assert.deepEqual(back, rows([...Array(12).keys()]));
      }
    }
  }));

async function logitsOf(model: Transformer): Promise<Float32Array> {
  const ids = model.device.tensor([5, 17, 3, 99, 42, 8, 150, 7, 61], [1, 9], "i32");
  const logits = model.device.scope(() => model.forward(ids).logits!);
  ids.dispose();
  return await logits.floats().finally(() => logits.dispose());
}

/** The family's checkpoint, with its tensors and config changed, in a folder that is gone afterwards. */
async function loadChanged(
  device: Device,
  family: string,
  change: (arrays: Map<string, NamedArray>, config: Json) => Map<string, NamedArray>,
): Promise<Transformer> {
  using temp = temporaryFolder();
  const { weights } = openModelFolder(fixture(family));
  const arrays = new Map<string, NamedArray>();
  for (const name of weights.names()) arrays.set(name, weights.readSync(name));
  weights.close();
  const config = configOf(family);
  await writeCheckpoint(temp.path, Object.fromEntries(change(arrays, config)));
  fs.writeFileSync(path.join(temp.path, "config.json"), JSON.stringify(config));
  return await loadTransformer(device, temp.path);
}

const zeros = (...shape: number[]): NamedArray => ({
  dtype: "f32",
  shape,
  data: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
});

test("GPT-2 as the Hub stores it, without prefix and with masks, is the same model", () =>
  withDevice("native", async (device) => {
    const own = await loadTransformer(device, fixture("gpt2"));
    const hub = await loadTransformer(device, fixture("gpt2", "hub_layout"));
    const { weights } = openModelFolder(fixture("gpt2", "hub_layout"));
    assert.ok(weights.has("h.0.attn.bias") && !weights.has("transformer.wte.weight"));
    weights.close();
    assert.equal(await hashTransformer(hub), await hashTransformer(own));
    own.dispose();
    hub.dispose();
  }));

test("a checkpoint of the bare model leaves out the prefix; buffers of old files are ignored", () =>
  withDevice("native", async (device) => {
    const buffers: Readonly<Record<string, readonly [string, string][]>> = {
      gpt2: [["transformer.", "h.1.attn.masked_bias"]],
      gpt_neox: [
        ["gpt_neox.", "layers.0.attention.bias"],
        ["gpt_neox.", "layers.2.attention.masked_bias"],
        ["gpt_neox.", "layers.1.attention.rotary_emb.inv_freq"],
      ],
      llama: [["model.", "layers.3.self_attn.rotary_emb.inv_freq"]],
      qwen2: [["model.", "rotary_emb.inv_freq"]],
    };
    for (const [family, list] of Object.entries(buffers)) {
      const plain = await loadTransformer(device, fixture(family));
      const want = await hashTransformer(plain);
      plain.dispose();
      for (const bare of [false, true]) {
        const model = await loadChanged(device, family, (arrays) => {
          for (const [prefix, name] of list) arrays.set(prefix + name, zeros(3));
          if (!bare) return arrays;
          return new Map(
            [...arrays].map(([n, a]) => [n.startsWith(list[0][0]) ? n.slice(list[0][0].length) : n, a]),
          );
        });
        assert.equal(await hashTransformer(model), want, `${family}, ${bare ? "bare" : "prefixed"}`);
        model.dispose();
      }
    }
  }));

test("what looks like a buffer and is none is refused, as is a fused tensor of another shape", () =>
  withDevice("native", async (device) => {
    const load = (family: string, name: string, array: NamedArray) =>
      loadChanged(device, family, (arrays) => arrays.set(name, array));
    for (const name of [
      "transformer.h.0.attn.bias2",
      "transformer.h.0.mlp.bias",
      "h.0.attn.c_attn.bias",
      "transformer.attn.bias",
    ]) {
      await assert.rejects(load("gpt2", name, zeros(3)), {
        message: new RegExp(`holds ${name}, which this model has no place for`),
      });
    }
    await assert.rejects(load("llama", "model.layers.0.self_attn.q_proj.bias", zeros(64)), /q_proj\.bias/);
    await assert.rejects(load("gpt2", "transformer.h.1.attn.c_attn.weight", zeros(144, 48)), {
      message: /transformer\.h\.1\.attn\.c_attn\.weight is \[144,48\], expected \[48,144\]/,
    });
    await assert.rejects(
      loadChanged(device, "gpt_neox", (arrays) => {
        arrays.delete("gpt_neox.layers.2.attention.query_key_value.bias");
        return arrays;
      }),
      /no tensor gpt_neox\.layers\.2\.attention\.query_key_value\.bias/,
    );
  }));

test("every family is held in 16 bits where asked, fused and turned matrices too", () =>
  withDevice("native", async (device) => {
    for (const family of NAMES) {
      const wide = await loadTransformer(device, fixture(family));
      const want = await logitsOf(wide);
      const largest = want.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      wide.dispose();
      for (const dtype of ["f16", "bf16"] as const) {
        const half = await loadTransformer(device, fixture(family), { dtype });
        assert.ok(half.slots.every((s) => s.tensor.dtype === (s.matrix ? dtype : "f32")));
        const absolute = (dtype === "f16" ? 0.01 : 0.1) * largest;
        assertNear(await logitsOf(half), want, `${family} in ${dtype}`, { absolute, relative: 0 });
        half.dispose();
      }
    }
  }));

test("the parameter count is that of the file", () => {
  for (const family of NAMES) {
    const spec = specOf(configOf(family));
    const slots = paramSlots(spec, familyOf(configOf(family)).names);
    assert.equal(new Set(slots.map((s) => s.name)).size, slots.length, `${family}: names are unique`);
    const { weights } = openModelFolder(fixture(family));
    const sizes = weights.names().map((n) => weights.info(n).shape.reduce((a, b) => a * b, 1));
    weights.close();
    assert.equal(
      parameterCount(spec).total,
      sizes.reduce((a, b) => a + b, 0),
      family,
    );
  }
});

test("a model goes back under the config it came with: the same tensors in the family's names and layouts", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    for (const family of NAMES) {
      const model = await loadTransformer(device, fixture(family));
      const folder = path.join(temp.path, family);
      await saveTransformer(model, folder);
      const [there, here] = [openModelFolder(fixture(family)), openModelFolder(folder)];
      for (const name of there.tensorNames()) {
        const [want, got] = [there.readSync(name), here.readSync(name)];
        assert.deepEqual([...toFloat32(got)], [...toFloat32(want)], `${family}: ${name}`);
        assert.deepEqual(got.shape, want.shape);
      }
      assert.equal(here.tensorNames().length, there.tensorNames().length);
      assert.deepEqual(specOf(here.config), model.spec);
      assert.equal(here.config.torch_dtype, "float32");
      for (const files of [there, here]) files.close();
      const again = await loadTransformer(device, folder);
      assert.equal(await hashTransformer(again), await hashTransformer(model), family);
      for (const m of [model, again]) m.dispose();
    }
  }));

test("a fresh model of any family's config is saved under it; one whose spec has left its config is not", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    for (const family of NAMES) {
      const model = createFromConfig(device, configOf(family), { rng: new Rng(1) });
      const folder = path.join(temp.path, family);
      await saveTransformer(model, folder, { dtype: "bf16" });
      const again = await loadTransformer(device, folder, { dtype: "bf16" });
      assert.deepEqual(again.spec, model.spec);
      const { device: _, params, slots, config } = model;
      const other = new Transformer(device, { ...model.spec, attnSoftcap: 7 }, { params, slots, config });
      await assert.rejects(saveTransformer(other, path.join(temp.path, "other")), {
        code: "usage",
        message: /no longer that of the config/,
      });
      for (const m of [again, other, model]) m.dispose();
    }
    assert.equal(fs.existsSync(path.join(temp.path, "other")), false);
  }));

test("fresh biases begin at 0 and gains at 1, and every parameter of every kind of block has a name", () =>
  withDevice("native", async (device) => {
    const model = tinyModel(device, {
      ...{ qkvBias: true, outBias: true, mlpBias: true, normPlacement: "around", tiedHead: false },
      norm: { kind: "layer", eps: 1e-5 },
      positions: { kind: "learned" },
    });
    for (const { name, tensor, matrix } of model.slots) {
      if (matrix) continue;
      const want = name.endsWith(".bias") ? 0 : 1;
      assert.ok(
        (await tensor.floats()).every((v) => v === want),
        name,
      );
    }
    const sizes = model.slots.reduce((n, s) => n + s.tensor.size, 0);
    assert.equal(parameterCount(model.spec).total, sizes);
    model.dispose();
  }));
