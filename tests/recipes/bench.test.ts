/**
 * The benchmarks at sizes that take milliseconds: what they report hangs together, and nothing is left behind.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { BenchFigures } from "../../src/recipes/bench.ts";
import { BenchClock, repeatTimed, spreadOf, watchNeighbours } from "../../src/recipes/bench-clock.ts";
import { benchGemm } from "../../src/recipes/bench-gemm.ts";
import {
  benchGenerate,
  benchLmForward,
  benchLmTrain,
  LM_TWINS,
  type LmSizes,
} from "../../src/recipes/bench-lm.ts";
import { benchLmLoad } from "../../src/recipes/bench-load.ts";
import { benchSaeStep, type SaeStepSizes } from "../../src/recipes/bench-sae.ts";
import { type SaeShape, saeShapeSchema } from "../../src/recipes/sae-shape.ts";
import { createDevice, type Device } from "../../src/tensor/index.ts";
import { packageRoot } from "../golden.ts";

const REPEATS = { steps: 3, warmup: 1 };
const TINY: LmSizes = { d: 16, layers: 2, heads: 4, kvHeads: 2, ffn: 24, vocab: 40, ctx: 8, batch: 4 };

/** Runs a benchmark and checks that it leaves no tensor behind and that its numbers are positive and in order. */
async function measured(run: (device: Device) => Promise<BenchFigures>): Promise<BenchFigures> {
  const device = await createDevice({ threads: 2 });
  try {
    const figures = await run(device);
    assert.equal(device.memory().tensors, 0, "tensors were leaked");
    for (const spread of [figures.step, figures.tokensPerSecond, figures.gemm, figures.gemmMultiple]) {
      if (spread) assert.ok(0 < spread.min && spread.min <= spread.median && spread.median <= spread.max);
    }
    return figures;
  } finally {
    device.close();
  }
}

test("a spread is the median with the extremes", () => {
  assert.deepEqual(spreadOf([3, 1, 2, 10]), { median: 2.5, min: 1, max: 10 });
});

test("the clock forgets the warm-up", async () => {
  let calls = 0;
  const clock = await repeatTimed({ steps: 2, warmup: 3 }, (c) => c.add("step", calls++));
  assert.deepEqual(clock.of("step"), [3, 4]);
});

test("a phase's median leaves out the phases that are named", () => {
  const clock = new BenchClock();
  for (const ms of [1, 2, 9]) clock.add("encode", ms);
  clock.add("step", 5);
  assert.deepEqual(clock.medians("step"), { encode: 2 });
});

test("an aborted benchmark stops between two steps", async () => {
  const controller = new AbortController();
  const step = () => controller.abort();
  await assert.rejects(
    repeatTimed({ ...REPEATS, signal: controller.signal }, step),
    /interrupted at step 1 of 4/,
  );
});

test("the load of others is a number of CPUs where /proc tells it", () => {
  const busy = watchNeighbours()();
  assert.ok(busy === undefined || Number.isFinite(busy) || Number.isNaN(busy));
});

test("gemm gives two operations a multiply-add", async () => {
  const figures = await measured((device) => benchGemm(device, { m: 32, k: 16, n: 8 }, REPEATS));
  const expected = (2 * 32 * 16 * 8) / figures.step.median / 1e6;
  assert.ok(Math.abs((figures.more.gflops as number) / expected - 1) < 1e-9);
});

test("gemm with stored rows measures the same product", async () => {
  const figures = await measured((device) =>
    benchGemm(device, { m: 8, k: 4, n: 6, transposed: true }, REPEATS),
  );
  assert.equal(figures.sizes.transposed, true);
});

function saeStep(shape: Partial<SaeShape>, objective: SaeStepSizes["objective"] = "mse"): SaeStepSizes {
  return {
    shape: saeShapeSchema.parse({ features: 64, k: 4, ...shape }),
    objective,
    d: 16,
    batch: 128,
    threshold: 0.1,
  };
}

test("sae-step divides every step by the product before it", async () => {
  const figures = await measured((device) => benchSaeStep(device, saeStep({}), REPEATS));
  assert.ok(figures.gemmMultiple && figures.gemm);
  assert.deepEqual(figures.sizes, {
    d: 16,
    batch: 128,
    arch: "topk",
    features: 64,
    k: 4,
    encoder: "dense",
    objective: "mse",
    threshold: 0.1,
  });
  for (const part of ["encode", "decode", "backward", "optimizer"]) assert.ok(figures.phases[part] > 0, part);
  assert.ok(Number.isFinite(figures.more.loss));
});

for (const [shape, objective] of [
  [{}, "hierarchical"],
  [{}, "matryoshka"],
  [{ encoder: "kron" }, "mse"],
  [{ arch: "batchtopk" }, "mse"],
  [{ arch: "jumprelu" }, "mse"],
  [{ arch: "relu" }, "mse"],
  [{ arch: "gated" }, "mse"],
] as const) {
  test(`sae-step measures ${JSON.stringify(shape)} with ${objective}`, async () => {
    const figures = await measured((device) => benchSaeStep(device, saeStep(shape, objective), REPEATS));
    assert.ok(figures.step.median > 0 && Number.isFinite(figures.more.loss));
  });
}

test("the loss of sae-step falls when it repeats", async () => {
  const loss = async (steps: number) =>
    (await measured((device) => benchSaeStep(device, saeStep({}), { steps, warmup: 0 }))).more.loss as number;
  assert.ok((await loss(60)) < (await loss(1)));
});

test("lm-forward measures three ways and the stopped one is no longer than the whole", async () => {
  const figures = await measured((device) => benchLmForward(device, TINY, REPEATS));
  assert.deepEqual(Object.keys(figures.phases), ["no_head", "stopped"]);
  assert.equal(figures.sizes.layer, 0);
});

test("lm-forward measures GPT-2 with 16-bit weights too, and refuses shared heads there", async () => {
  const options = { ...REPEATS, arch: "gpt2", dtype: "bf16" } as const;
  const figures = await measured((device) => benchLmForward(device, { ...TINY, kvHeads: 4 }, options));
  assert.deepEqual([figures.sizes.arch, figures.sizes.dtype], ["gpt2", "bf16"]);
  await assert.rejects(
    measured((device) => benchLmForward(device, TINY, options)),
    /gpt2 has as many key-value heads as heads; give --kv-heads 4, not 2/,
  );
});

test("lm-load starts a process a step and says what loading took", async () => {
  const model = join(packageRoot(), "tests", "golden", "models", "gpt2");
  const options = { model, shape: "gpt2-small", dtype: "bf16", tokens: 8, threads: 1 } as const;
  const { more, phases } = await measured((device) => benchLmLoad(device, { ...options, ...REPEATS }));
  assert.deepEqual(Object.keys(phases), ["read", "first_activation", "beyond_reading"]);
  assert.ok(phases.first_activation > phases.read && phases.beyond_reading < phases.first_activation);
  assert.ok((more.held_mb as number) > 0 && (more.load_peak_rss_mb as number) > (more.held_mb as number));
});

test("lm-forward refuses a layer that the model lacks", async () => {
  await assert.rejects(
    measured((device) => benchLmForward(device, TINY, { ...REPEATS, layer: 2 })),
    /--layer 2 must be between 0 and 1/,
  );
});

test("lm-train gives the same loss however the batch is cut", async () => {
  const loss = async (micro: number) =>
    (await measured((device) => benchLmTrain(device, TINY, { ...REPEATS, micro }))).more.loss as number;
  const [whole, cut] = [await loss(4), await loss(1)];
  assert.ok(Math.abs(whole - cut) < 1e-4, `${whole} and ${cut}`);
});

for (const twin of LM_TWINS) {
  test(`lm-train measures its twin (${twin}) beside the plain model`, async () => {
    const options = { ...REPEATS, micro: 2, twin };
    const figures = await measured((device) => benchLmTrain(device, TINY, options));
    const { more, phases } = figures;
    const extra = Number(more.twin_more_parameters);
    assert.ok(twin === "average" ? extra === 0 : extra > 0, `${extra} more parameters`);
    if (twin === "lime") assert.equal(extra, 2 * 2 * 2); // layer 1: 2 heads read the 2 of 2 layers
    assert.ok(Number.isFinite(more.twin_overhead_percent) && phases.twin > 0);
    assert.equal(figures.sizes.twin, twin);
    const [own, others] = [Number(more.step_adds_mb), Number(more.twin_adds_mb)];
    assert.ok(own > 0 && others > own, JSON.stringify(more));
  });
}

test("lm-train refuses passes that do not fill the batch", async () => {
  await assert.rejects(
    measured((device) => benchLmTrain(device, TINY, { ...REPEATS, micro: 3 })),
    /--batch 4 must be a multiple of --micro 3/,
  );
});

for (const dtype of ["f32", "f16", "bf16"] as const) {
  test(`generate counts the new tokens of all rows with ${dtype} weights`, async () => {
    const options = { ...REPEATS, prompt: 3, newTokens: 5, sample: dtype === "f16", dtype };
    const figures = await measured((device) => benchGenerate(device, { ...TINY, batch: 2 }, options));
    const { step, tokensPerSecond } = figures;
    assert.ok(Math.abs((tokensPerSecond!.median * step.median) / 1000 - 10) < 1e-6);
    assert.deepEqual(Object.keys(figures.phases), ["prefill", "decode"]);
  });
}

test("a model whose width the heads do not share is refused", async () => {
  await assert.rejects(
    measured((device) => benchLmForward(device, { ...TINY, heads: 3 }, REPEATS)),
    /a width of 16 does not divide into 3 heads/,
  );
});
