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
  readSafetensorsSync,
  toFloat32,
  transpose2d,
  type WritableSaeFormat,
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
import { Rng } from "../../src/util/index.ts";
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
    metadata: { model_name: "gemma-3-4b-pt" },
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
      /W_enc·b_dec goes into b_enc, which rounds[\s\S]*hook_name .*: the format has no config/,
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

test("the format is told by the content: file names do not matter", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const copy = (name: string, files: Readonly<Record<string, string>>): string => {
      const folder = fs.mkdtempSync(path.join(temp.path, "x-"));
      for (const [from, to] of Object.entries(files))
        fs.copyFileSync(path.join(fixture(name), from), path.join(folder, to));
      return folder;
    };
    const found = async (folder: string) => {
      const { sae, format } = await loadSae(device, folder);
      disposeSae(sae);
      return format;
    };
    assert.equal(
      await found(
        copy("sae-lens-old", { "cfg.json": "config.json", "sae_weights.safetensors": "params.npz" }),
      ),
      "sae-lens",
    );
    assert.equal(
      await found(copy("dl-gated", { "ae.pt": "sae_weights.safetensors", "config.json": "cfg.json" })),
      "dictionary-learning",
    );
    const gemma = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71";
    assert.equal(await found(copy(gemma, { "params.npz": "weights" })), "gemma-scope");
    const both = copy("sae-lens-old", { "cfg.json": "cfg.json", "sae_weights.safetensors": "a.safetensors" });
    fs.copyFileSync(path.join(fixture(gemma), "params.npz"), path.join(both, "b.npz"));
    await assert.rejects(found(both), /holds several SAEs: a\.safetensors, b\.npz; name one of the files/);
    assert.equal(await found(path.join(both, "b.npz")), "gemma-scope");
    const unsized = copy("sae-lens-old", {
      "cfg.json": "cfg.json",
      "sae_weights.safetensors": "sae_weights.safetensors",
    });
    fs.writeFileSync(path.join(unsized, "cfg.json"), '{"d_sae": 10}');
    await assert.rejects(found(unsized), /cfg\.json: d_in must be a positive whole number/);
    await assert.rejects(
      found(copy("sae-lens-old", { "sae_weights.safetensors": "a.safetensors" })),
      /tensors of SAELens \(cfg\.json\), but no JSON file in .* is its config/,
    );
    await assert.rejects(found(temp.path), /there is no SAE here/);
    await assert.rejects(
      found(fixture("expected/gemma-scope.safetensors")),
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
