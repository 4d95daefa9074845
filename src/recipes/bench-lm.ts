/**
 * Language models of random weights in the shapes of the peers: a forward pass that captures one layer, a training
 * step, cached decoding. B batch · T context · d width · V vocabulary. Tokens are uniform.
 */
import { assemble, startOf } from "../models/build.ts";
import { familyOf, type Json, llamaNames } from "../models/families/index.ts";
import {
  crossEntropies,
  generate,
  LM_TRAIN_DEFAULTS,
  type ModelSpec,
  parameterCount,
  type Transformer,
} from "../models/index.ts";
import { paramSlots } from "../models/params.ts";
import { paramGroups } from "../models/train.ts";
import { AdamW, clipFactor, globalNorm } from "../nn/index.ts";
import { add, cast, type Device, type DType, mul, sizeOf, sum, type Tensor } from "../tensor/index.ts";
import { Rng, usageError } from "../util/index.ts";
import { type BenchFigures, type BenchRepeats, figuresOf, yardstick } from "./bench.ts";
import { type BenchClock, repeatTimed, spreadOf } from "./bench-clock.ts";

export interface LmSizes {
  readonly d: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly ctx: number;
  readonly batch: number;
}

export type WeightType = Exclude<DType, "i32">;

export type LmArch = "llama" | "gpt2";

/** The `config.json` of a model of some size. */
export function benchConfig(arch: LmArch, sizes: LmSizes, context = sizes.ctx): Json {
  const { d, layers, heads, kvHeads, ffn, vocab } = sizes;
  if (d % heads !== 0) throw usageError(`bench: a width of ${d} does not divide into ${heads} heads`);
  if (arch === "llama") {
    return {
      model_type: "llama",
      vocab_size: vocab,
      hidden_size: d,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      intermediate_size: ffn,
      max_position_embeddings: context,
      rope_theta: 10_000,
      tie_word_embeddings: false,
    };
  }
  if (kvHeads !== heads) {
    throw usageError(
      `bench: gpt2 has as many key-value heads as heads; give --kv-heads ${heads}, not ${kvHeads}`,
    );
  }
  return {
    model_type: "gpt2",
    vocab_size: vocab,
    n_embd: d,
    n_layer: layers,
    n_head: heads,
    n_inner: ffn,
    n_positions: context,
  };
}

/** Numbers that one random block repeats: only sizes matter to the clock, and drawing every weight would take seconds. */
const BLOCK = 1 << 20;

/** A model of random weights; matrices are held in `dtype`. */
export function randomModel(device: Device, config: Json, dtype: WeightType, rng: Rng): Transformer {
  const block = rng.fork("weights").fillNormal(new Float32Array(BLOCK), 0, 0.02);
  const family = familyOf(config);
  const spec = family.spec(config);
  const slots = paramSlots(spec, family.names);
  const tensors = slots.map((slot) => {
    const { shape, matrix } = slot;
    const data = matrix ? repeated(block, sizeOf(shape)) : startOf(slot, spec, { rng });
    const full = device.tensor(data, shape).keep();
    if (!matrix || dtype === "f32") return full;
    const held = cast(full, dtype).keep();
    full.dispose();
    return held;
  });
  return assemble(device, spec, { slots, tensors, config });
}

function repeated(block: Float32Array, size: number): Float32Array {
  const data = new Float32Array(size);
  for (let at = 0; at < size; at += block.length) data.set(block.subarray(0, size - at), at);
  return data;
}

/** Weights that meet every token in a product. */
function matmulWeights(spec: ModelSpec, head: boolean): number {
  const inBlocks = paramSlots(spec, llamaNames).filter(
    ({ role, matrix }) => matrix && typeof role === "object",
  );
  const blocks = inBlocks.reduce((n, { shape }) => n + sizeOf(shape), 0);
  return blocks + (head ? spec.vocabSize * spec.dModel : 0);
}

function randomTokens(rng: Rng, { vocab, batch, ctx }: LmSizes, length = ctx): Int32Array {
  return Int32Array.from({ length: batch * length }, () => rng.int(vocab));
}

/** x [B·T, d] and w [d, ffn] of the yardstick. */
function lmYardstick(device: Device, { batch, ctx, d, ffn }: LmSizes, rng: Rng) {
  const normals = (rows: number, cols: number) =>
    device.tensor(rng.fillNormal(new Float32Array(rows * cols)), [rows, cols]).keep();
  const [x, w] = [normals(batch * ctx, d), normals(d, ffn)];
  const dispose = () => {
    x.dispose();
    w.dispose();
  };
  return { ...yardstick(device, x, w), dispose };
}

/** Forward passes that capture the stream after one block: with logits, without the head, stopped after that block. */
export async function benchLmForward(
  device: Device,
  sizes: LmSizes,
  options: BenchRepeats & { readonly arch?: LmArch; readonly dtype?: WeightType; readonly layer?: number },
): Promise<BenchFigures> {
  const { arch = "llama", dtype = "f32", layer = Math.floor(sizes.layers / 2) - 1, ...repeats } = options;
  const rng = new Rng(0);
  if (!(layer >= 0 && layer < sizes.layers))
    throw usageError(`bench: --layer ${layer} must be between 0 and ${sizes.layers - 1}`);
  const point = `blocks.${layer}.hook_resid_post`;
  const model = randomModel(device, benchConfig(arch, sizes), dtype, rng);
  const { spec } = model;
  const gemm = lmYardstick(device, sizes, rng);
  const { batch, ctx } = sizes;
  const modes = {
    step: { logits: "all" },
    no_head: { logits: "none" },
    stopped: { logits: "none", stopEarly: true },
  } as const;
  try {
    const clock = await repeatTimed(repeats, (c) => {
      const ids = device.tensor(randomTokens(rng, sizes), [batch, ctx], "i32");
      gemm.run(c);
      for (const [name, how] of Object.entries(modes)) {
        c.time(name, () => device.scope(() => void model.forward(ids, { capture: [point], ...how })));
      }
      ids.dispose();
    });
    const tokens = batch * ctx;
    const rate = (phase: string) => (tokens / spreadOf(clock.of(phase)).median) * 1000;
    return figuresOf(clock, {
      benchmark: "lm-forward",
      sizes: { arch, ...sizes, layer, dtype },
      tokens,
      flops: gemm.flops,
      more: {
        parameters: parameterCount(spec).total,
        logits_tokens_per_second: rate("step"),
        no_head_tokens_per_second: rate("no_head"),
        stopped_tokens_per_second: rate("stopped"),
        no_head_gflops: (2 * matmulWeights(spec, false) * rate("no_head")) / 1e9,
      },
    });
  } finally {
    model.dispose();
    gemm.dispose();
  }
}

/** What a Llama's config takes to be a twin of it with another architecture. */
const TWINS = {
  lime: { model_type: "lime", kv_routing: { kind: "learned" } },
  average: { model_type: "lime", kv_routing: { kind: "average" } },
  "hidden-static": { model_type: "lime", kv_routing: { kind: "hidden-static" } },
  "hidden-dynamic": { model_type: "lime", kv_routing: { kind: "hidden-dynamic" } },
  hyper: { model_type: "llama_residual", residual: { kind: "hyper", streams: 4 } },
  dense: { model_type: "llama_residual", residual: { kind: "dense" } },
} as const satisfies Record<string, Json>;

export type LmTwin = keyof typeof TWINS;

export const LM_TWINS = Object.keys(TWINS) as [LmTwin, ...LmTwin[]];

export interface LmTrainBench extends BenchRepeats {
  readonly micro: number;
  /** A model of this architecture takes a step beside every one of the plain model, in turns before and after it. */
  readonly twin?: LmTwin;
}

/** One step of causal language-model training: gradients of the batch in passes of `micro` windows, clip at 1, AdamW. */
export async function benchLmTrain(
  device: Device,
  sizes: LmSizes,
  { micro, twin: kind, ...repeats }: LmTrainBench,
): Promise<BenchFigures> {
  if (sizes.batch % micro !== 0)
    throw usageError(`bench: --batch ${sizes.batch} must be a multiple of --micro ${micro}`);
  const rng = new Rng(0);
  const config = benchConfig("llama", sizes);
  const plain = trained(device, config, rng);
  const twin = kind && trained(device, { ...config, ...TWINS[kind] }, rng);
  const gemm = lmYardstick(device, sizes, rng);
  const tokens = sizes.batch * sizes.ctx;
  let loss = Number.NaN;
  const adds = { step: 0, twin: 0 }; // bytes of tensors that a step has at once beyond what is live before it
  const within = async <T>(name: keyof typeof adds, run: () => Promise<T>): Promise<T> => {
    device.resetPeak();
    const { bytes } = device.memory();
    const made = await run();
    adds[name] = Math.max(adds[name], device.memory().peakBytes - bytes);
    return made;
  };
  try {
    const clock = await repeatTimed(repeats, async (c) => {
      const ids = randomTokens(rng, sizes, sizes.ctx + 1);
      gemm.run(c);
      const steps = [
        async () => {
          loss = await within("step", () =>
            c.timeAsync("step", () => lmStep(plain, ids, { sizes, micro, clock: c })),
          );
        },
        async () => {
          if (twin)
            await within("twin", () => c.timeAsync("twin", () => lmStep(twin, ids, { sizes, micro })));
        },
      ];
      for (const step of c.of("step").length % 2 ? steps.reverse() : steps) await step();
    });
    const over = clock.of("twin").map((ms, i) => ms / clock.of("step")[i] - 1);
    const figures = figuresOf(clock, {
      benchmark: "lm-train",
      sizes: { arch: "llama", ...sizes, micro, ...(kind && { twin: kind }) },
      tokens,
      flops: gemm.flops,
      more: {
        parameters: parameterCount(plain.model.spec).total,
        loss,
        step_adds_mb: adds.step / 1e6,
        ...(twin && {
          twin_adds_mb: adds.twin / 1e6,
          twin_more_parameters:
            parameterCount(twin.model.spec).total - parameterCount(plain.model.spec).total,
          twin_overhead_percent: 100 * spreadOf(over).median,
          twin_overhead_percent_min: 100 * spreadOf(over).min,
          twin_overhead_percent_max: 100 * spreadOf(over).max,
        }),
      },
    });
    const work = 6 * matmulWeights(plain.model.spec, true) * tokens;
    return { ...figures, more: { ...figures.more, step_gflops: work / figures.step.median / 1e6 } };
  } finally {
    for (const { model, optimizer } of twin ? [plain, twin] : [plain]) {
      model.dispose();
      optimizer.dispose();
    }
    gemm.dispose();
  }
}

interface Trained {
  readonly model: Transformer;
  readonly optimizer: AdamW;
}

/** A model whose matrices are random and whose other parameters begin as in training, and its optimiser. */
function trained(device: Device, config: Json, rng: Rng): Trained {
  const model = randomModel(device, config, "f32", rng);
  return { model, optimizer: new AdamW(device, paramGroups(model, LM_TRAIN_DEFAULTS), LM_TRAIN_DEFAULTS) };
}

/** The step of `trainLm` without its records and checkpoints; returns the loss. */
async function lmStep(
  { model, optimizer }: Trained,
  ids: Int32Array,
  { sizes: { ctx, batch }, micro, clock }: { sizes: LmSizes; micro: number; clock?: BenchClock },
): Promise<number> {
  const { device } = model;
  const began = performance.now();
  let total: Tensor[] | undefined;
  for (let row = 0; row < batch; row += micro) {
    const part = windowsOf(ids, row, micro, ctx);
    const { value, grads } = device.valueAndGrad(
      () => mul(sum(crossEntropies(model, part, ctx)), 1 / (batch * ctx)),
      model.parameters(),
    );
    const found = [value, ...(grads as Tensor[])];
    total = total ? addAll(device, total, found) : found;
  }
  const [loss, ...grads] = total!; // batch >= micro >= 1
  const norm = await globalNorm(grads);
  const computed = performance.now();
  clock?.add("gradients", computed - began);
  optimizer.step(grads, { lr: LM_TRAIN_DEFAULTS.lr, gradScale: clipFactor(norm, LM_TRAIN_DEFAULTS.clip) });
  const result = await loss.item();
  for (const t of [loss, ...grads]) t.dispose();
  clock?.add("optimizer", performance.now() - computed);
  return result;
}

/** Rows of ctx + 1 ids as inputs and next tokens. */
function windowsOf(ids: Int32Array, first: number, rows: number, ctx: number) {
  const tokens = new Int32Array(rows * ctx);
  const targets = new Int32Array(rows * ctx);
  for (let r = 0; r < rows; r++) {
    const at = (first + r) * (ctx + 1);
    tokens.set(ids.subarray(at, at + ctx), r * ctx);
    targets.set(ids.subarray(at + 1, at + 1 + ctx), r * ctx);
  }
  return { tokens, targets };
}

function addAll(device: Device, a: readonly Tensor[], b: readonly Tensor[]): Tensor[] {
  return a.map((t, i) => {
    const both = device.untracked(() => add(t, b[i]));
    t.dispose();
    b[i].dispose();
    return both;
  });
}

export interface GenerateBench extends BenchRepeats {
  readonly prompt: number;
  readonly newTokens: number;
  /** Sample at temperature 1 instead of taking the largest logit. */
  readonly sample: boolean;
  readonly dtype: WeightType;
}

/** Cached decoding of random prompts. A step is one whole generation: prompt and new tokens of every row. */
export async function benchGenerate(
  device: Device,
  sizes: LmSizes,
  { prompt, newTokens, sample, dtype, ...repeats }: GenerateBench,
): Promise<BenchFigures> {
  if (newTokens < 2) throw usageError(`bench: --new-tokens ${newTokens} must be at least 2`);
  const rng = new Rng(0);
  const context = Math.max(sizes.ctx, prompt + newTokens + 1);
  const model = randomModel(device, benchConfig("llama", sizes, context), dtype, rng);
  const { spec } = model;
  const gemm = lmYardstick(device, sizes, rng);
  const { batch } = sizes;
  try {
    const clock = await repeatTimed(repeats, async (c) => {
      const ids = randomTokens(rng, sizes, prompt);
      const prompts = Array.from({ length: batch }, (_, b) => ids.subarray(b * prompt, (b + 1) * prompt));
      let first = 0;
      gemm.run(c);
      const began = performance.now();
      const rows = await generate(model, prompts, {
        maxNewTokens: newTokens,
        temperature: sample ? 1 : 0,
        stopTokens: [],
        seed: c.of("step").length,
        signal: repeats.signal,
        onToken: () => {
          if (first === 0) first = performance.now();
        },
      });
      const ended = performance.now();
      if (rows.some((row) => row.tokens.length !== newTokens)) throw new Error("bench: a row ended early");
      c.add("step", ended - began);
      c.add("prefill", first - began);
      c.add("decode", ended - first);
    });
    const decode = clock.of("decode").map((ms) => ((batch * (newTokens - 1)) / ms) * 1000);
    const perSecond = spreadOf(decode).median;
    const bytes = dtype === "f32" ? 4 : 2;
    return figuresOf(clock, {
      benchmark: "lm-generate",
      sizes: { arch: "llama", ...sizes, prompt, new_tokens: newTokens, sampled: sample, dtype },
      tokens: batch * newTokens,
      flops: gemm.flops,
      more: {
        parameters: parameterCount(spec).total,
        decode_tokens_per_second: perSecond,
        weight_gb_per_second: (matmulWeights(spec, true) * bytes * perSecond) / batch / 1e9,
      },
    });
  } finally {
    model.dispose();
    gemm.dispose();
  }
}
