/**
 * The explicit step against the golden files (file by file, settings from meta.json) and against autograd.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { transpose2d } from "../../src/formats/index.ts";
import { denseAux, sparseAux } from "../../src/sae/auxk.ts";
import {
  createSae,
  decode,
  disposeCodes,
  disposeSae,
  encode,
  readStep,
  reconstruct,
  type Sae,
  saeConfig,
  stepGradients,
} from "../../src/sae/index.ts";
import {
  type Device,
  linearTopK,
  sparseDecode,
  sparseDecodeLoss,
  sub,
  type Tensor,
} from "../../src/tensor/index.ts";
import { Rng } from "../../src/util/index.ts";
import { type GoldenFile, golden, goldenJson } from "../golden.ts";
import { assertClose, BACKENDS, goldenSae, slots, withDevice } from "./helpers.ts";

interface Meta {
  topk: { k: number; apply_b_dec_to_input: boolean };
  topk_centered: { k: number; apply_b_dec_to_input: boolean };
  auxk: { k: number; k_aux: number; aux_coefficient: number };
}

/** True gradients of a step in the golden files' names and orientation. */
async function trueGradients(
  device: Device,
  sae: Sae,
  x: Tensor,
  auxK?: Parameters<typeof stepGradients>[2] extends infer O
    ? NonNullable<O>["auxK" & keyof NonNullable<O>]
    : never,
) {
  const g = device.scope(() => stepGradients(sae, x, { auxK }));
  const { dIn: D, features: F } = sae.config;
  const scaled = async (t: Tensor) => (await t.floats()).map((v) => v * g.scale);
  const { loss, auxLoss } = await readStep(g, false);
  const out = {
    W_enc: transpose2d(await scaled(g.grads.wEnc), F, D),
    b_enc: await scaled(g.grads.bEnc),
    W_dec: await scaled(g.grads.wDec),
    b_dec: await scaled(g.grads.bDec as Tensor),
  };
  disposeCodes(g.codes);
  for (const t of [...Object.values(g.grads), g.scalars, g.error]) t.dispose();
  return { grads: out, loss, auxLoss };
}

function checkGradients(grads: Record<string, Float32Array>, file: GoldenFile, prefix = "grad."): void {
  for (const [name, value] of Object.entries(grads)) {
    assertClose(value, file.floats(prefix + name), prefix + name);
  }
}

function input(device: Device, file: GoldenFile): Tensor {
  return device.tensor(file.floats("x"), file.shape("x")).keep();
}

for (const backend of BACKENDS) {
  for (const name of ["topk", "topk_centered"] as const) {
    test(`${backend}: codes, reconstruction, loss and gradients equal golden ${name}`, () =>
      withDevice(backend, async (device) => {
        const file = golden("sae", `${name}.safetensors`);
        const meta = goldenJson<Meta>("sae", "meta.json")[name];
        const sae = goldenSae(device, file, meta.k, meta.apply_b_dec_to_input);
        const x = input(device, file);
        const codes = slots(encode(sae, x));
        const recon = decode(sae, codes);
        assertClose(await codes.values.floats(), file.floats("values"), "values");
        assert.deepEqual(await codes.indices.ints(), file.ints("indices"));
        assertClose(await recon.floats(), file.floats("recon"), "recon");
        const again = reconstruct(sae, x);
        assert.deepEqual(await again.floats(), await recon.floats());
        const { grads, loss } = await trueGradients(device, sae, x);
        assertClose([loss], file.floats("loss.sse"), "loss.sse");
        assertClose([loss / sae.config.dIn], file.floats("loss.mse"), "loss.mse");
        checkGradients(grads, file);
        for (const t of [x, codes.values, codes.indices, recon, again]) t.dispose();
        disposeSae(sae);
      }));
  }

  for (const [dead, prefix] of [
    ["dead", ""],
    ["dead_few", "few."],
  ]) {
    test(`${backend}: the AuxK loss and its gradients equal golden auxk, ${dead}`, () =>
      withDevice(backend, async (device) => {
        const file = golden("sae", "auxk.safetensors");
        const meta = goldenJson<Meta>("sae", "meta.json").auxk;
        const sae = goldenSae(device, file, meta.k, false);
        const x = input(device, file);
        const indices = [...file.ints(dead)].flatMap((v, f) => (v ? [f] : []));
        const deadTensor = device.tensor(indices, [indices.length], "i32").keep();
        const auxK = { dead: deadTensor, k: meta.k_aux, coefficient: meta.aux_coefficient };
        const { grads, loss, auxLoss } = await trueGradients(device, sae, x, auxK);
        assertClose([auxLoss], file.floats(`${prefix}aux_loss`), "aux_loss");
        const total = loss + meta.aux_coefficient * auxLoss;
        assertClose([total], file.floats(`${prefix}loss.total`), "loss.total");
        checkGradients(grads, file, `${prefix}grad.`);
        x.dispose();
        deadTensor.dispose();
        disposeSae(sae);
      }));
  }

  test(`${backend}: repeated features add up as in golden decode_duplicates`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "decode_duplicates.safetensors");
      const [F, D] = file.shape("W_dec");
      const t = device.scope(() => {
        const wDec = device.tensor(file.floats("W_dec"), [F, D]);
        const bDec = device.tensor(file.floats("b_dec"));
        const values = device.tensor(file.floats("values"), file.shape("values"));
        const indices = device.tensor(file.ints("indices"), file.shape("indices"), "i32");
        const x = device.tensor(file.floats("x"), file.shape("x"));
        const { value, grads } = device.valueAndGrad(
          () => sparseDecodeLoss({ values, indices }, wDec, bDec, x),
          [values, wDec, bDec],
        );
        const recon = sparseDecode(values, indices, wDec, bDec);
        return { loss: value.loss, grads: grads as Tensor[], recon };
      });
      assertClose(await t.recon.floats(), file.floats("recon"), "recon");
      assertClose([(await t.loss.item()) / D], file.floats("topk.loss"), "loss");
      for (const [i, name] of ["values", "W_dec", "b_dec"].entries()) {
        const mse = (await t.grads[i].floats()).map((v) => v / D);
        assertClose(mse, file.floats(`topk.grad.${name}`), name);
      }
      for (const u of [t.loss, t.recon, ...t.grads]) u.dispose();
    }));

  for (const k of [3, 9, 40]) {
    test(`${backend}: the dense and the sparse form of AuxK agree, ${k} of 40 dead features per token`, () =>
      withDevice(backend, async (device) => {
        const rng = new Rng(8);
        const [B, D, n] = [21, 10, 40];
        const normal = (...shape: number[]) =>
          device.tensor(rng.fillNormal(new Float32Array(shape.reduce((a, b) => a * b))), shape);
        const [dense, sparse] = device.scope(() => {
          const rows = { wEnc: normal(n, D), wDec: normal(n, D), bEnc: normal(n), k };
          const main = { z: normal(B, D), error: normal(B, D), loss: normal(1), errorSum: normal(D) };
          const weight = device.full([], 0.3);
          return [denseAux(rows, main, weight), sparseAux(rows, main, weight)];
        });
        for (const name of ["sse", "wDec", "wEnc", "bEnc", "along"] as const) {
          assertClose(await dense[name].floats(), await sparse[name].floats(), name, 1e-5);
        }
        for (const t of [...Object.values(dense), ...Object.values(sparse)]) t.dispose();
      }));
  }

  for (const applyBDecToInput of [true, false]) {
    test(`${backend}: the explicit gradients equal autograd, b_dec ${applyBDecToInput ? "" : "not "}subtracted`, () =>
      withDevice(backend, async (device) => {
        const rng = new Rng(3);
        const [B, D, F, k] = [33, 20, 70, 9];
        const config = saeConfig({ dIn: D, features: F, activation: { kind: "topk", k }, applyBDecToInput });
        const sae = createSae(device, config, { rng, bDec: rng.fillNormal(new Float32Array(D)) });
        device.write(sae.params.bEnc, rng.fillNormal(new Float32Array(F), -3, 0.5)); // some rows have fewer than k
        const x = device.tensor(rng.fillNormal(new Float32Array(B * D)), [B, D]).keep();
        const { wEnc, bEnc, wDec, bDec } = sae.params as Required<Sae["params"]>;
        const { value, grads } = device.valueAndGrad(() => {
          const codes = linearTopK(applyBDecToInput ? sub(x, bDec) : x, wEnc, bEnc, { k });
          return sparseDecodeLoss(codes, wDec, bDec, x);
        }, [wEnc, bEnc, wDec, bDec]);
        const ours = await trueGradients(device, sae, x);
        assertClose([ours.loss], [await value.loss.item()], "loss");
        const [dWEnc, dBEnc, dWDec, dBDec] = await Promise.all(grads.map((g) => g!.floats()));
        assertClose(ours.grads.W_enc, transpose2d(dWEnc, F, D), "W_enc");
        assertClose(ours.grads.b_enc, dBEnc, "b_enc");
        assertClose(ours.grads.W_dec, dWDec, "W_dec");
        assertClose(ours.grads.b_dec, dBDec, "b_dec");
        for (const t of [x, value.loss, value.error, ...(grads as Tensor[])]) t.dispose();
        disposeSae(sae);
      }));
  }
}
