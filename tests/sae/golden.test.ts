/**
 * Every architecture and objective against the golden files: codes, reconstructions, losses and gradients. Shapes and settings
 * are read from the files.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { transpose2d } from "../../src/formats/index.ts";
import {
  type BoostedSae,
  boostedSae,
  decode,
  disposeCodes,
  disposeSae,
  encode,
  kronDecoderRows,
  MSE,
  mapParams,
  nextThreshold,
  type ParamName,
  paramShapes,
  readStep,
  reconstruct,
  reconstructBoosted,
  type Sae,
  type SaeConfigInput,
  type StepOptions,
  saeConfig,
  stepGradients,
  stitch,
} from "../../src/sae/index.ts";
import { type Device, heaviside, jumpRelu, mul, sum, type Tensor } from "../../src/tensor/index.ts";
import { type GoldenFile, golden, goldenJson } from "../golden.ts";
import { assertClose, BACKENDS, slots, withDevice } from "./helpers.ts";

interface Meta {
  batchtopk: { k: number; threshold_ema: Record<string, { rule?: string; threshold?: number[] } | number[]> };
  jumprelu: { bandwidth: number; l0_coefficient: number; target_l0: number };
  relu_l1: { l1_coefficient: number };
  gated: { l1_coefficient: number; apply_b_dec_to_input: boolean };
  matryoshka: { k: number; level_widths: number[] };
  hierarchical_topk: { k: number };
  kron: { m: number; n: number; k: number; heads: number };
  kron_hierarchical: { m: number; n: number; k: number };
  boost: { residual_k: number };
}
const META = goldenJson<Meta>("sae", "meta.json");

/** What the files call each parameter. */
const NAMES: Record<ParamName, string> = {
  wEnc: "W_enc",
  bEnc: "b_enc",
  wDec: "W_dec",
  bDec: "b_dec",
  threshold: "threshold",
  logThreshold: "log_threshold",
  rMag: "r_mag",
  bMag: "b_mag",
  wSkip: "W_skip",
};
const fileName = (config: SaeConfigInput, name: ParamName): string =>
  name === "bEnc" && config.activation.kind === "gated" ? "b_gate" : NAMES[name];

function saeOf(
  device: Device,
  file: GoldenFile,
  given: Omit<SaeConfigInput, "dIn" | "features">,
  prefix = "",
): Sae {
  const [features, dIn] = file.shape(`${prefix}W_dec`);
  const config = saeConfig({ dIn, features, applyBDecToInput: false, ...given });
  const params = mapParams(paramShapes(config), (shape, name) => {
    const data = file.floats(prefix + fileName(config, name));
    if (name === "threshold" && data.length === 1) return device.full(shape, data[0]).keep(); // one for all
    return device.tensor(name === "wEnc" ? transpose2d(data, dIn, shape[0]) : data, shape).keep();
  });
  return { config, params, metadata: {} };
}

const tensorOf = (device: Device, file: GoldenFile, name: string): Tensor =>
  device.tensor(file.floats(name), file.shape(name)).keep();

/** Dense [B, F] from codes. */
async function dense(sae: Sae, x: Tensor): Promise<Float32Array> {
  const codes = encode(sae, x);
  const F = sae.config.features;
  let out = await codes.values.floats();
  if (codes.kind === "sparse") {
    const [B, K] = codes.values.shape;
    const indices = await codes.indices.ints();
    const slotsOf = out;
    out = new Float32Array(B * F);
    slotsOf.forEach((v, i) => {
      out[Math.floor(i / K) * F + indices[i]] += v;
    });
  }
  disposeCodes(codes);
  return out;
}

interface Expected {
  /** Name of the loss in the file; its gradients stand under `grads`. */
  readonly loss: string;
  readonly grads: string;
  /** What our loss and gradients are multiplied by. */
  readonly factor?: number;
  /** Parameters before whose name the gradient's prefix stands (boost). */
  readonly only?: readonly ParamName[];
}

/** One step: its numbers and true gradients equal the file's. */
async function checkStep(
  device: Device,
  sae: Sae,
  file: GoldenFile,
  options: StepOptions,
  { loss, grads, factor = 1 }: Expected,
) {
  const x = tensorOf(device, file, "x");
  const slots = sae.config.features; // of batchtopk: enough for any batch
  const g = device.scope(() => stepGradients(sae, x, { slots, ...options }));
  const numbers = await readStep(g, false);
  assertClose([(numbers.loss + numbers.penalty) * factor], file.floats(loss), loss);
  let squares = 0;
  for (const name of Object.keys(sae.params) as ParamName[]) {
    const t = g.grads[name] as Tensor;
    const values = (await t.floats()).map((v) => v * g.scale * factor);
    for (const v of values) squares += v * v;
    const turned = name === "wEnc" ? transpose2d(values, t.shape[0], t.shape[1]) : values;
    const stored = grads + fileName(sae.config, name);
    assertClose(turned, file.floats(stored), stored);
  }
  assertClose([numbers.gradNorm * factor], [Math.sqrt(squares)], "gradient norm");
  mapParams(g.grads, (t) => t.dispose());
  disposeCodes(g.codes);
  for (const t of [g.scalars, g.error, x]) t.dispose();
  return numbers;
}

async function checkForward(device: Device, sae: Sae, file: GoldenFile, suffix = ""): Promise<void> {
  const x = tensorOf(device, file, `x${suffix}`);
  const recon = reconstruct(sae, x);
  assertClose(await dense(sae, x), file.floats(`acts${suffix}`), `acts${suffix}`);
  assertClose(await recon.floats(), file.floats(`recon${suffix}`), `recon${suffix}`);
  recon.dispose();
  x.dispose();
}

for (const backend of BACKENDS) {
  test(`${backend}: batchtopk equals its golden file in training, and as jumprelu afterwards`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "batchtopk.safetensors");
      const { k } = META.batchtopk;
      const sae = saeOf(device, file, { activation: { kind: "batchtopk", k } });
      await checkForward(device, sae, file);
      const x = tensorOf(device, file, "x");
      const acts = await dense(sae, x);
      const kept = [...acts.keys()].filter((i) => acts[i] > 0);
      assert.deepEqual(kept, [...file.ints("flat_indices")]);
      x.dispose();
      for (const more of [{ slots: 4 * k }, { slots: sae.config.features }]) {
        const { least, full } = await checkStep(device, sae, file, more, {
          loss: "loss.total",
          grads: "grad.",
        });
        assertClose([least], file.floats("min_active"), "min_active");
        assert.equal(full, 0);
      }
      const few = tensorOf(device, file, "x");
      const g = device.scope(() => stepGradients(sae, few, { slots: k }));
      assert.ok((await readStep(g, false)).full > 0, "k slots cannot hold what varies between tokens");
      mapParams(g.grads, (t) => t.dispose());
      disposeCodes(g.codes);
      for (const t of [g.scalars, g.error, few]) t.dispose();
      disposeSae(sae);
      const jump = saeOf(device, file, { activation: { kind: "jumprelu" } });
      await checkForward(device, jump, file);
      await checkForward(device, jump, file, "_eval");
      disposeSae(jump);
    }));

  test(`${backend}: jumprelu equals its golden file by both steps, with a linear and a quadratic penalty`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "jumprelu.safetensors");
      const { bandwidth, l0_coefficient: l0, target_l0: targetL0 } = META.jumprelu;
      const sae = saeOf(device, file, { activation: { kind: "jumprelu", log: true } });
      await checkForward(device, sae, file);
      const objective = { ...MSE, l0, bandwidth };
      const widest = new Set<number>();
      for (const slots of [undefined, sae.config.features]) {
        const whole = { loss: "loss.total", grads: "grad." };
        const counted = await checkStep(device, sae, file, { objective, slots, count: true }, whole);
        widest.add(counted.widest);
        const x = tensorOf(device, file, "x");
        const quadratic = { ...objective, targetL0 };
        const g = device.scope(() => stepGradients(sae, x, { objective: quadratic, slots }));
        assert.equal(g.codes.kind, slots ? "sparse" : "dense");
        const numbers = await readStep(g, false);
        assertClose([numbers.loss + numbers.penalty], file.floats("quadratic.loss"), "quadratic.loss");
        const found = (await (g.grads.logThreshold as Tensor).floats()).map((v) => v * g.scale);
        assertClose(found, file.floats("quadratic.grad.log_threshold"), "quadratic.grad.log_threshold");
        mapParams(g.grads, (t) => t.dispose());
        disposeCodes(g.codes);
        for (const t of [g.scalars, g.error, x]) t.dispose();
      }
      assert.equal(widest.size, 1, "both steps count the same features near their thresholds");
      const x = tensorOf(device, file, "x");
      const few = device.scope(() => stepGradients(sae, x, { objective, slots: 2 }));
      assert.ok((await readStep(few, false)).full > 0, "two slots are not enough, and the step says so");
      mapParams(few.grads, (t) => t.dispose());
      disposeCodes(few.codes);
      for (const t of [few.scalars, few.error, x]) t.dispose();
      disposeSae(sae);
    }));

  test(`${backend}: the straight-through gradients equal the golden table`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "jumprelu.safetensors");
      const n = file.shape("ste.z")[0];
      // The table has a window of its own, which its slopes −g/ε tell.
      const slopes = file.floats("ste.step.dtheta");
      const inside = slopes.findIndex((v) => v !== 0);
      const bandwidth = -file.floats("ste.g")[inside] / slopes[inside];
      for (const [name, fn] of [
        ["jump", jumpRelu],
        ["step", heaviside],
      ] as const) {
        const z = device.tensor(file.floats("ste.z"), [1, n]).keep();
        const theta = device.full([n], file.scalar("ste.theta")).keep();
        const upstream = device.tensor(file.floats("ste.g"), [1, n]).keep();
        const { value, grads } = device.valueAndGrad(() => {
          const y = fn(z, theta, { bandwidth });
          return { loss: sum(mul(y, upstream)), y };
        }, [z, theta]);
        assertClose(await value.y.floats(), file.floats(`ste.${name}`), name);
        assertClose(await (grads[1] as Tensor).floats(), file.floats(`ste.${name}.dtheta`), `${name} dtheta`);
        if (name === "jump")
          assertClose(await (grads[0] as Tensor).floats(), file.floats("ste.jump.dz"), "dz");
        else assert.ok(!grads[0] || (await grads[0].floats()).every((v) => v === 0));
        for (const t of [z, theta, upstream, value.loss, value.y, ...grads]) t?.dispose();
      }
    }));

  test(`${backend}: relu with a decoder-norm weighted L1 equals its golden file`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "relu_l1.safetensors");
      const sae = saeOf(device, file, { activation: { kind: "relu" } });
      await checkForward(device, sae, file);
      const l1 = META.relu_l1.l1_coefficient;
      const numbers = await checkStep(
        device,
        sae,
        file,
        { objective: { ...MSE, l1 } },
        { loss: "loss.total", grads: "grad." },
      );
      assertClose([numbers.penalty / l1], file.floats("l1"), "l1");
      disposeSae(sae);
    }));

  test(`${backend}: gated equals its golden file`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "gated.safetensors");
      const { l1_coefficient: l1, apply_b_dec_to_input: applyBDecToInput } = META.gated;
      const sae = saeOf(device, file, { activation: { kind: "gated" }, applyBDecToInput });
      await checkForward(device, sae, file);
      const numbers = await checkStep(
        device,
        sae,
        file,
        { objective: { ...MSE, l1 } },
        { loss: "loss.total", grads: "grad." },
      );
      assertClose([numbers.penalty], [l1 * file.scalar("l1") + file.scalar("aux")], "penalty");
      assertClose([numbers.sse], file.floats("loss.sse"), "loss.sse");
      disposeSae(sae);
    }));

  test(`${backend}: matryoshka batchtopk equals its golden file, one selection for all levels`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "matryoshka.safetensors");
      const { k, level_widths: levels } = META.matryoshka;
      const sae = saeOf(device, file, { activation: { kind: "batchtopk", k } });
      await checkForward(device, sae, file);
      const numbers = await checkStep(
        device,
        sae,
        file,
        { objective: { ...MSE, objective: "matryoshka", levels } },
        { loss: "loss.total", grads: "grad." },
      );
      const total = file.floats("level_losses").reduce((a, b) => a + b, 0);
      assertClose([numbers.loss], [total], "sum of level_losses");
      assertClose([numbers.sse], file.floats("loss.sse"), "loss.sse");
      disposeSae(sae);
    }));

  for (const [name, config] of [
    ["hierarchical_topk", { activation: { kind: "topk", k: META.hierarchical_topk.k } }],
    [
      "kron_hierarchical",
      {
        activation: { kind: "topk", k: META.kron_hierarchical.k },
        encoder: {
          kind: "kron",
          m: META.kron_hierarchical.m,
          n: META.kron_hierarchical.n,
          product: "mand",
        },
      },
    ],
  ] as const) {
    test(`${backend}: ${name} equals its golden file, for all budgets and for some`, () =>
      withDevice(backend, async (device) => {
        const file = golden("sae", `${name}.safetensors`);
        const sae = saeOf(device, file, config);
        const { k } = config.activation;
        const D = sae.config.dIn;
        for (const which of ["full", "stride"]) {
          const budgets = [...file.ints(`budgets_${which}`)];
          await checkStep(
            device,
            sae,
            file,
            { objective: { ...MSE, objective: "hierarchical", budgets } },
            { loss: `${which}.loss`, grads: `${which}.grad.`, factor: 1 / D },
          );
        }
        const x = tensorOf(device, file, "x");
        const codes = slots(encode(sae, x));
        assertClose(await codes.values.floats(), file.floats("values"), "values");
        const expected = file.ints("indices");
        (await codes.indices.ints()).forEach((f, i) => {
          if (expected[i] >= 0) assert.equal(f, expected[i]); // -1: an unused slot
        });
        const prefixes: number[] = [];
        for (let j = 1; j <= k; j++) {
          const recon = reconstruct(sae, x, { k: j });
          const y = await recon.floats();
          const data = file.floats("x");
          prefixes.push(y.reduce((a, v, i) => a + (v - data[i]) ** 2, 0) / y.length);
          recon.dispose();
        }
        assertClose(prefixes, file.floats("prefix_losses"), "prefix_losses");
        const recon = decode(sae, codes);
        assertClose(await recon.floats(), file.floats("recon"), "recon");
        disposeCodes(codes);
        for (const t of [x, recon]) t.dispose();
        disposeSae(sae);
      }));
  }

  test(`${backend}: kron equals its golden file, and its decoder starts as the file says`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "kron.safetensors");
      const { m, n, k, heads } = META.kron;
      const encoder = { kind: "kron", m, n, product: "mand" } as const;
      const sae = saeOf(device, file, { activation: { kind: "topk", k }, encoder });
      assert.equal(sae.config.features, heads * m * n);
      await checkForward(device, sae, file);
      await checkStep(device, sae, file, {}, { loss: "loss.total", grads: "grad." });
      const D = sae.config.dIn;
      const rows = kronDecoderRows(await sae.params.wEnc.floats(), D, encoder);
      for (let f = 0; f < sae.config.features; f++) {
        const row = rows.subarray(f * D, (f + 1) * D);
        const norm = Math.hypot(...row);
        row.forEach((v, d) => {
          row[d] = v / norm;
        });
      }
      assertClose(rows, file.floats("W_dec_init"), "W_dec_init");
      disposeSae(sae);
    }));

  test(`${backend}: boost equals its golden file in training, at inference and stitched`, () =>
    withDevice(backend, async (device) => {
      const file = golden("sae", "boost.safetensors");
      const jumprelu = { kind: "jumprelu" } as const;
      const base = saeOf(device, file, { activation: jumprelu }, "base.");
      const activation = { kind: "batchtopk", k: META.boost.residual_k } as const;
      const part = saeOf(device, file, { activation, decoderBias: false }, "res.");
      const x = tensorOf(device, file, "x");
      const target = tensorOf(device, file, "error");
      const plain = reconstruct(base, x);
      assertClose(await plain.floats(), file.floats("base_recon"), "base_recon");
      await checkStep(device, part, file, { target }, { loss: "loss", grads: "grad.res." });
      const inferred: Sae = {
        ...part,
        config: saeConfig({ ...part.config, activation: jumprelu }),
        params: {
          ...part.params,
          threshold: device.full([part.config.features], file.scalar("infer.threshold")).keep(),
        },
      };
      const boosted: BoostedSae = boostedSae(base, [inferred]);
      assertClose(await dense(inferred, x), file.floats("infer.res_acts"), "infer.res_acts");
      const output = reconstructBoosted(boosted, x);
      assertClose(await output.floats(), file.floats("infer.output"), "infer.output");
      const D = base.config.dIn;
      const [ours, bases] = [await output.floats(), await plain.floats()];
      let off = 0;
      file.ints("infer.row_off").forEach((silent, b) => {
        if (!silent) return;
        off++;
        assert.deepEqual(ours.subarray(b * D, (b + 1) * D), bases.subarray(b * D, (b + 1) * D));
      });
      assert.ok(off > 0);
      const one = stitch(boosted);
      assert.deepEqual(await one.params.threshold?.floats(), file.floats("stitched.threshold"));
      const stitched = reconstruct(one, x);
      assertClose(await stitched.floats(), file.floats("stitched.output"), "stitched.output");
      for (const t of [x, target, plain, output, stitched]) t.dispose();
      for (const sae of [base, inferred, one]) disposeSae(sae);
    }));
}

test("the running threshold follows both published rules", () => {
  const { min_active_per_step: steps, ...rules } = META.batchtopk.threshold_ema as unknown as {
    min_active_per_step: number[];
  } & Record<string, { threshold: number[] }>;
  const ours = { start_0_rate_001: { rate: 0.01, start: 0 }, start_unset_beta_0999: { rate: 0.001 } };
  for (const [name, rule] of Object.entries(ours)) {
    let threshold: number | undefined;
    const found = steps.map((least) => {
      threshold = nextThreshold(threshold, least, rule);
      return threshold;
    });
    assertClose(found, rules[name].threshold, name, 1e-12);
  }
});
