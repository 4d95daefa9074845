import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import {
  foldNormalization,
  fromFloat32,
  isSaeLensFolder,
  openSafetensors,
  readSaeLens,
  type SaeLensSae,
  writeSaeLens,
  writeSafetensors,
} from "../../src/formats/index.ts";
import { Rng } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";

function example(dIn = 3, dSae = 5) {
  const rng = new Rng(7);
  const fill = (n: number) => rng.fillNormal(new Float32Array(n));
  return {
    architecture: "topk",
    dIn,
    dOut: dIn,
    dSae,
    k: 2,
    applyBDecToInput: true as boolean,
    normalizeActivations: "none",
    reshapeActivations: "none",
    metadata: { hook_name: "blocks.1.hook_resid_post", model_name: "brook", prepend_bos: true },
    sluice: { factor: 0.25, training: { tokens: 1000 } },
    wEnc: fill(dIn * dSae),
    bEnc: fill(dSae),
    wDec: fill(dIn * dSae),
    bDec: fill(dIn),
  } satisfies Omit<SaeLensSae, "warnings" | "dtype">;
}

/** Plain loops in float64: reconstruction of one input by a topk SAE whose input is scaled by `s`, output by 1/s. */
function reconstruct(sae: ReturnType<typeof example>, x: Float32Array, s: number): number[] {
  const pre = Array.from({ length: sae.dSae }, (_, f) => {
    let sum = sae.bEnc[f];
    for (let d = 0; d < sae.dIn; d++) {
      sum += (x[d] * s - (sae.applyBDecToInput ? sae.bDec[d] : 0)) * sae.wEnc[d * sae.dSae + f];
    }
    return Math.max(sum, 0);
  });
  const kept = [...pre.keys()].sort((a, b) => pre[b] - pre[a]).slice(0, sae.k);
  return Array.from({ length: sae.dIn }, (_, d) => {
    let sum = sae.bDec[d];
    for (const f of kept) sum += pre[f] * sae.wDec[f * sae.dIn + d];
    return sum / s;
  });
}

test("an SAE comes back exactly, with its metadata and our own keys", async () => {
  using temp = temporaryFolder();
  const folder = path.join(temp.path, "sae");
  const sae = example();
  await writeSaeLens(folder, sae);
  assert.ok(isSaeLensFolder(folder));
  const back = await readSaeLens(folder);
  assert.deepEqual(back.warnings, []);
  for (const key of ["wEnc", "bEnc", "wDec", "bDec"] as const) assert.deepEqual(back[key], sae[key]);
  assert.equal(back.k, 2);
  assert.equal(back.applyBDecToInput, true);
  assert.equal(back.metadata.hook_name, "blocks.1.hook_resid_post");
  assert.deepEqual(back.sluice, { schema: 1, factor: 0.25, training: { tokens: 1000 } });

  const copy = path.join(temp.path, "copy");
  await writeSaeLens(copy, back);
  for (const file of ["cfg.json", "sae_weights.safetensors"]) {
    assert.deepEqual(fs.readFileSync(path.join(copy, file)), fs.readFileSync(path.join(folder, file)));
  }
});

test("the files say what SAELens v6 expects", async () => {
  using temp = temporaryFolder();
  await writeSaeLens(temp.path, example());
  const cfg = JSON.parse(fs.readFileSync(path.join(temp.path, "cfg.json"), "utf8"));
  assert.equal(cfg.architecture, "topk");
  assert.deepEqual([cfg.d_in, cfg.d_sae, cfg.k, cfg.dtype], [3, 5, 2, "float32"]);
  assert.equal(cfg.normalize_activations, "none");
  assert.match(cfg.metadata.sae_lens_version, /^6\./);
  const file = openSafetensors(path.join(temp.path, "sae_weights.safetensors"));
  assert.deepEqual(file.names().sort(), ["W_dec", "W_enc", "b_dec", "b_enc"]);
  assert.deepEqual(file.info("W_enc").shape, [3, 5]);
  assert.deepEqual(file.info("W_dec").shape, [5, 3]);
  file.close();
});

test("weights stored in 16 bits come back rounded", async () => {
  using temp = temporaryFolder();
  const sae = example();
  await writeSaeLens(temp.path, sae, { dtype: "bf16" });
  const back = await readSaeLens(temp.path);
  assert.equal(back.dtype, "bf16");
  back.wDec.forEach((v, i) => {
    assert.ok(Math.abs(v - sae.wDec[i]) <= Math.abs(sae.wDec[i]) / 256);
  });
});

test("a cfg.json from before version 6 is understood", async () => {
  using temp = temporaryFolder();
  await writeSaeLens(temp.path, example());
  const flat = {
    architecture: "standard",
    d_in: 3,
    d_sae: 5,
    dtype: "torch.float32",
    device: "cuda",
    model_name: "gpt2-small",
    hook_point: "blocks.6.hook_resid_pre",
    hook_layer: 6,
    activation_fn_str: "topk",
    activation_fn_kwargs: { k: 4 },
    normalize_activations: false,
    context_size: 128,
  };
  const write = (cfg: unknown) => fs.writeFileSync(path.join(temp.path, "cfg.json"), JSON.stringify(cfg));
  write(flat);
  const sae = await readSaeLens(temp.path);
  assert.equal(sae.architecture, "topk");
  assert.equal(sae.k, 4);
  assert.equal(sae.applyBDecToInput, true);
  assert.equal(sae.metadata.hook_name, "blocks.6.hook_resid_pre");
  assert.equal(sae.metadata.context_size, 128);
  assert.deepEqual(sae.warnings, []);

  write({ ...flat, normalize_activations: true });
  const folded = await readSaeLens(temp.path);
  assert.equal(folded.normalizeActivations, "expected_average_only_in");
  assert.match(folded.warnings.join(), /taken to be folded in/);

  write({ ...flat, finetuning_scaling_factor: true });
  await assert.rejects(readSaeLens(temp.path), /finetuning_scaling_factor=true is not supported/);
  write({ ...flat, activation_fn_kwargs: { k: 4, postact_fn: "id" } });
  await assert.rejects(readSaeLens(temp.path), /activation_fn_kwargs\.postact_fn is not supported/);
  write({ ...flat, activation_fn_str: "tanh-relu" });
  await assert.rejects(readSaeLens(temp.path), /activation_fn "tanh-relu" is not supported/);
});

test("what changes the meaning and is not supported is refused by name", async () => {
  using temp = temporaryFolder();
  await writeSaeLens(temp.path, example());
  const file = path.join(temp.path, "cfg.json");
  const good = JSON.parse(fs.readFileSync(file, "utf8"));
  const refused = async (change: Record<string, unknown>, message: RegExp) => {
    fs.writeFileSync(file, JSON.stringify({ ...good, ...change }));
    await assert.rejects(readSaeLens(temp.path), message);
  };
  await refused(
    { architecture: "temporal" },
    /architecture "temporal" is not supported; supported: standard, topk, jumprelu/,
  );
  await refused({ rescale_acts_by_decoder_norm: true }, /rescale_acts_by_decoder_norm=true/);
  await refused(
    { normalize_activations: "layer_norm" },
    /normalize_activations="layer_norm" is not supported/,
  );
  await refused({ reshape_activations: "other" }, /reshape_activations="other"/);
  await refused({ k: 6 }, /k=6 is more than d_sae=5/);
  await refused({ k: undefined }, /k must be a positive whole number/);
  await refused({ d_in: 4 }, /W_enc is f32 \[3, 5\], expected \[4, 5\] by d_in and d_sae of .*cfg\.json/);
  await refused({ d_in: 5, d_sae: 3 }, /W_enc is f32 \[3, 5\].*transposed/);
  await refused({ dtype: "int4" }, /dtype "int4"/);
  await refused({ sluice: { schema: 2 } }, /newer version of sluice/);
  fs.writeFileSync(file, "{");
  await assert.rejects(readSaeLens(temp.path), /cfg.json: not valid JSON/);
  fs.rmSync(file);
  await assert.rejects(readSaeLens(temp.path), /no cfg.json/);
});

test("unknown keys are kept and told", async () => {
  using temp = temporaryFolder();
  await writeSaeLens(temp.path, { ...example(), extra: { colour: "blue" } });
  const sae = await readSaeLens(temp.path);
  assert.deepEqual(sae.extra, { colour: "blue" });
  assert.match(sae.warnings[0], /"colour" is unknown/);
});

test("tensors that a topk SAE does not have are refused, scaling factors of one are not", async () => {
  using temp = temporaryFolder();
  const sae = example();
  await writeSaeLens(temp.path, sae);
  const file = path.join(temp.path, "sae_weights.safetensors");
  const tensors = {
    W_enc: fromFloat32(sae.wEnc, [3, 5]),
    b_enc: fromFloat32(sae.bEnc, [5]),
    W_dec: fromFloat32(sae.wDec, [5, 3]),
    b_dec: fromFloat32(sae.bDec, [3]),
  };
  const five = new Float32Array(5).fill(1);
  await writeSafetensors(file, { ...tensors, scaling_factor: fromFloat32(five, [5]) });
  assert.deepEqual((await readSaeLens(temp.path)).wDec, sae.wDec);
  await writeSafetensors(file, { ...tensors, scaling_factor: fromFloat32(five.fill(2), [5]) });
  await assert.rejects(readSaeLens(temp.path), /scaling_factor is not all ones/);
  await writeSafetensors(file, { ...tensors, threshold: fromFloat32(five, [5]) });
  await assert.rejects(readSaeLens(temp.path), /"threshold" is not part of a topk SAE/);
  const { b_dec: _, ...rest } = tensors;
  await writeSafetensors(file, rest);
  await assert.rejects(readSaeLens(temp.path), /no tensor "b_dec"/);
});

test("folding the input scale changes no output, with and without b_dec at the input", () => {
  for (const applyBDecToInput of [true, false]) {
    const sae = { ...example(4, 9), k: 3, applyBDecToInput };
    const folded = foldNormalization(sae, 3.7);
    const x = new Rng(3).fillNormal(new Float32Array(4));
    const before = reconstruct(sae, x, 3.7);
    const after = reconstruct(folded, x, 1);
    after.forEach((v, i) => {
      assert.ok(Math.abs(v - before[i]) < 1e-5, `${v} ${before[i]}`);
    });
  }
  assert.throws(() => foldNormalization(example(), 0), /must be a positive number, not 0/);
});

test("tensors of a wrong size are not written", async () => {
  using temp = temporaryFolder();
  await assert.rejects(
    writeSaeLens(temp.path, { ...example(), wEnc: new Float32Array(4) }),
    /wEnc has 4 elements, but must be f32 \[3, 5\]/,
  );
});
