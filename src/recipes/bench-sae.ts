/**
 * One training step of an SAE on random activations: forward, loss, backward, projection, clipping, Adam, decoder
 * renormalisation, firing statistics. As in the peers no feature is dead, so AuxK rests, and the batch is made outside the
 * clock. D width · F features · K active · B batch.
 */
import { clipFactor } from "../nn/index.ts";
import { applyAdam, createMoments, disposeMoments, type Moments } from "../sae/optimizer.ts";
import { createSae } from "../sae/create.ts";
import { disposeCodes, disposeSae, mapParams, type Sae } from "../sae/sae.ts";
import { readStep, stepGradients } from "../sae/step.ts";
import { saeTrainConfig } from "../sae/train-config.ts";
import { countFirings } from "../sae/trainer.ts";
import type { Device, Tensor } from "../tensor/index.ts";
import { Rng } from "../util/index.ts";
import { type BenchFigures, type BenchRepeats, figuresOf, type Yardstick, yardstick } from "./bench.ts";
import { type BenchClock, peakRssMb, repeatTimed } from "./bench-clock.ts";

export interface SaeStepSizes {
  readonly d: number;
  readonly features: number;
  readonly k: number;
  readonly batch: number;
}

/** What a step changes. */
interface StepState {
  readonly sae: Sae;
  readonly moments: Moments;
  /** Tokens since each feature last fired, i32 [F]. */
  readonly lastFired: Tensor;
  /** [B, D] */
  readonly x: Tensor;
  readonly config: ReturnType<typeof saeTrainConfig>;
  step: number;
  loss: number;
}

/** The warm-up runs without the yardstick, so that the peak memory it leaves is that of the training steps alone. */
export async function benchSaeStep(
  device: Device,
  sizes: SaeStepSizes,
  { steps, warmup, signal }: BenchRepeats,
): Promise<BenchFigures> {
  const { d, features, batch } = sizes;
  const rng = new Rng(0);
  const before = peakRssMb();
  const state = start(device, sizes, rng);
  const host = new Float32Array(batch * d);
  const fill = () => device.write(state.x, rng.fillNormal(host));
  let gemm: Yardstick | undefined;
  const step = async (clock: BenchClock) => {
    fill();
    gemm?.run(clock);
    await clock.timeAsync("step", () => trainStep(device, state, clock));
  };
  try {
    await repeatTimed({ steps: 0, warmup: Math.max(warmup, 1), signal }, step);
    const peak = peakRssMb();
    gemm = yardstick(device, state.x, state.sae.params.wDec, true);
    const clock = await repeatTimed({ steps, warmup: 0, signal }, step);
    const parameters = 2 * features * d + features + d;
    const stateMb = (4 * parameters * 4) / 2 ** 20;
    return figuresOf(clock, {
      benchmark: "sae-step",
      sizes: { arch: "topk", ...sizes },
      tokens: batch,
      flops: gemm.flops,
      more: {
        loss: state.loss,
        peak_rss_steps_mb: peak,
        rss_before_steps_mb: before,
        state_mb: stateMb,
        peak_rss_besides_state_mb: peak - stateMb,
      },
    });
  } finally {
    disposeSae(state.sae);
    disposeMoments(state.moments);
    state.lastFired.dispose();
    state.x.dispose();
  }
}

function start(device: Device, { d, features, k, batch }: SaeStepSizes, rng: Rng): StepState {
  const sae = createSae(
    device,
    { dIn: d, features, activation: { kind: "topk", k }, applyBDecToInput: true },
    { rng },
  );
  return {
    sae,
    moments: createMoments(device, sae),
    lastFired: device.zeros([features], "i32").keep(),
    x: device.empty([batch, d]).keep(),
    config: saeTrainConfig({ tokens: batch, batch }, sae.config),
    step: 0,
    loss: Number.NaN,
  };
}

/** The step of `trainSae` without its records and checkpoints. */
async function trainStep(device: Device, state: StepState, clock: BenchClock): Promise<void> {
  const { sae, moments, lastFired, x, config } = state;
  const laps = new Map<string, number>(); // a part may come in several pieces
  let last = performance.now();
  const lap = (part: string) => {
    const now = performance.now();
    laps.set(part, (laps.get(part) ?? 0) + now - last);
    last = now;
  };
  const g = device.scope(() => stepGradients(sae, x, { lap }));
  const { loss, gradNorm } = await readStep(g, config.removeParallelGradient);
  lap("clip");
  const gradScale = g.scale * clipFactor(gradNorm, config.clip);
  state.step++;
  device.scope(() =>
    applyAdam(sae.params, g.grads, moments, config, { lr: config.lr, step: state.step, gradScale }),
  );
  lap("adam");
  device.scope(() => countFirings(lastFired, g.codes, x.shape[0]));
  mapParams(g.grads, (t) => t.dispose());
  disposeCodes(g.codes);
  g.scalars.dispose();
  g.error.dispose();
  lap("statistics");
  for (const [part, ms] of laps) clock.add(part, ms);
  state.loss = loss;
}
