/**
 * SAEs of other libraries: the files of tests/fixtures/formats were written, and what they compute was computed, by torch and
 * numpy (make.py there).
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  findSae,
  fromFloat32,
  fromInt32,
  openArrays,
  readSafetensorsSync,
  toFloat32,
  transpose2d,
  type WritableSaeFormat,
  writeSafetensors,
  writeTorch,
  writeZip,
  ZipFile,
} from "../../src/formats/index.ts";
import {
  createSae,
  disposeSae,
  encode,
  type LoadSaeOptions,
  loadSae,
  mapParams,
  reconstruct,
  type Sae,
  type SaeConfigInput,
  saeConfig,
  saveSae,
} from "../../src/sae/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { Rng, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { assertClose, withDevice } from "./helpers.ts";

const fixtures = fileURLToPath(new URL("../../../tests/fixtures/formats/", import.meta.url));
const fixture = (name: string): string => path.join(fixtures, name);

interface Case {
  readonly place: string;
  readonly expected: string;
  readonly format: string;
  readonly options?: LoadSaeOptions;
  readonly config: Partial<SaeConfigInput>;
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly warnings?: RegExp;
}

const relu = { kind: "relu" } as const;
const jumprelu = { kind: "jumprelu" } as const;
const pythia = { hook_name: "blocks.3.hook_resid_post", model_name: "EleutherAI/pythia-70m-deduped" };

const CASES: readonly Case[] = [
  {
    place: "dl-autoencoder",
    expected: "dl-autoencoder",
    format: "dictionary-learning",
    config: { activation: relu, applyBDecToInput: true },
  },
  {
    place: "dl-autoencoder-new/ae.pt",
    expected: "dl-autoencoder-new",
    format: "dictionary-learning",
    config: { activation: relu, applyBDecToInput: false },
    metadata: { ...pythia, context_size: 128 },
  },
  {
    place: "dl-gated",
    expected: "dl-gated",
    format: "dictionary-learning",
    config: { activation: { kind: "gated" }, applyBDecToInput: true },
  },
  {
    place: "dl-topk-square",
    expected: "dl-topk-square",
    format: "dictionary-learning",
    config: { activation: { kind: "topk", k: 2 }, dIn: 6, features: 6 },
  },
  {
    place: "dl-batchtopk-bf16",
    expected: "dl-batchtopk-bf16",
    format: "dictionary-learning",
    config: { activation: jumprelu, applyBDecToInput: true },
    warnings: /norm_factor=1.5 is taken to be in the biases/,
  },
  {
    place: "dl-matryoshka",
    expected: "dl-matryoshka",
    format: "dictionary-learning",
    config: { activation: jumprelu, applyBDecToInput: true },
  },
  {
    place: "dl-jumprelu",
    expected: "dl-jumprelu",
    format: "dictionary-learning",
    config: { activation: jumprelu, applyBDecToInput: false },
  },
  {
    place: "sparsify/layers.1",
    expected: "sparsify",
    format: "sparsify",
    config: { activation: { kind: "topk", k: 3 }, applyBDecToInput: true, dIn: 6, features: 6 },
    metadata: { hook_name: "blocks.1.hook_resid_post" },
  },
  {
    place: "sparsify/layers.1.mlp",
    expected: "sparsify-transcoder",
    format: "sparsify",
    options: { hook: "blocks.1.ln2.hook_normalized", hookOut: "blocks.1.hook_mlp_out" },
    config: { transcoder: true, skip: true, applyBDecToInput: false },
    metadata: { hook_name: "blocks.1.ln2.hook_normalized", hook_name_out: "blocks.1.hook_mlp_out" },
  },
  {
    place: "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
    expected: "gemma-scope",
    format: "gemma-scope",
    config: { activation: jumprelu, applyBDecToInput: false },
    metadata: { hook_name: "blocks.20.hook_resid_post", model_name: "gemma-2-2b" },
  },
  {
    place: "gemma-scope-9b-it-att/layer_3/width_16k/average_l0_9/params.npz",
    expected: "gemma-scope-compressed",
    format: "gemma-scope",
    config: { activation: jumprelu, applyBDecToInput: false },
    metadata: { hook_name: "blocks.3.attn.hook_z", model_name: "gemma-2-9b-it" },
  },
  {
    place: "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
    expected: "gemma-scope-embedding",
    format: "gemma-scope",
    config: {},
    metadata: { hook_name: "hook_embed", model_name: "gemma-2-2b" },
    warnings: /an SAE of embeddings: W_enc was divided and W_dec multiplied by √6/,
  },
  {
    place: "gemma-scope-2-4b-pt/resid_post/layer_9_width_16k_l0_small",
    expected: "gemma-scope-2",
    format: "gemma-scope-2",
    config: { activation: jumprelu, transcoder: false },
    metadata: { hook_name: "blocks.9.hook_resid_post", model_name: "gemma-3-4b-pt" },
  },
  {
    place: "gemma-scope-2-4b-pt/transcoder/layer_9_width_16k_l0_small_affine",
    expected: "gemma-scope-2-transcoder",
    format: "gemma-scope-2",
    config: { transcoder: true, skip: true },
    metadata: {
      model_name: "gemma-3-4b-pt",
      hook_name: "blocks.9.ln2.hook_normalized",
      hook_name_out: "blocks.9.hook_mlp_out",
    },
  },
  {
    place: "Llama3_1-8B-Base-L3TC-8x",
    expected: "llama-scope",
    format: "llama-scope",
    config: { activation: jumprelu, transcoder: true, applyBDecToInput: false },
    metadata: { hook_name: "blocks.3.ln2.hook_normalized", hook_name_out: "blocks.3.hook_mlp_out" },
  },
  {
    place: "Llama3_1-8B-Base-L3TC-8x/checkpoints/final.safetensors",
    expected: "llama-scope",
    format: "llama-scope",
    config: { transcoder: true },
  },
  {
    place: "llama-scope-r1",
    expected: "llama-scope-r1",
    format: "llama-scope-r1",
    config: { activation: jumprelu, transcoder: false },
    metadata: { hook_name: "blocks.5.hook_resid_post" },
  },
  {
    place: "llamascopium",
    expected: "llamascopium",
    format: "llamascopium",
    config: { activation: { kind: "topk", k: 3 }, applyBDecToInput: false },
    warnings: /sparsity_include_decoder_norm: decoder rows were brought to length 1/,
  },
  {
    place: "openai/relu.pt",
    expected: "openai-relu",
    format: "openai",
    config: { activation: relu, applyBDecToInput: true },
  },
  {
    place: "openai/topk.pt",
    expected: "openai-topk",
    format: "openai",
    options: { lossy: true },
    config: { activation: { kind: "topk", k: 3 } },
    warnings: /is the SAE of inputs that are normalised so already/,
  },
  {
    place: "sae-lens-old",
    expected: "sae-lens-old",
    format: "sae-lens",
    config: { activation: { kind: "topk", k: 3 }, applyBDecToInput: true },
    metadata: { hook_name: "blocks.6.hook_resid_pre", model_name: "gpt2-small" },
  },
  {
    place: "sae-lens-scaled",
    expected: "sae-lens-scaled",
    format: "sae-lens",
    options: { normFactor: 0.25 },
    config: { activation: relu },
  },
];

for (const { place, expected, format, options, config, metadata = {}, warnings } of CASES) {
  test(`${place} is read as ${format} and computes what torch computes`, () =>
    withDevice("native", async (device) => {
      const loaded = await loadSae(device, fixture(place), options);
      assert.equal(loaded.format, format);
      if (warnings) assert.match(loaded.warnings.join("\n"), warnings);
      else assert.deepEqual(loaded.warnings, []);
      for (const [key, value] of Object.entries(config)) {
        assert.deepEqual(loaded.sae.config[key as keyof SaeConfigInput], value, key);
      }
      for (const [key, value] of Object.entries(metadata)) assert.equal(loaded.sae.metadata[key], value, key);
      await compare(device, loaded.sae, expected);
      disposeSae(loaded.sae);
    }));
}

/** Dense features [B, F] and the output of the inputs of a file under expected/. */
async function computed(device: Device, sae: Sae, x: Float32Array) {
  const { dIn, features } = sae.config;
  const rows = x.length / dIn;
  const input = device.tensor(x, [rows, dIn]).keep();
  const output = reconstruct(sae, input);
  const codes = encode(sae, input);
  const values = await codes.values.floats();
  let dense = values;
  if (codes.kind === "sparse") {
    const indices = await codes.indices.ints();
    const k = codes.values.shape[1];
    dense = new Float32Array(rows * features);
    values.forEach((v, i) => {
      if (v !== 0) dense[Math.floor(i / k) * features + indices[i]] = v;
    });
    codes.indices.dispose();
  }
  const result = { features: dense, output: await output.floats() };
  for (const t of [input, output, codes.values]) t.dispose();
  return result;
}

async function compare(device: Device, sae: Sae, name: string): Promise<void> {
  const file = readSafetensorsSync(fixture(`expected/${name}.safetensors`));
  const read = (key: string): Float32Array => toFloat32(file.get(key)!);
  const { features, output } = await computed(device, sae, read("x"));
  const wanted = read("features");
  assert.ok(wanted.some((v) => v > 0) && wanted.some((v) => v === 0), "the example says something");
  assertClose(features, wanted, "features", 2e-6);
  assertClose(output, read("output"), "output", 2e-6);
}

async function paramsOf(sae: Sae): Promise<Record<string, Uint8Array>> {
  const out: Record<string, Uint8Array> = {};
  for (const [name, promise] of Object.entries(mapParams(sae.params, (t) => t.floats()))) {
    const data = await promise;
    out[name] = new Uint8Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  }
  return out;
}

/** Formats that hold the SAE of a case exactly. */
const EXACT: readonly (readonly [place: string, format: WritableSaeFormat])[] = [
  ["dl-autoencoder", "dictionary-learning"],
  ["dl-autoencoder-new", "dictionary-learning"],
  ["dl-gated", "dictionary-learning"],
  ["dl-topk-square", "dictionary-learning"],
  ["dl-batchtopk-bf16", "dictionary-learning"],
  ["dl-matryoshka", "dictionary-learning"],
  ["dl-jumprelu", "dictionary-learning"],
  ["dl-topk-square", "sparsify"],
  ["dl-jumprelu", "gemma-scope"],
  ["dl-jumprelu", "sae-lens"],
  ["dl-gated", "sae-lens"],
  ["sparsify/layers.1", "sparsify"],
  ["sparsify/layers.1", "dictionary-learning"],
  ["sparsify/layers.1.mlp", "sparsify"],
  ["gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "gemma-scope"],
  ["gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "dictionary-learning"],
  ["gemma-scope-2-4b-pt/transcoder/layer_9_width_16k_l0_small_affine", "sae-lens"],
  ["Llama3_1-8B-Base-L3TC-8x", "llama-scope"],
  ["Llama3_1-8B-Base-L3TC-8x", "sae-lens"],
  ["openai/relu.pt", "dictionary-learning"],
  ["sae-lens-old", "sae-lens"],
  ["sae-lens-old", "sparsify"],
];

for (const [place, format] of EXACT) {
  test(`${place} written as ${format} comes back with the same bits and config`, () =>
    withDevice("native", async (device) => {
      using temp = temporaryFolder();
      const { sae } = await loadSae(device, fixture(place));
      await saveSae(temp.path, sae, { format });
      const back = await loadSae(device, temp.path);
      assert.equal(back.format, format);
      assert.deepEqual(back.sae.config, sae.config);
      assert.deepEqual(await paramsOf(back.sae), await paramsOf(sae));
      for (const one of [sae, back.sae]) disposeSae(one);
    }));
}

test("what dictionary_learning keeps beside the weights comes back, by way of SAELens", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const lens = path.join(temp.path, "lens");
    const again = path.join(temp.path, "again");
    for (const name of ["dl-matryoshka", "dl-topk-square"]) {
      const first = await loadSae(device, fixture(name));
      await saveSae(lens, first.sae);
      const second = await loadSae(device, lens);
      const { lost } = await saveSae(again, second.sae, { format: "dictionary-learning" });
      assert.deepEqual(lost, []);
      const third = await loadSae(device, again);
      assert.deepEqual(third.sae.provenance, first.sae.provenance);
      const read = (folder: string) => JSON.parse(fs.readFileSync(path.join(folder, "config.json"), "utf8"));
      assert.deepEqual(read(again), read(fixture(name)));
      for (const { sae } of [first, second, third]) disposeSae(sae);
    }
  }));

test("a conversion that rounds is refused with the reason, and done with what was lost when it is allowed", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const { sae } = await loadSae(device, fixture("dl-batchtopk-bf16"));
    const to = { format: "gemma-scope" } as const;
    await assert.rejects(
      saveSae(temp.path, sae, to),
      /cannot be written exactly: the format does not subtract b_dec .* Allow it with lossy \(--lossy\)/,
    );
    assert.deepEqual(fs.readdirSync(temp.path), []);
    const { lost } = await saveSae(temp.path, sae, { ...to, lossy: true });
    assert.match(
      lost.join("\n"),
      /W_enc·b_dec goes into b_enc, which rounds[\s\S]*hook_name "blocks\.3\.hook_resid_post", which it has no place for/,
    );
    const back = await loadSae(device, temp.path);
    await compare(device, back.sae, "dl-batchtopk-bf16");
    for (const one of [sae, back.sae]) disposeSae(one);
  }));

test("what a format cannot hold at all is refused with the reason", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const refused = async (config: SaeConfigInput, format: WritableSaeFormat, message: RegExp) => {
      const sae = createSae(device, saeConfig(config), { rng: new Rng(1) });
      await assert.rejects(saveSae(temp.path, sae, { format, lossy: true }), message);
      disposeSae(sae);
    };
    const topk = { dIn: 4, features: 8, activation: { kind: "topk", k: 2 } } as const;
    await refused(topk, "gemma-scope", /a topk SAE has none, and none would keep the same features/);
    await refused(topk, "llama-scope", /a topk SAE has none/);
    await refused({ ...topk, activation: relu }, "sparsify", /the format is for topk; this is a relu SAE/);
    await refused(
      { ...topk, encoder: { kind: "kron", m: 2, n: 2, product: "mand" } },
      "dictionary-learning",
      /a kron encoder has no row of its own/,
    );
    await refused({ ...topk, transcoder: true }, "dictionary-learning", /no transcoders/);
    await refused({ ...topk, dOut: 5 }, "sparsify", /one width; this transcoder has 4 and 5/);
    const { sae } = await loadSae(device, fixture("dl-jumprelu"));
    await assert.rejects(
      saveSae(temp.path, sae, { format: "llama-scope" }),
      /one jump_relu_threshold for all/,
    );
    disposeSae(sae);
    assert.deepEqual(fs.readdirSync(temp.path), []);
  }));

test("what files leave open is asked for by the option's name", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const copy = (name: string, change?: (folder: string) => void): string => {
      const folder = path.join(temp.path, name);
      fs.cpSync(fixture(name), folder, { recursive: true });
      change?.(folder);
      return folder;
    };
    await assert.rejects(
      loadSae(device, fixture("sae-lens-scaled")),
      /normalize_activations=expected_average_only_in.*give normFactor \(--norm-factor of `sluice sae convert`\), or 1/,
    );
    const alone = copy("dl-topk-square", (folder) => fs.rmSync(path.join(folder, "config.json")));
    await assert.rejects(
      loadSae(device, alone),
      /those of AutoEncoderTopK and BatchTopKSAE, which compute differently.*dictClass \(--dict-class/,
    );
    await assert.rejects(
      loadSae(device, alone, { dictClass: "BatchTopKSAE" }),
      /threshold is -1, which means that training never set it.*threshold \(--threshold/,
    );
    const { sae } = await loadSae(device, alone, { dictClass: "BatchTopKSAE", threshold: 0.5 });
    assert.equal(sae.config.activation.kind, "jumprelu");
    disposeSae(sae);
    const unsized = copy("llama-scope-r1", (folder) => {
      const file = path.join(folder, "config.json");
      const config = JSON.parse(fs.readFileSync(file, "utf8"));
      fs.writeFileSync(file, JSON.stringify({ ...config, hook_point_in: "other", hook_point_out: "other" }));
    });
    await assert.rejects(
      loadSae(device, unsized),
      /dataset_average_activation_norm of other is undefined; give normFactor/,
    );
    await assert.rejects(loadSae(device, fixture("openai/topk.pt")), /an Sae has no such step.*With lossy/);
  }));

/** A copy of a fixture with its JSON file changed. */
function changed(temp: string, name: string, file: string, change: (json: Json) => Json): string {
  const folder = fs.mkdtempSync(path.join(temp, "x-"));
  fs.cpSync(fixture(name), folder, { recursive: true });
  const at = path.join(folder, file);
  fs.writeFileSync(at, JSON.stringify(change(JSON.parse(fs.readFileSync(at, "utf8")))));
  return folder;
}
type Json = Record<string, unknown>;

const jsonOf = (...place: string[]): Json => JSON.parse(fs.readFileSync(path.join(...place), "utf8"));

/** What loading finds, without the tensors. */
async function found(device: Device, place: string, options?: LoadSaeOptions) {
  const { sae, format, warnings } = await loadSae(device, place, options);
  disposeSae(sae);
  return { ...sae, format, warnings };
}

test("an option that decides nothing about the files is refused", () =>
  withDevice("native", async (device) => {
    const refused = (place: string, options: LoadSaeOptions, message: RegExp) =>
      assert.rejects(loadSae(device, fixture(place), options), message);
    const gemma = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71";
    await refused(
      gemma,
      { dictClass: "AutoEncoder" },
      /dictClass \(--dict-class .* is for dictionary_learning/,
    );
    await refused(gemma, { threshold: 1 }, /threshold .* is for BatchTopK/);
    await refused("dl-autoencoder", { threshold: 1 }, /of the class AutoEncoder, which has no threshold/);
    await refused("dl-autoencoder", { hookOut: "blocks.1.hook_mlp_out" }, /hookOut .* is for transcoders/);
    await refused("sae-lens-old", { normFactor: 1, normFactorOut: 2 }, /normFactorOut .* is for transcoders/);
    await refused("sparsify/layers.1.mlp", { normFactorOut: 2 }, /normFactorOut .* goes with normFactor/);
  }));

test("Gemma Scope 2 says in its path or its config what it reads; attention SAEs read the heads", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const weights = fixture("gemma-scope-2-4b-pt/resid_post/layer_9_width_16k_l0_small/params.safetensors");
    const at = async (site: string, config?: Json) => {
      const folder = path.join(temp.path, `gemma-scope-2-1b-it/${site}/layer_7_width_16k_l0_big`);
      fs.mkdirSync(folder, { recursive: true });
      fs.copyFileSync(weights, path.join(folder, "params.safetensors"));
      if (config) fs.writeFileSync(path.join(folder, "config.json"), JSON.stringify(config));
      return found(device, folder);
    };
    const hook = async (site: string) => (await at(site)).metadata.hook_name;
    assert.equal(await hook("attn_out"), "blocks.7.attn.hook_z");
    assert.equal(await hook("mlp_out_all"), "blocks.7.hook_mlp_out");
    assert.equal(await hook("elsewhere"), undefined);
    const config = {
      hf_hook_point_in: "model.layers.11.self_attn.o_proj.input",
      hf_hook_point_out: "model.layers.11.self_attn.o_proj.input",
      width: 10,
      model_name: "google/gemma-3-12b-pt",
      architecture: "jump_relu",
      affine_connection: false,
      type: "sae",
    };
    const said = await at("elsewhere", config);
    assert.deepEqual(said.metadata, { model_name: "gemma-3-12b-pt", hook_name: "blocks.11.attn.hook_z" });
    assert.equal(said.config.transcoder, false);
    const transcoder = await at("elsewhere", {
      ...config,
      hf_hook_point_in: "model.layers.5.pre_feedforward_layernorm.output",
      hf_hook_point_out: "model.layers.5.post_feedforward_layernorm.output",
      type: "transcoder",
    });
    assert.equal(transcoder.config.transcoder, true);
    assert.equal(transcoder.metadata.hook_name, "blocks.5.ln2.hook_normalized");
    assert.equal(transcoder.metadata.hook_name_out, "blocks.5.hook_mlp_out");
    await assert.rejects(at("elsewhere", { ...config, width: 9 }), /width=9, but the tensors have 10/);
    await assert.rejects(at("elsewhere", { ...config, architecture: "topk" }), /architecture "topk" is not/);
    await assert.rejects(at("elsewhere", { ...config, type: "clt" }), /type "clt" is not supported/);
    await assert.rejects(at("elsewhere", { ...config, affine_connection: true }), /but the tensors say/);
  }));

test("a folder called embedding is one of embeddings only in a release of Gemma Scope", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const folder = path.join(temp.path, "embedding");
    fs.cpSync(fixture("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"), folder, { recursive: true });
    assert.deepEqual((await found(device, folder)).warnings, []);
  }));

test("Llama Scope subtracts the decoder's bias from its scaled input where its config says so", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const centred = { apply_decoder_bias_to_pre_encoder: true };
    const folder = changed(temp.path, "llama-scope-r1", "config.json", (json) => ({ ...json, ...centred }));
    const { sae } = await loadSae(device, folder);
    assert.equal(sae.config.applyBDecToInput, true);
    const file = readSafetensorsSync(path.join(folder, "sae_weights.safetensors"));
    const read = (key: string): Float32Array => toFloat32(file.get(key)!);
    const [enc, bias, dec, b] = ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"].map(
      read,
    );
    const threshold = read("log_jumprelu_threshold").map(Math.exp);
    const [D, F, s] = [6, 10, Math.sqrt(6) / 4.5];
    const x = toFloat32(readSafetensorsSync(fixture("expected/llama-scope-r1.safetensors")).get("x")!);
    const features: number[] = [];
    const output: number[] = [];
    for (let t = 0; t < x.length / D; t++) {
      const f = Array.from({ length: F }, (_, j) => {
        let pre = bias[j];
        for (let d = 0; d < D; d++) pre += (s * x[t * D + d] - b[d]) * enc[j * D + d];
        return pre > threshold[j] ? pre : 0;
      });
      features.push(...f);
      for (let d = 0; d < D; d++) output.push(f.reduce((sum, v, j) => sum + v * dec[d * F + j], b[d]) / s);
    }
    assert.ok(features.some((v) => v > 0));
    const got = await computed(device, sae, x);
    assertClose(got.features, features, "features", 2e-6);
    assertClose(got.output, output, "output", 2e-6);
    disposeSae(sae);
    const transcoder = changed(temp.path, "llama-scope-r1", "config.json", (json) => ({
      ...json,
      ...centred,
      hook_point_out: "blocks.6.hook_resid_post",
    }));
    await assert.rejects(loadSae(device, transcoder), /a transcoder's bias belongs to its output/);
  }));

test("what a config of OpenMOSS leaves out is what that library takes by default", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const paramsWith = async (more: Json) => {
      const place = changed(temp.path, "llama-scope-r1", "config.json", (json) => {
        const { sparsity_include_decoder_norm: _, ...rest } = json;
        return { ...rest, ...more };
      });
      const { sae } = await loadSae(device, place);
      const params = await paramsOf(sae);
      disposeSae(sae);
      return params;
    };
    const without = await paramsWith({});
    assert.deepEqual(without, await paramsWith({ sparsity_include_decoder_norm: true }));
    assert.notDeepEqual(without, await paramsWith({ sparsity_include_decoder_norm: false }));
    const relu = await paramsWith({ act_fn: "ReLU" });
    assert.equal("threshold" in relu, false);
    await assert.rejects(paramsWith({ sae_type: "crosscoder" }), /sae_type "crosscoder" is not supported/);
    await assert.rejects(paramsWith({ use_glu_encoder: "yes" }), /use_glu_encoder must be true or false/);
  }));

test("k of an older dictionary_learning file stands in its config", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const source = fixture("dl-topk-square");
    const arrays = openArrays(path.join(source, "ae.pt"));
    const rest = arrays.names().filter((name) => name !== "k" && name !== "threshold");
    const older = Object.fromEntries(rest.map((name) => [name, arrays.read(name)]));
    arrays.close();
    const folder = path.join(temp.path, "older");
    fs.cpSync(source, folder, { recursive: true });
    await writeTorch(path.join(folder, "ae.pt"), older);
    assert.deepEqual((await found(device, folder)).config.activation, { kind: "topk", k: 2 });
    fs.rmSync(path.join(folder, "config.json"));
    await assert.rejects(
      found(device, folder, { dictClass: "AutoEncoderTopK" }),
      /k is neither among its tensors nor in trainer\.k/,
    );
    const other = changed(temp.path, "dl-topk-square", "config.json", (json) => ({
      ...json,
      trainer: { ...(json.trainer as Json), k: 3 },
    }));
    await assert.rejects(found(device, other), /config\.json: k=3, but the tensors have 2/);
  }));

test("a hook point that dictionary_learning has no name for is not written as the old one", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const { sae } = await loadSae(device, fixture("dl-topk-square"), { hook: "blocks.5.hook_resid_pre" });
    const { lost } = await saveSae(temp.path, sae, { format: "dictionary-learning" });
    assert.deepEqual(lost, ['hook_name "blocks.5.hook_resid_pre", which it has no place for']);
    const trainer = jsonOf(temp.path, "config.json").trainer as Json;
    assert.deepEqual([trainer.layer, trainer.submodule_name, trainer.lr], [undefined, undefined, 0.0003]);
    assert.equal((await found(device, temp.path)).metadata.hook_name, undefined);
    disposeSae(sae);
  }));

test("OpenAI's files without an activation are ReLU, and hostile ones are refused in few words", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const zip = new ZipFile(fixture("openai/relu.pt"));
    const entries = zip.names().map((name) => [name, Buffer.from(zip.read(name))] as const);
    zip.close();
    const file = path.join(temp.path, "a.pt");
    /** The file with other opcodes where `from` stands in its pickle. */
    const write = (from: string, to: string) =>
      writeZip(
        file,
        entries.map(([name, bytes]) => {
          if (!name.endsWith(".pkl")) return [name, bytes] as const;
          const at = bytes.indexOf(from, 0, "latin1");
          const rest = bytes.subarray(at + from.length);
          return [name, Buffer.concat([bytes.subarray(0, at), Buffer.from(to, "latin1"), rest])] as const;
        }),
      );
    const text = (value: string): string => `X${String.fromCharCode(value.length)}\0\0\0${value}`;
    await write(text("activation"), text("unrelated!"));
    assert.deepEqual((await found(device, file)).config.activation, { kind: "relu" });
    // forty lists, each twice in the next: 2^40 of them if they were written out
    let lists = "]r\0\x01\0\0";
    for (let i = 0; i < 40; i++) {
      const [one, next] = [i, i + 1].map((n) => `${String.fromCharCode(n)}\x01\x00\x00`);
      lists += `]r${next}(j${one}j${one}e`;
    }
    await write(text("ReLU"), `(${lists}t`);
    await assert.rejects(found(device, file), /activation \{…\} is not supported; supported: ReLU, TopK/);
    await write(text("ReLU"), "]r\0\x01\0\0j\0\x01\0\0a");
    await assert.rejects(found(device, file), /activation \[…\] is not supported/);
  }));

test("configs of sparsify are taken at their word", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const refused = (more: Json, message: RegExp) =>
      assert.rejects(
        found(
          device,
          changed(temp.path, "sparsify/layers.1", "cfg.json", (json) => ({ ...json, ...more })),
        ),
        message,
      );
    await refused({ k: 99 }, /cfg\.json: k=99 is more than the 6 features/);
    await refused({ signed: "yes" }, /signed must be true or false, not "yes"/);
    await refused({ k: "x".repeat(5000) }, /^.{0,300}$/);
    let deep: unknown = 1;
    for (let i = 0; i < 70; i++) deep = [deep];
    await refused({ extra: deep }, /is nested more than 64 levels deep/);
    const { sae } = await loadSae(device, fixture("openai/topk.pt"), { lossy: true });
    await saveSae(temp.path, sae, { format: "sparsify" });
    assert.equal(jsonOf(temp.path, "cfg.json").expansion_factor, 2); // 10 / 6, and theirs is a whole number
    disposeSae(sae);
  }));

test("a config of our own that is no SAE's is bad input", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const saved = path.join(temp.path, "saved");
    const kron = { kind: "kron", m: 2, n: 2, product: "mand" } as const;
    const activation = { kind: "topk", k: 2 } as const;
    const sae = createSae(device, saeConfig({ dIn: 4, features: 8, encoder: kron, activation }), {
      rng: new Rng(1),
    });
    await saveSae(saved, sae);
    disposeSae(sae);
    const cfg = jsonOf(saved, "cfg.json");
    const own = (cfg.sluice as Json).config as Json;
    const write = (config: unknown) => {
      const sluice = { ...(cfg.sluice as Json), config };
      fs.writeFileSync(path.join(saved, "cfg.json"), JSON.stringify({ ...cfg, sluice }));
    };
    const refused = async (config: unknown, message: RegExp) => {
      write(config);
      await assert.rejects(
        loadSae(device, saved),
        (error) => error instanceof SluiceError && error.code === "input" && message.test(error.message),
      );
    };
    write(own);
    assert.deepEqual((await found(device, saved)).config.encoder, kron);
    await refused(undefined, /sluice\.config of cfg\.json/);
    await refused(5, /sluice\.config of cfg\.json/);
    await refused({ ...own, activation: null }, /sluice\.config\.activation of cfg\.json/);
    await refused({ ...own, activation: { kind: "batchtopk", k: 2 } }, /sluice\.config\.activation/);
    await refused({ ...own, encoder: { ...kron, product: "other" } }, /sluice\.config\.encoder\.product/);
    await refused({ ...own, decoderBias: "no" }, /sluice\.config\.decoderBias/);
    await refused({ ...own, colour: "blue" }, /sluice\.config of cfg\.json/);
    await refused(
      { ...own, activation: { kind: "topk", k: 9 } },
      /saved: sae: k=9 is more than the 8 features/,
    );
  }));

test("16 bits lose nothing where the numbers fit, and numbers that would become infinite are refused", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const { sae } = await loadSae(device, fixture("dl-batchtopk-bf16"));
    assert.deepEqual((await saveSae(temp.path, sae, { dtype: "bf16" })).lost, []);
    disposeSae(sae);
    const wide = await loadSae(device, fixture("dl-autoencoder"));
    assert.deepEqual((await saveSae(temp.path, wide.sae, { dtype: "f16" })).lost, [
      "the weights beyond the precision of f16",
    ]);
    disposeSae(wide.sae);
    const large = await loadSae(device, fixture("dl-autoencoder"), { normFactor: 1e-6 });
    await assert.rejects(
      saveSae(temp.path, large.sae, { dtype: "f16" }),
      /f16 has no number as large as -?\d+.*, which is in (wDec|bDec); write f32 or bf16/,
    );
    disposeSae(large.sae);
  }));

test("whatever another format has no place for is named", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const { sae } = await loadSae(device, fixture("sae-lens-old"));
    const trained = { ...sae, provenance: { training: { steps: 3 }, tokens: 8 } };
    const lossOf = async (of: Sae, format: WritableSaeFormat) =>
      (await saveSae(path.join(temp.path, format), of, { format })).lost;
    assert.deepEqual(await lossOf(trained, "dictionary-learning"), [
      "what sluice noted of it: training, tokens",
      'hook_name "blocks.6.hook_resid_pre", which it has no place for',
      "hook_layer 6, which it has no place for",
      "prepend_bos true, which it has no place for",
    ]);
    assert.equal((await lossOf(trained, "sparsify")).length, 6);
    assert.deepEqual(await lossOf(trained, "sae-lens"), []);
    disposeSae(sae);
    const matryoshka = await loadSae(device, fixture("dl-matryoshka"));
    const { lost } = await saveSae(temp.path, matryoshka.sae, { format: "gemma-scope", lossy: true });
    assert.ok(
      lost.includes(
        "what only dictionary_learning has a word for: dict_class, k, group_sizes, trainer, buffer",
      ),
      lost.join("\n"),
    );
    disposeSae(matryoshka.sae);
  }));

test("an SAE of SAELens before version 6 is written as one of version 6, with the keys that nobody knew", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const old = changed(temp.path, "sae-lens-old", "cfg.json", (json) => ({
      ...json,
      sae_lens_version: "5.3.1",
      l1_coefficient: 0.5,
    }));
    const first = await loadSae(device, old);
    assert.match(first.warnings.join(), /"l1_coefficient" is unknown/);
    const out = path.join(temp.path, "out");
    assert.deepEqual((await saveSae(out, first.sae)).lost, []);
    const cfg = jsonOf(out, "cfg.json");
    assert.equal((cfg.metadata as Json).sae_lens_version, "6.0.0");
    assert.equal((cfg.metadata as Json).hook_name, "blocks.6.hook_resid_pre");
    assert.equal(cfg.l1_coefficient, 0.5);
    assert.equal("sluice" in cfg, false);
    const second = await loadSae(device, out);
    assert.deepEqual(second.sae.provenance, first.sae.provenance);
    for (const { sae } of [first, second]) disposeSae(sae);
  }));

test("SAELens' weights are floating-point numbers, and f64 is rounded and said so", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const folder = path.join(temp.path, "sae");
    fs.cpSync(fixture("sae-lens-old"), folder, { recursive: true });
    const file = path.join(folder, "sae_weights.safetensors");
    const tensors = Object.fromEntries(readSafetensorsSync(file));
    const values = toFloat32(tensors.b_enc);
    await writeSafetensors(file, { ...tensors, b_enc: fromFloat32(values, [10], "f64") });
    assert.match(
      (await found(device, folder)).warnings.join(),
      /b_enc is stored as f64 and was rounded to f32/,
    );
    await writeSafetensors(file, { ...tensors, b_enc: fromInt32(new Int32Array(10)) });
    await assert.rejects(found(device, folder), /b_enc is i32 \[10\], expected floating-point numbers/);
  }));

test("a dict of torch that holds its tensors a level deeper is refused with what is in it", async () => {
  using temp = temporaryFolder();
  const file = path.join(temp.path, "wrapped.pt");
  // {"state_dict": {}, "step": 3}
  const root = "\x80\x02}X\x0a\0\0\0state_dict}sX\x04\0\0\0stepK\x03s.";
  await writeZip(file, [["a/data.pkl", Buffer.from(root, "latin1")]]);
  assert.throws(() => findSae(file), /holds no tensors but state_dict, step; save the dict of tensors alone/);
});

test("the format is told by the content: file names do not matter", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const copy = (name: string, files: Readonly<Record<string, string>>): string => {
      const folder = fs.mkdtempSync(path.join(temp.path, "x-"));
      for (const [from, to] of Object.entries(files))
        fs.copyFileSync(path.join(fixture(name), from), path.join(folder, to));
      return folder;
    };
    const formatOf = async (folder: string) => (await found(device, folder)).format;
    assert.equal(
      await formatOf(
        copy("sae-lens-old", { "cfg.json": "config.json", "sae_weights.safetensors": "params.npz" }),
      ),
      "sae-lens",
    );
    assert.equal(
      await formatOf(copy("dl-gated", { "ae.pt": "sae_weights.safetensors", "config.json": "cfg.json" })),
      "dictionary-learning",
    );
    const gemma = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71";
    assert.equal(await formatOf(copy(gemma, { "params.npz": "weights" })), "gemma-scope");
    const both = copy("sae-lens-old", { "cfg.json": "cfg.json", "sae_weights.safetensors": "a.safetensors" });
    fs.copyFileSync(path.join(fixture(gemma), "params.npz"), path.join(both, "b.npz"));
    await assert.rejects(formatOf(both), /holds several SAEs: a\.safetensors, b\.npz; name one of the files/);
    assert.equal(await formatOf(path.join(both, "b.npz")), "gemma-scope");
    const unsized = copy("sae-lens-old", {
      "cfg.json": "cfg.json",
      "sae_weights.safetensors": "sae_weights.safetensors",
    });
    fs.writeFileSync(path.join(unsized, "cfg.json"), '{"d_sae": 10}');
    await assert.rejects(formatOf(unsized), /cfg\.json: d_in must be a positive whole number/);
    await assert.rejects(
      formatOf(copy("sae-lens-old", { "sae_weights.safetensors": "a.safetensors" })),
      /tensors of SAELens \(cfg\.json\), but no JSON file in .* is its config/,
    );
    await assert.rejects(formatOf(temp.path), /there is no SAE here/);
    await assert.rejects(
      formatOf(fixture("expected/gemma-scope.safetensors")),
      /no SAE of a known format; .* holds x, features, output|holds features, output, x/,
    );
  }));

test("a decoder that is stored the other way round is found by the length of its rows", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const { sae } = await loadSae(device, fixture("sparsify/layers.1"));
    const turned = device.tensor(transpose2d(await sae.params.wDec.floats(), 6, 6), [6, 6]).keep();
    await saveSae(temp.path, { ...sae, params: { ...sae.params, wDec: turned } }, { format: "sparsify" });
    await assert.rejects(
      loadSae(device, temp.path),
      /columns of the decoder have length 1 and its rows do not/,
    );
    turned.dispose();
    disposeSae(sae);
  }));

test("pickles that would run something, and files that are no state dicts, are refused by name", () =>
  withDevice("native", async (device) => {
    const refused = (name: string, message: RegExp) =>
      assert.rejects(loadSae(device, fixture(`refused/${name}`)), message);
    await refused("evil.pt", /asks for "(posix|nt)\.system", which is not part of a state dict/);
    await refused("module.pt", /asks for "torch\.nn\.modules\.linear\.Linear"/);
    await refused(
      "legacy.pt",
      /the format of torch before 1\.6.*torch\.save\(torch\.load\(path, weights_only=True\), path\)/,
    );
    await refused("bare.pkl", /is a bare pickle/);
    await refused(
      "objects.npz",
      /dtype \|O is not supported; it holds Python objects, which are never loaded/,
    );
    await refused("big-endian.npz", /dtype >f4 is not supported/);
    assert.equal(fs.existsSync(path.join(os.tmpdir(), "sluice-was-here")), false);
  }));
